"""CNTK's training and test transforms: which square of an image the network sees, and how it is resized."""

import tensorflow as tf

from keras_alexnet.data.decode import decode_square

# CNTK's side_ratio 0.88671875 is 227/256: the paper's crop of 227 out of a shorter side of 256.
_RATIO_NUMERATOR, _RATIO_DENOMINATOR = 227, 256


def training_image(data: tf.Tensor, seed: tf.Tensor, image_size: int) -> tf.Tensor:
    """A random square of 227/256 of the shorter side, mirrored half of the time.

    Args:
        data: scalar string, the bytes of an image file.
        seed: int64 (2,); equal seeds give equal crops.
        image_size: side of the result.

    Returns:
        uint8 (image_size, image_size, 3), RGB.
    """
    random = tf.random.stateless_uniform((3,), seed, alg="philox")

    def window(height: tf.Tensor, width: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        side = _crop_side(height, width)
        return _position(random[0], height - side), _position(random[1], width - side), side

    image = _resize(decode_square(data, window), image_size)
    return tf.cond(random[2] < 0.5, lambda: tf.reverse(image, axis=[1]), lambda: image)


def evaluation_image(data: tf.Tensor, image_size: int) -> tf.Tensor:
    """The square of 227/256 of the shorter side in the middle; arguments and result as `training_image`."""

    def window(height: tf.Tensor, width: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        side = _crop_side(height, width)
        return (height - side) // 2, (width - side) // 2, side

    return _resize(decode_square(data, window), image_size)


def _crop_side(height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """The ratio of the shorter side, halves rounded up as C++'s `std::round` does (CNTK, ImageTransformers.cpp)."""
    shorter = tf.minimum(height, width)
    return (2 * _RATIO_NUMERATOR * shorter + _RATIO_DENOMINATOR) // (2 * _RATIO_DENOMINATOR)


def _position(random: tf.Tensor, slack: tf.Tensor) -> tf.Tensor:
    """Uniform over 0, 1, … slack; `random` is uniform in [0, 1)."""
    # The minimum matters where the product rounds up to slack + 1.
    return tf.minimum(tf.cast(random * tf.cast(slack + 1, tf.float32), tf.int32), slack)


def _resize(image: tf.Tensor, image_size: int) -> tf.Tensor:
    """OpenCV's 8-bit bilinear resize, as CNTK uses it, within a grey level: half-pixel centres, no antialiasing."""

    def resized() -> tf.Tensor:
        pixels = tf.raw_ops.ResizeBilinear(images=image[tf.newaxis], size=(image_size,) * 2, half_pixel_centers=True)
        return tf.cast(pixels[0] + 0.5, tf.uint8)

    image = tf.cond(tf.equal(tf.shape(image)[0], image_size), lambda: image, resized)
    return tf.ensure_shape(image, (image_size, image_size, 3))
