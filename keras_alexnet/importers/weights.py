"""The weights of an imported AlexNet as Keras has them."""

import math

import numpy as np

from keras_alexnet.importers import chain
from keras_alexnet.importers.alexnet import AlexNetMatch


def layer_weights(found: AlexNetMatch, channel_order: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias of a layer as Keras has them, float32, for RGB pixels and without groups.

    Args:
        found: the network.
        channel_order: of the file: "rgb" or "bgr".
        name: "conv1" to "fc8".
    """
    source = found.sources[name]
    kernel = source.kernel
    if isinstance(source, chain.Convolution):
        kernel = _without_groups(source)
        if name == "conv1" and channel_order == "bgr":
            kernel = kernel[:, :, ::-1]
    elif name == "fc6":
        channels = found.preset.filters[-1]
        side = math.isqrt(len(kernel) // channels)
        kernel = kernel.reshape(channels, side, side, -1).transpose(1, 2, 0, 3).reshape(kernel.shape)
    bias = np.zeros(kernel.shape[-1]) if source.bias is None else source.bias
    # PyTorch takes the arrays themselves, so they must not be views of the file.
    kernel, bias = (np.require(array, np.float32, ["C", "W"]) for array in (kernel, bias))
    return kernel, bias


def _without_groups(layer: chain.Convolution) -> np.ndarray:
    """The kernel (height, width, in, out) of the same convolution in one group: zeros from each group to the others."""
    filters, inputs, height, width = layer.kernel.shape
    each = filters // layer.groups
    kernel = np.zeros((height, width, inputs * layer.groups, filters), np.float32)
    for group in range(layer.groups):
        out = slice(group * each, (group + 1) * each)
        kernel[:, :, group * inputs : (group + 1) * inputs, out] = layer.kernel[out].transpose(2, 3, 1, 0)
    return kernel
