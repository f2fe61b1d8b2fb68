"""Decoded images in memory, if all of them fit: after the first epoch, small data sets need no decoding."""

import threading
from collections.abc import Sequence

import numpy as np

from keras_alexnet.data.checking import mean_over_sample
from keras_alexnet.data.decode import decode_bytes
from keras_alexnet.data.decoded import ImageList
from keras_alexnet.data.image_map import ImageMap
from keras_alexnet.system.machine import available_bytes

# Decoded images may take this part of the memory that is available at the start; they are dropped if, while the cache
# fills, less than that part of it is left.
_MAX_SHARE, _MIN_FREE_SHARE = 1 / 2, 1 / 4

_CHECK_EVERY = 2**25  # bytes


class ImageCache:
    """The images of a map, each decoded when it is first asked for.

    Args:
        image_map: the images.
        mean_bytes: of a decoded image.
        min_free: drop all images, and keep none from then on, once fewer bytes of memory are available.
    """

    def __init__(self, image_map: ImageMap, mean_bytes: float, min_free: int) -> None:
        self.mean_bytes = mean_bytes
        self._image_map = image_map
        self._min_free = min_free
        self._images: dict[int, np.ndarray] | None = {}
        self._unchecked = 0  # bytes since the last look at the memory
        self._lock = threading.Lock()

    @property
    def is_dropped(self) -> bool:
        """Whether memory became scarce."""
        return self._images is None

    def images(self, rows: np.ndarray) -> ImageList | None:
        """As of `Decoded`: decodes what is missing. None once the images are dropped, or if one cannot be decoded."""
        cached = self._images
        if cached is None:
            return None
        missing = [row for row in rows.tolist() if row not in cached]
        try:
            decoded = list(map(decode_bytes, self._image_map.read_many(missing)))
        except Exception:  # Pillow raises a dozen kinds for broken files. Reading without the cache names the image.
            return None
        for row, image in zip(missing, decoded, strict=True):
            cached[row] = image
            self._count(image.nbytes)
        return ImageList(cached[row] for row in rows.tolist())

    def _count(self, size: int) -> None:
        with self._lock:
            self._unchecked += size
            if self._unchecked < _CHECK_EVERY:
                return
            self._unchecked = 0
        free = available_bytes()
        if free is not None and free < self._min_free:
            self._images = None


def image_caches(image_maps: Sequence[ImageMap], num_workers: int) -> tuple[list[ImageCache], str] | None:
    """Returns a cache for each map and a line that describes them; None if the images need too much memory.

    Also None if the system does not say how much memory is available (it does on Linux only). The memory is shared with
    `num_workers` processes that may be on this machine.
    """
    free = available_bytes()
    if free is None:
        return None
    means = [mean_over_sample(images, lambda width, height: 3 * width * height) for images in image_maps]
    needed = sum(len(images) * mean for images, mean in zip(image_maps, means, strict=True))
    if needed > free * _MAX_SHARE / num_workers:
        return None
    line = (
        f"Decoded images stay in memory from the first epoch on: about {needed / 1e9:.1f} of {free / 1e9:.1f} GB free"
    )
    min_free = int(free * _MIN_FREE_SHARE)
    return [ImageCache(images, mean, min_free) for images, mean in zip(image_maps, means, strict=True)], line
