"""AlexNet as CNTK's example builds it, with 62,003,496 parameters in 16 tensors, and its relatives: no groups.

Source: Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional Neural Networks" (2012),
section 3, in the form of CNTK's Examples/Image/Classification/AlexNet/BrainScript/AlexNet.cntk; `presets` has the forms
of others. It is composed of stock Keras layers and `keras.ops` only, so a saved model loads anywhere that Keras does,
without this package.
"""

import dataclasses
import operator
import random
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_alexnet.normalization import local_response_norm, read_lrn
from keras_alexnet.presets import (
    LRN,
    NORMALIZATIONS,
    POOL_PADDINGS,
    POOL_STRIDE,
    POOL_WINDOW,
    PRESETS,
    Preset,
    per_channel,
    spatial_sizes,
)
from keras_alexnet.system.keras_settings import keras_defaults

DATA_FORMAT = "channels_last"  # whatever keras.json says

# Layers that compute in float32 whatever the precision of the run: pixels less their mean, the normalizations
# (their squares lose 2e-3 in bfloat16) and the logits.
FLOAT32_LAYERS = ("input_mean", "norm1", "norm2", "fc8")


@keras_defaults()
def build_alexnet(
    num_classes: int = 1000,
    *,
    preset: str | Preset = "cntk",
    dropout: float | tuple[float, float] = 0.5,
    weights: Callable[[str], tuple[np.ndarray, np.ndarray]] | None = None,
    seed: int | None = None,
    **changes: Any,
) -> keras.Model:
    """Builds the network, with new random weights or with given ones.

    Args:
        num_classes: units of fc8.
        preset: the network to start from, a key of `PRESETS` or a `Preset`.
        dropout: rate after fc6 and fc7, or one for each, 0 up to but not including 1.
        weights: gives kernel and bias of a layer, "conv1" to "fc8", as Keras has them. It is asked for one layer after
            the other, so that not all need to be in memory together with those of the model. None for random ones.
        seed: of the random weights and of dropout; None to draw one from Python's `random`, as Keras does.
        **changes: attributes of `Preset`, instead of the preset's: `filters`, `dense_units`, `image_size`, `lrn`, …

    Returns:
        A functional model from (batch, image_size, image_size, 3) RGB pixels of 0 to 255, any dtype, to
        (batch, num_classes) float32 logits; the side is 227 or 224. Layers have the names of Caffe's model: conv1,
        relu1, norm1, pool1, …, fc8. Whatever the preset, the random weights are those of CNTK's and Caffe's examples: a
        normal distribution, biases of 0 or 0.1.

    Raises:
        ValueError: an unknown preset, normalization or padding, not five filter counts or two dense layers, or images
            too small for it.
        TypeError: a change that is not an attribute of `Preset`.
    """
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise ValueError(f"preset is {preset!r}, expected one of {', '.join(PRESETS)}.")
        preset = PRESETS[preset]
    preset = dataclasses.replace(preset, **changes)
    filters = preset.filters
    if len(filters) != 5:
        raise ValueError(f"filters has {len(filters)} entries, expected five, for conv1 to conv5.")
    if len(preset.dense_units) != 2:
        raise ValueError(f"dense_units has {len(preset.dense_units)} entries, expected two, for fc6 and fc7.")
    for name, known in (("normalization", NORMALIZATIONS), ("pool_padding", POOL_PADDINGS)):
        if getattr(preset, name) not in known:
            raise ValueError(f"{name} is {getattr(preset, name)!r}, expected one of {', '.join(known)}.")
    rates = np.ravel(dropout).tolist()
    if len(rates) not in (1, 2):
        raise ValueError(f"dropout has {len(rates)} entries, expected one or two, for fc6 and fc7.")
    if not all(0 <= rate < 1 for rate in rates):
        raise ValueError(f"dropout is {dropout}, expected 0 or above and below 1.")
    if spatial_sizes(preset)[-1] < 1:
        raise ValueError(f"image_size is {preset.image_size}, too small: nothing would be left for fc6.")

    rng = random if seed is None else random.Random(operator.index(seed))
    inputs = keras.Input((preset.image_size, preset.image_size, 3), name="image")
    scale, offset = preset.input_scale, preset.input_offset
    if not (isinstance(scale, int | float) and isinstance(offset, int | float)):
        # Keras 3.11 fails where one of them is a number and the other one is not.
        scale, offset = per_channel(scale), per_channel(offset)
    x = layers.Rescaling(scale, offset=offset, dtype="float32", name="input_mean")(inputs)
    if preset.conv1_padding:
        x = layers.ZeroPadding2D(preset.conv1_padding, data_format=DATA_FORMAT, name="conv1_pad")(x)

    x = _conv(x, "1", filters[0], weights, rng, kernel_size=11, strides=4, padding="valid", bias=0.0)
    x = _norm_and_pool(x, "1", preset)

    x = _conv(x, "2", filters[1], weights, rng, kernel_size=5, bias=0.1)
    x = _norm_and_pool(x, "2", preset)

    x = _conv(x, "3", filters[2], weights, rng, kernel_size=3, bias=0.0)
    x = _conv(x, "4", filters[3], weights, rng, kernel_size=3, bias=0.1)
    x = _conv(x, "5", filters[4], weights, rng, kernel_size=3, bias=0.1)
    x = _max_pool(x, "pool5", preset.pool_padding)
    x = layers.Flatten(data_format=DATA_FORMAT, name="flatten")(x)

    for n, units, rate in zip("67", preset.dense_units, (rates[0], rates[-1]), strict=True):
        x = _dense(x, f"fc{n}", units, weights, rng, stddev=0.005, bias=0.1)
        x = layers.ReLU(name=f"relu{n}")(x)
        # Without a seed, PyTorch's dropout has its state in no variable.
        x = layers.Dropout(rate, seed=_layer_seed(rng), name=f"drop{n}")(x)
    logits = _dense(x, "fc8", operator.index(num_classes), weights, rng, stddev=0.01, bias=0.0, dtype="float32")
    return keras.Model(inputs, logits, name="alexnet")


