"""The dictionaries that CNTK 2 stores everything in: messages of CNTK.proto (Source/CNTKv2LibraryDll/proto)."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import Message

from keras_alexnet.errors import UserError
from keras_alexnet.importers.arrays import MAX_AXES
from keras_alexnet.importers.cntk.graph import COPY_AGAIN
from keras_alexnet.importers.files import ModelFile
from keras_alexnet.importers.protobuf import message_types, parse, read_numbers, split, text

# Far above any AlexNet, which has some 3,000 values: so a damaged file takes neither much time nor memory.
_MAX_VALUES = 200_000

_MAX_DEPTH = 50

# What is large or repeated is no field of these: `protobuf.split` takes it out first.
_types = message_types(
    {
        "DictionaryValue": {
            "bool": (3, "bool"),
            "int": (4, "int64"),
            "size_t": (5, "int64"),
            "float": (6, "float"),
            "double": (7, "double"),
            "string": (8, "bytes"),
            "shape": (9, "NDShape"),
            "axis": (10, "Axis"),
        },
        "NDShape": {"shape_dim": (1, "repeated int64")},
        "Axis": {"static_axis_idx": (1, "int32"), "name": (2, "bytes")},
        "NDArrayView": {"data_type": (1, "int32"), "storage_format": (2, "int32"), "shape": (3, "NDShape")},
    },
    unions=["DictionaryValue"],
)
# Their numbers: of a Dictionary (a map, which is a list of entries on the wire), an entry, a DictionaryValue, a Vector,
# an NDArrayView, and its FloatValues and DoubleValues.
_ENTRIES = 2
_KEY, _VALUE = 1, 2
_VECTOR, _DICTIONARY, _ARRAY = 11, 12, 13
_ITEMS = 1
_FLOATS, _DOUBLES = 4, 5
_NUMBERS = 1

# The data types of an NDArrayView that are read, and where their values are: half precision is stored as single.
_NUMBER_TYPES = {1: (_FLOATS, "<f4"), 2: (_DOUBLES, "<f8"), 4: (_FLOATS, "<f4")}
_DENSE = 0


@dataclass(frozen=True)
class Dictionary:
    """A dictionary of the file `path`."""

    path: str
    items: dict[str, Any]

    def get(self, key: str, kind: type, default: Any = None) -> Any:
        """The value of `key`, which has to be of this type and, without a default, there."""
        value = self.items.get(key, default)
        if value is None:
            raise self.error(f"has no {key!r}")
        if not isinstance(value, kind):
            raise self.error(f"has a {key!r} that is not of type {kind.__name__.lower()}")
        return value

    def dictionaries(self, key: str) -> list["Dictionary"]:
        return self._list(key, Dictionary, "dictionaries")

    def texts(self, key: str) -> list[str]:
        return self._list(key, str, "texts")

    def error(self, problem: str) -> UserError:
        """The error that this dictionary `problem`: "has no 'name'"."""
        uid = self.items.get("uid")
        which = f"the dictionary of {uid!r}" if isinstance(uid, str) else "a dictionary"
        return UserError(
            f"{self.path}: {which} {problem}. Expected a CNTK model (.model); if it is one, it is damaged: download or "
            "copy it again."
        )

    def _list(self, key: str, kind: type, what: str) -> list:
        values = self.get(key, list)
        if not all(isinstance(value, kind) for value in values):
            raise self.error(f"has a {key!r} with other things than {what}")
        return values


@dataclass(frozen=True)
class Array:
    """An array of the file, not decoded yet."""

    data: memoryview
    file: ModelFile

    def values(self, where: str) -> np.ndarray:
        """The values in row-major order, read-only; `where` is the file and the variable, for messages."""
        parts, rest = split(self.data, (_FLOATS, _DOUBLES), self.file)
        view = parse(_types["NDArrayView"], rest, self.file)
        if view.storage_format != _DENSE:
            raise UserError(f"{where}: a sparse array, which is not read. Expected a dense one, as of an AlexNet.")
        if view.data_type not in _NUMBER_TYPES:
            raise UserError(
                f"{where}: an array of data type {view.data_type}, which is not read. Expected 1 (float), "
                "2 (double) or 4 (half precision)."
            )
        field, dtype = _NUMBER_TYPES[view.data_type]
        pieces = [piece for values in parts[field] for piece in split(values, [_NUMBERS], self.file)[0][_NUMBERS]]
        values = read_numbers(pieces, dtype, where)
        dimensions = _shape(view.shape, where)
        if not values.size or min(dimensions, default=1) < 1 or values.size != math.prod(dimensions):
            raise UserError(f"{where}: an array of shape {dimensions}, but of {values.size:,} values. {COPY_AGAIN}.")
        return values.reshape(dimensions[::-1])


def read_dictionary(file: ModelFile) -> Dictionary:
    """Decodes a file with all that is in it, except for the values of arrays."""
    return _Decoder(file).dictionary(file.data, 0)


class _Decoder:
    """Makes Python values of CNTK.proto's messages: so many at most."""

    def __init__(self, file: ModelFile) -> None:
        self._file = file
        self._left = _MAX_VALUES

    def dictionary(self, data: memoryview, depth: int) -> Dictionary:
        items = {}
        for entry in self._parts(data, _ENTRIES, depth):
            parts, _ = split(entry, (_KEY, _VALUE), self._file)
            if not parts[_KEY]:
                raise self._file.error("has an entry of a dictionary without a key")
            key = text(bytes(parts[_KEY][-1]), self._file.path)
            items[key] = self._value(parts[_VALUE][-1], depth + 1) if parts[_VALUE] else None
        return Dictionary(self._file.path, items)

    def _value(self, data: memoryview, depth: int) -> Any:
        """A DictionaryValue; None if it has no value, or of an unknown type."""
        parts, rest = split(data, (_VECTOR, _DICTIONARY, _ARRAY), self._file)
        if parts[_ARRAY]:
            return Array(parts[_ARRAY][-1], self._file)
        if parts[_DICTIONARY]:
            return self.dictionary(parts[_DICTIONARY][-1], depth)
        if parts[_VECTOR]:
            return [self._value(item, depth + 1) for item in self._parts(parts[_VECTOR][-1], _ITEMS, depth)]
        message = parse(_types["DictionaryValue"], rest, self._file)
        kind = message.WhichOneof("value")
        value = getattr(message, kind) if kind else None
        match kind:
            case "string":
                return text(value, self._file.path)
            case "shape":
                return _shape(value, self._file.path)
            case "axis":
                # A static axis as its number, counted from 0 in CNTK's order; CNTK marks others by numbers near 2**31.
                is_static = abs(value.static_axis_idx) < 2**30
                return value.static_axis_idx if is_static else text(value.name, self._file.path)
        return value

    def _parts(self, data: memoryview, number: int, depth: int) -> list[memoryview]:
        """A repeated field, counted."""
        if depth > _MAX_DEPTH:
            raise self._file.error(f"has values within more than {_MAX_DEPTH} others")
        values = split(data, [number], self._file)[0][number]
        self._left -= len(values)
        if self._left < 0:
            raise self._file.error(f"has more than {_MAX_VALUES:,} values, too many for a network such as AlexNet")
        return values


def _shape(message: Message, where: str) -> tuple[int, ...]:
    """Dimensions in CNTK's order; -1 is to be inferred, -3 is free."""
    if len(message.shape_dim) > MAX_AXES:
        raise UserError(f"{where}: a shape of more than {MAX_AXES} axes. {COPY_AGAIN}.")
    return tuple(message.shape_dim)


def plain(value: Any) -> Any:
    """A value of a dictionary, in standard Python types; arrays are None."""
    if isinstance(value, Dictionary):
        return {key: plain(item) for key, item in value.items.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return None if isinstance(value, Array) else value
