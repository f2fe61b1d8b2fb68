"""The fields of CNTK's version 1 format: one after the other, without keys, and none beyond the end of the file."""

import math
import struct
from typing import Any

import numpy as np

from keras_alexnet.errors import UserError
from keras_alexnet.importers.arrays import MAX_AXES
from keras_alexnet.importers.files import ModelFile

# Characters, far above any AlexNet's.
_MAX_NAME = 1_000


class Stream:
    """Reads one field after the other, none beyond the end of the file.

    Attributes:
        offset: of the next field.
        node: the node that is being read, for messages; may be empty.
    """

    def __init__(self, file: ModelFile) -> None:
        self.offset = 0
        self.node = ""
        self._file = file
        self._data = file.data

    def where(self) -> str:
        return f"{self._file.path}, byte {self.offset:,}" + (f", {self.node}" if self.node else "")

    def error(self, problem: str, at: int | None = None) -> UserError:
        """The error that there is `problem` at the offset `at`, or else at the next field."""
        node = f" ({self.node})" if self.node else ""
        return self._file.error(f"cannot be read at byte {self.offset if at is None else at:,}: {problem}{node}")

    def number(self, form: str, most: int | None = None, what: str = "number") -> Any:
        """A number in the form that `struct` calls so; `what` it is, in the message if there is a limit."""
        width = struct.calcsize(form)
        self._require(width)
        (value,) = struct.unpack_from(form, self._data, self.offset)
        if most is not None and value > most:
            raise self.error(f"a {what} of {value:,}, where at most {most:,} makes sense")
        self.offset += width
        return value

    def size(self) -> int:
        """C++'s size_t."""
        return self.number("<Q")

    def count(self, most: int, what: str) -> int:
        return self.number("<Q", most, what)

    def boolean(self) -> bool:
        return self.number("<B", most=1) == 1

    def booleans(self) -> list[bool]:
        return [self.boolean() for _ in range(self.count(MAX_AXES, "number of axes"))]

    def shape(self, legacy: bool = False) -> tuple[int, ...]:
        """Dimensions in CNTK's order; `legacy` also takes the oldest form, 64-bit width, height, channels."""
        rank = self.number("<I")
        if legacy and rank and self.number("<I") == 0:
            # That was the upper half of the width; CNTK puts the channels first here.
            width, height, channels = rank, self.size(), self.size()
            return (channels, width, height)
        if legacy and rank:
            self.offset -= 4
        if rank > MAX_AXES:
            raise self.error(f"a shape of {rank:,} axes, where at most {MAX_AXES} make sense")
        return tuple(self.number("<I") for _ in range(rank))

    def string(self) -> str:
        """NUL-terminated UTF-16."""
        limit = 2 * (_MAX_NAME + 1)
        text = bytes(self._data[self.offset : self.offset + limit])
        end = text.find(b"\0\0")
        # One that begins in the middle of a character is none.
        while end > 0 and end % 2:
            end = text.find(b"\0\0", end + 1)
        if end < 0:
            at_end = len(text) < limit
            raise self.error("a string that the end of the file cuts off" if at_end else "not a string")
        self.offset += end + 2
        return text[:end].decode("utf-16-le", errors="replace")

    def marker(self, text: str) -> None:
        if not self.is_next(text):
            raise self.error(f"expected the marker {text!r}")

    def is_next(self, text: str) -> bool:
        """Passes over `text` if it is next."""
        if not self.is_string_at(self.offset, text):
            return False
        self.offset += 2 * (len(text) + 1)
        return True

    def is_string_at(self, offset: int, text: str) -> bool:
        encoded = f"{text}\0".encode("utf-16-le")
        return self._data[offset : offset + len(encoded)] == encoded

    def matrix(self, dimensions: tuple[int, ...]) -> np.ndarray:
        """A matrix whose numbers are those of a tensor of `dimensions`, as a row-major view of the file."""
        kind = self.number("<B")
        if kind == ord("s"):
            raise UserError(
                f"{self.where()}: a sparse array, which is not read. Expected a dense one, as of an AlexNet."
            )
        if kind != ord("d"):
            raise self.error(f"an array of kind {kind} instead of {ord('d')}, a dense one")
        self.marker("BMAT")
        width = self.size()
        if width not in (4, 8):
            raise self.error(f"an array of numbers of {width:,} bytes instead of 4 (float) or 8 (double)")
        # The matrix's name and layout, which nothing uses.
        self.string()
        self.number("<i")
        rows, columns = self.size(), self.size()
        count = rows * columns
        if count < 1 or count != math.prod(dimensions):
            raise self.error(f"a matrix of {rows:,} × {columns:,} values for the shape {dimensions}")
        self._require(count * width)
        values = np.frombuffer(self._data, f"<f{width}", count, self.offset)
        self.offset += count * width
        self.marker("EMAT")
        return values.reshape(dimensions[::-1])

    def _require(self, length: int) -> None:
        left = max(len(self._data) - self.offset, 0)
        if length > left:
            raise self.error(f"{length:,} more bytes should follow, but the file has only {left:,}")
