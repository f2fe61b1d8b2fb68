"""How much disk space and time it takes to write decoded copies of images. Pillow, no framework."""

import math
import os
import shutil
import time
from collections.abc import Sequence

from keras_alexnet.data.checking import mean_over_sample
from keras_alexnet.data.image_map import ImageMap, sample_rows
from keras_alexnet.data.resizing.files import resized_copy, resized_size
from keras_alexnet.data.resizing.tar import count_missing
from keras_alexnet.errors import UserError

_TIMED = 16  # images that are resized to see how long it takes
# A sample may be some percent off: only a disk that is clearly too small is refused.
_CLEARLY = 0.95


def check_space(splits: Sequence[tuple[ImageMap, str]], shorter_side: int, num_processes: int) -> str:
    """Estimates from a sample what writing decoded copies takes, beyond what an earlier run has written.

    Args:
        splits: the images of each split and the tar for them.
        shorter_side, num_processes: as for `tar.write_copies`.

    Returns:
        A line with size, time and free space.

    Raises:
        UserError: the disk clearly has too little space.
    """
    total, missing, seconds = 0.0, 0.0, 0.0
    for images, tar in splits:
        size = 3 * mean_over_sample(images, lambda *size: math.prod(resized_size(size, shorter_side)))
        to_make, to_write = count_missing(images, tar, "pixels")
        total += size * len(images)
        missing += size * to_write
        seconds += _seconds_per_image(images, shorter_side) * to_make / num_processes if to_make else 0
    folder = os.path.dirname(splits[0][1])
    free = shutil.disk_usage(folder).free
    if _CLEARLY * missing > free:
        raise UserError(
            f"the pixels take about {_bytes(total)}, of which {_bytes(missing)} are still to be written, but only "
            f"{_bytes(free)} are free in {folder}. Free some space, or choose another --resized_dir, a smaller "
            "--resize_shorter_side, or --resized_format=tar, which takes a tenth of the space."
        )
    return (
        f"Pixels: about {_bytes(total)}, {_bytes(missing)} of them still to be written, where {_bytes(free)} are free; "
        f"about {_duration(seconds)}, unless the disk is slower"
    )


def _seconds_per_image(images: ImageMap, shorter_side: int) -> float:
    rows = sample_rows(len(images), _TIMED)
    started = time.perf_counter()
    for row in rows:
        resized_copy((images.image(row), False), shorter_side, "pixels")
    return (time.perf_counter() - started) / max(len(rows), 1)


def _bytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.2f} MB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
