"""CNTK's version 1 format: what BrainScript and `cntk.exe` write, usually as `.dnn`, and CNTK's legacy save.

Little-endian fields without keys, between markers: NUL-terminated UTF-16 strings. Each type of node has fields of its
own, which depend on the format's number as well; so a type has to be known even to be skipped. The source is CNTK's
Source/ComputationNetworkLib (ComputationNetwork.cpp, and `Load` of each node's class).
"""

import dataclasses
import math
from collections.abc import Set

from keras_alexnet.errors import UserError
from keras_alexnet.importers.cntk.graph import CntkFunction, CntkGraph, CntkVariable, make_graph
from keras_alexnet.importers.cntk.stream import Stream
from keras_alexnet.importers.cntk.v1_attributes import read_attributes
from keras_alexnet.importers.files import ModelFile

_NEWEST = 31

# Bounds far above any AlexNet, so that a damaged file takes neither much time nor memory.
_MAX_NODES = 10_000
_MAX_INPUTS = 100

# As version 2 calls them, where it is otherwise.
_V2_NAMES = {
    "AveragePooling": "Pooling",
    "Cosine": "Cos",
    "ErrorPrediction": "ClassificationError",
    "MaxPooling": "Pooling",
    "RectifiedLinear": "ReLU",
    "Scale": "ElementTimes",
    "SquareError": "SquaredError",
}

# What CNTK's legacy save makes of a version 2 uid and name.
_V2_UID, _V2_NAME = "__v2libuid__", "__v2libname__"


def read_graph(file: ModelFile) -> CntkGraph:
    """Reads a graph from a file."""
    reader = Stream(file)
    reader.marker("BCN")
    version = 1
    if reader.is_next("BVersion"):
        version = reader.count(_NEWEST, "format number")
        reader.marker("EVersion")
    variables, functions = _read_nodes(reader, version)
    known = {**variables, **functions}.keys()
    inputs = _read_relations(reader, known)
    roots = _read_roots(reader, known)
    functions = {
        uid: dataclasses.replace(function, inputs=inputs.get(uid, ()))
        for uid, function in functions.items()
        if function.op != "DynamicAxis"
    }
    if not roots:
        used = {uid for function in functions.values() for uid in function.inputs}
        roots = [uid for uid in functions if uid not in used]
    return make_graph(file.path, 1, variables.values(), functions.values(), roots)


def _read_nodes(reader: Stream, version: int) -> tuple[dict[str, CntkVariable], dict[str, CntkFunction]]:
    """The variables and the functions by uid, the latter still without inputs."""
    variables: dict[str, CntkVariable] = {}
    functions: dict[str, CntkFunction] = {}
    count = reader.count(_MAX_NODES, "number of nodes")
    reader.marker("BNodeList")
    for _ in range(count):
        reader.node = ""
        # "float" or "double"; an array has the width of its numbers itself.
        precision = reader.string() if version >= 7 else "float"
        kind, full_name = reader.string(), reader.string()
        reader.node = f"{kind} {full_name!r}"
        if precision not in ("", "float", "double"):
            raise reader.error(f"a node of numbers of type {precision!r} instead of 'float' or 'double'")
        uid, name = _uid_and_name(full_name)
        if uid in variables or uid in functions:
            raise reader.error("a second node of the same name")
        if kind == "LearnableParameter":
            variables[uid] = _read_parameter(reader, version, uid, name)
        elif kind in ("InputValue", "SparseInputValue"):
            variables[uid] = CntkVariable(uid, "input", name, _read_input_dimensions(reader, version)[::-1])
        elif (attributes := read_attributes(kind, reader, version)) is not None:
            functions[uid] = CntkFunction(uid, _V2_NAMES.get(kind, kind), name, (), attributes)
        else:
            raise UserError(
                f"{reader.where()}: operations of type {kind!r} are not read. Expected those of an AlexNet: "
                "Convolution, Pooling, Times, Plus, RectifiedLinear, Dropout and the like. If this is one, the file is "
                "damaged: download or copy it again."
            )
    reader.node = ""
    reader.marker("ENodeList")
    return variables, functions


def _read_relations(reader: Stream, nodes: Set[str]) -> dict[str, tuple[str, ...]]:
    """The inputs of each node, by uid."""
    inputs = {}
    reader.marker("BRelation")
    for _ in nodes:
        uid = _read_uid(reader, nodes)
        count = reader.count(_MAX_INPUTS, "number of inputs")
        inputs[uid] = tuple(_read_uid(reader, nodes) for _ in range(count))
    reader.marker("ERelation")
    return inputs


def _read_roots(reader: Stream, nodes: Set[str]) -> list[str]:
    """What the file lists as outputs, criteria and evaluation nodes, in this order; often nothing."""
    groups: dict[str, list[str]] = {}
    reader.marker("BRootNodes")
    while not reader.is_next("ERootNodes"):
        at, marker = reader.offset, reader.string()
        if not (marker.startswith("B") and marker.endswith("Nodes")):
            raise reader.error(f"{marker!r} instead of a list of nodes or 'ERootNodes'", at)
        count = reader.count(len(nodes), "number of nodes")
        groups[marker] = [_read_uid(reader, nodes) for _ in range(count)]
        # An older name may be mixed with the newer one.
        reader.string()
    reader.marker("ECN")
    order = ("BOutputNodes", "BCriterionNodes", "BCriteriaNodes", "BEvalNodes")
    return [uid for marker in order for uid in groups.get(marker, ())]


def _read_uid(reader: Stream, nodes: Set[str]) -> str:
    at, full_name = reader.offset, reader.string()
    uid, _ = _uid_and_name(full_name)
    if uid not in nodes:
        raise reader.error(f"the name {full_name!r}, which no node has", at)
    return uid


def _uid_and_name(full_name: str) -> tuple[str, str]:
    if full_name.startswith(_V2_UID) and _V2_NAME in full_name:
        uid, _, name = full_name.removeprefix(_V2_UID).partition(_V2_NAME)
        return uid, name
    return full_name, full_name


def _read_parameter(reader: Stream, version: int, uid: str, name: str) -> CntkVariable:
    if version >= 3:
        is_learned = reader.number("<f") != 0
        dimensions = reader.shape()
    else:
        is_learned = reader.boolean()
        rows, columns = reader.size(), reader.size()
        if rows:
            dimensions = (rows, columns)
        else:
            dimensions = reader.shape(legacy=True)
            dimensions = (*dimensions, columns) if columns > 1 else dimensions
    value = reader.matrix(dimensions)
    return CntkVariable(uid, "parameter" if is_learned else "constant", name, value.shape, value)


def _read_input_dimensions(reader: Stream, version: int) -> tuple[int, ...]:
    rows, _ = reader.size(), reader.size()
    dimensions = reader.shape(legacy=True)
    if rows and rows != math.prod(dimensions):
        dimensions = (rows,)
    if version >= 8:
        # The names of dynamic axes.
        for _ in range(reader.number("<I", most=1)):
            reader.string()
    if version >= 10:
        reader.number("<f")
    return dimensions
