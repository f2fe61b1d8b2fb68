"""Arithmetic with constants ahead of the first convolution: what a network does with pixels."""

import numpy as np

from keras_alexnet.importers.arrays import shape_text
from keras_alexnet.importers.chain import Scaling
from keras_alexnet.importers.onnx.graph import Graph, Node

ARITHMETIC = ("Add", "Div", "Mul", "Sub")


def scaling_layer(graph: Graph, node: Node, main: int, channels_last: bool) -> Scaling:
    """The layer of an operation with a constant, in float64.

    `main` is the index of the input by which the image, in the layout `channels_last`, reaches it.
    """
    graph.weights(node, 1 - main)  # Refuses integers.
    value = _per_channel(graph, node, graph.constant(node, 1 - main).astype(np.float64), channels_last)
    scale, offset = 1.0, 0.0
    with np.errstate(all="ignore"):
        if node.op == "Add":
            offset = value
        elif node.op == "Mul":
            scale = value
        elif node.op == "Sub":
            scale, offset = (1.0, -value) if main == 0 else (-1.0, value)
        elif main == 0:
            scale = np.divide(1.0, value)
        else:
            raise graph.error(node, "divides a constant by the pixels", "pixels divided by a constant")
    if not np.isfinite(scale).all() or not np.isfinite(offset).all():
        raise graph.error(node, "scales pixels by what is not finite", "finite numbers")
    return Scaling(node.layer_name(), scale, offset)


def _per_channel(graph: Graph, node: Node, values: np.ndarray, channels_last: bool) -> float | np.ndarray:
    """A number, or one for each channel."""
    values = aligned(node, values, 4)
    if values.ndim != 4 or values.shape[0] != 1:
        raise graph.error(
            node, f"takes numbers of the shape {shape_text(values.shape)}", "one, or one for each channel"
        )
    each = values[0].transpose(2, 0, 1) if channels_last else values[0]
    channels = each[:, 0, 0].copy()  # Of the mean image, where it is one, nothing else is kept.
    if not np.array_equal(each, np.broadcast_to(channels[:, None, None], each.shape), equal_nan=True):
        raise graph.error(
            node,
            f"takes numbers of the shape {shape_text(values.shape)} that differ from pixel to pixel, such as a mean "
            "image",
            "one for each channel: replace the mean image by its mean",
        )
    return float(channels[0]) if len(channels) == 1 else channels


def aligned(node: Node, values: np.ndarray, rank: int) -> np.ndarray:
    """`values` with that many axes, as they are broadcast; unchanged if they have more.

    That is by the last axis; before opset 7 by the attribute `axis`.
    """
    axis = node.attributes.get("axis") if node.op in ARITHMETIC else None
    before = rank - values.ndim if axis is None or not 0 <= axis <= rank - values.ndim else axis
    after = rank - values.ndim - before
    return values.reshape((1,) * before + values.shape + (1,) * after) if rank > values.ndim else values
