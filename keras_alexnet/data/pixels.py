"""Crops of images that are decoded already: copies of rows. NumPy, no framework.

The images are PPM files in a tar that `prepare --resized_format=pixels` wrote (`StoredPixels`), or those that
`cache.KeptPixels` keeps in memory. Crops are those that `transforms` cuts out of encoded images, pixel by pixel.
"""

import collections
import functools
import mmap
import os
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np

from keras_alexnet.data import ppm
from keras_alexnet.data.archives.state import ArchiveState
from keras_alexnet.data.crops import MIRRORED_BELOW, crop_side
from keras_alexnet.data.maps import ImageMap
from keras_alexnet.workers import cpu_count

# Squares that a thread copies at a time, in 2 to 4 ms.
_PER_THREAD = 32


class Images(Protocol):
    """Decoded images, as a sequence of uint8 (height, width, 3)."""

    sizes: np.ndarray
    """Heights and widths, integers (n, 2)."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> np.ndarray: ...

    def cut(self, windows: "Windows", squares: np.ndarray) -> None:
        """Copies squares of the same side, mirrored or not, to uint8 (n, side, side, 3)."""


class Pixels(Protocol):
    """Decoded images of a map. Safe from several threads."""

    def images(self, rows: np.ndarray) -> Images | None:
        """The images of some rows; None if any of them is not there decoded."""

    def read_ahead(self, rows: np.ndarray) -> None:
        """Has the images of some rows brought to memory, without waiting."""


class StoredPixels:
    """PPM files inside an archive that is mapped into memory. `find` makes it."""

    def __init__(self, image_map: ImageMap) -> None:
        self._locations = image_map.locations
        # Where the pixels of each row begin, and its size: 0 until they have been read.
        self._starts = np.zeros(len(image_map), np.int64)
        self._sizes = np.zeros((len(image_map), 2), np.int32)

    @classmethod
    def find(cls, image_map: ImageMap) -> "StoredPixels | None":
        """The stored pixels of a map; None if its images are not PPM files in one archive, as its first one tells."""
        locations = image_map.locations
        is_stored = locations and len(image_map) and image_map.paths[0].endswith(ppm.SUFFIX)
        if not is_stored or len(locations.archives) > 1 or locations.archive.min() < 0 or locations.method.any():
            return None
        return cls(image_map)

    def images(self, rows: np.ndarray) -> "StoredImages | None":
        """As of `Pixels`; raises `OSError` if the archive is missing or has changed since the map was read."""
        mapped = self._mapped
        for row in rows[self._starts[rows] == 0].tolist():
            offset, size = int(self._locations.offset[row]), int(self._locations.size[row])
            header = ppm.read_header(mapped.memory[offset : offset + ppm.HEADER_SIZE])
            if header is None or header.file_size != size:
                return None
            self._sizes[row] = header.height, header.width
            self._starts[row] = offset + header.size
        mapped.raise_if_changed()
        return StoredImages(mapped.bytes, self._starts[rows], self._sizes[rows])

    def read_ahead(self, rows: np.ndarray) -> None:
        """As of `Pixels`; nothing where the system has no such call."""
        if hasattr(os, "posix_fadvise"):
            descriptor, locations = self._mapped.descriptor, self._locations
            for offset, size in zip(locations.offset[rows].tolist(), locations.size[rows].tolist(), strict=True):
                os.posix_fadvise(descriptor, offset, size, os.POSIX_FADV_WILLNEED)

    @functools.cached_property
    def _mapped(self) -> "_Mapped":
        return _Mapped(self._locations.archives[0])


class StoredImages:
    """Images in a file that is mapped into memory.

    NumPy copies many squares at a time without Python's lock. To copy one after the other leaves most of 16 cores
    waiting for that lock.
    """

    def __init__(self, data: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> None:
        self._data = data
        self._starts = starts
        self.sizes = sizes

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, number: int) -> np.ndarray:
        start, (height, width) = self._starts[number], self.sizes[number].tolist()
        return self._data[start : start + 3 * height * width].reshape(height, width, 3)

    def cut(self, windows: "Windows", squares: np.ndarray) -> None:
        """As of `Images`, in several threads."""
        side = squares.shape[1]
        width = self.sizes[:, 1]
        first = self._starts + 3 * (windows.corners[:, 0].astype(np.int64) * width + windows.corners[:, 1])
        starts = first[:, np.newaxis] + 3 * width[:, np.newaxis] * np.arange(side)  # of each row of each square
        # Item k is what begins at byte k.
        lines = np.lib.stride_tricks.as_strided(
            self._data, (len(self._data) - 3 * side + 1, 3 * side), (1, 1), writeable=False
        )

        def copy(begin: int) -> None:
            part = slice(begin, begin + _PER_THREAD)
            to, mirrored = squares[part], windows.mirrored[part]
            for chosen in (~mirrored, mirrored):
                found = lines[starts[part][chosen].ravel()].reshape(-1, side, side, 3)
                if chosen is mirrored:
                    # NumPy copies single bytes backwards three times as fast as pixels of three bytes.
                    for channel in range(3):
                        to[chosen, :, :, channel] = found[:, :, ::-1, channel]
                else:
                    to[chosen] = found

        for _ in _threads().map(copy, range(0, len(self), _PER_THREAD)):
            pass


class ImageList(list[np.ndarray]):
    """Images anywhere in memory."""

    @property
    def sizes(self) -> np.ndarray:
        """As of `Images`."""
        return np.array([image.shape[:2] for image in self])

    def cut(self, windows: "Windows", squares: np.ndarray) -> None:
        """As of `Images`."""
        side = squares.shape[1]
        corners, mirrored = windows.corners.tolist(), windows.mirrored.tolist()
        for image, (top, left), mirror, square in zip(self, corners, mirrored, squares, strict=True):
            found = image[top : top + side, left : left + side]
            square[...] = found[:, ::-1] if mirror else found


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cpu_count(), "copy-pixels")


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


def cut_uneven(images: Images, windows: Windows) -> np.ndarray:
    """Copies squares of any sides, without mirroring them; returns all their bytes, one square after the other."""
    sides = windows.sides.tolist()
    squares = np.empty(3 * sum(side * side for side in sides), np.uint8)
    start = 0
    for number, ((top, left), side) in enumerate(zip(windows.corners.tolist(), sides, strict=True)):
        end = start + 3 * side * side
        squares[start:end].reshape(side, side, 3)[...] = images[number][top : top + side, left : left + side]
        start = end
    return squares
