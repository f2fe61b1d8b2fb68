"""Decoded images in memory, where all of them fit: later epochs of a small data set need no decoding."""

import threading
from collections.abc import Sequence

import numpy as np

from keras_alexnet.data.decode import decode_bytes
from keras_alexnet.data.images import open_image, problems_told
from keras_alexnet.data.maps import ImageMap, sample_rows
from keras_alexnet.data.pixels import ImageList
from keras_alexnet.machine import available_bytes

# Of the memory that is free at the start, decoded images may take this part, and they are given up when less than that
# part is left.
SHARE, LEFT = 1 / 2, 1 / 4

_SAMPLED = 100
_LOOK_EVERY = 2**25  # bytes


class KeptPixels:
    """The images of a map, which are decoded when they are asked for the first time, and kept.

    Args:
        image_map: the images.
        least_free: when less than so many bytes of memory are free, all images are given up, and none is kept again.
    """

    def __init__(self, image_map: ImageMap, least_free: int) -> None:
        self._image_map = image_map
        self._least_free = least_free
        self._images: dict[int, np.ndarray] | None = {}
        self._unseen = 0  # bytes since the memory was looked at
        self._lock = threading.Lock()

    @property
    def is_given_up(self) -> bool:
        """Whether the memory became too scarce."""
        return self._images is None

    def images(self, rows: np.ndarray) -> ImageList | None:
        """As of `pixels.Pixels`: decodes what is missing; None once the images are given up."""
        kept = self._images
        if kept is None:
            return None
        found = ImageList()
        for row in rows.tolist():
            image = kept.get(row)
            if image is None:
                image = kept[row] = decode_bytes(self._image_map.read(row))
                self._count(image.nbytes)
            found.append(image)
        return found

    def read_ahead(self, rows: np.ndarray) -> None:
        """As of `pixels.Pixels`: there is nothing to do."""

    def _count(self, size: int) -> None:
        with self._lock:
            self._unseen += size
            if self._unseen < _LOOK_EVERY or self.is_given_up:
                return
            self._unseen = 0
        free = available_bytes()
        if free is not None and free < self._least_free:
            self._images = None


def keep_pixels(image_maps: Sequence[ImageMap], num_workers: int) -> tuple[list[KeptPixels], str] | None:
    """Returns what keeps the images of maps decoded, and a line about it; None if they need too much memory.

    So it is as well if the system does not say how much is free.

    Args:
        image_maps: all maps of a run.
        num_workers: the processes that share its images. As they may share a machine, each gets its part of the memory.
    """
    free = available_bytes()
    if free is None:
        return None
    needed = sum(map(_decoded_bytes, image_maps))
    if needed > free * SHARE / num_workers:
        return None
    line = (
        f"Decoded images stay in memory from the first epoch on: about {needed / 1e9:.1f} of {free / 1e9:.1f} GB free"
    )
    return [KeptPixels(image_map, int(free * LEFT)) for image_map in image_maps], line


def _decoded_bytes(image_map: ImageMap) -> int:
    """Estimates the bytes of all images decoded, from the headers of some."""
    sizes = []
    for row in sample_rows(len(image_map), _SAMPLED):
        source = image_map.image(row)
        with problems_told(source) as problems, open_image(source, problems) as image:
            sizes.append(3 * image.width * image.height)
    return len(image_map) * sum(sizes) // max(len(sizes), 1)
