"""CNTK's files: those that CNTK 2.7 wrote (reference/README.md), and small ones composed here."""

import contextlib
import hashlib
import random
import struct
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from cntk_reference import ALL, CHECKPOINT, PADDED_POOLS, PADDED_POOLS_V1, REFERENCE, TINY
from protobuf_bytes import field, fixed, varint

from keras_alexnet.errors import UserError
from keras_alexnet.importers.cntk import dictionary as cntk_dictionary
from keras_alexnet.importers.cntk.reader import read_cntk_model

# The beginnings of the SHA-256 of each array, as CNTK itself gave it (row-major, float32).
PADDED_POOLS_SHA256 = {
    "conv1.W": "3bafb50e83f7cbd8",
    "conv1.b": "33cfefa0cefecb22",
    "conv2.W": "b0a19171a3aace1b",
    "conv2.b": "4688be69c71a3901",
    "conv3.W": "760e6ff124ea8907",
    "conv3.b": "d0cc5da7b130263c",
    "conv4.W": "f348b152062d5685",
    "conv4.b": "937ec24399cc08e9",
    "conv5.W": "098c2fef68c73911",
    "conv5.b": "e98759b9a47c78df",
    "fc6.W": "378253f23d8172de",
    "fc6.b": "526204faeb341708",
    "fc7.W": "82aa2563cf29e70e",
    "fc7.b": "e654692b35723da5",
    "fc8.W": "d813bcf377e8b6dd",
    "fc8.b": "0ec4a185a5d56ef9",
}

CONVOLUTION = ["Convolution", "Plus", "ReLU"]
NORM = [
    "ElementTimes",
    "Reshape",
    "Convolution",
    "Reshape",
    "Plus",
    "Log",
    "ElementTimes",
    "Exp",
    "Reciprocal",
    "ElementTimes",
]
DENSE = ["Times", "Plus", "ReLU", "Dropout"]
CHAIN = [
    *("Minus", *CONVOLUTION, *NORM, "Pooling", *CONVOLUTION, *NORM, "Pooling"),
    *(*CONVOLUTION, *CONVOLUTION, *CONVOLUTION, "Pooling", *DENSE, *DENSE, "Times", "Plus"),
]


def layers(graph):
    """(name, the function with the weights, the addition of the biases) of each layer, by the order of the graph."""
    functions = list(graph.functions.values())
    names = iter(["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"])
    for function, following in pairwise(functions):
        weights = graph.variables.get(function.inputs[0])
        if function.op in ("Convolution", "Times") and weights and weights.kind == "parameter":
            yield next(names), function, following


def parameters(graph):
    arrays = {}
    for name, function, addition in layers(graph):
        arrays[f"{name}.W"] = graph.variables[function.inputs[0]].value
        arrays[f"{name}.b"] = graph.variables[addition.inputs[1]].value
    return arrays


def test_parameters_are_bit_for_bit_those_of_cntk():
    arrays = parameters(read_cntk_model(TINY))
    with np.load(REFERENCE / "cntk_tiny_weights.npz") as expected:
        assert sorted(arrays) == sorted(expected.files)
        for name in expected.files:
            np.testing.assert_array_equal(arrays[name], expected[name], strict=True)


