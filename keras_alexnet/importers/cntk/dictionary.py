"""The dictionaries that CNTK 2 stores everything in: messages of CNTK.proto (Source/CNTKv2LibraryDll/proto)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_alexnet.errors import UserError
from keras_alexnet.importers import wire
from keras_alexnet.importers.cntk.graph import MAX_RANK, checked_values

# Bounds far above any AlexNet, which has some 10,000 fields: so a damaged file takes neither much time nor memory.
_MAX_FIELDS = 1_000_000
_MAX_DEPTH = 50
_MAX_TEXT = 1_000

# The fields of an NDArrayView that have values, and for each data type the one it uses: half precision is stored as
# single.
_VALUE_TYPES = {4: "<f4", 5: "<f8"}
_VALUE_FIELDS = {1: 4, 2: 5, 4: 4}
_DENSE = 0


@dataclass(frozen=True)
class Dictionary:
    """A dictionary of the file, with its place for messages."""

    span: wire.Span
    items: dict[str, Any]

    def get(self, key: str, kind: type, default: Any = None) -> Any:
        """The value of `key`, which has to be of this type and, without a default, there."""
        value = self.items.get(key, default)
        if value is None:
            raise self.span.error(f"is a dictionary without {key!r}")
        if not isinstance(value, kind):
            raise self.span.error(f"is a dictionary whose {key!r} is no {kind.__name__.lower()}")
        return value

    def dictionaries(self, key: str) -> list["Dictionary"]:
        return self._list(key, Dictionary, "dictionaries")

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
class Array:
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


def read_dictionary(span: wire.Span) -> Dictionary:
    """Decodes a dictionary with all that is in it, but for the values of arrays.

    Raises:
        UserError: the bytes are no dictionary, or hold more than any AlexNet.
    """
    return _Decoder().dictionary(span)


class _Decoder:
    """Makes Python values of CNTK.proto's messages: so many at most."""

    def __init__(self) -> None:
        self._left = _MAX_FIELDS
        self._depth = 0

    def dictionary(self, span: wire.Span) -> Dictionary:
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
        return Dictionary(span, items)

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

    def _array(self, span: wire.Span) -> Array:
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
        return Array(span, data_type, storage, dimensions, pieces)

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
    if isinstance(value, Dictionary):
        return value.plain()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, Array) else value


def _integer(field: wire.Field) -> int:
    if field.wire_type != wire.VARINT:
        raise field.error("is something else, where an integer should be")
    return wire.signed(field.value)


def _number(field: wire.Field, dtype: str) -> float:
    values = field.numbers(dtype)
    if not len(values):
        raise field.error("is a number without a value")
    return float(values[-1])
