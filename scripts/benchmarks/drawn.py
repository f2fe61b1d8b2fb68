"""Images for those who have none at hand."""

from pathlib import Path

import numpy as np
from PIL import Image

NUM_IMAGES = 64
# As long as the paths of ILSVRC2012 commonly are, which a map's memory depends on.
_DRAWN = "ILSVRC/Data/CLS-LOC/train/n{0:08}/n{0:08}_{0}.JPEG"


def draw_images(folder: Path, width: int = 500, height: int = 375) -> list[tuple[str, int]]:
    """Draws JPEGs of ImageNet's common size; returns (path, label) rows."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(NUM_IMAGES):
        blobs = rng.integers(0, 256, (height // 6, width // 6, 3), dtype=np.uint8)
        path = folder / _DRAWN.format(number)
        path.parent.mkdir(parents=True)
        Image.fromarray(blobs).resize((width, height), Image.Resampling.BICUBIC).save(path, quality=95)
        rows.append((str(path), number))
    return rows
