"""Reads the headers of tar files (ustar, GNU and pax). Standard library only."""

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from keras_alexnet.data.archives.entries import Entries, opened, read_range, truncated
from keras_alexnet.data.archives.state import ArchiveState
from keras_alexnet.errors import UserError

_BLOCK = 512
_ZEROS = bytes(_BLOCK)
# Read at a time: a header and what follows it, or many headers where the files are small.
_FEW_BYTES, _MANY_BYTES = 2**12, 2**17
# A header that says more is damaged: names and pax records take some hundred bytes.
_MAX_EXTENDED = 2**20

_REGULAR = (b"0", b"\0", b"7")


class TarPart(NamedTuple):
    """A tar: a whole file, or one inside another tar.

    Attributes:
        path: the file.
        start, end: the bytes that are the tar; up to the end of the file if `end` is None.
        prefix: what the names of its files begin with.
    """

    path: str
    start: int = 0
    end: int | None = None
    prefix: bytes = b""


class Member(NamedTuple):
    """A header: a file, a link to `link` or something else, by the letter of its `kind`."""

    name: bytes
    kind: bytes
    offset: int
    size: int
    link: bytes
    sparse: bool
    mtime: int


def is_tar(head: bytes) -> bool:
    """Whether a file that begins with `head` (512 bytes or more) is a tar."""
    block = head[:_BLOCK]
    return len(block) == _BLOCK and block != _ZEROS and _checksum_fits(block)


def read_tar(part: TarPart, progress: Callable[[int, int, str], None] | None = None) -> tuple[Entries, list[TarPart]]:
    """Reads the headers of a tar: its files, and the tars inside it, whose files are not among them.

    Raises:
        UserError: it is truncated or damaged.
    """
    with opened(part.path) as file:
        entries, inner = Entries(ArchiveState.of(part.path, file)), []
        size = os.fstat(file).st_size if part.end is None else part.end
        ranges: dict[bytes, tuple[int, int]] = {}
        what = f"MiB of {os.path.basename(part.path)} searched for images"
        for member in members(file, part, size):
            name = part.prefix + member.name
            if progress:
                progress(member.offset >> 20, size >> 20, what)
            if member.kind in _REGULAR and not member.sparse:
                if member.name.endswith(b".tar"):
                    inner.append(TarPart(part.path, member.offset, member.offset + member.size, name + b"/"))
                else:
                    entries.append(name, member.offset, member.size)
                    ranges[member.name] = member.offset, member.size
            elif member.kind == b"1" and member.link in ranges:  # tar stores a file with two names once.
                entries.append(name, *ranges[member.link])
            elif member.kind in (b"1", b"2"):
                link = os.fsdecode(member.link)
                entries.append_unusable(name, f"it is a link to {link}; write the archive with tar --dereference")
            elif member.sparse or member.kind == b"S":
                entries.append_unusable(name, "it is a sparse file; write the archive without tar --sparse")
    return entries, inner


def members(file: int, part: TarPart, end: int) -> Iterator[Member]:
    """Reads the headers of a tar that ends at byte `end` of an open file; raises as `read_tar`."""
    at, window, window_at, step = part.start, b"", part.start, _FEW_BYTES
    extended: dict[bytes, bytes] = {}
    while at + _BLOCK <= end:
        if not window_at <= at <= window_at + len(window) - _BLOCK:
            window, window_at = read_range(file, at, min(step, end - at)), at
        block = window[at - window_at : at - window_at + _BLOCK]
        if block == _ZEROS:
            return
        if len(block) < _BLOCK or not _checksum_fits(block):
            raise UserError(
                f"the archive {part.path} is damaged: a tar header is missing at byte {at:,}. Copy or download it "
                "again."
            )
        kind, data = block[156:157], at + _BLOCK
        size = _number(block[124:136])
        if kind in (b"x", b"g", b"L", b"K"):
            if size > _MAX_EXTENDED:
                raise UserError(f"the archive {part.path} is damaged: a name of {size:,} bytes at byte {at:,}.")
            content = read_range(file, data, size)
            if kind == b"L":
                extended[b"path"] = content.rstrip(b"\0")
            elif kind == b"K":
                extended[b"linkpath"] = content.rstrip(b"\0")
            else:
                extended |= _pax_records(content)
        else:
            size = int(extended.get(b"size", size))
            name = extended.get(b"path") or _name(block)
            sparse = any(key.startswith(b"GNU.sparse.") for key in extended)
            if kind in (b"1", b"2", b"3", b"4", b"5", b"6"):
                size = 0
            if data + size > end:
                raise truncated(part.path, f"its entry {os.fsdecode(part.prefix + name)}", data + size, end)
            link = extended.get(b"linkpath") or block[157:257].split(b"\0", 1)[0]
            yield Member(_tidy(name), kind, data, size, _tidy(link), sparse, _seconds(block[136:148], extended))
            extended = {}
        step = _MANY_BYTES if size < _MANY_BYTES // 8 else _FEW_BYTES
        at = data + -(-size // _BLOCK) * _BLOCK
    # At least one block of zeros ends a tar: else it may have been cut off behind any of its entries.
    raise truncated(part.path, "its end mark", at + _BLOCK, end)


def _checksum_fits(block: bytes) -> bool:
    try:
        expected = _number(block[148:156])
    except ValueError:
        return False
    return sum(block) - sum(block[148:156]) + 8 * ord(" ") == expected


def _number(digits: bytes) -> int:
    if digits[0] & 0x80:  # GNU's way to write numbers that are too large for octal digits.
        return int.from_bytes(digits[1:], "big")
    return int(digits.rstrip(b"\0 ").lstrip(b" ") or b"0", 8)


def _seconds(digits: bytes, extended: dict[bytes, bytes]) -> int:
    """When a file was modified, in whole seconds."""
    try:
        return int(extended[b"mtime"].partition(b".")[0]) if b"mtime" in extended else _number(digits)
    except ValueError:
        return 0


def _name(block: bytes) -> bytes:
    name, prefix = block[:100].split(b"\0", 1)[0], block[345:500].split(b"\0", 1)[0]
    return prefix + b"/" + name if prefix and block[257:263] == b"ustar\0" else name


def _tidy(name: bytes) -> bytes:
    while name.startswith(b"./"):
        name = name[2:]
    return name


def _pax_records(content: bytes) -> dict[bytes, bytes]:
    records = {}
    at = 0
    while at < len(content) and (blank := content.find(b" ", at)) > 0:
        length = int(content[at:blank])
        if length <= blank - at:
            break
        key, _, value = content[blank + 1 : at + length - 1].partition(b"=")
        records[key] = value
        at += length
    return records
