"""Finds the images of TFRecord files and their labels, without reading the images. Standard library only.

A record is a `tf.train.Example`, whose image is one value among its features: a range of bytes in the file, as an entry
of a tar is.
"""

import os
import struct
from collections.abc import Iterator, Mapping
from typing import BinaryIO, NamedTuple

from keras_alexnet.data.archives.entries import Samples, opened, truncated
from keras_alexnet.data.archives.state import ArchiveState
from keras_alexnet.errors import UserError

# Features as TensorFlow Datasets writes them for imagenet2012, and as the scripts for Inception and TPUs do.
_IMAGES = (b"image/encoded", b"image", b"jpg", b"jpeg", b"png")
_LABELS = (b"image/class/label", b"label", b"cls")
_CLASS_IDS = (b"image/class/synset",)
_NAMES = (b"image/filename", b"file_name", b"filename")
# The scripts that write this feature for ILSVRC2012 count its classes from 1.
FROM_ONE = b"image/class/label"

_HEADER = struct.Struct("<QI")  # the length of a record, and its checksum
_FOOTER_SIZE = 4
_BUFFER_BYTES = 4096
_BYTES, _INT64 = 1, 3  # the fields of `tf.train.Feature`
_MAX_NAME = 2**16


def is_tfrecord(head: bytes) -> bool:
    """Whether a file that begins with `head` is a TFRecord file."""
    return len(head) >= _HEADER.size and _header_fits(head[: _HEADER.size])


def read_tfrecord(path: str | os.PathLike) -> Samples:
    """Finds the images of a TFRecord file and what is known of them.

    An image has the name of its record, or, where names are missing or not unique, the record's number.

    Raises:
        UserError: the file is truncated or damaged, or its records have no image.
    """
    names: list[bytes] = []
    with opened(path) as descriptor, open(descriptor, "rb", buffering=_BUFFER_BYTES, closefd=False) as file:
        samples = Samples(ArchiveState.of(path, descriptor))
        for number, (start, end) in enumerate(_records(path, file, samples.archive.size)):
            try:
                features = _features(file, start, end)
                image = _bytes_range(file, _first(features, _IMAGES))
                label_feature = next((name for name in _LABELS if name in features), None)
                label = _int64(file, features.get(label_feature))
                name, class_id = (_text(file, _first(features, known)) for known in (_NAMES, _CLASS_IDS))
            except (IndexError, ValueError):
                raise UserError(
                    f"{os.fspath(path)}: record {number:,} at byte {start:,} is not a tf.train.Example. Copy or "
                    "download the file again."
                ) from None
            if image is None:
                found = ", ".join(sorted(name.decode(errors="replace") for name in features)) or "none"
                raise UserError(
                    f"{os.fspath(path)}: record {number:,} has no image: expected a feature named "
                    f"{' or '.join(map(bytes.decode, _IMAGES))}, found {found}."
                )
            names.append(name)
            samples.add(b"%08d" % number, *image, label, class_id)
            samples.label_feature = label_feature
    if b"" not in names and len(set(names)) == len(names):
        samples.names = names
    return samples


def _read(file: BinaryIO, start: int, size: int) -> bytes:
    if size < 0:  # A number stands in place of bytes: see `_fields`. Python would read all of the file.
        raise ValueError
    file.seek(start)
    return file.read(size)


def _varint(file: BinaryIO, at: int) -> tuple[int, int]:
    """A number as Protocol Buffers has it, and where the next byte is."""
    value = shift = 0
    while shift < 70:
        byte = _read(file, at, 1)[0]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError


class _Range(NamedTuple):
    kind: int
    start: int
    end: int


def _records(path: str | os.PathLike, file: BinaryIO, size: int) -> Iterator[tuple[int, int]]:
    at = 0
    while at < size:
        header = _read(file, at, _HEADER.size)
        if len(header) < _HEADER.size:
            raise truncated(path, "the header of a record", at + _HEADER.size, size)
        if not _header_fits(header):
            raise UserError(
                f"{os.fspath(path)} is damaged: the length of the record at byte {at:,} does not match its checksum. "
                "Copy or download the file again."
            )
        start = at + _HEADER.size
        end = start + _HEADER.unpack(header)[0]
        at = end + _FOOTER_SIZE
        if at > size:
            raise truncated(path, "a record", at, size)
        yield start, end


def _fields(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The fields of a message: their number, and where their contents begin and end; or (number, value, -1)."""
    while start < end:
        tag, start = _varint(file, start)
        number, wire = tag >> 3, tag & 7
        if wire == 2:
            length, start = _varint(file, start)
            if start + length > end:
                raise ValueError
            yield number, start, start + length
            start += length
        elif wire == 0:
            value, start = _varint(file, start)
            yield number, value, -1
        elif wire in (1, 5):
            start += 8 if wire == 1 else 4
        else:
            raise ValueError


def _features(file: BinaryIO, start: int, end: int) -> dict[bytes, _Range]:
    """Where the list of values of each feature is, and the type of the list."""
    found: dict[bytes, _Range] = {}
    for _, features_start, features_end in _fields(file, start, end):
        for _, entry_start, entry_end in _fields(file, features_start, features_end):
            name, values = b"", None
            for number, part_start, part_end in _fields(file, entry_start, entry_end):
                if number == 1:
                    name = _read(file, part_start, min(part_end - part_start, _MAX_NAME))
                else:
                    values = next((_Range(*field) for field in _fields(file, part_start, part_end)), None)
            if values:
                found[name] = values
    return found


def _first(features: Mapping[bytes, _Range], names: tuple[bytes, ...]) -> _Range | None:
    return next((features[name] for name in names if name in features), None)


def _bytes_range(file: BinaryIO, values: _Range | None) -> tuple[int, int] | None:
    """Offset and size of the only value of a feature of bytes."""
    if values is None or values.kind != _BYTES:
        return None
    items = list(_fields(file, values.start, values.end))
    if any(end < 0 for _, _, end in items):
        raise ValueError
    return (items[0][1], items[0][2] - items[0][1]) if len(items) == 1 else None


def _text(file: BinaryIO, values: _Range | None) -> bytes:
    where = _bytes_range(file, values)
    return _read(file, where[0], min(where[1], _MAX_NAME)) if where else b""


def _int64(file: BinaryIO, values: _Range | None) -> int | None:
    """The only value of a feature of integers."""
    if values is None or values.kind != _INT64:
        return None
    numbers: list[int] = []
    for _, start, end in _fields(file, values.start, values.end):
        if end < 0:
            numbers.append(start)
        while start < end:
            number, start = _varint(file, start)
            numbers.append(number)
    if len(numbers) != 1:
        return None
    return numbers[0] - 2**64 if numbers[0] >= 2**63 else numbers[0]


def _header_fits(header: bytes) -> bool:
    """Whether the length of a record has the checksum that follows it: CRC-32C, masked."""
    checksum = 0xFFFFFFFF
    for byte in header[:8]:
        checksum = _CRC32C[(checksum ^ byte) & 0xFF] ^ checksum >> 8
    checksum ^= 0xFFFFFFFF
    masked = ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return masked == _HEADER.unpack(header)[1]


def _crc32c_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC32C = _crc32c_table()
