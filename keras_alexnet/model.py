"""AlexNet as CNTK's example builds it: no grouped convolutions, 62,003,496 parameters in 16 tensors.

Source: Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional Neural Networks" (2012),
section 3, in the form of CNTK's Examples/Image/Classification/AlexNet/BrainScript/AlexNet.cntk. It is composed of stock
Keras layers and `keras.ops` only, so a saved model loads anywhere that Keras does, without this package.
"""

import random
from collections.abc import Sequence

import keras
import numpy as np
from keras import layers, ops

from keras_alexnet.presets import IMAGE_SIZE, PRESETS

PIXEL_MEAN = 114.0
DATA_FORMAT = "channels_last"  # whatever keras.json says
LRN_SIZE, LRN_K, LRN_ALPHA = 5, 1.0, 1e-4

# Layers that compute in float32 whatever the precision of the run: pixels less their mean, the normalisations
# (their squares lose 2e-3 in bfloat16) and the logits.
FLOAT32_LAYERS = ("input_mean", "norm1", "norm2", "fc8")


def build_alexnet(
    num_classes: int = 1000,
    *,
    preset: str = "cntk",
    filters: Sequence[int] | None = None,
    dense_units: int | None = None,
    dropout: float = 0.5,
    pool_padding: str = "valid",
) -> keras.Model:
    """Builds the network, with new random weights.

    Args:
        num_classes: units of fc8.
        preset: the named sizes to start from, a key of `PRESETS`.
        filters: five filter counts, instead of the preset's.
        dense_units: units of fc6 and fc7, instead of the preset's.
        dropout: rate after fc6 and fc7, 0 up to but not including 1.
        pool_padding: "valid" (the BrainScript example; 55→27→13→6) or "cntk", the automatic padding which the pools
            inherit in CNTK's Python example (55→28→14→7).

    Returns:
        A functional model from (batch, 227, 227, 3) RGB pixels of 0 to 255, any dtype, to (batch, num_classes) float32
        logits. Layers bear the names of the paper's tables: conv1, relu1, norm1, pool1, …, fc8.

    Raises:
        ValueError: an unknown preset or padding, or not five filter counts.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset is {preset!r}, expected one of {', '.join(PRESETS)}.")
    if pool_padding not in ("valid", "cntk"):
        raise ValueError(f"pool_padding is {pool_padding!r}, expected 'valid' or 'cntk'.")
    filters = PRESETS[preset].filters if filters is None else tuple(filters)
    dense_units = PRESETS[preset].dense_units if dense_units is None else dense_units
    if len(filters) != 5:
        raise ValueError(f"filters has {len(filters)} entries, expected five, for conv1 to conv5.")

    inputs = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3), name="image")
    x = layers.Rescaling(1.0, offset=-PIXEL_MEAN, dtype="float32", name="input_mean")(inputs)

    x = _conv(x, "1", filters[0], kernel_size=11, strides=4, padding="valid", bias=0.0)
    x = _local_response_norm(x, "norm1")
    x = _max_pool(x, "pool1", pool_padding)

    x = _conv(x, "2", filters[1], kernel_size=5, bias=0.1)
    x = _local_response_norm(x, "norm2")
    x = _max_pool(x, "pool2", pool_padding)

    x = _conv(x, "3", filters[2], kernel_size=3, bias=0.0)
    x = _conv(x, "4", filters[3], kernel_size=3, bias=0.1)
    x = _conv(x, "5", filters[4], kernel_size=3, bias=0.1)
    x = _max_pool(x, "pool5", pool_padding)
    x = layers.Flatten(data_format=DATA_FORMAT, name="flatten")(x)

    for n in "67":
        x = _dense(x, f"fc{n}", dense_units, stddev=0.005, bias=0.1)
        x = layers.ReLU(name=f"relu{n}")(x)
        # Keras draws its seeds in this way too. But without one given, PyTorch's dropout has its state in no variable.
        x = layers.Dropout(dropout, seed=random.randint(1, 10**9), name=f"drop{n}")(x)
    logits = _dense(x, "fc8", num_classes, stddev=0.01, bias=0.0, dtype="float32")
    return keras.Model(inputs, logits, name="alexnet")


def set_precision(model: keras.Model, precision: str) -> None:
    """Sets what the layers of a model of `build_alexnet` compute in: a Keras dtype policy, such as "mixed_bfloat16".

    Variables stay float32. It is a property of the run, not of the network: call it before compiling, and with
    "float32" before saving, so that the file gives the same logits on every backend.
    """
    for layer in model.layers:
        if layer.name not in FLOAT32_LAYERS:
            layer.dtype_policy = keras.DTypePolicy(precision)


def _conv(x, n: str, filters: int, *, kernel_size: int, bias: float, strides: int = 1, padding: str = "same"):
    x = layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding=padding,
        data_format=DATA_FORMAT,
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
        bias_initializer=keras.initializers.Constant(bias),
        name=f"conv{n}",
    )(x)
    return layers.ReLU(name=f"relu{n}")(x)


def _dense(x, name: str, units: int, *, stddev: float, bias: float, dtype: str | None = None):
    return layers.Dense(
        units,
        kernel_initializer=keras.initializers.RandomNormal(stddev=stddev),
        bias_initializer=keras.initializers.Constant(bias),
        dtype=dtype,
        name=name,
    )(x)


def _local_response_norm(x, name: str):
    """x / (k + alpha/n · Σ x²)^0.75, the sum over n neighbouring channels (paper, section 3.3; CNTK's LRN)."""
    x = ops.cast(x, "float32")
    channels = np.arange(x.shape[-1])
    window = np.abs(channels[:, None] - channels) <= LRN_SIZE // 2
    # The window sum as a product with a banded matrix, and d^-0.75 out of rsqrt and sqrt: several times faster, forward
    # and backward, than shifted slices, a cumulative sum or `power`.
    denominator = LRN_K + ops.matmul(ops.square(x), (LRN_ALPHA / LRN_SIZE * window).astype("float32"))
    root = ops.rsqrt(denominator)
    return layers.Multiply(dtype="float32", name=name)([x, root * ops.sqrt(root)])


def _max_pool(x, name: str, padding: str):
    """Max pooling 3×3 with stride 2, of values that are never negative."""
    if padding == "cntk":
        # CNTK centres the first window on pixel 0, which is not TensorFlow's "same" on even sizes. Zeros never win
        # against values after a ReLU.
        size = x.shape[1]
        x = layers.ZeroPadding2D(((1, size % 2), (1, size % 2)), data_format=DATA_FORMAT, name=f"{name}_pad")(x)
    return layers.MaxPooling2D(3, strides=2, padding="valid", data_format=DATA_FORMAT, name=name)(x)
