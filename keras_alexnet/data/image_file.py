"""Decodes image files with Pillow. No framework."""

import functools
import io
import warnings

import numpy as np
from PIL import ExifTags, Image

from keras_alexnet.data import ppm

# What Pillow reads without starting another program, as it does for PostScript.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "JPEG2000", "AVIF", "PPM")
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
    """Decodes an image file.

    The image is turned as its EXIF data say, if these can be read. Of several frames the first counts. Transparency is
    dropped, and colours of 16 bits keep their upper 8.

    Args:
        data: the file's bytes.

    Returns:
        uint8 (height, width, 3), RGB.

    Raises:
        Exception: of whatever kind Pillow raises, since `data` is no whole image.
    """
    with Image.open(io.BytesIO(data), formats=pillow_formats()) as image:
        raise_if_damaged(image, data)
        image.load()
        return np.asarray(upright_rgb(image, orientation_of(image)))


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
    # Else Pillow looks for a colour that is to stand for transparency.
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
    """The formats to open, as Pillow names them, of those that it was built with."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)
