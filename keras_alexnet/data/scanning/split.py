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
    """Takes validation images out of each class of a tree.

    Which ones depends on the seed and on the names within the class alone: it is the same on every machine, whatever
    other classes there are.

    Args:
        images: by class, as `ilsvrc.scan_training` gives them.
        classes: the class ids, in label order.
        fraction: of the images of each class, rounded to the nearest (halves up); but at least one image, and not all.
            Of a class with a single image none is taken.
        seed: any integer.
        problems: what is wrong is appended here, for `errors.raise_if_any`.

    Returns:
        The training and the validation images, in the order of `images`.
    """
    sides: tuple[list[int], list[int]] = ([], [])
    for label, rows in groupby(range(len(images)), images.labels.__getitem__):
        rows = list(rows)
        # As written: 0.29 of 50 images are 14.5, which is rounded up, while the float 0.29 is a bit less.
        wanted = math.floor(len(rows) * Fraction(str(fraction)) + Fraction(1, 2))
        taken = sorted(rows, key=lambda row: _draw(seed, classes[label], images.paths[row]))
        taken = set(taken[: min(max(wanted, 1), len(rows) - 1)])
        for row in rows:
            sides[row in taken].append(row)
    if len(images) and not sides[True]:
        problems.append(
            f"no class of {images.source} has more than one image, so that none can be taken for validation: expected "
            "two or more; add images, or give validation images with --val_dir"
        )
    train, val = map(images.take, sides)
    return train, val


def _draw(seed: int, class_id: str, path: str) -> bytes:
    """A number by which the images of a class are drawn."""
    return hashlib.sha256(os.fsencode(f"{seed}/{class_id}/{os.path.basename(path)}")).digest()
