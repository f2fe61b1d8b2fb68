"""How much room and time decoded copies of images will take. Pillow, no framework."""

import os
import shutil
import time
from collections.abc import Sequence

from keras_alexnet.data.images import open_image, problems_told
from keras_alexnet.data.maps import ImageMap, sample_rows
from keras_alexnet.data.resize import resized_copy, resized_size
from keras_alexnet.errors import UserError

_SAMPLED = 100  # images whose headers are read
_TIMED = 16  # images that are resized to see how long it takes
# The sample may mislead by some percent: the disk is only called too small if it clearly is.
_CLEARLY = 0.95


def check_space(splits: Sequence[tuple[ImageMap, str]], shorter_side: int, num_workers: int) -> str:
    """Estimates what writing images as pixels takes, from some of them.

    Args:
        splits: the images, and the tar that each split goes to; what is there already is taken off.
        shorter_side: of the copies.
        num_workers: how many processes will write.

    Returns:
        Size, time and free space, for people.

    Raises:
        UserError: the disk clearly has too little room.
    """
    total, missing, seconds = 0, 0, 0.0
    for images, tar in splits:
        size = _bytes_of_copies(images, shorter_side)
        there = sum(os.path.getsize(path) for path in (tar, f"{tar}.partial") if os.path.exists(path))
        total += size
        missing += max(size - there, 0)
        seconds += _seconds(images, shorter_side) * max(size - there, 0) / max(size, 1) / num_workers
    folder = os.path.dirname(splits[0][1])
    free = shutil.disk_usage(folder).free
    if _CLEARLY * missing > free:
        raise UserError(
            f"the pixels take about {_gigabytes(total)}, of which {_gigabytes(missing)} are still to be written, but "
            f"only {_gigabytes(free)} are free in {folder}. Make room, or give another --resized_dir, a smaller "
            "--resize_shorter_side, or --resized_format=tar, which takes a tenth of that."
        )
    return (
        f"Pixels: about {_gigabytes(total)}, {_gigabytes(missing)} of them still to be written; {_gigabytes(free)} are "
        f"free in {folder}. It takes about {_duration(seconds)}, unless the disk is slower."
    )


def _bytes_of_copies(images: ImageMap, shorter_side: int) -> int:
    sizes = []
    for row in sample_rows(len(images), _SAMPLED):
        with problems_told(source := images.image(row)) as problems, open_image(source, problems) as image:
            width, height = resized_size(image.size, shorter_side)
            sizes.append(3 * width * height)
    return len(images) * sum(sizes) // max(len(sizes), 1)


def _seconds(images: ImageMap, shorter_side: int) -> float:
    """What one process would need for all images."""
    rows = sample_rows(len(images), _TIMED)
    started = time.perf_counter()
    for row in rows:
        resized_copy((images.image(row), False), shorter_side, "pixels")
    return (time.perf_counter() - started) * len(images) / max(len(rows), 1)


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