@pytest.mark.parametrize("path", [PADDED_POOLS, PADDED_POOLS_V1, CHECKPOINT], ids=lambda path: path.name)
def test_parameters_of_every_format_are_those_of_cntk(path):
    arrays = parameters(read_cntk_model(path))
    digests = {name: hashlib.sha256(array.tobytes()).hexdigest()[:16] for name, array in arrays.items()}
    assert digests == PADDED_POOLS_SHA256
    assert {array.dtype for array in arrays.values()} == {np.dtype("float32")}
    assert arrays["conv1.W"].shape == (16, 3, 11, 11)
    assert arrays["fc6.W"].shape == (48, 7, 7, 48)
    assert arrays["fc8.W"].shape == (48, 7)


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_functions_are_those_of_alexnet_in_order(path):
    graph = read_cntk_model(path)
    functions = list(graph.functions.values())
    assert [function.op for function in functions[: len(CHAIN)]] == CHAIN
    assert (len(functions) == len(CHAIN)) == (path != CHECKPOINT)
    assert functions[len(CHAIN) - 1].uid == graph.roots[0]
    known = set(graph.variables)
    for function in functions:
        assert known.issuperset(function.inputs)
        known.add(function.uid)
    # Each takes what the one before it gives: only the norms take the image a second time.
    for before, function in pairwise(functions[: len(CHAIN)]):
        assert before.uid in function.inputs
    features, mean = (graph.variables[uid] for uid in functions[0].inputs)
    assert (features.kind, features.shape, features.value) == ("input", (3, 227, 227), None)
    assert (mean.kind, mean.shape, mean.value) == ("constant", (), 114)


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_windows_are_those_of_alexnet(path):
    graph = read_cntk_model(path)
    windows = {name: f.attributes for name, f, _ in layers(graph) if f.op == "Convolution"}
    assert [a["kernelShape"] for a in windows.values()][:2] == [(11, 11, 3), (5, 5, 24 if path == TINY else 16)]
    assert [a["kernelShape"][:2] for a in windows.values()] == [(11, 11), (5, 5), (3, 3), (3, 3), (3, 3)]
    assert [a["strides"][:2] for a in windows.values()] == [(4, 4), *[(1, 1)] * 4]
    assert [a["autoPadding"] for a in windows.values()] == [[False] * 3, *[[True, True, False]] * 4]
    assert {a["lowerPad"] + a["upperPad"] + a["dilation"] for a in windows.values()} == {(0, 0, 0, 0, 0, 0, 1, 1, 1)}
    assert {a["transpose"] for a in windows.values()} == {False}
    pools = [f.attributes for f in graph.functions.values() if f.op == "Pooling"]
    assert {a["poolingWindowShape"][:2] + a["strides"][:2] for a in pools} == {(3, 3, 2, 2)}
    assert {tuple(a["autoPadding"][:2]) for a in pools} == {(path != TINY,) * 2}
    assert {a["lowerPad"] + a["upperPad"] for a in pools} in ({(0,) * 2}, {(0,) * 6})
    assert {(a["poolingType"], a["ceilOutDim"]) for a in pools} == {(0, False)}


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_norms_have_their_constants(path):
    graph = read_cntk_model(path)
    constants = [v.value for v in graph.variables.values() if v.kind == "constant" and v.name == "W"]
    assert [value.shape for value in constants] == [(1, 5, 1, 1)] * 2
    assert all((value == np.float32(2e-5)).all() for value in constants)
    reshapes = [f.attributes for f in graph.functions.values() if f.op == "Reshape"]
    splitting, joining = (2, 3, (-1, 1)), (2, 4, (-1,))
    assert [(a["beginAxis"], a["endAxis"], a["newShape"]) for a in reshapes] == [splitting, joining] * 2


def test_blocks_name_the_layers():
    graph = read_cntk_model(TINY)
    names = list(dict.fromkeys(f.blocks[0] for f in graph.functions.values() if f.blocks))
    convolutional = "conv1 relu1 norm1 pool1 conv2 relu2 norm2 pool2 conv3 relu3 conv4 relu4 conv5 relu5 pool5"
    assert " ".join(names) == f"{convolutional} fc6 relu6 drop6 fc7 relu7 drop7 fc8"
    (division,) = (f for f in graph.functions.values() if f.uid == "ElementTimes17167")
    assert division.blocks == ("norm1", "")
    rates = [f.attributes["dropoutRate"] for f in graph.functions.values() if f.op == "Dropout"]
    assert rates == [0.5, 0.5]


def test_checkpoint_has_labels_loss_and_metric():
    graph = read_cntk_model(CHECKPOINT)
    assert [v.shape for v in graph.variables.values() if v.kind == "input"] == [(3, 227, 227), (7,)]
    assert len(graph.roots) == 5
    ops = [graph.functions[uid].op for uid in graph.roots]
    assert ops == ["Plus", "Minus", "ReduceElements", "Minus", "ReduceElements"]


# Composing version 2 files, by CNTK.proto.


class Shape(tuple):
    """Dimensions in CNTK's order."""


def shape_of(dimensions):
    return field(1, b"".join(map(varint, dimensions)))


def array_of(values, data_type=None, storage=0, dimensions=None):
    """An NDArrayView; `values` are in row-major order."""
    number = {"float32": 4, "float64": 5}[values.dtype.name]
    content = field(1, data_type or number - 3) + field(2, storage)
    content += field(3, shape_of(values.shape[::-1] if dimensions is None else dimensions))
    return content + field(number, field(1, values.tobytes()))


