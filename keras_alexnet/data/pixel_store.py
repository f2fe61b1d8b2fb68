"""Images stored decoded, as `prepare --resized_format=pixels` writes them: PPM files in a tar, mapped into memory."""

import contextlib
import functools
import mmap
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from keras_alexnet.data import ppm
from keras_alexnet.data.archives.entries import read_range
from keras_alexnet.data.archives.locations import Locations
from keras_alexnet.data.archives.state import ArchiveState
from keras_alexnet.data.decoded import Crops
from keras_alexnet.data.flip import flip_reversed
from keras_alexnet.data.image_map import ImageMap
from keras_alexnet.system.machine import available_bytes
from keras_alexnet.system.process_pool import cpu_count

# Crops that a thread copies at a time, in about a millisecond.
_PER_THREAD = 16
# Of the available memory, the part that a store may take and still count on staying there.
_MAX_SHARE = 1 / 2


class PixelStore:
    """The images of a map whose images are all in one store. Made by `find`."""

    def __init__(self, locations: Locations) -> None:
        self.mean_bytes = float(locations.size.mean())
        self._locations = locations
        self._file = _MappedFile(locations.archives[0])
        # Per row, the first byte of the pixels, and height and width; 0 until its header has been read.
        self._starts = np.zeros(len(locations), np.int64)
        self._sizes = np.zeros((len(locations), 2), np.int32)
        # An image that was read stays in memory if all of them fit.
        self._fits_in_memory = len(self._file.bytes) < _MAX_SHARE * (available_bytes() or 0)
        self._was_read_ahead = np.zeros(len(locations), bool)

    @classmethod
    def find(cls, image_map: ImageMap) -> "PixelStore | None":
        """Returns the store of a map, or None if its images are not PPM files with a checksum in one archive.

        Also None if the archive cannot be read or mapped into memory: then images are read like any others, which
        works or explains what is wrong.
        """
        locations = image_map.locations
        if not locations or not len(image_map) or not image_map.paths[0].endswith(ppm.SUFFIX):
            return None
        if len(locations.archives) > 1 or locations.archive.min() < 0 or locations.method.any():
            return None
        with contextlib.suppress(OSError):
            store = cls(locations)
            return store if store.images(np.array([0])) else None
        return None

    @property
    def first_size(self) -> np.ndarray:
        """Height and width of the first image, integers (1, 2). All shorter sides are alike in stores by `prepare`."""
        return self._sizes[:1]

    def images(self, rows: np.ndarray) -> "StoredImages | None":
        """As of `Decoded`; raises `OSError` if the archive has changed since the map was read."""
        # Before any access to mapped memory: where a file has become shorter, that would kill the process.
        self._file.raise_if_changed()
        for row in rows[self._starts[rows] == 0].tolist():
            offset, size = int(self._locations.offset[row]), int(self._locations.size[row])
            header = ppm.read_header(read_range(self._file.descriptor, offset, ppm.HEADER_SIZE))
            if header is None or header.file_size != size:
                return None
            self._sizes[row] = header.height, header.width
            self._starts[row] = offset + header.size
        return StoredImages(self._file.bytes, self._starts[rows], self._sizes[rows])

    def read_ahead(self, rows: np.ndarray) -> None:
        """Asks the system to bring the images of some rows into memory, where it can do that, without waiting."""
        if self._fits_in_memory:
            rows = rows[~self._was_read_ahead[rows]]
            self._was_read_ahead[rows] = True
        if hasattr(os, "posix_fadvise"):
            offsets, sizes = (values[rows].tolist() for values in (self._locations.offset, self._locations.size))
            for offset, size in zip(offsets, sizes, strict=True):
                os.posix_fadvise(self._file.descriptor, offset, size, os.POSIX_FADV_WILLNEED)


class StoredImages:
    """`Images` in a mapped file.

    NumPy copies many crops per call, without holding Python's lock. With a call per crop, most of 16 cores would wait
    for that lock.
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

    def copy_crops(self, crops: Crops, out: np.ndarray) -> None:
        """Copies crops that all have the same side to uint8 (n, side, side, 3), in several threads."""
        side = out.shape[1]
        widths = self.sizes[:, 1].astype(np.int64)
        first = self._starts + 3 * (crops.corners[:, 0] * widths + crops.corners[:, 1])
        starts = first[:, np.newaxis] + 3 * widths[:, np.newaxis] * np.arange(side)  # of each row of each crop
        # Item k begins at byte k and is as long as a row of a crop.
        row = np.dtype((np.void, 3 * side))
        rows = np.ndarray(len(self._data) - row.itemsize + 1, row, self._data, strides=(1,))

        def copy(begin: int) -> None:
            part = slice(begin, begin + _PER_THREAD)
            to, flipped = out[part], crops.flipped[part]
            to[~flipped] = rows[starts[part][~flipped]].view(np.uint8).reshape(-1, side, side, 3)
            if flipped.any():
                backwards = rows[starts[part][flipped][::-1, ::-1]]
                to[flipped] = flip_reversed(backwards.view(np.uint8).reshape(-1, side, side, 3))

        parts = range(0, len(self), _PER_THREAD)
        try:
            done = _threads().map(copy, parts)
        except RuntimeError:  # The interpreter is exiting, and starts no more work.
            done = map(copy, parts)
        for _ in done:
            pass


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cpu_count(), "copy-crops")


class _MappedFile:
    """An archive mapped into memory until nothing refers to it."""

    def __init__(self, archive: ArchiveState) -> None:
        self._archive = archive
        self.descriptor = os.open(archive.path, os.O_RDONLY)
        self.raise_if_changed()
        self.bytes = np.frombuffer(mmap.mmap(self.descriptor, 0, access=mmap.ACCESS_READ), np.uint8)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)

    def raise_if_changed(self) -> None:
        status = os.fstat(self.descriptor)
        if (status.st_size, status.st_mtime_ns) != self._archive[1:]:
            raise OSError(None, f"the archive {self._archive.path} has changed since its entries were found")
