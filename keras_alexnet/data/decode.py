"""From the bytes of an image file to upright RGB pixels, of the part that is wanted."""

import io
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from PIL import ExifTags, Image, ImageOps

# (height, width) → (top, left, side) of a square, all scalar int32 tensors.
Window = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]


def decode_square(data: tf.Tensor, window: Window) -> tf.Tensor:
    """Decodes a square part of an image, for use inside a tf.data map.

    An upright gray or colour JPEG, which is what image trees are made of, takes the fast path: only the wanted part is
    decoded. Any other file (turned by its EXIF orientation, CMYK, PNG, GIF, BMP, WebP, …) goes through Pillow. Both
    use libjpeg's accurate inverse DCT: TensorFlow's default is up to 17 grey levels off and no faster.

    Args:
        data: scalar string, the file's bytes.
        window: chooses the square from the size of the upright image.

    Returns:
        uint8 (side, side, 3), RGB.
    """

    def decode_part() -> tf.Tensor:
        height, width = tf.unstack(tf.io.extract_jpeg_shape(data)[:2])
        top, left, side = window(height, width)
        # Colour is interpolated from the neighbouring columns: with one more on either side, the part is exactly what
        # it is in the whole image; without, its edge columns are up to 14 grey levels off.
        begin, end = tf.maximum(left - 1, 0), tf.minimum(left + side + 1, width)
        part = tf.io.decode_and_crop_jpeg(
            data, tf.stack([top, begin, side, end - begin]), channels=3, dct_method="INTEGER_ACCURATE"
        )
        return part[:, left - begin : left - begin + side]

    def decode_whole() -> tf.Tensor:
        image = _call_with_bytes(decode_with_pillow, data, tf.uint8)
        image = tf.ensure_shape(image, (None, None, 3))
        top, left, side = window(tf.shape(image)[0], tf.shape(image)[1])
        return image[top : top + side, left : left + side]

    return tf.cond(_is_plain_jpeg(data), decode_part, decode_whole)


def decode_with_pillow(data: bytes) -> np.ndarray:
    """Decodes any image file that Pillow reads; returns uint8 (height, width, 3), RGB, turned as its EXIF data says."""
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):
            # Pillow's own conversion clips 16-bit gray instead of scaling it.
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        return np.asarray(upright.convert("RGB"))


def has_plain_header(data: bytes) -> bool:
    """Whether `data` begins as a gray or YCbCr JPEG does that has to be turned by no EXIF orientation."""
    try:
        # Opening reads the header only.
        with Image.open(io.BytesIO(data)) as image:
            return (
                image.format == "JPEG"
                and image.mode in ("L", "RGB")
                and image.getexif().get(ExifTags.Base.Orientation, 1) == 1
            )
    except Exception:
        # decode_with_pillow will say what is wrong with it.
        return False


def _is_plain_jpeg(data: tf.Tensor) -> tf.Tensor:
    """Whether the fast path may decode a file.

    Two thirds of ImageNet's files have their quantization tables right behind an 18-byte JFIF header: nothing stands
    before the image that could turn it. Of the rest the header is read.
    """
    # The padding keeps shorter files from being an error here: decoding says better what is wrong with them.
    head = tf.strings.join([tf.strings.substr(data, 0, 22), b"\0" * 22])
    starts_as_jfif = tf.equal(tf.strings.substr(head, 0, 4), b"\xff\xd8\xff\xe0")
    tables_follow = tf.equal(tf.strings.substr(head, 20, 2), b"\xff\xdb")
    return tf.cond(
        starts_as_jfif & tables_follow,
        lambda: tf.constant(True),
        lambda: tf.ensure_shape(_call_with_bytes(has_plain_header, data, tf.bool), ()),
    )


def _call_with_bytes(function: Callable, data: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    def call(value: bytes | np.ndarray):
        # Outside a graph, numpy_function hands over an array of one object.
        return function(value if isinstance(value, bytes) else value.item())

    return tf.numpy_function(call, [data], dtype, stateful=False)
