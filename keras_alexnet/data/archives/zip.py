"""Reads the directories of zip files, ZIP64 included. Standard library only.

The standard library's zipfile makes an object of half a kilobyte per entry: a gigabyte for ImageNet.
"""

import os
import struct

from keras_alexnet.data.archives.entries import ZIP_DEFLATED, ZIP_STORED, Entries, opened, read_range
from keras_alexnet.data.archives.state import ArchiveState
from keras_alexnet.errors import UserError

LOCAL_HEADER = b"PK\x03\x04"
LOCAL_HEADER_SIZE = 30

_DIRECTORY_ENTRY = struct.Struct("<4s4xHH4xIIIHHH8xI")  # flags, method, CRC, sizes, lengths, offset
_ENTRY_SIZE = 46
_END = struct.Struct("<4sHHHHIIH")
_END64 = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR64 = struct.Struct("<4sIQI")  # The record is right before it, but for bytes that no program writes.
_UNKNOWN = 0xFFFFFFFF
_METHODS = {0: ZIP_STORED, 8: ZIP_DEFLATED}
_ENCRYPTED, _UTF8 = 0x1, 0x800


def read_zip(path: str | os.PathLike) -> Entries:
    """Reads the directory of a zip file.

    Raises:
        UserError: it is truncated or damaged, or a part of several.
    """
    with opened(path) as file:
        entries = Entries(ArchiveState.of(path, file))
        size = entries.archive.size
        tail_at = max(size - _END.size - 2**16, 0)
        tail = read_range(file, tail_at, size - tail_at)
        end_at = tail.rfind(b"PK\x05\x06")
        if end_at < 0 or len(tail) - end_at < _END.size:
            raise _damaged(path, "it has no directory at its end")
        _, disk, directory_disk, _, count, length, start, _ = _END.unpack_from(tail, end_at)
        end_at += tail_at
        locator = read_range(file, max(end_at - _LOCATOR64.size, 0), _LOCATOR64.size)
        if locator.startswith(b"PK\x06\x07"):
            record_at = end_at - _LOCATOR64.size - _END64.size
            record = read_range(file, max(record_at, 0), _END64.size)
            if not record.startswith(b"PK\x06\x06"):
                raise _damaged(path, "its ZIP64 directory is not where it should be")
            _, _, _, _, disk, directory_disk, _, count, length, start = _END64.unpack(record)
            end_at = record_at
        if disk or directory_disk:
            raise UserError(f"the archive {os.fspath(path)} is one of several parts: join them with zip -s 0.")
        # Bytes in front of the archive, such as a program that unpacks it, are not counted in its offsets.
        shift = end_at - length - start
        if shift < 0:
            raise _damaged(path, "its directory does not fit into it")
        _add_entries(entries, read_range(file, start + shift, length), count, shift)
    return entries


def _add_entries(entries: Entries, directory: bytes, count: int, shift: int) -> None:
    at = 0
    unpack, append = _DIRECTORY_ENTRY.unpack_from, entries.append
    for _ in range(count):
        if len(directory) - at < _ENTRY_SIZE or directory[at : at + 4] != b"PK\x01\x02":
            raise _damaged(entries.archive.path, "its directory is damaged")
        _, flags, method, _, size, full_size, name_length, extra_length, comment_length, offset = unpack(directory, at)
        name_at = at + _ENTRY_SIZE
        extra_at = name_at + name_length
        at = extra_at + extra_length + comment_length
        name = directory[name_at:extra_at]
        if size == _UNKNOWN or full_size == _UNKNOWN or offset == _UNKNOWN:
            size, offset = _zip64_values(directory[extra_at : extra_at + extra_length], size, full_size, offset)
        if name.endswith((b"/", b"\\")):
            continue
        if not name.isascii() or b"\\" in name:
            name = _decoded(name, flags).replace(b"\\", b"/")
        while name.startswith(b"./"):
            name = name[2:]
        if flags & _ENCRYPTED:
            entries.unusable[name] = "it is encrypted; write the archive without a password"
        elif method not in _METHODS:
            entries.unusable[name] = (
                f"it is compressed by method {method}, and only deflate is read; write the archive with zip -0, since "
                "images do not get smaller"
            )
        append(name, offset + shift, size, _METHODS.get(method, ZIP_STORED))


def _zip64_values(extra: bytes, size: int, full_size: int, offset: int) -> tuple[int, int]:
    """Size and offset from the ZIP64 field, which has those values that do not fit into the directory's."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            values = iter(struct.unpack_from(f"<{length // 8}Q", extra, at + 4))
            full_size = next(values, full_size) if full_size == _UNKNOWN else full_size
            size = next(values, size) if size == _UNKNOWN else size
            offset = next(values, offset) if offset == _UNKNOWN else offset
        at += 4 + length
    return size, offset


def _decoded(name: bytes, flags: int) -> bytes:
    """A name as UTF-8, which many programs write without saying so; else it is in the code page of the first PCs."""
    if flags & _UTF8:
        return name
    try:
        name.decode()
    except UnicodeDecodeError:
        return name.decode("cp437").encode()
    return name


def _damaged(path: str | os.PathLike, what: str) -> UserError:
    return UserError(f"the archive {os.fspath(path)} is truncated or damaged: {what}. Copy or download it again.")