def read_preset(model: keras.Model) -> Preset:
    """The architecture of a model of `build_alexnet`.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: its layers are not those of AlexNet. Without an error it may
            still be another network: compare it with the one that `build_alexnet` builds.
    """
    found = {layer.name: layer for layer in model.layers}
    names = list(found)
    normalization, lrn = "none", LRN()
    if "norm1" in found:
        normalization = "before_pool" if names.index("norm1") < names.index("pool1") else "after_pool"
        lrn = read_lrn(found[names[names.index("norm1") - 1]].output, found["norm1"].output)
        if lrn is None:
            raise ValueError("norm1 is not a local response normalization")
    pool_padding = "valid"
    if padded := [found[name] for name in ("pool1_pad", "pool2_pad", "pool5_pad") if name in found]:
        pool_padding = "cntk" if padded[0].padding[0][0] else "caffe"
    scaling = found["input_mean"].get_config()
    return Preset(
        filters=tuple(found[f"conv{i}"].filters for i in range(1, 6)),
        dense_units=(found["fc6"].units, found["fc7"].units),
        image_size=model.input_shape[1],
        conv1_padding=found["conv1_pad"].padding[0][0] if "conv1_pad" in found else 0,
        normalization=normalization,
        lrn=lrn,
        pool_padding=pool_padding,
        input_scale=_one_if_equal(scaling["scale"]),
        input_offset=_one_if_equal(scaling["offset"]),
    )


def _one_if_equal(value: float | Sequence[float]) -> float | tuple[float, float, float]:
    values = per_channel(value)
    return values[0] if len(set(values)) == 1 else values


def set_precision(model: keras.Model, precision: str) -> None:
    """Sets what the layers of a model of `build_alexnet` compute in: a Keras dtype policy, such as "mixed_bfloat16".

    Variables stay float32. It is a property of the run, not of the network: call it before compiling, and with
    "float32" before saving, so that the file gives the same logits on every backend.
    """
    for layer in model.layers:
        if layer.name not in FLOAT32_LAYERS:
            layer.dtype_policy = keras.DTypePolicy(precision)


def _layer_seed(rng) -> int:
    """As Keras draws it, which keeps the weights of a seed those of earlier versions."""
    return rng.randint(1, 10**9)


def _conv(
    x, n: str, filters: int, weights, rng, *, kernel_size: int, bias: float, strides: int = 1, padding: str = "same"
):
    layer = layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding=padding,
        data_format=DATA_FORMAT,
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.01, seed=_layer_seed(rng)),
        bias_initializer=keras.initializers.Constant(bias),
        name=f"conv{n}",
    )
    return layers.ReLU(name=f"relu{n}")(_with_weights(layer, x, weights))


def _dense(x, name: str, units: int, weights, rng, *, stddev: float, bias: float, dtype: str | None = None):
    layer = layers.Dense(
        units,
        kernel_initializer=keras.initializers.RandomNormal(stddev=stddev, seed=_layer_seed(rng)),
        bias_initializer=keras.initializers.Constant(bias),
        dtype=dtype,
        name=name,
    )
    return _with_weights(layer, x, weights)


def _with_weights(layer: keras.Layer, x, weights):
    """Calls a new layer, whose weights are then random, or those that `weights` gives for its name."""
    if weights is None:
        return layer(x)

    def giving(array: np.ndarray):
        def initializer(shape, dtype=None):
            if array.shape != tuple(shape):
                raise ValueError(f"{layer.name} has weights of shape {array.shape}, expected {tuple(shape)}.")
            return ops.convert_to_tensor(array, dtype)

        return initializer

    # As its initializers: random weights that are set to others afterwards take twice the time and memory.
    initializers = layer.kernel_initializer, layer.bias_initializer
    layer.kernel_initializer, layer.bias_initializer = map(giving, weights(layer.name))
    x = layer(x)
    layer.kernel_initializer, layer.bias_initializer = initializers
    return x


def _norm_and_pool(x, n: str, preset: Preset):
    if preset.normalization == "before_pool":
        x = local_response_norm(x, preset.lrn, f"norm{n}")
    x = _max_pool(x, f"pool{n}", preset.pool_padding)
    return local_response_norm(x, preset.lrn, f"norm{n}") if preset.normalization == "after_pool" else x


def _max_pool(x, name: str, rule: str):
    """Max pooling of values that are never negative, so that zeros around them are never the maximum."""
    padding = POOL_PADDINGS[rule](x.shape[1])
    if any(padding):
        x = layers.ZeroPadding2D((padding, padding), data_format=DATA_FORMAT, name=f"{name}_pad")(x)
    return layers.MaxPooling2D(POOL_WINDOW, strides=POOL_STRIDE, data_format=DATA_FORMAT, name=name)(x)
