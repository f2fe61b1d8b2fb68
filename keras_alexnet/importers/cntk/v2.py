"""CNTK's version 2 format: what CNTK 2 saves, usually as `.model`: a protobuf dictionary (CNTK.proto).

The dictionary of a model has its variables ("inputs"), its functions ("primitive_functions") and the uid of the last
one ("root"). A function's inputs are uids of variables, or of functions with "_Output_0" after it. A block is a
function that stands for others: those before the root of its composite, up to placeholders, which the block maps to its
arguments. Here blocks are opened; functions keep their names. The source is CNTK's Source/CNTKv2LibraryDll
(Serialization.cpp, PrimitiveFunction.cpp, CompositeFunction.cpp).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from keras_alexnet.errors import UserError
from keras_alexnet.importers.cntk.dictionary import Array, Dictionary, plain, read_dictionary
from keras_alexnet.importers.cntk.graph import CntkFunction, CntkGraph, CntkVariable, make_graph
from keras_alexnet.importers.files import ModelFile

# Far above any AlexNet.
_MAX_DEPTH = 50
_MAX_HOPS = 1_000

# PrimitiveOpType: an operation's code is its place here.
_OP_NAMES = """
Negate Sigmoid Tanh ReLU Exp Log Sqrt Floor Abs Reciprocal Softmax Hardmax TransposeAxes Where Slice Dropout Reshape
Pooling SumAll Plus Minus ElementTimes Equal NotEqual Less LessEqual Greater GreaterEqual PackedIndex GatherPacked
ScatterPacked Times TransposeTimes Convolution SquaredError CrossEntropyWithSoftmax ClassificationError PastValue
FutureValue ReduceElements BatchNormalization Clip Select Splice Combine RandomSample RandomSampleInclusionFrequency
ROIPooling Logistic OptimizedRNNStack ReconcileDynamicAxis LogSoftmax LogPlus CosDistance Sin Cos Pass Block Unpooling
LambdaRank NDCG EditDistanceError NoOp LabelsToGraph StopGradient ELU ForwardBackward CosDistanceWithNegativeSamples
OneHot Pow ToSequence ToSequenceLike UnpackSequence Assign Gather StableSigmoid RandomDistribution Sinh Cosh
UnpackBatch ToBatch Asin Acos Pad Crop Atanh Asinh TopK Squeeze ConstantOp LatticeSequenceWithSoftmax Cast EyeLikeOp
CustomProxyOp StraightThrough
"""
_OPS = _OP_NAMES.split()

# VariableKind; outputs are not stored.
_KINDS = {0: "input", 2: "parameter", 3: "constant"}
_PLACEHOLDER = 4

_OUTPUT = "_Output_"


def read_graph(file: ModelFile) -> CntkGraph:
    """Reads a graph from a file."""
    model = read_dictionary(file)
    if model.items.get("type") != "CompositeFunction":
        if "Learners" in model.items:
            raise UserError(
                f"{file.path} is the state of CNTK's trainer, which has no network. Use the .model file next to it."
            )
        raise file.error("has no dictionary of type 'CompositeFunction', which a model is")
    variables, placeholders = _read_variables(model)
    functions: dict[str, _StoredFunction] = {}
    for stored in model.dictionaries("primitive_functions"):
        function = _read_function(stored)
        if function.uid in functions:
            raise stored.error("is a second function of this uid")
        functions[function.uid] = function
    root, opened = model.get("root", str), _Opener(file.path, functions, placeholders)
    roots = opened.outputs(root)
    return make_graph(file.path, 2, variables, opened.primitives(root), roots)


def _read_variables(model: Dictionary) -> tuple[list[CntkVariable], set[str]]:
    """The variables, and the uids of placeholders."""
    variables, placeholders = [], set()
    for variable in model.dictionaries("inputs"):
        uid, code = variable.get("uid", str), variable.get("kind", int)
        if code == _PLACEHOLDER:
            placeholders.add(uid)
            continue
        if code not in _KINDS:
            raise variable.error(f"is a variable of the unknown kind {code}")
        shape, value = variable.get("shape", tuple)[::-1], None
        if _KINDS[code] != "input":
            value = variable.get("value", Array).values(f"{variable.path}, {_KINDS[code]} {uid!r}")
            if value.shape != shape:
                raise variable.error(f"has the shape {shape}, but its array has {value.shape}")
        variables.append(CntkVariable(uid, _KINDS[code], variable.get("name", str, ""), shape, value))
    return variables, placeholders


@dataclass(frozen=True)
class _StoredFunction:
    """A function as the file has it.

    Attributes:
        root: of a block, the uid of the last function that it stands for; else None.
        arguments: of a block, by placeholder the uid of what takes its place.
    """

    uid: str
    op: str
    name: str
    inputs: tuple[str, ...]
    attributes: dict[str, Any]
    root: str | None
    arguments: dict[str, str]


def _read_function(stored: Dictionary) -> _StoredFunction:
    uid, name = stored.get("uid", str), stored.get("name", str, "")
    if stored.get("type", str) != "PrimitiveFunction":
        raise UserError(
            f"{stored.path}: function {uid!r} is a {stored.get('type', str)}, which is not read. Expected CNTK's "
            "own functions only: save the model without it."
        )
    code = stored.get("op", int)
    op = _OPS[code] if 0 <= code < len(_OPS) else f"op {code}"
    root, arguments = None, {}
    if op == "Block":
        keys = stored.texts("block_function_composite_arguments_map_keys")
        values = stored.texts("block_function_composite_arguments_map_values")
        if len(keys) != len(values):
            raise stored.error(f"is a block with {len(keys)} arguments, but {len(values)} values")
        root = stored.get("block_function_composite", Dictionary).get("root", str)
        arguments = dict(zip(keys, values, strict=True))
    attributes = plain(stored.get("attributes", Dictionary))
    return _StoredFunction(uid, op, name, tuple(stored.texts("inputs")), attributes, root, arguments)


class _Opener:
    """Takes primitive functions out of their blocks."""

    def __init__(self, path: str, functions: dict[str, _StoredFunction], placeholders: set[str]) -> None:
        self._path = path
        self._functions = functions
        self._placeholders = placeholders
        self._arguments = {key: uid for f in functions.values() for key, uid in f.arguments.items()}

    def outputs(self, root: str) -> list[str]:
        """The uids of what the function `root` gives: several, if it combines some."""
        function = self._functions.get(root)
        if function and function.op == "Combine":
            return [self._source(uid) for uid in function.inputs]
        return [self._source(f"{root}{_OUTPUT}0")]

    def primitives(self, root: str) -> Iterator[CntkFunction]:
        """All functions that the root needs, each with the blocks it is in."""
        seen: set[str] = set()
        waiting: list[tuple[str, tuple[str, ...]]] = [(root, ())]
        while waiting:
            uid, blocks = waiting.pop()
            function = self._functions.get(uid)
            if function is None or uid in seen:
                continue
            seen.add(uid)
            if len(blocks) > _MAX_DEPTH:
                raise UserError(
                    f"{self._path}: function {uid!r} is within more than {_MAX_DEPTH} blocks. Expected a network such "
                    "as AlexNet."
                )
            # What comes before a block is in the blocks that the block is in.
            waiting += [(name.rpartition(_OUTPUT)[0], blocks) for name in function.inputs]
            if function.root is not None:
                waiting.append((function.root, (*blocks, function.name)))
            elif function.op != "Combine":
                inputs = tuple(map(self._source, function.inputs))
                yield CntkFunction(uid, function.op, function.name, inputs, function.attributes, blocks)

    def _source(self, name: str) -> str:
        """The uid of the variable or primitive function that `name` stands for."""
        passed: set[str] = set()
        while name not in passed and len(passed) < _MAX_HOPS:
            passed.add(name)
            if name in self._arguments:
                name = self._arguments[name]
                continue
            uid, _, index = name.rpartition(_OUTPUT)
            function = self._functions.get(uid)
            # NOTE: placeholders also stand for functions that come later in the file; these are named like the output.
            if function is None and name in self._placeholders:
                raise UserError(
                    f"{self._path}: the placeholder {name!r} is not bound to anything. Expected a whole network with "
                    "its input, not a layer."
                )
            if function is None:
                return name
            if function.root is not None:
                name = f"{function.root}{_OUTPUT}{index}"
            elif function.op == "Combine" and index in map(str, range(len(function.inputs))):
                name = function.inputs[int(index)]
            elif index == "0":
                return uid
            else:
                raise UserError(
                    f"{self._path}: output {index!r} of {function.op} {uid!r} is used. Expected functions with one "
                    "output, as in AlexNet."
                )
        raise UserError(
            f"{self._path}: {name!r} refers to itself through blocks. Expected a feed-forward network, such as "
            "AlexNet; recurrent ones are not read."
        )
