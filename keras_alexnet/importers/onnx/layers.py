"""Layers of which each is a single node."""

import numpy as np

from keras_alexnet.importers.arrays import as_written, shape_text
from keras_alexnet.importers.chain import Convolution, Dropout, LocalResponseNorm, MaxPool, Padding
from keras_alexnet.importers.onnx.file import ints_text, text, truncate
from keras_alexnet.importers.onnx.graph import Graph, Node

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
