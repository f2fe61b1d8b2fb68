"""Crops of decoded images: the same ones that `transforms` makes from encoded images, pixel for pixel. NumPy only.

The images come from a `PixelStore` or an `ImageCache`.
"""

import collections
import weakref
from typing import NamedTuple, Protocol

import numpy as np

from keras_alexnet.data.crops import FLIPPED_BELOW, crop_side
from keras_alexnet.data.flip import flip_reversed

# TensorFlow uses arrays that begin at a multiple of this many bytes without copying them.
_ALIGNMENT = 64


class Crops(NamedTuple):
    """Square crops, one per image: integers (n, 2), top and left; integers (n,), sides; bool (n,), flipped."""

    corners: np.ndarray
    sides: np.ndarray
    flipped: np.ndarray


class Images(Protocol):
    """A sequence of decoded images, uint8 (height, width, 3)."""

    sizes: np.ndarray
    """Heights and widths, integers (n, 2)."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> np.ndarray: ...

    def copy_crops(self, crops: Crops, out: np.ndarray) -> None:
        """Copies crops that all have the same side to uint8 (n, side, side, 3)."""


class Decoded(Protocol):
    """Decoded images by row of a map. Thread-safe."""

    mean_bytes: float
    """Of an image."""

    def images(self, rows: np.ndarray) -> Images | None:
        """Returns the images of some rows, or None if at least one of them is not available decoded."""


class ImageList(list[np.ndarray]):
    """`Images` anywhere in memory."""

    @property
    def sizes(self) -> np.ndarray:
        """Heights and widths, integers (n, 2)."""
        return np.array([image.shape[:2] for image in self], np.int64).reshape(-1, 2)

    def copy_crops(self, crops: Crops, out: np.ndarray) -> None:
        """Copies crops that all have the same side to uint8 (n, side, side, 3)."""
        side = out.shape[1]
        for image, (top, left), flipped, crop in zip(self, crops.corners.tolist(), crops.flipped, out, strict=True):
            found = image[top : top + side, left : left + side]
            crop[...] = flip_reversed(np.ascontiguousarray(found[np.newaxis, ::-1])) if flipped else found


def concatenate_crops(images: Images, crops: Crops) -> np.ndarray:
    """Returns the bytes of crops of any sides, one after the other, without flipping them."""
    sides = crops.sides.tolist()
    out = _empty(3 * sum(side * side for side in sides))
    start = 0
    for number, ((top, left), side) in enumerate(zip(crops.corners.tolist(), sides, strict=True)):
        end = start + 3 * side * side
        out[start:end].reshape(side, side, 3)[...] = images[number][top : top + side, left : left + side]
        start = end
    return out


def random_crops(sizes: np.ndarray, numbers: np.ndarray) -> Crops:
    """The crops of `transforms.training_image`, from integers (n, 2), heights and widths, and its numbers (n, 3)."""
    sides = crop_side(sizes.min(axis=1))
    places = (sizes - sides[:, np.newaxis] + 1).astype(np.float32)
    return Crops((numbers[:, :2] * places).astype(np.int32), sides, numbers[:, 2] < FLIPPED_BELOW)


def center_crops(sizes: np.ndarray, numerator: int) -> Crops:
    """The crops of `transforms.evaluation_image`, for a numerator of `crops.ratio_numerator`."""
    sides = np.maximum(crop_side(sizes.min(axis=1), numerator), 1)
    return Crops((sizes - sides[:, np.newaxis]) // 2, sides, np.zeros(len(sizes), bool))


class BufferPool:
    """Buffers for batches of square crops; a buffer is reused once no array refers to it.

    Fresh memory would take a third of the time: the system clears each page on first use.
    """

    def __init__(self, side: int) -> None:
        self._side = side
        self._free: dict[int, list[bytearray]] = collections.defaultdict(list)

    def take(self, count: int) -> np.ndarray:
        """Returns uninitialized uint8 (count, side, side, 3), aligned as TensorFlow needs it."""
        size = count * self._side**2 * 3
        free = self._free[count]
        try:
            buffer = free.pop()
        except IndexError:
            buffer = bytearray(size + _ALIGNMENT)
        start = _padding(np.frombuffer(buffer, np.uint8))
        pixels = np.frombuffer(buffer, np.uint8, size, start)
        # All views have this array as their base, because its own base is not an array, and keep it alive.
        weakref.finalize(pixels, free.append, buffer).atexit = False
        return pixels.reshape(count, self._side, self._side, 3)


def _empty(size: int) -> np.ndarray:
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = _padding(memory)
    return memory[start : start + size]


def _padding(memory: np.ndarray) -> int:
    return -memory.ctypes.data % _ALIGNMENT
