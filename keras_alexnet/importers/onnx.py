"""ONNX models (`.onnx`) as chains of layers: those of the ONNX model zoo, of PyTorch's and of CNTK's exporters.

What the operators mean, and what changed from opset to opset:
https://github.com/onnx/onnx/blob/main/docs/Operators.md and Changelog.md.
"""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from keras_alexnet.errors import UserError
from keras_alexnet.importers.chain import (
    Chain,
    Convolution,
    Dense,
    Dropout,
    Layer,
    LocalResponseNorm,
    MaxPool,
    Padding,
    Relu,
    Scaling,
    Softmax,
)
from keras_alexnet.importers.onnx_graph import (
    ONLY_ALEXNET,
    Graph,
    Node,
    ints_text,
    load_model,
    shape_text,
    shown,
    text,
)
from keras_alexnet.importers.protobuf import as_written
from keras_alexnet.presets import WEIGHTED

# Far more than any export of AlexNet has from the image to the output.
_MAX_CHAIN = 200

# What they compute a shape with, out of an activation's.
_SHAPE_OPS = ("Gather", "Slice", "Squeeze", "Unsqueeze", "Concat", "Cast", "Identity", "Mul")

_NO_PADDING = ((0, 0), (0, 0))


def read_onnx(path: str | os.PathLike) -> Chain:
    """Reads an ONNX model as a chain; weights in other files of its folder are read too.

    Returns:
        Layers from the only input to the only output. Weights of float16, bfloat16 and float64 are given as float32.
        Arithmetic with constants ahead of the first convolution becomes a `Scaling` each, in float64.

    Raises:
        UserError: onnx is not installed, or the file cannot be read, is something else, is damaged, or has what no
            chain of AlexNet's layers can have: branches, other operators, control flow, functions.
    """
    path = os.fspath(path)
    model = load_model(path)
    graph = Graph(model, path)
    nodes = _nodes_to_output(graph)
    channels_last = any(node.op == "Transpose" for node, _ in nodes)
    builder = _Builder(graph, channels_last)
    for node, main in nodes:
        builder.add(node, main)
    producer = shown(text(model.producer_name))
    sizes = graph.image_shape and (graph.image_shape[:2] if channels_last else graph.image_shape[1:])
    return Chain(
        path,
        f"ONNX model (by {producer})" if producer else "ONNX model",
        tuple(builder.layers),
        image_size=sizes if sizes and all(sizes) else None,
        channel_order=_channel_order(model),
    )


def _channel_order(model) -> str | None:
    """That of the pixels, which is in the metadata of this project's exports; older ones only have their producer."""
    metadata = {text(entry.key): text(entry.value) for entry in model.metadata_props}
    order = metadata.get("channel_order", "rgb" if model.producer_name == "keras_alexnet" else "").lower()
    return order if order in ("bgr", "rgb") else None


def _nodes_to_output(graph: Graph) -> list[tuple[Node, int]]:
    """The nodes from the image to the output, each with the index of the input by which the image reaches it."""
    found: list[tuple[Node, int]] = []
    name = graph.output
    while name != graph.image:
        node = graph.producers.get(name)
        if node is None or graph.is_constant(name):
            raise UserError(
                f"{graph.path}: the output does not depend on the image {shown(graph.image)!r} alone, but on "
                f"{shown(name)!r}. Expected a chain of layers. {ONLY_ALEXNET}"
            )
        if node.op not in _ADDERS:
            raise graph.error(
                node, "is no layer of an AlexNet", f"one of {', '.join(sorted(_ADDERS))}. {ONLY_ALEXNET}".rstrip(".")
            )
        if name != node.outputs[0]:
            raise graph.error(node, f"gives {shown(name)!r} beside its result, which is used", "the result alone")
        if len(found) == _MAX_CHAIN:
            raise graph.error(node, f"has {_MAX_CHAIN} nodes after it", f"an AlexNet. {ONLY_ALEXNET}".rstrip("."))
        main = 0
        if node.op in _ARITHMETIC:
            varying = [at for at, given in enumerate(node.inputs) if not graph.is_constant(given)]
            if len(node.inputs) != 2 or len(varying) != 1:
                raise graph.error(
                    node,
                    f"combines {_names(node.inputs)}, where branches meet",
                    f"an activation and a constant: an AlexNet has no branches. {ONLY_ALEXNET}".rstrip("."),
                )
            main = varying[0]
        found.append((node, main))
        name = node.inputs[main]
    return found[::-1]


