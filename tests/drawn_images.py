"""Image files drawn on the fly, and maps of them."""

import io
import os
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from keras_alexnet.data.image_map import ImageMap

# What an image looks like upright if its file says "orientation n" (EXIF 2.3, tag 0x0112).
UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: stored.swapaxes(0, 1)[:, ::-1],
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: stored.swapaxes(0, 1)[::-1],
}


def draw(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Blurred blobs of strong colors: uint8 (height, width, 3). Chroma subsampling mixes neighbors visibly."""
    blobs = np.random.default_rng(seed).integers(0, 256, (height // 6 + 2, width // 6 + 2, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(blobs).resize((width, height), Image.Resampling.BICUBIC))


def encode(image: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    """The bytes of an image file of `kind`, which is Pillow's name of a format."""
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **options)
    return buffer.getvalue()


def exif_with_orientation(orientation: int, byte_order: str) -> bytes:
    """An EXIF segment's payload that holds an orientation alone; `byte_order` is "<" or ">"."""
    tag, short = 0x0112, 3
    header = (b"II" if byte_order == "<" else b"MM") + struct.pack(f"{byte_order}HI", 42, 8)
    entry = struct.pack(f"{byte_order}HHHIHH", 1, tag, short, 1, orientation, 0)
    return b"Exif\0\0" + header + entry + struct.pack(f"{byte_order}I", 0)


def with_exif(jpeg: bytes, exif: bytes, *, keep_jfif: bool) -> bytes:
    """A JPEG that begins with a JFIF header, with an EXIF segment behind or in place of that header."""
    assert jpeg[2:4] == b"\xff\xe0"
    jfif_end = 4 + int.from_bytes(jpeg[4:6], "big")
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    return jpeg[: jfif_end if keep_jfif else 2] + segment + jpeg[jfif_end:]


def write_numbered(folder: Path, count: int, width: int = 8, height: int = 8) -> ImageMap:
    """A map of `count` different JPEGs in which the label of an image is its row."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [str(folder / f"{number}.JPEG") for number in range(count)]
    for number, path in enumerate(paths):
        noise = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Path(path).write_bytes(encode(noise, "JPEG", quality=95))
    return ImageMap(paths, range(count), source=os.fspath(folder / "map.txt"))
