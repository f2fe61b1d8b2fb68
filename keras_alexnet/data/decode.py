"""From the bytes of an image file to upright RGB pixels, of the part that is wanted."""

import struct
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_alexnet.data import images

# (height, width) as int32 (2,) → (top, left) as int32 (2,), and the side, of a square.
Window = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]

# A JPEG of longer sides is left to Pillow, which refuses what would fill the memory.
_LONGEST_SIDE = 8192

# The shape that stands for "not such a JPEG": its sides are too long for the fast path.
_OTHER = np.full(3, 2**30, np.int32)

# The standard wants EXIF data right behind the start of a file; behind other headers they are found up to here.
_EXIF_WITHIN = 2**14

# How a JPEG begins, what its fourth byte is if a JFIF header follows, and how quantization tables begin.
_JPEG, _JFIF, _TABLES = b"\xff\xd8\xff", b"\xe0", b"\xff\xdb"
_EXIF = b"Exif\0\0"


def decode_square(data: tf.Tensor, window: Window) -> tf.Tensor:
    """Decodes a square part of an image, for use inside a tf.data map.

    An upright gray or colour JPEG, which is what image trees are made of, takes the fast path: only the wanted part is
    decoded. Any other file (turned by its EXIF orientation, CMYK, PNG, GIF, BMP, WebP, …) goes through Pillow. Both
    use libjpeg's accurate inverse DCT: TensorFlow's default is up to 17 grey levels off and no faster.

    There are few operations here, since each costs microseconds and an image of 256 pixels takes half a millisecond.

    Args:
        data: scalar string, the file's bytes.
        window: chooses the square from the size of the upright image.

    Returns:
        uint8 (side, side, 3), RGB.
    """
    shape = _upright_jpeg_shape(data)

    def decode_part() -> tf.Tensor:
        size = shape[:2]
        corner, side = window(size)
        # Colour is interpolated from the neighbouring columns: with one more on either side, the part is exactly what
        # it is in the whole image; without, its edge columns are up to 14 grey levels off.
        begin = tf.maximum(corner - (0, 1), 0)
        extent = tf.minimum(corner + side + (0, 1), size) - begin
        part = tf.io.decode_and_crop_jpeg(
            data, tf.concat([begin, extent], 0), channels=3, dct_method="INTEGER_ACCURATE"
        )
        # In two dimensions TensorFlow copies whole rows at a time, several times as fast as in three.
        rows = tf.slice(tf.reshape(part, extent * (1, 3)), (corner - begin) * (1, 3), side * tf.constant((1, 3)))
        return tf.reshape(rows, tf.stack([side, side, 3]))

    def decode_whole() -> tf.Tensor:
        image = _decode_with_pillow(data)
        corner, side = window(tf.shape(image)[:2])
        return tf.slice(image, tf.pad(corner, [[0, 1]]), tf.stack([side, side, 3]))

    return tf.cond(_is_plain(shape), decode_part, decode_whole)


def decode_image(data: tf.Tensor) -> tf.Tensor:
    """Decodes a whole image as `decode_square` does a part of it: uint8 (height, width, 3), RGB."""

    def decode_plain() -> tf.Tensor:
        return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")

    return tf.cond(_is_plain(_upright_jpeg_shape(data)), decode_plain, lambda: _decode_with_pillow(data))


def decode_bytes(data: bytes) -> np.ndarray:
    """`decode_image` outside of a graph, with as few operations as can be, as each takes longer there."""
    if data.startswith(_JPEG) and ((data[3:4] == _JFIF and data[20:22] == _TABLES) or _EXIF not in data[:_EXIF_WITHIN]):
        shape = tf.io.extract_jpeg_shape(data).numpy()
    else:
        shape = jpeg_shape_if_upright(data)
    if (shape <= (_LONGEST_SIDE, _LONGEST_SIDE, 3)).all():
        return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE").numpy()
    return images.decode(data)


def jpeg_shape_if_upright(data: bytes) -> np.ndarray:
    """Reads the header of a JPEG that may have EXIF data, or finds out that a file is something else.

    Returns:
        int32 (height, width, channels) of a JPEG that libjpeg decodes and no EXIF orientation turns; else `_OTHER`.
    """
    position = 2
    while data[:2] == b"\xff\xd8" and data[position : position + 1] == b"\xff" and position + 10 <= len(data):
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xE1 and data[position + 4 : position + 10] == _EXIF and images.orientation(data) != 1:
            break
        # Start of frame: baseline, extended or progressive. Others are arithmetic or lossless coding.
        if marker in (0xC0, 0xC1, 0xC2):
            height, width, channels = struct.unpack_from(">HHB", data, position + 5)
            return np.array((height, width, channels), np.int32)
        # Any number of fill bytes may stand before a marker.
        position += 1 if marker == 0xFF else 2 + length
    return _OTHER


def _upright_jpeg_shape(data: tf.Tensor) -> tf.Tensor:
    """As `jpeg_shape_if_upright`, without Python for nearly all files that have no EXIF data.

    Two thirds of ImageNet's files have their quantization tables right behind an 18-byte JFIF header: nothing stands
    before the image that could turn it. EXIF data have to stand at the beginning of a file, so in most of the others a
    look at the beginning shows that there are none.
    """
    # The padding keeps shorter files from being an error here: decoding says better what is wrong with them.
    head = tf.strings.join([tf.strings.substr(data, 0, 22), b"\0" * 22])
    marks = tf.equal(tf.strings.substr(head, [0, 3, 20], [3, 1, 2]), [_JPEG, _JFIF, _TABLES])

    def jpeg_without_exif() -> tf.Tensor:
        # \C is any byte; a dot would be a UTF-8 character.
        exif = tf.strings.regex_full_match(tf.strings.substr(data, 0, _EXIF_WITHIN), r"\C*Exif\x00\x00\C*")
        return marks[0] & ~exif

    return tf.cond(
        tf.cond(tf.reduce_all(marks), lambda: tf.constant(True), jpeg_without_exif),
        lambda: tf.io.extract_jpeg_shape(data),
        lambda: tf.ensure_shape(_call_with_bytes(jpeg_shape_if_upright, data, tf.int32), (3,)),
    )


def _is_plain(shape: tf.Tensor) -> tf.Tensor:
    return tf.reduce_all(shape <= (_LONGEST_SIDE, _LONGEST_SIDE, 3))


def _decode_with_pillow(data: tf.Tensor) -> tf.Tensor:
    return tf.ensure_shape(_call_with_bytes(images.decode, data, tf.uint8), (None, None, 3))


def _call_with_bytes(function: Callable, data: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    def call(value: bytes | np.ndarray):
        # Outside a graph, numpy_function hands over an array of one object.
        return function(value if isinstance(value, bytes) else value.item())

    return tf.numpy_function(call, [data], dtype, stateful=False)
