"""Where the images of a map are inside archives, and reading them from there.

Needs NumPy, and no framework.
"""

import functools
import os
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from keras_alexnet.data.archives.entries import PLAIN, ZIP_DEFLATED, ZIP_STORED, Entries, read_range
from keras_alexnet.data.archives.state import ArchiveState
from keras_alexnet.data.archives.zip import LOCAL_HEADER, LOCAL_HEADER_SIZE
from keras_alexnet.system.process_pool import cpu_count

# Seconds per image up to which it is taken to come from the page cache.
_PATIENCE = 2e-4
_MAX_THREADS = 512
# A map may name thousands of archives; macOS lets a process have 256 open files.
_MAX_OPEN_FILES = 128
# What deflates to more is no image.
_MAX_IMAGE_BYTES = 2**30


class ArchivedImage(NamedTuple):
    """An image inside an archive.

    Attributes:
        path: its name in a map, `<archive>@/<entry>`.
        archive: the file.
        offset, size, method: as in `Entries`.
    """

    path: str
    archive: ArchiveState
    offset: int
    size: int
    method: int

    @classmethod
    def of(cls, entries: Entries, position: int) -> "ArchivedImage":
        """One of the entries of an archive."""
        where = entries.offset[position], entries.size[position], entries.method[position]
        return cls(entries.path(position), entries.archive, *where)

    def read(self) -> bytes:
        """The bytes of the image file; raises `OSError` if it cannot be read."""
        return _read(_File(self.archive), *self[1:])

    def head(self, count: int) -> bytes:
        """The first `count` bytes of the file, or fewer; raises as `read`."""
        if self.method != ZIP_DEFLATED:
            return self._replace(size=min(count, self.size)).read()
        # Deflated data are longer than what they stand for by less than this.
        deflated = self._replace(size=min(count + 1024, self.size), method=ZIP_STORED).read()
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(deflated, count)


class Reader:
    """Reads one image after the other where that is fast, and many at a time where a disk or a network lets them wait.

    Handing a read over to another thread costs more than a read from the page cache.

    Args:
        clock: gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._slow = False

    def __call__(self, read: Callable[[int], bytes], rows: Sequence[int]) -> list[bytes]:
        """Gives `[read(row) for row in rows]`; safe from several threads."""
        data: list[bytes] = []
        started = self._clock()
        for row in () if self._slow else rows:
            data.append(read(row))
            if self._clock() - started > _PATIENCE * (1 + len(data)):
                break
        if len(data) < len(rows):

            def timed_read(row: int) -> tuple[bytes, float]:
                started = self._clock()
                return read(row), self._clock() - started

            read_at_once, seconds = zip(*_threads().map(timed_read, rows[len(data) :]), strict=True)
            data += read_at_once
            # The least of them: many threads wait for each other as well.
            self._slow = min(seconds) > _PATIENCE
        return data


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(64 * cpu_count(), _MAX_THREADS), "read-images")


@dataclass
class Locations:
    """Where the images of a map are: one item per row in all arrays.

    Reading is safe from several threads.

    Attributes:
        archives: the archive files.
        archive: int32, a position in `archives`; -1 for an image that is a file of its own.
        offset, size, method: as in `Entries`: int64, int64 and uint8.
    """

    archives: Sequence[ArchiveState]
    archive: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    method: np.ndarray

    def __post_init__(self) -> None:
        self.reader = Reader()
        self._file = functools.lru_cache(_MAX_OPEN_FILES)(_File)

    def __reduce__(self):  # For other processes, which open the archives themselves.
        return Locations, (self.archives, self.archive, self.offset, self.size, self.method)

    def __len__(self) -> int:
        return len(self.archive)

    def read(self, row: int) -> bytes:
        """The bytes of the image of a row that is inside an archive; raises `OSError` if they cannot be read."""
        image = self.image(row, "")
        # A file that the cache closes meanwhile stays open for whoever has it.
        return _read(self._file(image.archive), *image[1:])

    def image(self, row: int, path: str) -> ArchivedImage:
        """The image of a row that is inside an archive; `path` is its name in the map."""
        archive = self.archives[self.archive[row]]
        return ArchivedImage(path, archive, int(self.offset[row]), int(self.size[row]), int(self.method[row]))

    def take(self, rows: Sequence[int]) -> "Locations":
        """The locations of some rows."""
        rows = np.asarray(rows, np.int64)
        return Locations(self.archives, self.archive[rows], self.offset[rows], self.size[rows], self.method[rows])


class _File:
    """An open file, which closes once nobody refers to it, as a cache and several threads may."""

    def __init__(self, archive: ArchiveState) -> None:
        self.descriptor = os.open(archive.path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


def _read(file: _File, archive: ArchiveState, offset: int, size: int, method: int) -> bytes:
    descriptor = file.descriptor
    is_plain = method == PLAIN
    data = read_range(descriptor, offset, size) if is_plain else _zip_entry(descriptor, archive, offset, size, method)
    # After reading, so that what was read is what was there before any change.
    status = os.fstat(descriptor)
    if (status.st_size, status.st_mtime_ns) != archive[1:]:
        raise OSError(None, f"the archive {archive.path} has changed since its entries were found")
    if len(data) < size and method != ZIP_DEFLATED:
        raise OSError(None, f"the archive {archive.path} ends before the image does")
    return data


def _zip_entry(descriptor: int, archive: ArchiveState, offset: int, size: int, method: int) -> bytes:
    # To read both at once and cut the header off would copy the image once more.
    header = read_range(descriptor, offset, LOCAL_HEADER_SIZE)
    if not header.startswith(LOCAL_HEADER) or len(header) < LOCAL_HEADER_SIZE:
        raise OSError(None, f"the archive {archive.path} has no entry at byte {offset:,}")
    name_length, extra_length = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:], "little")
    data = read_range(descriptor, offset + LOCAL_HEADER_SIZE + name_length + extra_length, size)
    if method != ZIP_DEFLATED:
        return data
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(data, _MAX_IMAGE_BYTES)
    except zlib.error as error:
        raise OSError(None, f"the archive {archive.path} is damaged: {error}") from None
    if not inflater.eof:
        raise OSError(None, f"the archive {archive.path} is damaged: an entry does not end")
    return inflated