def value_of(value):
    match value:
        case bool():
            return field(2, 1) + field(3, int(value))
        case int():
            return field(2, 3) + field(5, value)
        case float():
            return field(2, 5) + fixed(7, "<d", value)
        case str():
            return field(2, 6) + field(8, value.encode())
        case Shape():
            return field(2, 7) + field(9, shape_of(value))
        case list():
            return field(2, 9) + field(11, b"".join(field(1, value_of(item)) for item in value))
        case dict():
            return field(2, 10) + field(12, dictionary_of(value))
        case bytes():
            return field(2, 11) + field(13, value)
        case np.ndarray():
            return value_of(array_of(value))


def dictionary_of(items):
    entries = (field(1, key.encode()) + field(2, value_of(value)) for key, value in items.items())
    return field(1, 2) + b"".join(field(2, entry) for entry in entries)


def variable(uid, kind, dimensions=(), value=None):
    """Kinds: 0 input, 2 parameter, 3 constant, 4 placeholder."""
    items = {"type": "Variable", "uid": uid, "kind": kind, "shape": Shape(dimensions), "name": uid.lower()}
    return items if value is None else {**items, "value": value}


def function(uid, op, *inputs, name="", **attributes):
    items = {"type": "PrimitiveFunction", "uid": uid, "op": op, "inputs": list(inputs), "attributes": attributes}
    return {**items, "name": name}


def block(uid, root, arguments, *inputs, name="", op_name="Dense"):
    return function(uid, 57, *inputs, name=name) | {
        "block_function_composite": {"type": "CompositeFunction", "root": root, "uid": f"Composite{uid}"},
        "block_function_composite_arguments_map_keys": list(arguments),
        "block_function_composite_arguments_map_values": list(arguments.values()),
        "block_function_op_name": op_name,
    }


WEIGHTS = np.arange(6, dtype=np.float32).reshape(3, 2)
IMAGE = variable("X", 0, (3,))
MATRIX = variable("W", 2, (2, 3), WEIGHTS)
HOLE = variable("P", 4)
TIMES = function("T", 31, "W", "X", outputRank=1)


def model_of(root="T", variables=(IMAGE, MATRIX), functions=(TIMES,)):
    return dictionary_of(
        {
            "type": "CompositeFunction",
            "uid": "C",
            "root": root,
            "inputs": list(variables),
            "primitive_functions": list(functions),
        }
    )


@pytest.fixture
def read(tmp_path):
    """Reads bytes as a file."""

    def read_bytes(content):
        # Some file systems write a file that takes the place of another to the disk at once.
        (tmp_path / "m.model").unlink(missing_ok=True)
        (tmp_path / "m.model").write_bytes(content)
        return read_cntk_model(tmp_path / "m.model")

    return read_bytes


def with_matrix(array, dimensions=(2, 3)):
    return model_of(variables=[IMAGE, variable("W", 2, dimensions, array)])


# Composing version 1 files.


def text(string):
    return f"{string}\0".encode("utf-16-le")


def size(*values):
    return struct.pack(f"<{len(values)}Q", *values)


def shape(*dimensions):
    return struct.pack(f"<{1 + len(dimensions)}I", len(dimensions), *dimensions)


