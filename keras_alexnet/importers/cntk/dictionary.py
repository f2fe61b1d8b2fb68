"""The dictionaries that CNTK 2 stores everything in: messages of CNTK.proto (Source/CNTKv2LibraryDll/proto)."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import Message

from keras_alexnet.errors import UserError
from keras_alexnet.importers.cntk.graph import COPY_AGAIN, MAX_RANK
from keras_alexnet.importers.files import ModelFile
from keras_alexnet.importers.protobuf import message_types, parse, read_numbers, text

# Far above any AlexNet, which has some 3,000 values: so a damaged file takes neither much time nor memory.
_MAX_VALUES = 200_000

_MESSAGES = {
    # Its `data` is a map, which on the wire is a list of entries.
    "Dictionary": {"data": (2, "repeated Entry")},
    "Entry": {"key": (1, "bytes"), "value": (2, "DictionaryValue")},
    "DictionaryValue": {
        "bool": (3, "bool"),
        "int": (4, "int64"),
        "size_t": (5, "int64"),
        "float": (6, "float"),
        "double": (7, "double"),
        "string": (8, "bytes"),
        "shape": (9, "NDShape"),
        "axis": (10, "Axis"),
        "vector": (11, "Vector"),
        "dictionary": (12, "Dictionary"),
        "array": (13, "NDArrayView"),
    },
    "NDShape": {"shape_dim": (1, "repeated int64")},
    "Axis": {"static_axis_idx": (1, "int32"), "name": (2, "bytes")},
    "Vector": {"value": (1, "repeated DictionaryValue")},
    "NDArrayView": {
        "data_type": (1, "int32"),
        "storage_format": (2, "int32"),
        "shape": (3, "NDShape"),
        "float_values": (4, "Values"),
        "double_values": (5, "Values"),
    },
    # FloatValues (repeated float) and DoubleValues (repeated double); see `protobuf`.
    "Values": {"value": (1, "repeated bytes")},
}
_Dictionary = message_types(_MESSAGES, unions=["DictionaryValue"])["Dictionary"]

# The data types of an NDArrayView that are read, and where their values are: half precision is stored as single.
_VALUES = {1: ("float_values", "<f4"), 2: ("double_values", "<f8"), 4: ("float_values", "<f4")}
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

    def plain(self) -> dict[str, Any]:
        """The items, in standard Python types; an array among them is None."""
        return {key: _plain(value) for key, value in self.items.items()}

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

    view: Message

    def values(self, where: str) -> np.ndarray:
        """The values in row-major order, read-only; `where` is the file and the variable, for messages."""
        if self.view.storage_format != _DENSE:
            raise UserError(f"{where}: a sparse array, which is not read. Expected a dense one, as of an AlexNet.")
        if self.view.data_type not in _VALUES:
            raise UserError(
                f"{where}: an array of data type {self.view.data_type}, which is not read. Expected 1 (float), "
                "2 (double) or 4 (half precision)."
            )
        field, dtype = _VALUES[self.view.data_type]
        values = read_numbers(getattr(self.view, field), {"value": dtype}, where)
        dimensions = _shape(self.view.shape, where)
        if not values.size or min(dimensions, default=1) < 1 or values.size != math.prod(dimensions):
            raise UserError(f"{where}: an array of shape {dimensions}, but of {values.size:,} values. {COPY_AGAIN}.")
        return values.reshape(dimensions[::-1])


def read_dictionary(file: ModelFile) -> Dictionary:
    """Decodes a file with all that is in it, except for the values of arrays.

    Raises:
        UserError: the bytes are not a dictionary, or hold more than any AlexNet.
    """
    return _Decoder(file).dictionary(parse(_Dictionary, file))


class _Decoder:
    """Makes Python values of CNTK.proto's messages: so many at most."""

    def __init__(self, file: ModelFile) -> None:
        self._file = file
        self._left = _MAX_VALUES

    def dictionary(self, message: Message) -> Dictionary:
        self._count(len(message.data))
        items = {}
        for entry in message.data:
            if not entry.HasField("key"):
                raise self._file.error("has an entry of a dictionary without a key")
            items[text(entry.key, self._file.path)] = self._value(entry.value)
        return Dictionary(self._file.path, items)

    def _value(self, message: Message) -> Any:
        """A DictionaryValue; None if it has no value, or of an unknown type."""
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
            case "vector":
                self._count(len(value.value))
                return [self._value(item) for item in value.value]
            case "dictionary":
                return self.dictionary(value)
            case "array":
                return Array(value)
        return value

    def _count(self, values: int) -> None:
        self._left -= values
        if self._left < 0:
            raise self._file.error(f"has more than {_MAX_VALUES:,} values, too many for a network such as AlexNet")


def _shape(message: Message, where: str) -> tuple[int, ...]:
    """Dimensions in CNTK's order; -1 is to be inferred, -3 is free."""
    if len(message.shape_dim) > MAX_RANK:
        raise UserError(f"{where}: a shape of more than {MAX_RANK} axes. {COPY_AGAIN}.")
    return tuple(message.shape_dim)


def _plain(value: Any) -> Any:
    if isinstance(value, Dictionary):
        return value.plain()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, Array) else value
