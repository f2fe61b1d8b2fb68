"""Crops of images that are decoded already: copies of rows. NumPy, no framework.

The images are PPM files in a tar that `prepare --resized_format=pixels` wrote (`StoredPixels`), or those that
`cache.KeptPixels` keeps in memory. Crops are those that `transforms` cuts out of encoded images, pixel by pixel.
"""

import collections
import functools
import mmap
import os
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np

from keras_alexnet.data import ppm
from keras_alexnet.data.archives.entries import PLAIN
from keras_alexnet.data.archives.state import ArchiveState
from keras_alexnet.data.crops import MIRRORED_BELOW, crop_side
from keras_alexnet.data.maps import ImageMap
from keras_alexnet.workers import cpu_count

# Squares that a thread copies at a time, in 1 to 2 ms.
_PER_THREAD = 16


class Pixels(Protocol):
    """Decoded images of a map. Safe from several threads."""

    def images(self, rows: np.ndarray) -> list[np.ndarray] | None:
        """The images of some rows, uint8 (height, width, 3); None if any of them is not there decoded."""

    def read_ahead(self, rows: np.ndarray) -> None:
        """Has the images of some rows brought to memory, without waiting."""


class StoredPixels:
    """PPM files inside archives, mapped into memory.

    Args:
        image_map: of which the first image is such a file, as `find` makes sure.
    """

    def __init__(self, image_map: ImageMap) -> None:
        self._locations = image_map.locations
        self._mapped = functools.cache(_Mapped)

    @classmethod
    def find(cls, image_map: ImageMap) -> "StoredPixels | None":
        """The stored pixels of a map; None if its first image is stored otherwise."""
        if not len(image_map) or not image_map.is_archived(0) or not image_map.paths[0].endswith(ppm.SUFFIX):
            return None
        return cls(image_map)

    def images(self, rows: np.ndarray) -> list[np.ndarray] | None:
        """As of `Pixels`; raises `OSError` if an archive is missing or has changed since the map was read."""
        locations, found, used = self._locations, [], set()
        columns = (values[rows].tolist() for values in (locations.archive, locations.offset, locations.size))
        plain = (locations.method[rows] == PLAIN).all()
        for archive, offset, size in zip(*columns, strict=True):
            if archive < 0 or not plain:
                return None
            mapped = self._mapped(locations.archives[archive])
            header = ppm.read_header(mapped.memory[offset : offset + ppm.HEADER_SIZE])
            if header is None or header.file_size != size:
                return None
            used.add(mapped)
            start = offset + header.size
            found.append(mapped.bytes[start : offset + size].reshape(header.height, header.width, 3))
        for mapped in used:
            mapped.raise_if_changed()
        return found

    def read_ahead(self, rows: np.ndarray) -> None:
        """As of `Pixels`; nothing where the system has no such call."""
        if not hasattr(os, "posix_fadvise"):
            return
        locations = self._locations
        columns = (values[rows].tolist() for values in (locations.archive, locations.offset, locations.size))
        for archive, offset, size in zip(*columns, strict=True):
            if archive >= 0:
                descriptor = self._mapped(locations.archives[archive]).descriptor
                os.posix_fadvise(descriptor, offset, size, os.POSIX_FADV_WILLNEED)


class _Mapped:
    """An archive in memory, unmapped once nobody refers to it."""

    def __init__(self, archive: ArchiveState) -> None:
        self._archive = archive
        self.descriptor = os.open(archive.path, os.O_RDONLY)
        self.raise_if_changed()
        self.memory = mmap.mmap(self.descriptor, 0, access=mmap.ACCESS_READ)
        self.bytes = np.frombuffer(self.memory, np.uint8)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)

    def raise_if_changed(self) -> None:
        status = os.fstat(self.descriptor)
        if (status.st_size, status.st_mtime_ns) != self._archive[1:]:
            raise OSError(None, f"the archive {self._archive.path} has changed since its entries were found")


class Windows(NamedTuple):
    """Which squares to cut out of images: integers (n, 2), top and left; integers (n,), sides; bool (n,), mirrored."""

    corners: np.ndarray
    sides: np.ndarray
    mirrored: np.ndarray


def training_windows(sizes: np.ndarray, numbers: np.ndarray) -> Windows:
    """The squares of `transforms.training_image`, from integers (n, 2), heights and widths, and its numbers (n, 3)."""
    sides = crop_side(sizes.min(axis=1))
    room = (sizes - sides[:, np.newaxis] + 1).astype(np.float32)
    return Windows((numbers[:, :2] * room).astype(np.int32), sides, numbers[:, 2] < MIRRORED_BELOW)


def middle_windows(sizes: np.ndarray, numerator: int) -> Windows:
    """The squares of `transforms.evaluation_image`, for any numerator of `crops.ratio_numerator`."""
    sides = np.maximum(crop_side(sizes.min(axis=1), numerator), 1)
    return Windows((sizes - sides[:, np.newaxis]) // 2, sides, np.zeros(len(sizes), bool))


class Squares:
    """Memory for squares of one side, used again once nobody refers to what it was given as.

    Fresh memory would cost a third of the time: the system clears each page when it is touched for the first time.
    """

    def __init__(self, side: int) -> None:
        self._side = side
        self._free: dict[int, list[mmap.mmap]] = collections.defaultdict(list)

    def take(self, count: int) -> np.ndarray:
        """Returns uint8 (count, side, side, 3), not cleared, at a multiple of 64 bytes: others TensorFlow copies."""
        free = self._free[count]
        try:
            memory = free.pop()
        except IndexError:
            memory = mmap.mmap(-1, count * self._side**2 * 3)
        pixels = np.frombuffer(memory, np.uint8)
        # All views have this array as their base, and keep it alive.
        weakref.finalize(pixels, free.append, memory).atexit = False
        return pixels.reshape(count, self._side, self._side, 3)


def cut(images: Sequence[np.ndarray], windows: Windows, squares: np.ndarray) -> None:
    """Copies squares that all have the same side, in several threads.

    Args:
        images: uint8 (height, width, 3) each.
        windows: the squares.
        squares: where to copy them to, uint8 (len(images), side, side, 3).
    """
    side = squares.shape[1]
    corners, mirrored = windows.corners.tolist(), windows.mirrored.tolist()

    def copy(first: int) -> None:
        for number in range(first, min(first + _PER_THREAD, len(images))):
            top, left = corners[number]
            found, square = images[number][top : top + side, left : left + side], squares[number]
            if mirrored[number]:
                # NumPy copies single bytes backwards three times as fast as pixels of three bytes.
                for channel in range(3):
                    square[..., channel] = found[:, ::-1, channel]
            else:
                square[...] = found

    for _ in _threads().map(copy, range(0, len(images), _PER_THREAD)):
        pass


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cpu_count(), "copy-pixels")


def cut_uneven(images: Sequence[np.ndarray], windows: Windows) -> np.ndarray:
    """Copies squares of any sides, without mirroring them; returns all their bytes, one square after the other."""
    sides = windows.sides.tolist()
    squares = np.empty(3 * sum(side * side for side in sides), np.uint8)
    start = 0
    for image, (top, left), side in zip(images, windows.corners.tolist(), sides, strict=True):
        end = start + 3 * side * side
        squares[start:end].reshape(side, side, 3)[...] = image[top : top + side, left : left + side]
        start = end
    return squares