def matrix(values, kind=b"d", rows=None):
    """A matrix as of a tensor whose first dimension, in CNTK's order, is that of the rows."""
    rows = rows or values.shape[-1]
    header = kind + text("BMAT") + size(values.itemsize) + text("unnamed") + struct.pack("<i", 0)
    return header + size(rows, values.size // values.shape[-1]) + values.tobytes() + text("EMAT")


def model_v1(nodes, version=31, outputs=(), count=None):
    """A file of nodes: name → (type, fields, inputs)."""
    parts = [text("BCN")]
    if version > 1:
        parts += [text("BVersion"), size(version), text("EVersion")]
    parts += [size(count if count is not None else len(nodes)), text("BNodeList")]
    for name, (kind, fields, _) in nodes.items():
        parts += [text("float")] * (version >= 7) + [text(kind), text(name), fields]
    parts += [text("ENodeList"), text("BRelation")]
    for name, (_, _, inputs) in nodes.items():
        parts += [text(name), size(len(inputs)), *map(text, inputs)]
    parts += [text("ERelation"), text("BRootNodes"), text("BFeatureNodes"), size(1), text("x"), text("EFeatureNodes")]
    parts += [text("BCriteriaNodes"), size(0), text("ECriterionNodes")]
    parts += [text("BOutputNodes"), size(len(outputs)), *map(text, outputs), text("EOutputNodes")]
    return b"".join([*parts, text("ERootNodes"), text("ECN")])


def image_v1(version, *dimensions):
    axes = (struct.pack("<I", 1) + text("")) * (version >= 8)
    return "InputValue", size(0, 0) + shape(*dimensions) + axes + struct.pack("<f", 0) * (version >= 10), ()


def parameter_v1(version, values):
    dimensions = values.shape[::-1]
    if version >= 3:
        return "LearnableParameter", struct.pack("<f", 1) + shape(*dimensions) + matrix(values), ()
    return "LearnableParameter", b"\1" + size(0, 1) + shape(*dimensions) + matrix(values), ()


def booleans(*values):
    return size(len(values)) + bytes(values)


def windows_v1(version, kernel, strides, pads, pooling_kind):
    parts = [shape(*kernel), shape(1, 1, 2), shape(*strides), booleans(1, 1, 1), booleans(*pads), shape(0), shape(0)]
    parts += [struct.pack("<ii", pooling_kind, 1), size(0), b"\0" * (version >= 9), shape(0) * (version >= 20)]
    return b"".join([*parts, b"\0" * (version >= 21), b"\0" * (version >= 23)])


def convolution_v1(version):
    if version < 5:
        return size(5, 3, 2, 1) + struct.pack("<II", 2, 1) + b"\1" + size(0)
    windows = windows_v1(version, (5, 3, 1), (2, 1, 1), (1, 1, 0), 0)
    return windows + b"\0" + shape(1, 1, 1) * (version >= 18)


KERNEL = np.arange(30, dtype=np.float32).reshape(2, 1, 3, 5)
BIAS = np.arange(2, dtype=np.float32).reshape(2, 1, 1)
HEAD = np.arange(8, dtype=np.float32).reshape(2, 4)


def network_v1(version, **more):
    dropout = size(1, 2) * (version >= 16)
    pooling = windows_v1(version, (3, 3, 1), (2, 2, 1), (0, 0, 0), 1) if version >= 5 else None
    times = size(1) * (version >= 3) + struct.pack("<i", -1) * (version >= 12)
    nodes = {
        "axis": ("DynamicAxis", b"", ()),
        "x": image_v1(version, 9, 8, 1),
        "k": parameter_v1(version, KERNEL),
        "b": parameter_v1(version, BIAS),
        "w": parameter_v1(version, HEAD),
        "c": ("Convolution", convolution_v1(version), ("k", "x")),
        "p": ("Plus", b"", ("c", "b")),
        "r": ("RectifiedLinear", b"", ("p",)),
        "m": ("Pooling", pooling, ("r",)) if pooling else ("MaxPooling", image_pooling_v1(), ("r",)),
        "d": ("Dropout", dropout, ("m",)),
        "t": ("Times", times, ("w", "d")),
    }
    return model_v1(nodes, version, **more)


def image_pooling_v1():
    return struct.pack("<II", 3, 1) + size(3, 2, 2)


@pytest.mark.parametrize("version", range(1, 32))
def test_every_number_of_the_version_1_format(read, version):
    graph = read(network_v1(version))
    assert (graph.version, graph.roots) == (1, ("t",))
    ops = {uid: f.op for uid, f in graph.functions.items()}
    assert list(ops.values()) == ["Convolution", "Plus", "ReLU", "Pooling", "Dropout", "Times"]
    for name, expected in (("k", KERNEL), ("b", BIAS), ("w", HEAD)):
        np.testing.assert_array_equal(graph.variables[name].value, expected, strict=True)
    assert graph.variables["x"].shape == (1, 8, 9)
    convolution, pooling = graph.functions["c"], graph.functions["m"]
    assert convolution.inputs == ("k", "x")
    assert convolution.attributes["kernelShape"] == (5, 3, 1)
    assert convolution.attributes["strides"] == (2, 1, 1)
    assert convolution.attributes["autoPadding"] == ([True, True, False] if version >= 5 else [True])
    assert pooling.attributes["poolingWindowShape"] == (3, 3, 1)
    assert pooling.attributes["strides"] == (2, 2, 1)
    assert pooling.attributes["poolingType"] == 0


def test_version_1_files_of_other_kinds(read):
    # As Windows wrote a long.
    short = model_v1({"x": image_v1(16, 3), "d": ("Dropout", struct.pack("<IQ", 7, 8), ("x",))}, 16)
    assert read(short).roots == ("d",)
    # Rows and columns instead of a shape, and a shape of 64-bit channels, width and height.
    values = np.arange(6, dtype=np.float64).reshape(3, 2)
    nodes = {
        "x": ("InputValue", size(0, 0) + size(4, 5, 3), ()),
        "w": ("LearnableParameter", b"\0" + size(2, 3) + matrix(values), ()),
        "a": ("AveragePooling", image_pooling_v1(), ("x",)),
        "s": ("ErrorPrediction", b"", ("w", "a")),
        "q": ("SquareError", b"", ("w", "a")),
    }
    graph = read(model_v1(nodes, 2, outputs=["s"]))
    assert graph.variables["x"].shape == (5, 4, 3)
    assert (graph.variables["w"].kind, graph.variables["w"].value.dtype) == ("constant", np.float64)
    np.testing.assert_array_equal(graph.variables["w"].value, values)
    assert graph.functions["a"].attributes["poolingType"] == 1
    assert {f.op for f in graph.functions.values()} == {"Pooling", "ClassificationError", "SquaredError"}
    assert graph.roots == ("s",)


def test_version_2_file(read):
    graph = read(model_of())
    assert (graph.version, graph.roots, list(graph.variables)) == (2, ("T",), ["X", "W"])
    np.testing.assert_array_equal(graph.variables["W"].value, WEIGHTS, strict=True)
    assert not graph.variables["W"].value.flags.writeable
    assert graph.functions["T"].inputs == ("W", "X")
    assert graph.functions["T"].attributes == {"outputRank": 1}


@pytest.mark.parametrize(("data_type", "dtype"), [(1, "float32"), (2, "float64"), (4, "float32")])
def test_types_of_arrays(read, data_type, dtype):
    array = array_of(WEIGHTS.astype(dtype), data_type)
    np.testing.assert_array_equal(read(with_matrix(array)).variables["W"].value, WEIGHTS.astype(dtype), strict=True)


def test_arrays_in_pieces(read):
    values = b"".join(field(1, WEIGHTS[row].tobytes()) for row in range(3))
    for content in (values, fixed(1, "<f", *WEIGHTS.ravel())):  # The latter is not packed.
        array = field(1, 1) + field(3, shape_of((2, 3))) + field(4, content)
        np.testing.assert_array_equal(read(with_matrix(array)).variables["W"].value, WEIGHTS, strict=True)


def test_unknown_operations_of_version_2_are_kept(read):
    graph = read(model_of("F", [IMAGE], [function("F", 123, "X", name="f", rate=0.25, on=True, axes=Shape([-1, 2]))]))
    assert (graph.functions["F"].op, graph.functions["F"].name) == ("op 123", "f")
    assert graph.functions["F"].attributes == {"rate": 0.25, "on": True, "axes": (-1, 2)}


def test_blocks_are_opened(read):
    """A block within a block, an output that is passed through a block, and a root that combines two."""
    functions = [
        function("All", 44, "Outer_Output_0", "Same_Output_0"),
        block("Same", "Pair", {"P3": "Outer_Output_0"}, "Outer_Output_0"),
        function("Pair", 44, "P3", "X"),
        block("Outer", "Relu", {"P": "X"}, "W", "X", name="fc", op_name="Layer"),
        function("Relu", 3, "Inner_Output_0"),
        block("Inner", "T", {"P2": "P"}, "W", "P"),
        function("T", 31, "W", "P2"),
    ]
    holes = [variable(uid, 4) for uid in ("P", "P2", "P3")]
    graph = read(model_of("All", [IMAGE, MATRIX, *holes], functions))
    assert list(graph.functions) == ["T", "Relu"]
    assert graph.roots == ("Relu",)
    assert graph.functions["T"].inputs == ("W", "X")
    assert graph.functions["T"].blocks == ("fc", "")
    assert graph.functions["Relu"].blocks == ("fc",)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", r"m\.model is empty\. Expected a CNTK model"),
        (b"hello, world", r"m\.model is something else, corrupted, or truncated\. Expected a CNTK model"),
        (b"\x08\x02", r"m\.model has no dictionary of type 'CompositeFunction'"),
        (model_of()[:-1], r"m\.model is something else, corrupted, or truncated"),
        (dictionary_of({"type": "CompositeFunction"}), r"m\.model: a dictionary has no 'inputs'"),
        (dictionary_of({"type": "CompositeFunction", "inputs": 3}), r"has a 'inputs' that is not of type list"),
        (
            dictionary_of({"type": "CompositeFunction", "inputs": ["X"]}),
            r"has a 'inputs' with other things than dictionaries",
        ),
        (dictionary_of({"Version": 3, "Learners": []}), r"the state of CNTK's trainer.* Give the \.model file"),
        (model_of("nothing"), r"the model refers to 'nothing_Output_0', which is not there"),
        (model_of(functions=[]), r"the model refers to 'T_Output_0', which is not there"),
        (model_of(functions=[TIMES, TIMES]), r"of 'T' is a second function"),
        (model_of(variables=[IMAGE, MATRIX, MATRIX]), r"'W' is there twice"),
        (model_of(variables=[MATRIX]), r"Times 'T' refers to 'X', which is not there\. .*copy it again"),
        (model_of(variables=[MATRIX, variable("X", 7)]), r"of 'X' is a variable of the unknown kind 7"),
        (model_of(variables=[MATRIX, variable("X", 4)]), r"the placeholder 'X' stands for nothing\. .*not a layer"),
        (model_of(functions=[TIMES | {"type": "UserDefinedFunction"}]), r"'T' is a UserDefinedFunction, which is not"),
        (model_of(functions=[function("T", 31, "W", "T_Output_0")]), r"T.* is a cycle\. Expected a feed-forward"),
        (model_of(functions=[block("T", "T", {})]), r"'T_Output_0' stands for itself"),
        (model_of("U", functions=[TIMES, function("U", 3, "T_Output_1")]), r"output '1' of Times 'T' is used"),
        (with_matrix(array_of(WEIGHTS, storage=1)), r"m\.model, parameter 'W': a sparse array.* Expected a dense one"),
        (with_matrix(array_of(WEIGHTS, data_type=5)), r"parameter 'W': an array of data type 5, which is not read"),
        (with_matrix(array_of(WEIGHTS, data_type=2)), r"parameter 'W': an array of shape \(2, 3\), but of 0 values"),
        (with_matrix(array_of(WEIGHTS, dimensions=(2, 4))), r"shape \(2, 4\), but of 6 values"),
        (with_matrix(array_of(WEIGHTS, dimensions=(-2, -3))), r"shape \(-2, -3\), but of 6 values"),
        (with_matrix(array_of(WEIGHTS, dimensions=[2**40] * 30)), r"but of 6 values"),
        (with_matrix(array_of(WEIGHTS, dimensions=[1] * 33)), r"a shape of more than 32 axes"),
        (with_matrix(array_of(WEIGHTS), (3, 2)), r"of 'W' has the shape \(2, 3\), but its array has \(3, 2\)"),
        (with_matrix(3), r"of 'W' has a 'value' that is not of type array"),
    ],
    ids=range(28),
)
def test_bad_files_are_told(read, content, told):
    with pytest.raises(UserError, match=told):
        read(content)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            network_v1(31)[:-3],
            r"m\.model cannot be read at byte [\d,]+: expected the marker 'ECN'\.",
        ),
        (network_v1(31)[:300], r"m\.model cannot be read at byte \d+: .*download or copy it again"),
        (network_v1(32), r"at byte 26: a format number of 32, where at most 31 makes sense"),
        (model_v1({}), r"a number of nodes of 1, where at most 0 makes sense"),
        (model_v1({"x": image_v1(31, 3)}), r"m\.model has no outputs\. Expected a network"),
        (model_v1({"x": ("LSTM", b"", ())}), r"byte \d+, LSTM 'x': operations of type 'LSTM' are not read\. Expected"),
        (model_v1({}, count=2**60), r"a number of nodes of 1,152,921,504,606,846,976, where at most"),
        (model_v1({"x": ("Plus", b"", ("y",))}), r"the name 'y', which no node has"),
        (model_v1({"x": ("Plus", b"", ("x",))}), r"x → x … is a cycle"),
        (model_v1({"x": image_v1(31, *[1] * 33)}), r"a shape of 33 axes.*InputValue 'x'"),
        (
            model_v1({"x": ("LearnableParameter", struct.pack("<f", 1) + shape(5, 6) + matrix(HEAD), ())}),
            r"a matrix of 4 × 2 values for the shape \(5, 6\) \(LearnableParameter 'x'\)",
        ),
        (
            model_v1({"x": ("LearnableParameter", struct.pack("<f", 1) + shape(4, 2) + matrix(HEAD, b"s"), ())}),
            r"LearnableParameter 'x': a sparse array, which is not read",
        ),
        (
            model_v1(
                {"x": ("LearnableParameter", struct.pack("<f", 1) + shape(2**31, 2) + matrix(HEAD, rows=2**31), ())}
            ),
            r"17,179,869,184 more bytes should follow, but the file has only",
        ),
    ],
    ids=range(13),
)
def test_bad_version_1_files_are_told(read, content, told):
    with pytest.raises(UserError, match=told):
        read(content)


