"""Protobuf's wire format, read from a memory-mapped file: what Caffe, CNTK and ONNX store models in.

A message is a row of fields, each a number, a wire type and a value; which number means what is left to the caller
(https://protobuf.dev/programming-guides/encoding/). The file is not trusted: every length is checked against the bytes
around it before anything is sliced, and nothing is copied, so a file can make this allocate no more than a few objects.
"""

import mmap
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from keras_alexnet.errors import UserError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

_WIDTHS = {FIXED64: 8, FIXED32: 4}
_LONGEST_VARINT = 10


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes `start` up to `stop` of a file: a message, a string or packed numbers, as the caller knows.

    Attributes:
        data: the whole file.
        start: the offset of the first byte in the file.
        stop: the offset after the last one.
        path: the file's name, for messages.
        expected: what the file should be, for messages.
    """

    data: memoryview
    start: int
    stop: int
    path: str
    expected: str

    def __len__(self) -> int:
        return self.stop - self.start

    def fields(self) -> Iterator["Field"]:
        """The fields of this message, in the order of the file.

        Raises:
            UserError: at a field that is cut off, longer than this message, or of no known wire type.
        """
        at = self.start
        while at < self.stop:
            begin = at
            tag, at = self._varint(at)
            number, wire_type = tag >> 3, tag & 7
            if not 0 < number < 2**29:
                raise self.error(f"is a field of number {number:,}, which there cannot be", begin)
            if wire_type == VARINT:
                value, at = self._varint(at)
            elif wire_type == BYTES:
                length, at = self._varint(at)
                value = self._part(begin, at, length)
                at = value.stop
            elif wire_type in _WIDTHS:
                value = self._fixed(begin, at, _WIDTHS[wire_type])
                at = begin + len(value) * (at - begin + _WIDTHS[wire_type])
            else:
                raise self.error(f"is a field of wire type {wire_type}, which is unknown or long out of use", begin)
            yield Field(number, wire_type, value, begin, self)

    def varints(self) -> Iterator[int]:
        """The packed integers that these bytes are, each 0 up to 2**64 - 1; see `signed`."""
        at = self.start
        while at < self.stop:
            value, at = self._varint(at)
            yield value

    def numbers(self, dtype: str) -> np.ndarray:
        """The packed numbers that these bytes are: a view of the file, read-only and maybe unaligned.

        Args:
            dtype: their little-endian type, such as "<f4".
        """
        width = np.dtype(dtype).itemsize
        if len(self) % width:
            raise self.error(f"are {len(self):,} bytes of numbers, which is no multiple of {width}")
        return np.frombuffer(self.data, dtype, len(self) // width, self.start) if len(self) else np.empty(0, dtype)

    def text(self) -> str:
        """These bytes as UTF-8; what is not shows as an escape."""
        return str(self.data[self.start : self.stop], "utf-8", "backslashreplace")

    def error(self, problem: str, at: int | None = None) -> UserError:
        """The error that there `problem` at the offset `at` (at the start of these bytes, if not given)."""
        return UserError(
            f"{self.path}: at byte {self.start if at is None else at:,} {problem}. Expected {self.expected}; if it is "
            "one, it is damaged: download or copy it again."
        )

    def _part(self, begin: int, start: int, length: int) -> "Span":
        if length > self.stop - start:
            whole = "file" if self.stop == len(self.data) else "message around it"
            raise self.error(
                f"begins a field of {length:,} bytes, of which the {whole} has only {self.stop - start:,}", begin
            )
        return Span(self.data, start, start + length, self.path, self.expected)

    def _varint(self, at: int) -> tuple[int, int]:
        """The integer at the offset `at`, and the offset after it."""
        value = 0
        for place, byte in enumerate(self.data[at : min(at + _LONGEST_VARINT, self.stop)]):
            value |= (byte & 127) << 7 * place
            if byte < 128 and value < 2**64:
                return value, at + place + 1
        cut_off = self.stop - at < _LONGEST_VARINT
        raise self.error("an integer is cut off" if cut_off else "is an integer of more than 64 bits", at)

    def _fixed(self, begin: int, start: int, width: int) -> np.ndarray:
        """The number at `start`, whose tag is at `begin`, and those that follow at once with the same tag.

        Numbers that are repeated without being packed are such a row; it is a view with a stride.
        """
        self._part(begin, start, width)
        tag = self.data[begin:start]
        stride = len(tag) + width
        most = (self.stop - begin) // stride
        count, block = 1, 1
        while count < most:
            block = min(2 * block, most - count)
            tags = np.ndarray((block, len(tag)), np.uint8, self.data, begin + count * stride, (stride, 1))
            others = (tags != np.frombuffer(tag, np.uint8)).any(axis=1)
            if others.any():
                count += int(others.argmax())
                break
            count += block
        return np.ndarray((count,), f"<u{width}", self.data, start, (stride,))


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message, or a row of fixed-width ones with the same number.

    Attributes:
        number: which field it is.
        wire_type: `VARINT`, `FIXED64`, `BYTES` or `FIXED32`.
        value: an integer of 0 up to 2**64 - 1, a `Span`, or for the fixed ones an array of unsigned integers.
        at: its offset in the file.
        message: the message it is a field of.
    """

    number: int
    wire_type: int
    value: int | Span | np.ndarray
    at: int
    message: Span

    def span(self) -> Span:
        """The value, if it is a string, bytes, or a message; otherwise raises `UserError`."""
        self._require(BYTES)
        return self.value

    def integer(self) -> int:
        """The integer of a field that is not repeated, 0 up to 2**64 - 1; see `signed`."""
        self._require(VARINT)
        return self.value

    def integers(self) -> Iterator[int]:
        """The integers of a repeated field, packed or not, each 0 up to 2**64 - 1; see `signed`."""
        self._require(VARINT, BYTES)
        return self.value.varints() if self.wire_type == BYTES else iter([self.value])

    def numbers(self, dtype: str) -> np.ndarray:
        """The floating-point numbers of a field, packed or not, as a read-only view of the file.

        Args:
            dtype: their little-endian type, such as "<f4" for float, "<f8" for double.
        """
        if self.wire_type == BYTES:
            return self.value.numbers(dtype)
        self._require(FIXED64 if np.dtype(dtype).itemsize == 8 else FIXED32)
        return self.value.view(dtype)

    def error(self, problem: str) -> UserError:
        """The error that there `problem` at this field."""
        return self.message.error(problem, self.at)

    def _require(self, *wire_types: int) -> None:
        if self.wire_type not in wire_types:
            expected = " or ".join(map(str, wire_types))
            raise self.error(f"is field {self.number} with wire type {self.wire_type} instead of {expected}")


def signed(value: int) -> int:
    """An integer of the wire as the int32 or int64 that it stands for."""
    return value - 2**64 if value >= 2**63 else value


def concatenated(pieces: Sequence[np.ndarray]) -> np.ndarray:
    """The numbers of a repeated field in one array; a copy only if they were written in several pieces."""
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def open_message(path: str | os.PathLike, expected: str) -> Span:
    """Maps a file into memory and gives it as a message.

    NOTE: arrays taken from it are views: the file has to stay as it is for as long as they are used.

    Args:
        path: the file.
        expected: what it should be, for messages: "a Caffe model (.caffemodel)".

    Raises:
        UserError: the file cannot be read or is empty.
    """
    path = os.fspath(path)
    try:
        # Before it is opened, since opening a named pipe waits for its writer.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UserError(f"{path} is no regular file. Give the name of {expected}.")
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise UserError(f"{path} is empty. Expected {expected}: download or copy it again.")
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}. Expected {expected}.") from None
    return Span(data, 0, len(data), path, expected)
