"""Layers of which each is a single node."""

import numpy as np

from keras_alexnet.importers.arrays import as_written, shape_text
from keras_alexnet.importers.chain import Convolution, Dropout, LocalResponseNorm, MaxPool, Padding, Scaling
from keras_alexnet.importers.onnx.file import ints_text, text, truncate
from keras_alexnet.importers.onnx.graph import Graph, Node

ARITHMETIC = ("Add", "Div", "Mul", "Sub")
NO_PADDING = ((0, 0), (0, 0))


def convolution_layer(graph: Graph, node: Node, kernel: np.ndarray) -> Convolution:
    """A convolution with that kernel."""
    window = kernel.shape[2:]
    if graph.pair(node, "kernel_shape", window) != window:
        raise graph.error(node, f"has a kernel of the shape {shape_text(kernel.shape)}", "what its kernel_shape says")
    _require_no_dilation(graph, node)
    groups = node.attributes.get("group", 1)
    if groups < 1 or kernel.shape[0] % groups:
        raise graph.error(node, f"has {groups} groups", f"a divisor of its {kernel.shape[0]} filters")
    bias = graph.weights(node, 2, axes=1)
    if bias is not None and len(bias) != len(kernel):
        raise graph.error(node, f"has {len(bias)} biases", f"{len(kernel)}, one for each filter")
    strides = graph.pair(node, "strides", (1, 1))
    padding = _padding(graph, node, window, strides)
    return Convolution(node.layer_name(weight=1), kernel, bias, strides, padding, groups)


def max_pool_layer(graph: Graph, node: Node) -> MaxPool:
    """A max pooling."""
    window = graph.pair(node, "kernel_shape")
    strides = graph.pair(node, "strides", (1, 1))
    _require_no_dilation(graph, node)
    padding = _padding(graph, node, window, strides)
    rounds_up = node.attributes.get("ceil_mode", 0)
    if padding == NO_PADDING:
        padding = "caffe" if rounds_up else "valid"
    elif rounds_up:
        raise graph.error(node, "has both ceil_mode and padding", "one of them")
    return MaxPool(node.layer_name(), window, strides, padding)


def lrn_operator_layer(graph: Graph, node: Node) -> LocalResponseNorm:
    """A normalization that is ONNX's own operator."""
    size = node.attributes["size"]
    if size < 1:
        raise graph.error(node, f"has size {size}", "1 or above")
    alpha, beta, k = (graph.finite(node, *setting) for setting in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    return LocalResponseNorm(node.layer_name(), size, alpha, beta, k)


def dropout_layer(graph: Graph, node: Node) -> Dropout:
    """Dropout, whose rate is an attribute in old opsets and an input in new ones."""
    rate = graph.finite(node, "ratio", 0.5)
    given = graph.weights(node, 1)
    if given is not None:
        if given.size != 1:
            raise graph.error(node, f"has {given.size:,} ratios", "one")
        rate = as_written(given.item())
    if not 0 <= rate < 1:
        raise graph.error(node, f"has the ratio {rate}", "0 up to but not including 1")
    return Dropout(node.layer_name(), rate)


def require_no_average(graph: Graph, node: Node) -> None:
    """Refuses an average pool, but for one of single pixels: how an adaptive pool of 6 × 6 to 6 × 6 is exported."""
    window, strides = graph.pair(node, "kernel_shape"), graph.pair(node, "strides", (1, 1))
    if window != (1, 1) or strides != (1, 1) or _padding(graph, node, window, strides) != NO_PADDING:
        raise graph.error(
            node,
            f"averages over {window[0]} × {window[1]} pixels",
            "one over 1 × 1, as adaptive pooling is exported for images of AlexNet's size",
        )


def require_float_cast(graph: Graph, node: Node) -> None:
    """Refuses casts of activations to integers."""
    from onnx import TensorProto

    to = node.attributes["to"]
    if to not in [getattr(TensorProto, name) for name in ("FLOAT16", "BFLOAT16", "FLOAT", "DOUBLE")]:
        raise graph.error(node, f"casts to ONNX's type {to}", "a float type")


def _padding(graph: Graph, node: Node, window: tuple[int, int], strides: tuple[int, int]) -> Padding:
    """The padding of a node, whose windows and strides are given."""
    rule = text(node.attributes.get("auto_pad", "NOTSET"))
    if rule in ("SAME_UPPER", "SAME_LOWER"):
        if strides == (1, 1) and all(size % 2 for size in window):
            return tuple((size // 2, size // 2) for size in window)
        return rule.lower()
    if rule == "VALID":
        return NO_PADDING
    pads = node.attributes.get("pads", (0, 0, 0, 0))
    if rule not in ("NOTSET", "") or len(pads) != 4 or min(pads) < 0:
        raise graph.error(
            node,
            f"has auto_pad {truncate(rule)} and pads {ints_text(pads)}",
            "NOTSET and four numbers of 0 or above, or SAME_UPPER, SAME_LOWER or VALID",
        )
    top, left, bottom, right = pads
    return (top, bottom), (left, right)


def _require_no_dilation(graph: Graph, node: Node) -> None:
    dilations = graph.pair(node, "dilations", (1, 1))
    if dilations != (1, 1):
        raise graph.error(node, f"has dilations {ints_text(dilations)}", "1, as AlexNet has none")


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
