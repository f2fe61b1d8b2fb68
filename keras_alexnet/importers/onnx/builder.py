"""The chain of layers, of the nodes from the image to the output."""

import dataclasses
import math

import numpy as np

from keras_alexnet.importers import chain
from keras_alexnet.importers.arrays import shape_text
from keras_alexnet.importers.onnx import layers
from keras_alexnet.importers.onnx.file import ints_text
from keras_alexnet.importers.onnx.graph import Graph, Node
from keras_alexnet.importers.onnx.lrn import LrnNodes, lrn_layer
from keras_alexnet.importers.onnx.values import DAMAGE, REARRANGING, evaluate, stand_in
from keras_alexnet.presets import WEIGHTED

_CONVOLUTIONS = sum(name.startswith("conv") for name in WEIGHTED)
_DEFAULT_SIZE = (227, 227)

_TRANSPARENT = ("Cast", "Identity", *REARRANGING)
_OF_IMAGES = ("AveragePool", "Conv", "GlobalAveragePool", "LRN", "MaxPool", "ReduceMean")
_OF_FLAT = ("Gemm", "MatMul")
# The operators that are read.
OPERATORS = (*layers.ARITHMETIC, *_TRANSPARENT, *_OF_IMAGES, *_OF_FLAT, "Dropout", "Relu", "Softmax", "Transpose")


