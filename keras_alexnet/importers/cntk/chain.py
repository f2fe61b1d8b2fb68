"""CNTK's networks as chains of layers."""

import dataclasses
import os

import numpy as np

from keras_alexnet.importers import chain
from keras_alexnet.importers.arrays import as_float32
from keras_alexnet.importers.chain import Chain
from keras_alexnet.importers.cntk.convolution import read_convolution, read_pool, read_sliced_convolution
from keras_alexnet.importers.cntk.graph import CntkFunction, CntkGraph
from keras_alexnet.importers.cntk.lrn import read_normalization
from keras_alexnet.importers.cntk.path import IDENTITIES, Path, bias_of
from keras_alexnet.importers.cntk.reader import read_cntk_model

_SCALINGS = ("ElementTimes", "Minus", "Negate", "PerDimMeanVarNormalization", "Plus")
_ALONE = (*IDENTITIES, "Dropout", "Pooling", "ReLU", "Reshape")


def read_cntk_chain(path: str | os.PathLike) -> Chain:
    """Reads a CNTK model of either format as a chain from the pixels to the logits, or to probabilities it has.

    Labels, losses and metrics of a training checkpoint are left out. The names are those of blocks or functions, or
    uids.

    Raises:
        UserError: the file cannot be read, or the network is not a chain of the layers of `chain`.
    """
    return chain_of_graph(read_cntk_model(path))


def chain_of_graph(graph: CntkGraph) -> Chain:
    """Finds the chain in a graph by shapes and operations, not by names."""
    return _Translator(graph).translate()


class _Translator:
    """Follows the image through a graph."""

    def __init__(self, graph: CntkGraph):
        self._path = Path(graph)
        self._layers: list[chain.Layer] = []
        self._channels = self._path.image.shape[0]
        self._is_flat = False

    def translate(self) -> Chain:
        path = self._path
        at = path.image.uid
        while at != path.end:
            users = path.consumers(at)
            if any(user.op == "Slice" for user in users):
                self._check_is_image(users[0])
                at = self._add_with_bias(*read_sliced_convolution(path, users, at, self._channels))
            elif len(users) == 1:
                at = self._step(users[0], at)
            else:
                self._check_is_image(users[0])
                layer, at = read_normalization(path, at)
                self._layers.append(layer)
        self._layers += path.probabilities()
        kind = f"CNTK model (version {path.graph.version})"
        height, width = path.image.shape[1:]
        size = (height, width) if min(height, width) > 0 else None
        return Chain(path.graph.path, kind, tuple(self._layers), size)

    def _step(self, function: CntkFunction, at: str) -> str:
        """Adds the layer that begins with a function; gives the uid of its result."""
        path, name = self._path, function.label
        if function.op in _ALONE and function.inputs != (at,):
            raise path.graph.error(function, "does not take what the layer before it gives, and nothing else")
        match function.op:
            case op if op in IDENTITIES:
                return function.uid
            case op if op in _SCALINGS and all(isinstance(layer, chain.Scaling) for layer in self._layers):
                self._layers.append(_scaling(path, function, at))
            case "Convolution":
                self._check_is_image(function)
                return self._add_with_bias(read_convolution(path, function, at, self._channels), function)
            case "ReLU":
                self._layers.append(chain.Relu(name))
            case "Pooling":
                self._check_is_image(function)
                self._layers.append(read_pool(path, function))
            case "Dropout":
                rate = function.attributes.get("dropoutRate")
                is_rate = isinstance(rate, int | float) and 0 <= rate < 1
                path.graph.refuse(function, "dropoutRate", rate is not None and not is_rate)
                self._layers.append(chain.Dropout(name, rate))
            case "Reshape":
                # It moves nothing in memory, and dense layers take all there is.
                self._is_flat = True
            case "Times":
                return self._dense(function, at)
            case _:
                raise path.graph.error(function, "is not read there")
        return function.uid

    def _add_with_bias(self, layer: chain.Convolution | chain.Dense, last: CntkFunction) -> str:
        """Adds a layer with the bias that is added to what `last` gives, and gives the uid of the sum."""
        is_image = isinstance(layer, chain.Convolution)
        shape = (len(layer.kernel), 1, 1) if is_image else layer.kernel.shape[1:]
        bias, end = bias_of(self._path, last, shape)
        self._layers.append(dataclasses.replace(layer, bias=bias))
        self._channels, self._is_flat = shape[0], not is_image
        return end

    def _dense(self, function: CntkFunction, at: str) -> str:
        path, attributes = self._path, function.attributes
        kernel = path.weights(function, at)
        path.graph.refuse(function, "outputRank", attributes.get("outputRank", 1) != 1)
        # More than 0 axes left over of the input.
        path.graph.refuse(function, "inferInputRankToMap", attributes.get("inferInputRankToMap", 0) not in (0, -1))
        if kernel.ndim < 2:
            raise path.graph.error(function, f"has weights of {kernel.shape}. Expected (channel, row, column, out)")
        kernel = kernel.reshape(-1, kernel.shape[-1])
        return self._add_with_bias(chain.Dense(function.label, kernel, None), function)

    def _check_is_image(self, function: CntkFunction) -> None:
        if self._is_flat:
            raise self._path.graph.error(function, "comes after a Reshape or a dense layer")


def _scaling(path: Path, function: CntkFunction, at: str) -> chain.Scaling:
    """A function of `_SCALINGS` that takes `at` and numbers."""
    operands = [None if uid == at else path.value(uid) for uid in function.inputs]
    name, is_first = function.label, function.inputs[0] == at
    values = [_per_channel(path, function, value) for value in operands if value is not None]
    match function.op, values, len(operands):
        case "Minus", [value], 2:
            return chain.Scaling(name, 1.0, -value) if is_first else chain.Scaling(name, -1.0, value)
        case "Plus", [value], 2:
            return chain.Scaling(name, 1.0, value)
        case "ElementTimes", [value], 2:
            return chain.Scaling(name, value, 0.0)
        case "Negate", [], 1:
            return chain.Scaling(name, -1.0, 0.0)
        case "PerDimMeanVarNormalization", [mean, scale], 3 if is_first:
            return chain.Scaling(name, scale, -mean * scale)
    raise path.graph.error(function, "does not take only the image and numbers")


def _per_channel(path: Path, function: CntkFunction, value: np.ndarray) -> float | np.ndarray:
    """A number, or one per channel, out of what is combined with an image."""
    if value.size == 1:
        return as_float32(value).item()
    image = path.image.shape
    shape = (1,) * (3 - value.ndim) + value.shape
    sizes = zip(shape, image, strict=True) if len(shape) == 3 else [(0, -1)]
    if not all(size == 1 or size == whole for size, whole in sizes):
        raise path.graph.error(function, f"combines images of {image} with an array of {value.shape}")
    value = value.reshape(shape)
    if not np.array_equal(value, np.broadcast_to(value[:, :1, :1], value.shape), equal_nan=True):
        raise path.graph.error(
            function,
            "combines the image with an array that differs from pixel to pixel, such as a mean image. Expected a "
            "number, or one per channel: take this function out of the model in CNTK, and pass the means of the "
            "channels instead",
        )
    numbers = as_float32(value[:, 0, 0]).astype(np.float64)
    return numbers if len(numbers) > 1 else numbers.item()
