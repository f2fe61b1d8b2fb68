"""Decodes image files with Pillow. No framework."""

import functools
import io
import os
import re
import warnings
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image

from keras_alexnet.data import ppm
from keras_alexnet.data.file_kinds import IMAGE_FORMATS

JPEG_END = b"\xff\xd9"
# Data that change pixels wherever some are missing, also behind a restart marker.
_FILLINGS = tuple(
    b"".join((junk, *(bytes((0xFF, 0xD0 + n)) + junk for n in range(8)))) for junk in (b"\0" * 16, b"\x5a\x33" * 8)
)
# A marker of a JPEG, other than those within the pixels: a segment follows, but for the end.
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")
_FRAMES, _END, _SCAN = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}, 0xD9, 0xDA
EXIF_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow warns of broken EXIF data and of large images, which it then reads well: `check` reports what matters.
warnings.filterwarnings("ignore", module=r"PIL\.")


def decode(data: bytes) -> np.ndarray:
    """Decodes the bytes of an image file to uint8 (height, width, 3), RGB.

    The image is turned as its EXIF data say, if these can be read. Of several frames the first counts. Transparency is
    dropped, and colors of 16 bits keep their upper 8.

    Raises:
        Exception: of whatever kind Pillow raises, since `data` is not an intact image.
    """
    file = io.BytesIO(data)
    with Image.open(file, formats=pillow_formats()) as image:
        raise_if_damaged(image, data)
        loaded, _ = load(image, file)
        return np.asarray(upright_rgb(loaded, orientation_of(image)))


def load(image: Image.Image, file: BinaryIO, *, smaller: bool = False) -> tuple[Image.Image, bool]:
    """Decodes an open image. A JPEG may lack its end marker, if it has all of its pixels.

    Args:
        image: the image.
        file: what it was opened from.
        smaller: a JPEG may be decoded at an eighth of its size, which reads it to its end just as well.

    Returns:
        The decoded image, and whether it lacks its end marker; raises as `decode`.
    """
    error = None
    try:
        if smaller:
            image.draft(image.mode, (1, 1))
        image.load()
    except OSError as raised:
        error = raised
    if image.format == "JPEG" and (end := _end_of_pixels(file)) is not None:
        whole = _decoded(end + JPEG_END) if _has_all_scans(end) else None
        # What follows the last pixel is skipped, but is taken for pixels where some are missing.
        if whole is None or any(_decoded(end + filling + JPEG_END) != whole for filling in _FILLINGS):
            raise error or OSError("image file is truncated")
        return whole, True
    if error:
        raise error
    return image, False


def _end_of_pixels(file: BinaryIO) -> bytes | None:
    """A JPEG up to the end of its pixels if it lacks its end marker or a part of it; None if it has one."""
    file.seek(-len(JPEG_END), os.SEEK_END)
    if file.read() == JPEG_END:
        return None
    file.seek(0)
    data = file.read()
    if any(kind == _END for kind, _ in _segments(data)):  # Other data follow, such as a video.
        return None
    stripped = data.rstrip(b"\0")  # Copying tools fill what is missing with zeros.
    if not stripped.endswith(b"\xff"):
        return stripped
    # A zero byte behind 255 is part of the pixels.
    return stripped[:-1] if stripped == data else stripped + b"\0"


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The markers of a JPEG up to its end, with the contents of their segments."""
    at = 2
    while marker := _MARKER.search(data, at):
        kind, segment_at = data[marker.start() + 1], marker.end() + 2
        if kind == _END:
            yield kind, b""
            return
        at = marker.end() + int.from_bytes(data[marker.end() : segment_at], "big")
        yield kind, data[segment_at:at]


def _has_all_scans(data: bytes) -> bool:
    """Whether the scans of a JPEG have all bits of all coefficients: a progressive one has several scans."""
    complete: set[tuple[int, int]] = set()
    num_components = 0
    for kind, segment in _segments(data):
        if kind in _FRAMES and len(segment) > 5:
            num_components = segment[5]
        elif kind == _SCAN and len(segment) > 5:
            first, last, bits = segment[-3:]
            if not bits & 15:  # None are left for a later scan.
                complete.update((component, at) for component in segment[1:-3:2] for at in range(first, last + 1))
    return len(complete) == 64 * num_components > 0


def _decoded(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        image.load()
        return image


def raise_if_damaged(image: Image.Image, data: bytes) -> None:
    """Raises `ValueError` for an image of a format without checksums that has one of this project (`ppm`)."""
    if image.format == "PPM" and ppm.is_damaged(data):
        raise ValueError("its pixels do not fit their checksum")


def orientation(data: bytes) -> int:
    """The EXIF orientation of an image file, 1 to 8; 1, which is upright, if it says none or cannot be read."""
    try:
        with Image.open(io.BytesIO(data), formats=pillow_formats()) as image:
            return orientation_of(image) or 1
    except Exception:
        # Decoding says what is wrong with it.
        return 1


def orientation_of(image: Image.Image) -> int | None:
    """The EXIF orientation of an open image, or None if the EXIF data are broken."""
    try:
        # Pillow would take an orientation from XMP as well, which neither OpenCV nor browsers do.
        for xmp in ("xmp", "XML:com.adobe.xmp"):
            image.info.pop(xmp, None)
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
        # 0 is what some cameras write that do not know.
        return 1 if found in (0, 1) else found if found in EXIF_TRANSPOSES else None
    except Exception:
        # As for decoding, there is a dozen kinds of them.
        return None


def upright_rgb(image: Image.Image, orientation: int | None) -> Image.Image:
    """A loaded image as RGB, turned by an EXIF orientation."""
    # Else Pillow looks for a color that is to stand for transparency.
    image.info.pop("transparency", None)
    if image.mode == "F":
        image = Image.fromarray(_gray_of_floats(np.asarray(image)))
    elif image.mode.startswith("I"):
        # Pillow's own conversion clips 16-bit gray instead of scaling it.
        image = Image.fromarray((np.asarray(image).clip(0, 65_535) >> 8).astype(np.uint8))
    if image.mode != "RGB":
        image = image.convert("RGB")
    return image.transpose(EXIF_TRANSPOSES[orientation]) if orientation in EXIF_TRANSPOSES else image


def _gray_of_floats(values: np.ndarray) -> np.ndarray:
    """8-bit gray of floats, of which the file does not say what is white: 1, 255 or 65,535, whichever holds them."""
    values = np.nan_to_num(values, nan=0.0)
    white = next((white for white in (1, 255) if values.max(initial=0) <= white), 65_535)
    return (values.clip(0, white) * (255 / white) + 0.5).astype(np.uint8)


@functools.cache
def pillow_formats() -> tuple[str, ...]:
    """The formats to open, as Pillow names them, of those that it was built with; none starts another program."""
    Image.init()
    return tuple(name for name in IMAGE_FORMATS if name in Image.OPEN)