class LayerBuilder:
    """Makes the layers of a chain, following the shape of the activations.

    Attributes:
        layers: those so far.
    """

    def __init__(self, graph: Graph, channels_last: bool):
        self.layers: list[chain.Layer] = []
        self._graph = graph
        # Whether the image, so far, is (batch, row, column, channel).
        self._channels_last = channels_last
        sizes = graph.image_shape or (0, 0, 0)
        # Where the file does not say a size, any does that a network computes shapes with.
        self._size_is_known = all(sizes)
        default = (*_DEFAULT_SIZE, 3) if channels_last else (3, *_DEFAULT_SIZE)
        # That of the activation, (batch, channels, rows, columns) or (batch, numbers).
        self._shape = (graph.batch or 1, *(size or other for size, other in zip(sizes, default, strict=True)))
        # Stand-ins for the activations so far, by which computed shapes are followed.
        self._known = {graph.image: stand_in(self._shape)}

    def add(self, node: Node, main: int, lrn: LrnNodes | None) -> None:
        """Adds what a node stands for.

        Args:
            node: the node.
            main: the index of the input by which the image reaches it.
            lrn: the nodes of the normalization that it ends, if it does.
        """
        graph = self._graph
        if self.layers and isinstance(self.layers[-1], chain.Softmax) and node.op not in _TRANSPARENT:
            raise graph.error(node, "comes after Softmax", "Softmax to be the last layer")
        if len(self._shape) != 4 and (lrn or node.op in _OF_IMAGES):
            raise graph.error(node, "comes after the images were made flat", "it ahead of Flatten or Reshape")
        if len(self._shape) != 2 and node.op in _OF_FLAT:
            raise graph.error(node, "is given images", "Flatten or Reshape to (batch, numbers) ahead of it")
        match node.op:
            case _ if lrn:
                self.layers.append(lrn_layer(graph, node, lrn, self._shape, self._known))
            case op if op in layers.ARITHMETIC:
                self._add_arithmetic(node, main)
            case op if op in REARRANGING:
                self._rearrange(node)
            case "Conv":
                self._add_convolution(node)
            case "Gemm":
                self._add_gemm(node)
            case "MatMul":
                self._add_dense(node, self._kernel(node, axes=2))
            case "MaxPool":
                self._add_windows(layers.max_pool_layer(graph, node), self._shape[1])
            case "LRN":
                self.layers.append(layers.lrn_operator_layer(graph, node))
            case "Relu":
                self.layers.append(chain.Relu(node.layer_name()))
            case "Dropout":
                self.layers.append(layers.dropout_layer(graph, node))
            case "Softmax":
                self._add_softmax(node)
            case "Transpose":
                self._transpose(node)
            case "AveragePool":
                layers.require_no_average(graph, node)
            case "GlobalAveragePool" | "ReduceMean":
                self._average(node)
            case "Cast":
                layers.require_float_cast(graph, node)
        self._known[node.outputs[0]] = stand_in(self._shape)

    def _add_convolution(self, node: Node) -> None:
        layer = layers.convolution_layer(self._graph, node, self._kernel(node, axes=4))
        if sum(isinstance(earlier, chain.Convolution) for earlier in self.layers) == _CONVOLUTIONS:
            self._add_covering_convolution(node, layer)
        else:
            self._add_windows(layer, len(layer.kernel))

    def _add_windows(self, layer: chain.Convolution | chain.MaxPool, channels: int) -> None:
        self.layers.append(layer)
        self._shape = (self._shape[0], channels, *chain.output_size(layer, self._shape[2:]))

    def _add_covering_convolution(self, node: Node, layer: chain.Convolution) -> None:
        """A convolution after AlexNet's five, which covers its whole input, is a dense layer."""
        size = self._shape[2:] if self._size_is_known else layer.window
        if layer.window != size or layer.padding != layers.NO_PADDING or layer.groups != 1:
            raise self._graph.error(
                node,
                f"is the sixth convolution or a later one, with a kernel of {shape_text(layer.window)} on "
                f"{shape_text(self._shape[2:])} pixels, padding {layer.padding} and {layer.groups} groups",
                "a dense layer, or a convolution of its whole input, which is one: AlexNet has five others. If the "
                "network is fully convolutional, export it for images of its training's size, such as 227 × 227",
            )
        self.layers.append(chain.Dense(layer.name, layer.kernel.reshape(len(layer.kernel), -1).T, layer.bias))
        self._shape, self._size_is_known = (self._shape[0], len(layer.kernel), 1, 1), True

    def _kernel(self, node: Node, axes: int) -> np.ndarray:
        """A layer's kernel, for as many layers as AlexNet has: a file may name the same numbers any number of times."""
        weighted = sum(isinstance(layer, chain.Convolution | chain.Dense) for layer in self.layers)
        if weighted == len(WEIGHTED):
            raise self._graph.error(node, f"comes after {weighted} layers with weights", "no more, as AlexNet has")
        kernel = self._graph.weights(node, 1, axes)
        if kernel is None:
            raise self._graph.error(node, "has no kernel", "one")
        return kernel

    def _average(self, node: Node) -> None:
        """After a convolution that covers its input, an average over all pixels is of one, and changes nothing."""
        graph = self._graph
        if not self._size_is_known or self._shape[2:] != (1, 1):
            raise graph.error(node, "averages over pixels", "a dense layer, as AlexNet has there")
        if node.op == "ReduceMean":
            axes = graph.integers(node, "axes", 1) or []
            if sorted(axis % 4 for axis in axes) != [2, 3]:
                raise graph.error(node, f"averages over the axes {ints_text(axes)}", "2 and 3, rows and columns")
            if not node.attributes.get("keepdims", 1):
                self._shape = self._shape[:2]

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

    def _add_dense(self, node: Node, kernel: np.ndarray) -> None:
        inputs, features = len(kernel), math.prod(self._shape[1:])
        if self._size_is_known and inputs != features:
            raise self._graph.error(
                node, f"has a kernel for {inputs:,} inputs", f"one for {features:,}, as come from before"
            )
        self.layers.append(chain.Dense(node.layer_name(weight=1), kernel, None))
        self._shape, self._size_is_known = (self._shape[0], kernel.shape[1]), True

    def _add_softmax(self, node: Node) -> None:
        graph, last = self._graph, next((x for x in self.layers[::-1] if not isinstance(x, chain.Dropout)), None)
        # Before opset 13, it is along all axes from that one on.
        axis = node.attributes.get("axis", 1 if graph.opset < 13 else -1)
        if not isinstance(last, chain.Dense) or axis not in (1, 1 - len(self._shape)):
            raise graph.error(node, f"is along axis {axis}", "1, the classes, after a dense layer")
        self.layers.append(chain.Softmax(node.layer_name()))

    def _transpose(self, node: Node) -> None:
        perm = node.attributes.get("perm", [])
        is_first = all(isinstance(layer, chain.Scaling) for layer in self.layers)
        if not self._channels_last or perm != [0, 3, 1, 2] or not is_first:
            raise self._graph.error(
                node,
                f"puts axes into the order {ints_text(perm)}",
                "0, 3, 1, 2, once, ahead of the first convolution: images to channels first",
            )
        self._channels_last = False
        self._shape = tuple(self._shape[axis] for axis in perm)

    def _rearrange(self, node: Node) -> None:
        """Flatten, Reshape and their like, which make a row of numbers out of each image, or change nothing."""
        batch = self._shape[0]
        try:
            shape = evaluate(self._graph, node.outputs[0], self._known).shape
        except DAMAGE as error:
            problem = f"makes a shape that cannot be computed: {error}"
            raise self._graph.error(node, problem, "(batch, numbers)") from None
        if node.op == "Squeeze" and batch == 1 and shape[:1] != (1,):
            shape = (1, *shape)
        is_row = len(shape) > 1 and shape[:2] == (batch, math.prod(self._shape[1:]))
        if not is_row and shape != self._shape:
            raise self._graph.error(
                node,
                f"makes the shape {ints_text(shape)} of {ints_text(self._shape)}",
                "(batch, numbers): a row of all the numbers of each image",
            )
        self._shape = shape

    def _add_arithmetic(self, node: Node, main: int) -> None:
        if not any(isinstance(layer, chain.Convolution | chain.Dense) for layer in self.layers):
            self.layers.append(layers.scaling_layer(self._graph, node, main, self._channels_last))
            return
        last = self.layers[-1]
        if node.op != "Add" or not isinstance(last, chain.Convolution | chain.Dense) or last.bias is not None:
            raise self._graph.error(
                node,
                "changes activations",
                "it ahead of the first convolution, or as the bias of a layer that has none yet",
            )
        self._set_bias(node, self._graph.weights(node, 1 - main))

    def _set_bias(self, node: Node, values: np.ndarray) -> None:
        """Gives the last layer, which has none, a bias that is added to all of its output."""
        layer = self.layers[-1]
        units, rank = layer.kernel.shape[0 if isinstance(layer, chain.Convolution) else 1], len(self._shape)
        expected = (1, units, 1, 1)[:rank]
        if layers.aligned(node, values, rank).shape != expected:
            raise self._graph.error(
                node,
                f"adds numbers of the shape {shape_text(values.shape)}",
                f"a bias of the shape {shape_text(expected)}, one for each of the units",
            )
        self.layers[-1] = dataclasses.replace(layer, bias=values.reshape(-1))
