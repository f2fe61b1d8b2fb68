"""CNTK's version 2 format: what CNTK 2 saves, usually as `.model`: a protobuf dictionary (CNTK.proto).

The dictionary of a model has its variables ("inputs"), its functions ("primitive_functions") and the uid of the last
one ("root"). A function's inputs are uids of variables, or of functions with "_Output_0" after it. A block is a
function that stands for others: those before the root of its composite, up to placeholders, which the block maps to its
arguments. Here blocks are opened, and what was in one tells so. The source is CNTK's Source/CNTKv2LibraryDll
(Serialization.cpp, PrimitiveFunction.cpp, CompositeFunction.cpp).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_alexnet.errors import UserError
from keras_alexnet.interop import wire
from keras_alexnet.interop.cntk import (
    MAX_RANK,
    CntkBlock,
    CntkFunction,
    CntkGraph,
    CntkVariable,
    checked_values,
    make_graph,
)

# Bounds far above any AlexNet, which has some 10,000 fields: so a damaged file takes neither much time nor memory.
_MAX_FIELDS = 1_000_000
_MAX_DEPTH = 50
_MAX_TEXT = 1_000
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

# The fields of an NDArrayView that have values, and for each data type the one it uses: half precision is stored as
# single.
_VALUE_TYPES = {4: "<f4", 5: "<f8"}
_VALUE_FIELDS = {1: 4, 2: 5, 4: 4}
_DENSE = 0


def read_graph(file: wire.Span) -> CntkGraph:
    """Reads a graph from a file.

    Raises:
        UserError: as `read_cntk_model`.
    """
    model = _Decoder().dictionary(file)
    if model.items.get("type") != "CompositeFunction":
        if "Learners" in model.items:
            raise UserError(
                f"{file.path} is the state of CNTK's trainer, which has no network. Give the .model file beside it."
            )
        raise file.error("is no model: no dictionary of type 'CompositeFunction'")
    variables, placeholders = _read_variables(model)
    functions: dict[str, _StoredFunction] = {}
    for stored in model.dictionaries("primitive_functions"):
        function = _read_function(stored)
        if function.uid in functions:
            raise stored.span.error(f"is a second function {function.uid!r}")
        functions[function.uid] = function
    opened = _Opener(file.path, functions, placeholders)
    roots = opened.outputs(model.get("root", str))
    return make_graph(file.path, 2, variables, opened.primitives(), roots)


def _read_variables(model: "_Dictionary") -> tuple[list[CntkVariable], set[str]]:
    """The variables, and the uids of placeholders."""
    variables, placeholders = [], set()
    for variable in model.dictionaries("inputs"):
        uid, code = variable.get("uid", str), variable.get("kind", int)
        if code == _PLACEHOLDER:
            placeholders.add(uid)
            continue
        if code not in _KINDS:
            raise variable.span.error(f"is the variable {uid!r} of the unknown kind {code}")
        shape, value = variable.get("shape", tuple)[::-1], None
        if _KINDS[code] != "input":
            value = variable.get("value", _Array).values(f"{variable.span.path}, {_KINDS[code]} {uid!r}")
            if value.shape != shape:
                raise variable.span.error(f"is {uid!r} of shape {shape}, but its array has the shape {value.shape}")
        variables.append(CntkVariable(uid, _KINDS[code], variable.get("name", str, ""), shape, value))
    return variables, placeholders


@dataclass(frozen=True)
class _Block:
    """What a function of type Block stands for.

    Attributes:
        root: the uid of its last function.
        arguments: by placeholder, the uid of what takes its place.
    """

    block: CntkBlock
    root: str
    arguments: dict[str, str]


@dataclass(frozen=True)
class _StoredFunction:
    """A function as the file has it: `block` tells whether it stands for others."""

    uid: str
    op: str
    name: str
    inputs: tuple[str, ...]
    attributes: dict[str, Any]
    block: _Block | None


def _read_function(stored: "_Dictionary") -> _StoredFunction:
    uid, name = stored.get("uid", str), stored.get("name", str, "")
    if stored.get("type", str) != "PrimitiveFunction":
        raise UserError(
            f"{stored.span.path}: function {uid!r} is a {stored.get('type', str)}, which is not read. Expected CNTK's "
            "own functions only: save the model without it."
        )
    code = stored.get("op", int)
    op = _OPS[code] if 0 <= code < len(_OPS) else f"op {code}"
    block = None
    if op == "Block":
        keys = stored.texts("block_function_composite_arguments_map_keys")
        values = stored.texts("block_function_composite_arguments_map_values")
        if len(keys) != len(values):
            raise stored.span.error(f"is the block {uid!r} with {len(keys)} arguments, but {len(values)} values")
        root = stored.get("block_function_composite", _Dictionary).get("root", str)
        block = _Block(
            CntkBlock(name, stored.get("block_function_op_name", str)), root, dict(zip(keys, values, strict=True))
        )
    attributes = stored.get("attributes", _Dictionary).plain()
    return _StoredFunction(uid, op, name, tuple(stored.texts("inputs")), attributes, block)


class _Opener:
    """Takes primitive functions out of their blocks.

    Args:
        path: for messages.
        functions: those of the file, blocks among them, by uid.
        placeholders: uids.
    """

    def __init__(self, path: str, functions: dict[str, _StoredFunction], placeholders: set[str]) -> None:
        self._path = path
        self._functions = functions
        self._placeholders = placeholders
        self._arguments = {
            placeholder: uid for f in functions.values() if f.block for placeholder, uid in f.block.arguments.items()
        }
        self._roots: list[str] = []

    def outputs(self, root: str) -> list[str]:
        """The uids of what the function `root` gives: several, if it combines some."""
        self._roots.append(root)
        function = self._functions.get(root)
        if function and function.op == "Combine":
            return [self._source(uid) for uid in function.inputs]
        return [self._source(f"{root}{_OUTPUT}0")]

    def primitives(self) -> Iterator[CntkFunction]:
        """All functions that the roots need, each with the blocks it is in."""
        seen: set[str] = set()
        waiting: list[tuple[str, tuple[CntkBlock, ...]]] = [(root, ()) for root in self._roots]
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
            if function.block:
                waiting.append((function.block.root, (*blocks, function.block.block)))
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
                    f"{self._path}: the placeholder {name!r} stands for nothing. Expected a whole network with its "
                    "input, not a layer."
                )
            if function is None:
                return name
            if function.block:
                name = f"{function.block.root}{_OUTPUT}{index}"
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
            f"{self._path}: {name!r} stands for itself, by way of blocks. Expected a feed-forward network, such as "
            "AlexNet; recurrent ones are not read."
        )


@dataclass(frozen=True)
class _Dictionary:
    """A dictionary of the file, with its place for messages."""

    span: wire.Span
    items: dict[str, Any]

    def get(self, key: str, kind: type, default: Any = None) -> Any:
        """The value of `key`, which has to be of this type and, without a default, there."""
        value = self.items.get(key, default)
        if value is None:
            raise self.span.error(f"is a dictionary without {key!r}")
        if not isinstance(value, kind):
            raise self.span.error(f"is a dictionary whose {key!r} is no {kind.__name__.strip('_').lower()}")
        return value

    def dictionaries(self, key: str) -> list["_Dictionary"]:
        return self._list(key, _Dictionary, "dictionaries")

    def texts(self, key: str) -> list[str]:
        return self._list(key, str, "texts")

    def plain(self) -> dict[str, Any]:
        """The items, in standard Python types; an array among them is None."""
        return {key: _plain(value) for key, value in self.items.items()}

    def _list(self, key: str, kind: type, what: str) -> list:
        values = self.get(key, list)
        if not all(isinstance(value, kind) for value in values):
            raise self.span.error(f"is a dictionary whose {key!r} has other things than {what}")
        return values


@dataclass(frozen=True)
class _Array:
    """An array of the file, not yet looked into: its values by the number of the field they are in."""

    span: wire.Span
    data_type: int
    storage: int
    dimensions: tuple[int, ...]
    pieces: dict[int, list[np.ndarray]]

    def values(self, where: str) -> np.ndarray:
        """The values, in row-major order; a view of the file."""
        if self.storage != _DENSE:
            raise UserError(f"{where}: a sparse array, which is not read. Expected a dense one, as of an AlexNet.")
        if self.data_type not in _VALUE_FIELDS:
            raise UserError(
                f"{where}: an array of data type {self.data_type}, which is not read. Expected 1 (float), 2 (double) "
                "or 4 (half precision)."
            )
        pieces = self.pieces.get(_VALUE_FIELDS[self.data_type], [])
        count = sum(map(len, pieces))
        if count < 1 or min(self.dimensions, default=1) < 1 or count != math.prod(self.dimensions):
            raise self.span.error(f"is an array of shape {self.dimensions}, but of {count:,} values ({where})")
        return checked_values(wire.concatenated(pieces), self.dimensions, where)


class _Decoder:
    """Makes Python values of CNTK.proto's messages: so many at most."""

    def __init__(self) -> None:
        self._left = _MAX_FIELDS
        self._depth = 0

    def dictionary(self, span: wire.Span) -> _Dictionary:
        items = {}
        for field in self._fields(span):
            if field.number == 2:
                key = value = None
                for part in self._fields(field.span()):
                    if part.number == 1:
                        key = self._text(part)
                    elif part.number == 2:
                        value = self._value(part.span())
                if key is None:
                    raise field.error("is an entry of a dictionary without a key")
                items[key] = value
        return _Dictionary(span, items)

    def _value(self, span: wire.Span) -> Any:
        """A DictionaryValue; None if it has no value, or of a type that is not known."""
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise span.error(f"are more than {_MAX_DEPTH} dictionaries within each other")
        value = None
        for field in self._fields(span):
            match field.number:
                case 3:
                    value = bool(_integer(field))
                case 4 | 5:
                    value = _integer(field)
                case 6:
                    value = _number(field, "<f4")
                case 7:
                    value = _number(field, "<f8")
                case 8:
                    value = self._text(field)
                case 9:
                    value = self._shape(field.span())
                case 10:
                    value = self._axis(field.span())
                case 11:
                    value = [self._value(item.span()) for item in self._fields(field.span()) if item.number == 1]
                case 12:
                    value = self.dictionary(field.span())
                case 13:
                    value = self._array(field.span())
        self._depth -= 1
        return value

    def _shape(self, span: wire.Span) -> tuple[int, ...]:
        """Dimensions in CNTK's order; -1 is to be inferred, -3 is free."""
        dimensions: list[int] = []
        for field in self._fields(span):
            if field.number == 1:
                for value in field.integers():
                    dimensions.append(wire.signed(value))
                    if len(dimensions) > MAX_RANK:
                        raise field.error(f"is a shape of more than {MAX_RANK} axes")
        return tuple(dimensions)

    def _axis(self, span: wire.Span) -> int | str:
        """A static axis as its number, counted from 0 in CNTK's order; any other as its name."""
        index, name = 0, ""
        for field in self._fields(span):
            if field.number == 1:
                index = _integer(field)
            elif field.number == 2:
                name = self._text(field)
        # CNTK marks other axes by numbers near 2**31.
        return index if abs(index) < 2**30 else name

    def _array(self, span: wire.Span) -> _Array:
        data_type, storage, dimensions, pieces = 0, _DENSE, (), {}
        for field in self._fields(span):
            match field.number:
                case 1:
                    data_type = _integer(field)
                case 2:
                    storage = _integer(field)
                case 3:
                    dimensions = self._shape(field.span())
                case number if number in _VALUE_TYPES:
                    values = self._fields(field.span())
                    pieces[number] = [part.numbers(_VALUE_TYPES[number]) for part in values if part.number == 1]
        return _Array(span, data_type, storage, dimensions, pieces)

    def _text(self, field: wire.Field) -> str:
        span = field.span()
        if len(span) > _MAX_TEXT:
            raise field.error(f"is a text of {len(span):,} bytes, which is too long")
        return span.text()

    def _fields(self, span: wire.Span) -> Iterator[wire.Field]:
        for field in span.fields():
            self._left -= 1
            if self._left < 0:
                raise field.error(f"is more than {_MAX_FIELDS:,} fields, too many for a network such as AlexNet")
            yield field


def _plain(value: Any) -> Any:
    if isinstance(value, _Dictionary):
        return value.plain()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, _Array) else value


def _integer(field: wire.Field) -> int:
    if field.wire_type != wire.VARINT:
        raise field.error("is something else, where an integer should be")
    return wire.signed(field.value)


def _number(field: wire.Field, dtype: str) -> float:
    values = field.numbers(dtype)
    if not len(values):
        raise field.error("is a number without a value")
    return float(values[-1])