class _Builder:
    """Makes the layers of a chain.

    Attributes:
        layers: those so far.
    """

    def __init__(self, graph: Graph, channels_last: bool):
        self.layers: list[Layer] = []
        self._graph = graph
        # Whether the image, so far, is (batch, row, column, channel).
        self._channels_last = channels_last
        # Whether activations are (batch, numbers) instead of images, and how many numbers, if it is known.
        self._is_flat = False
        self._features: int | None = None

    def add(self, node: Node, main: int) -> None:
        """Adds what a node stands for; `main` is the index of the input by which the image reaches it."""
        if self.layers and isinstance(self.layers[-1], Softmax) and node.op not in _TRANSPARENT:
            raise self._graph.error(node, "comes after Softmax", "Softmax to be the last layer")
        if self._is_flat and node.op in _OF_IMAGES:
            raise self._graph.error(node, "comes after the images were made flat", "it ahead of Flatten or Reshape")
        if not self._is_flat and node.op in _OF_FLAT:
            raise self._graph.error(node, "is given images", "Flatten or Reshape to (batch, numbers) ahead of it")
        if node.op in _ARITHMETIC:
            self._add_arithmetic(node, main)
        else:
            _ADDERS[node.op](self, node)

    def _add_convolution(self, node: Node) -> None:
        graph = self._graph
        kernel = self._kernel(node, axes=4)
        window = kernel.shape[2:]
        if graph.pair(node, "kernel_shape", window) != window:
            raise graph.error(
                node, f"has a kernel of the shape {shape_text(kernel.shape)}", "what its kernel_shape says"
            )
        self._require_no_dilation(node)
        groups = node.attributes.get("group", 1)
        if groups < 1 or kernel.shape[0] % groups:
            raise graph.error(node, f"has {groups} groups", f"a divisor of its {kernel.shape[0]} filters")
        bias = graph.weights(node, 2, axes=1)
        if bias is not None and len(bias) != len(kernel):
            raise graph.error(node, f"has {len(bias)} biases", f"{len(kernel)}, one for each filter")
        strides = graph.pair(node, "strides", (1, 1))
        padding = self._padding(node, window, strides)
        self.layers.append(Convolution(node.layer_name(weight=1), kernel, bias, strides, padding, groups))

    def _kernel(self, node: Node, axes: int) -> np.ndarray:
        """A layer's kernel, for as many layers as AlexNet has: a file may name the same numbers any number of times."""
        weighted = sum(isinstance(layer, Convolution | Dense) for layer in self.layers)
        if weighted == len(WEIGHTED):
            raise self._graph.error(node, f"comes after {weighted} layers with weights", "no more, as AlexNet has")
        kernel = self._graph.weights(node, 1, axes)
        if kernel is None:
            raise self._graph.error(node, "has no kernel", "one")
        return kernel

    def _add_relu(self, node: Node) -> None:
        self.layers.append(Relu(node.layer_name()))

    def _add_lrn(self, node: Node) -> None:
        graph = self._graph
        size = node.attributes["size"]
        if size < 1:
            raise graph.error(node, f"has size {size}", "1 or above")
        alpha, beta, k = (graph.finite(node, *setting) for setting in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
        self.layers.append(LocalResponseNorm(node.layer_name(), size, alpha, beta, k))

    def _add_max_pool(self, node: Node) -> None:
        graph = self._graph
        window = graph.pair(node, "kernel_shape")
        strides = graph.pair(node, "strides", (1, 1))
        self._require_no_dilation(node)
        padding = self._padding(node, window, strides)
        rounds_up = node.attributes.get("ceil_mode", 0)
        if padding == _NO_PADDING:
            padding = "caffe" if rounds_up else "valid"
        elif rounds_up:
            raise graph.error(node, "has both ceil_mode and padding", "one of them")
        self.layers.append(MaxPool(node.layer_name(), window, strides, padding))

    def _add_average_pool(self, node: Node) -> None:
        """An adaptive average pool of 6 × 6 to 6 × 6 is exported so: nothing is to be done."""
        graph = self._graph
        window, strides = graph.pair(node, "kernel_shape"), graph.pair(node, "strides", (1, 1))
        if window != (1, 1) or strides != (1, 1) or self._padding(node, window, strides) != _NO_PADDING:
            raise graph.error(
                node,
                f"averages over {window[0]} × {window[1]} pixels",
                "one over 1 × 1, as adaptive pooling is exported for images of AlexNet's size",
            )

    def _add_gemm(self, node: Node) -> None:
        graph = self._graph
        for name, default in (("alpha", 1.0), ("beta", 1.0), ("transA", 0)):
            value = node.attributes.get(name, default)
            if value != default:
                raise graph.error(node, f"has {name} {value}", f"{default}")
        kernel = self._kernel(node, axes=2)
        self._add_dense(node, kernel.T if node.attributes.get("transB", 0) else kernel)
        bias = graph.weights(node, 2)
        if bias is not None:
            self._set_bias(node, bias)

    def _add_matmul(self, node: Node) -> None:
        self._add_dense(node, self._kernel(node, axes=2))

    def _add_dense(self, node: Node, kernel: np.ndarray) -> None:
        if self._features not in (None, kernel.shape[0]):
            raise self._graph.error(
                node, f"has a kernel for {kernel.shape[0]:,} inputs", f"one for {self._features:,}, as come from before"
            )
        self.layers.append(Dense(node.layer_name(weight=1), kernel, None))
        self._features = kernel.shape[1]

    def _add_dropout(self, node: Node) -> None:
        graph = self._graph
        rate = graph.finite(node, "ratio", 0.5)
        given = graph.weights(node, 1)
        if given is not None:
            if given.size != 1:
                raise graph.error(node, f"has {given.size:,} ratios", "one")
            rate = as_written(given.item())
        if not 0 <= rate < 1:
            raise graph.error(node, f"has the ratio {rate}", "0 up to but not including 1")
        self.layers.append(Dropout(node.layer_name(), rate))

    def _add_softmax(self, node: Node) -> None:
        axis = node.attributes.get("axis", 1)
        if axis not in (1, -1):
            raise self._graph.error(node, f"is along axis {axis}", "1, the classes")
        self.layers.append(Softmax(node.layer_name()))

    def _add_identity(self, node: Node) -> None:
        """Nothing is to be done."""

    def _add_cast(self, node: Node) -> None:
        from onnx import TensorProto

        to = node.attributes["to"]
        if to not in [getattr(TensorProto, name) for name in ("FLOAT16", "BFLOAT16", "FLOAT", "DOUBLE")]:
            raise self._graph.error(node, f"casts to ONNX's type {to}", "a float type")

    def _add_flatten(self, node: Node) -> None:
        axis = node.attributes.get("axis", 1)
        if axis not in (1, -1 if self._is_flat else -3):
            raise self._graph.error(node, f"has axis {axis}", "1, which leaves (batch, numbers)")
        self._is_flat = True

    def _add_squeeze(self, node: Node) -> None:
        axes = self._graph.integers(node, "axes", 1)
        if axes is not None and sorted(axis % 4 for axis in axes) != [2, 3]:
            raise self._graph.error(node, f"takes the axes {ints_text(axes)} away", "2 and 3, rows and columns")
        self._is_flat = True

    def _add_transpose(self, node: Node) -> None:
        perm = node.attributes.get("perm", [])
        if not self._channels_last or perm != [0, 3, 1, 2] or not all(isinstance(x, Scaling) for x in self.layers):
            raise self._graph.error(
                node,
                f"puts axes into the order {ints_text(perm)}",
                "0, 3, 1, 2, once, ahead of the first convolution: images to channels first",
            )
        self._channels_last = False

    def _add_reshape(self, node: Node) -> None:
        graph = self._graph
        if len(node.inputs) > 1 and not graph.is_constant(node.inputs[1]):
            # The numbers of each image, for any number of them; the dense layer after it tells how many there are.
            self._require_shape(node)
            self._is_flat = True
            return
        shape = graph.integers(node, "shape", 1)
        batch, features = shape if shape is not None and len(shape) == 2 else (None, None)
        takes_all = features is not None and (features == -1 or features > 0)
        if not takes_all or batch not in (0, 1, graph.batch, -1 if features > 0 else 0):
            raise graph.error(
                node, f"makes the shape {ints_text(shape)}", "two sizes: the batch, and all the numbers of an image"
            )
        if features > 0:
            if self._features not in (None, features):
                raise graph.error(node, f"makes rows of {features:,} numbers", f"{self._features:,}")
            self._features = features
        self._is_flat = True

    def _require_shape(self, node: Node) -> None:
        """Refuses a shape that is computed out of more than shapes and constants."""
        graph = self._graph
        seen, names = set(), [node.inputs[1]]
        while names:
            name = names.pop()
            if not name or name in seen or graph.is_constant(name):
                continue
            seen.add(name)
            producer = graph.producers.get(name)
            if producer is not None and producer.op == "Shape":
                continue
            if producer is None or producer.op not in _SHAPE_OPS:
                raise graph.error(node, f"takes a shape that depends on {shown(name)!r}", "a known shape")
            names += producer.inputs

    def _add_arithmetic(self, node: Node, main: int) -> None:
        if not any(isinstance(layer, Convolution | Dense) for layer in self.layers):
            self._add_scaling(node, main)
            return
        last = self.layers[-1]
        if node.op != "Add" or not isinstance(last, Convolution | Dense) or last.bias is not None:
            raise self._graph.error(
                node,
                "changes activations",
                "it ahead of the first convolution, or as the bias of a layer that has none yet",
            )
        self._set_bias(node, self._graph.weights(node, 1 - main))

    def _set_bias(self, node: Node, values: np.ndarray) -> None:
        """Gives the last layer, which has none, a bias that is added to all of its output."""
        layer = self.layers[-1]
        units, rank = (layer.kernel.shape[0], 4) if isinstance(layer, Convolution) else (layer.kernel.shape[1], 2)
        expected = (1, units, 1, 1)[:rank]
        if (rank == 2) != self._is_flat or self._aligned(node, values, rank).shape != expected:
            raise self._graph.error(
                node,
                f"adds numbers of the shape {shape_text(values.shape)}",
                f"a bias of the shape {shape_text(expected)}, one for each of the units",
            )
        self.layers[-1] = dataclasses.replace(layer, bias=values.reshape(-1))

    def _add_scaling(self, node: Node, main: int) -> None:
        graph = self._graph
        graph.weights(node, 1 - main)  # Refuses integers.
        value = self._per_channel(node, graph.constant(node, 1 - main).astype(np.float64))
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
        self.layers.append(Scaling(node.layer_name(), scale, offset))

    def _per_channel(self, node: Node, values: np.ndarray) -> float | np.ndarray:
        """A number, or one for each channel."""
        values = self._aligned(node, values, 4)
        if values.ndim != 4 or values.shape[0] != 1:
            raise self._graph.error(
                node, f"takes numbers of the shape {shape_text(values.shape)}", "one, or one for each channel"
            )
        each = values[0].transpose(2, 0, 1) if self._channels_last else values[0]
        channels = each[:, 0, 0].copy()  # Of the mean image, where it is one, nothing else is kept.
        if not np.array_equal(each, np.broadcast_to(channels[:, None, None], each.shape), equal_nan=True):
            raise self._graph.error(
                node,
                f"takes numbers of the shape {shape_text(values.shape)} that differ from pixel to pixel, such as a "
                "mean image",
                "one for each channel: replace the mean image by its mean",
            )
        return float(channels[0]) if len(channels) == 1 else channels

    def _aligned(self, node: Node, values: np.ndarray, rank: int) -> np.ndarray:
        """`values` with that many axes, as they are broadcast; unchanged if they have more.

        That is by the last axis; before opset 7 by the attribute `axis`.
        """
        axis = node.attributes.get("axis") if node.op in _ARITHMETIC else None
        before = rank - values.ndim if axis is None or not 0 <= axis <= rank - values.ndim else axis
        after = rank - values.ndim - before
        return values.reshape((1,) * before + values.shape + (1,) * after) if rank > values.ndim else values

    def _padding(self, node: Node, window: tuple[int, int], strides: tuple[int, int]) -> Padding:
        graph = self._graph
        rule = text(node.attributes.get("auto_pad", "NOTSET"))
        if rule in ("SAME_UPPER", "SAME_LOWER"):
            if strides == (1, 1) and all(size % 2 for size in window):
                return tuple((size // 2, size // 2) for size in window)
            return rule.lower()
        if rule == "VALID":
            return _NO_PADDING
        pads = node.attributes.get("pads", (0, 0, 0, 0))
        if rule not in ("NOTSET", "") or len(pads) != 4 or min(pads) < 0:
            raise graph.error(
                node,
                f"has auto_pad {shown(rule)} and pads {ints_text(pads)}",
                "NOTSET and four numbers of 0 or above, or SAME_UPPER, SAME_LOWER or VALID",
            )
        top, left, bottom, right = pads
        return (top, bottom), (left, right)

    def _require_no_dilation(self, node: Node) -> None:
        dilations = self._graph.pair(node, "dilations", (1, 1))
        if dilations != (1, 1):
            raise self._graph.error(node, f"has dilations {ints_text(dilations)}", "1, as AlexNet has none")


_ARITHMETIC = ("Add", "Div", "Mul", "Sub")
_TRANSPARENT = ("Cast", "Flatten", "Identity", "Reshape")
_OF_IMAGES = ("AveragePool", "Conv", "LRN", "MaxPool", "Squeeze")
_OF_FLAT = ("Gemm", "MatMul", "Softmax")

_ADDERS = {
    **dict.fromkeys(_ARITHMETIC, None),  # They need to know which input is which.
    "AveragePool": _Builder._add_average_pool,
    "Cast": _Builder._add_cast,
    "Conv": _Builder._add_convolution,
    "Dropout": _Builder._add_dropout,
    "Flatten": _Builder._add_flatten,
    "Gemm": _Builder._add_gemm,
    "Identity": _Builder._add_identity,
    "LRN": _Builder._add_lrn,
    "MatMul": _Builder._add_matmul,
    "MaxPool": _Builder._add_max_pool,
    "Relu": _Builder._add_relu,
    "Reshape": _Builder._add_reshape,
    "Softmax": _Builder._add_softmax,
    "Squeeze": _Builder._add_squeeze,
    "Transpose": _Builder._add_transpose,
}


def _names(names: Sequence[str]) -> str:
    return " and ".join(repr(shown(name)) for name in names[:3]) or "nothing"
