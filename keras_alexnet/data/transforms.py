"""CNTK's training and test transforms: which square of an image the network sees, and how it is resized."""

import tensorflow as tf

from keras_alexnet.data.decode import decode_square

# CNTK's side_ratio 0.88671875 is 227/256: the paper's crop of 227 out of a shorter side of 256.
_RATIO_NUMERATOR, _RATIO_DENOMINATOR = 227, 256


def training_image(data: tf.Tensor, random: tf.Tensor, image_size: int) -> tf.Tensor:
    """A random square of 227/256 of the shorter side, mirrored half of the time.

    Args:
        data: scalar string, the bytes of an image file.
        random: float32 (3,), uniform in [0, 1), of 24 bits at most: for the top, the left and the mirroring.
        image_size: side of the result.

    Returns:
        uint8 (image_size, image_size, 3), RGB.
    """

    def window(size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        side = _crop_side(size)
        # Uniform over 0, 1, … size - side: (1 - 2^-24)·n is below n in float32 too, for any n.
        return tf.cast(random[:2] * tf.cast(size - side + 1, tf.float32), tf.int32), side

    image = _resize(decode_square(data, window), image_size)
    return tf.cond(random[2] < 0.5, lambda: tf.reverse(image, axis=[1]), lambda: image)


def evaluation_image(data: tf.Tensor, image_size: int) -> tf.Tensor:
    """The square of 227/256 of the shorter side in the middle; arguments and result as `training_image`."""

    def window(size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        side = _crop_side(size)
        return (size - side) // 2, side

    return _resize(decode_square(data, window), image_size)


def _crop_side(size: tf.Tensor) -> tf.Tensor:
    """The ratio of the shorter side, halves rounded up as C++'s `std::round` does (CNTK, ImageTransformers.cpp)."""
    return (2 * _RATIO_NUMERATOR * tf.reduce_min(size) + _RATIO_DENOMINATOR) // (2 * _RATIO_DENOMINATOR)


def _resize(image: tf.Tensor, image_size: int) -> tf.Tensor:
    """OpenCV's 8-bit bilinear resize, as CNTK uses it, within a grey level: half-pixel centres, no antialiasing."""

    def resized() -> tf.Tensor:
        # TensorFlow's kernel converts the four neighbours of each result: converting each pixel once takes half the
        # time. As many results are rounded with fewer operations by adding 0.5 than by tf.round.
        pixels = tf.cast(image[tf.newaxis], tf.float32)
        pixels = tf.raw_ops.ResizeBilinear(images=pixels, size=(image_size,) * 2, half_pixel_centers=True)
        return tf.cast(pixels[0] + 0.5, tf.uint8)

    image = tf.cond(tf.equal(tf.shape(image)[0], image_size), lambda: image, resized)
    return tf.ensure_shape(image, (image_size, image_size, 3))
