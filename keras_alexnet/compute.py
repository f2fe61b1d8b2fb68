"""The compute form of a network: the same variables, in layers written for the platform that runs them.

Models built by `build_alexnet` and `.keras` files have the portable form: stock layers that load anywhere. Training,
evaluation and prediction run the compute form, which shares the model's layers, and replaces conv1, the normalizations
and the max pools where another implementation is faster. Results differ only by rounding. Models are built, frozen,
saved and exported in the portable form; only code that runs a network needs this module.
"""

from collections.abc import Callable
from dataclasses import dataclass

import keras
from keras import layers

from keras_alexnet.compute_layers import BlockConv2D, LocalResponseNorm, SlicedMaxPool
from keras_alexnet.normalization import read_lrn


@dataclass(frozen=True)
class Forms:
    """Which implementation each replaceable layer uses; None keeps the model's own layer.

    Attributes:
        conv1: "blocks" for `BlockConv2D`.
        norm: "band" or "slices", the forms of `LocalResponseNorm`.
        pool: "slices" for `SlicedMaxPool`.
    """

    conv1: str | None = None
    norm: str | None = None
    pool: str | None = None


PORTABLE = Forms()


def choose_forms(platform: str, precision: str, *, compiled: bool) -> Forms:
    """Returns the fastest known forms for the current Keras backend.

    Args:
        platform: "cpu", "gpu", or another one of JAX.
        precision: of the run, "float32" or "mixed_bfloat16".
        compiled: whether XLA compiles the network.
    """
    if platform == "gpu":
        # H100, JAX, bfloat16, batch size 1024, ms per training step (2026-11-27): portable 38.7, all three 18.2,
        # without sliced norms 21.8, without sliced pools 23.9. Without XLA each slice would be a separate kernel.
        return Forms("blocks", "slices", "slices") if compiled else PORTABLE
    if platform == "cpu" and keras.backend.backend() == "jax" and precision == "float32":
        # Two CPU cores, batch size 32, forward and backward, ms, portable and sliced: norm1 104 and 67, pool1 159 and
        # 95. conv1 by blocks is slower (298 and 394). No form speeds up a whole step in bfloat16 or on other backends.
        return Forms(norm="slices", pool="slices")
    return PORTABLE


def compute_form(
    model: keras.Model, forms: Forms, output: str | None = None, network_class: Callable[..., keras.Model] = keras.Model
) -> keras.Model:
    """Returns a network that computes what `model` computes, with other implementations of some layers.

    Args:
        model: maps images (batch, side, side, 3) to logits. It is not changed.
        forms: the forms to use. Layers get the dtype policies that the model's layers have now.
        output: name of the layer whose output to return; None for the logits.
        network_class: called with inputs, outputs and name, like `keras.Model`.

    Returns:
        An uncompiled functional model that shares the variables of `model`, in the same order. If `model` is not a
        plain chain of layers with AlexNet's local response normalization, it uses the model's own layers throughout.
    """
    # Sequential models have no `output` under PyTorch, nor before they were called.
    (images,) = model.inputs
    result = model.outputs[0] if output is None else model.get_layer(output).output
    chain = _chain(model, result, forms) if forms != PORTABLE else None
    if chain is None:
        return network_class(images, result, name=model.name)
    inputs = keras.Input(batch_shape=images.shape, dtype=images.dtype)
    return network_class(inputs, _Chain(chain, result)(inputs), name=model.name)


class _Chain(layers.Layer):
    """Calls layers in sequence. Unlike a functional graph, it adds no nodes to layers shared with another model."""

    def __init__(self, steps: list[keras.Layer], output: keras.KerasTensor):
        # Each layer casts its inputs itself.
        super().__init__(autocast=False, dtype=output.dtype, name="layers")
        self.steps = steps
        self._shape = output.shape
        self.built = True

    def call(self, x):
        for step in self.steps:
            x = step(x)
        return x

    def compute_output_shape(self, input_shape):
        return self._shape


def _chain(model: keras.Model, result: keras.KerasTensor, forms: Forms) -> list[keras.Layer] | None:
    """The layers from the input to `result`, in these forms; None if they are not a plain chain.

    A Multiply layer has to be the last operation of a local response normalization, and stands for all of them.
    """
    chain, output = [], model.inputs[0]
    for layer in model.layers:
        if isinstance(layer, layers.InputLayer):
            continue
        if isinstance(layer, layers.Multiply):
            lrn = read_lrn(output, layer.output)
            if lrn is None:
                return None
            chain.append(LocalResponseNorm(lrn, forms.norm or "band", name=layer.name))
        elif layer.input is not output:
            return None
        elif forms.conv1 and BlockConv2D.fits(layer):
            chain.append(BlockConv2D(layer))
        elif forms.pool and SlicedMaxPool.fits(layer):
            chain.append(SlicedMaxPool(dtype=layer.dtype_policy, name=layer.name))
        else:
            chain.append(layer)
        output = layer.output
        if output is result:
            return chain
    return None