def test_missing_file_and_folder_are_told(tmp_path):
    for path in (tmp_path / "none.model", tmp_path):
        with pytest.raises(UserError, match=r"Expected a CNTK model|Give the name of a CNTK model"):
            read_cntk_model(path)


def test_too_many_values_are_told(read, monkeypatch):
    monkeypatch.setattr(cntk_dictionary, "_MAX_VALUES", 100)
    with pytest.raises(UserError, match="has more than 100 values, too many for a network"):
        read(model_of(functions=[TIMES, function("U", 3, *["X"] * 100)]))


def test_deep_files_are_told(read):
    items = {}
    for _ in range(60):
        items = {"a": items}
    with pytest.raises(UserError, match="has values within more than 50 others"):
        read(dictionary_of(items))
    functions = [block(f"B{n}", f"B{n + 1}", {}) for n in range(60)] + [function("B60", 3, "X")]
    with pytest.raises(UserError, match="is within more than 50 blocks"):
        read(model_of("B0", [IMAGE], functions))


def layered():
    functions = [
        block("B", "T", {"P": "X"}, "W", "X", name="fc"),
        function("T", 31, "W", "P", outputRank=1, pad=[True]),
    ]
    return model_of("B", [IMAGE, MATRIX, HOLE], functions)


WHOLE = {"v2": layered(), "v1": network_v1(31), "old v1": network_v1(4)}
LIES = [b"\xff" * 4, b"\xff" * 8, b"\xff" * 9 + b"\1", bytes(8), size(2**31), size(2**62), b"\xff\xff\xff\xff\7"]


