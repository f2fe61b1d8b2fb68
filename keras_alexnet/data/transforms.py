"""Training crops, and the evaluation preprocessings of CNTK, Caffe and torchvision."""

import tensorflow as tf

from keras_alexnet.data.crops import (
    FLIPPED_BELOW,
    RATIO_DENOMINATOR,
    RATIO_NUMERATOR,
    RESIZED_SIDE,
    crop_side,
    ratio_numerator,
)
from keras_alexnet.data.decode import decode_image, decode_square

# Where `ten_crops` takes its squares, as (row, column): 0 for the first place, 2 for the last, 1 for the middle.
_FIVE_PLACES = ((0, 0), (0, 2), (2, 0), (2, 2), (1, 1))


def training_image(data: tf.Tensor, random: tf.Tensor, image_size: int) -> tf.Tensor:
    """A random square of 227/256 of the shorter side, flipped horizontally half of the time.

    Args:
        data: scalar string, the bytes of an image file.
        random: float32 (3,), uniform in [0, 1), of 24 bits at most: for the top, the left and the flip.
        image_size: side of the result.

    Returns:
        uint8 (image_size, image_size, 3), RGB.
    """

    def window(size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        side = _crop_side(size)
        # Uniform over 0, 1, … size - side: (1 - 2^-24)·n is below n in float32 too, for any n.
        return tf.cast(random[:2] * tf.cast(size - side + 1, tf.float32), tf.int32), side

    image = resize_square(decode_square(data, window), image_size)
    return tf.cond(random[2] < FLIPPED_BELOW, lambda: tf.reverse(image, axis=[1]), lambda: image)


def evaluation_image(data: tf.Tensor, image_size: int, preprocessing: str = "cntk") -> tf.Tensor:
    """The center crop of an image.

    Args:
        data: scalar string, the bytes of an image file.
        image_size: side of the result; 256 at most for all but "cntk".
        preprocessing: a key of `crops.PREPROCESSINGS`. "cntk": the center square of 227/256 of the shorter side,
            resized. "caffe": the image is squashed to 256×256 and center-cropped (Caffe's convert_imageset and
            data_transformer.cpp). "torchvision": as if the shorter side were resized to 256 and the image
            center-cropped, done as one crop that is resized.

    Returns:
        uint8 (image_size, image_size, 3), RGB.
    """
    if preprocessing == "caffe":
        begin = (RESIZED_SIDE - image_size) // 2
        return _squashed(data)[begin : begin + image_size, begin : begin + image_size]
    numerator = ratio_numerator(preprocessing, image_size)

    def window(size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        side = _crop_side(size, numerator)
        return (size - side) // 2, side

    return resize_square(decode_square(data, window), image_size)


def ten_crops(data: tf.Tensor, image_size: int, preprocessing: str = "cntk") -> tf.Tensor:
    """The four corner crops, the center crop and their horizontal flips (Krizhevsky et al., 2012, section 4.1).

    The corners are those of the largest center square; for "caffe", those of the squashed image. The center crop is
    `evaluation_image`'s, whose arguments these are.

    Returns:
        uint8 (10, image_size, image_size, 3), RGB: top left, top right, bottom left, bottom right, center, and their
        flips in the same order.
    """
    if preprocessing == "caffe":
        whole, side = _squashed(data), tf.constant(image_size)
    else:
        numerator = ratio_numerator(preprocessing, image_size)

        def window(size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            side, shorter = _crop_side(size, numerator), tf.reduce_min(size)
            # Half a pixel is rounded so that the middle of the square is the middle of the image.
            return (size - side) // 2 - (shorter - side) // 2, shorter

        whole = decode_square(data, window)
        side = _crop_side(tf.shape(whole)[0], numerator)
    last = tf.shape(whole)[0] - side
    places = (0, last // 2, last)
    five = tf.stack(
        [
            resize_square(tf.slice(whole, (places[row], places[column], 0), (side, side, 3)), image_size)
            for row, column in _FIVE_PLACES
        ]
    )
    return tf.concat([five, tf.reverse(five, axis=[2])], axis=0)


def _crop_side(size: tf.Tensor, numerator: int = RATIO_NUMERATOR) -> tf.Tensor:
    side = crop_side(tf.reduce_min(size), numerator)
    # An operation less for most: less than half of a single pixel would be rounded to none.
    return side if 2 * numerator >= RATIO_DENOMINATOR else tf.maximum(side, 1)


def _squashed(data: tf.Tensor) -> tf.Tensor:
    """The whole image at 256×256, whatever its sides."""
    return _bilinear(decode_image(data), RESIZED_SIDE)


def resize_square(image: tf.Tensor, image_size: int) -> tf.Tensor:
    """Resizes a square of uint8 RGB to (image_size, image_size, 3), which it may have already: see `_bilinear`."""
    image = tf.cond(tf.equal(tf.shape(image)[0], image_size), lambda: image, lambda: _bilinear(image, image_size))
    return tf.ensure_shape(image, (image_size, image_size, 3))


def _bilinear(image: tf.Tensor, side: int) -> tf.Tensor:
    """OpenCV's 8-bit bilinear resize, as CNTK uses it, within a gray level: half-pixel centers, no antialiasing."""
    # TensorFlow's kernel converts the four neighbors of each result: converting each pixel once takes half the time.
    # As many results are rounded with fewer operations by adding 0.5 than by tf.round.
    pixels = tf.cast(image[tf.newaxis], tf.float32)
    pixels = tf.raw_ops.ResizeBilinear(images=pixels, size=(side, side), half_pixel_centers=True)
    return tf.cast(pixels[0] + 0.5, tf.uint8)
