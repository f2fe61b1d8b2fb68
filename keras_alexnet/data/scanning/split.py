"""Takes validation images out of the training images. Standard library only."""

import hashlib
import math
import os
from collections.abc import Sequence
from fractions import Fraction
from itertools import groupby

from keras_alexnet.data.image_map import ImageMap


def split(
    images: ImageMap, classes: Sequence[str], fraction: float, seed: int, problems: list[str]
) -> tuple[ImageMap, ImageMap]:
    """Takes validation images out of each class.

    Which ones depends on the seed and on the names within the class alone: it is the same on every machine, whatever
    other classes there are.

    Args:
        images: by class.
        classes: the class ids, in label order.
        fraction: of the images of each class, rounded to the nearest (halves up); but at least one image, and not all.
            Of a class with a single image none is taken.
        seed: any integer.
        problems: as in `image_folders`.

    Returns:
        The training and the validation images, in the order of `images`.
    """
    held_out: set[int] = set()
    for label, group in groupby(range(len(images)), images.labels.__getitem__):
        rows = sorted(group, key=lambda row: _draw(seed, classes[label], images.paths[row]))
        # As written: 0.29 of 50 images are 14.5, which is rounded up, while the float 0.29 is a bit less.
        wanted = math.floor(len(rows) * Fraction(str(fraction)) + Fraction(1, 2))
        held_out.update(rows[: min(max(wanted, 1), len(rows) - 1)])
    if len(images) and not held_out:
        problems.append(
            f"no class of {images.source} has more than one image, so that none can be taken for validation: expected "
            "two or more; add images, or pass validation images with --val_dir"
        )
    kept = [row for row in range(len(images)) if row not in held_out]
    return images.take(kept), images.take(sorted(held_out))


def _draw(seed: int, class_id: str, path: str) -> bytes:
    """A number by which the images of a class are drawn."""
    return hashlib.sha256(os.fsencode(f"{seed}/{class_id}/{os.path.basename(path)}")).digest()