@pytest.mark.parametrize("whole", WHOLE.values(), ids=WHOLE)
def test_damage_gives_a_graph_or_is_told(read, whole):
    """Ends and pieces cut off, pieces doubled, bits turned, and numbers that lie."""
    dice = random.Random(1)
    damaged = [whole[:end] for end in range(0, len(whole), 5)]
    for _ in range(900):
        at, other = sorted(dice.choices(range(len(whole)), k=2))
        bit, lie = bytes([whole[at] ^ 1 << dice.randrange(8)]), dice.choice(LIES)
        before = whole[:at]
        endings = (bit + whole[at + 1 :], lie + whole[at + len(lie) :], whole[other:], whole[at:other] + whole[at:])
        damaged.append(before + dice.choice(endings))
    graphs = 0
    for content in damaged:
        try:
            graph = read(content)
        except UserError:
            continue
        graphs += 1
        values = [v.value for v in graph.variables.values() if v.kind != "input"]
        assert sum(value.nbytes for value in values) <= len(content)
    assert 20 < graphs < len(damaged) - 20


@pytest.mark.parametrize("whole", WHOLE.values(), ids=WHOLE)
def test_numbers_that_lie_take_no_memory(read, whole):
    dice = random.Random(2)
    tracemalloc.start()
    for at in range(8, len(whole), 16):
        lie = dice.choice(LIES)
        with contextlib.suppress(UserError):
            read(whole[:at] + lie + whole[at + len(lie) :])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000
