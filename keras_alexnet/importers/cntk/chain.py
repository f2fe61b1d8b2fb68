"""CNTK's networks as chains of layers."""

import dataclasses
import itertools
import os
from collections.abc import Iterable

import numpy as np

from keras_alexnet.errors import UserError
from keras_alexnet.importers import chain
from keras_alexnet.importers.chain import Chain
from keras_alexnet.importers.cntk import windows
from keras_alexnet.importers.cntk.graph import CntkFunction, CntkGraph, CntkVariable
from keras_alexnet.importers.cntk.lrn import read_normalization
from keras_alexnet.importers.cntk.reader import read_cntk_model
from keras_alexnet.importers.cntk.windows import (
    EXPECTED,
    Windows,
    check_is_plain,
    checked,
    described,
    label,
    read_windows,
)

_IDENTITIES = ("NoOp", "Pass", "StopGradient")
_ALONE = (*_IDENTITIES, "Dropout", "Pooling", "ReLU", "Reshape")
_SCALINGS = ("ElementTimes", "Minus", "Negate", "PerDimMeanVarNormalization", "Plus")
# Functions of the logits alone that are in losses and metrics.
_PARTS_OF_MEASURES = ("Hardmax", "LogSoftmax", "ReduceElements", "Softmax")

# The axis of channels, in CNTK's order; also as CNTK counts it from the end.
_CHANNEL_AXIS = (2, -1)

# ImageLayoutKind, in version 1 files: the order of axes before cuDNN, channels first in CNTK's order.
_HWC = 0


def read_cntk_chain(path: str | os.PathLike) -> Chain:
    """Reads a CNTK model of either format as a chain from the pixels to the logits, or to probabilities it has.

    Labels, losses and metrics of a training checkpoint are left out. The names are those of blocks or functions, or
    uids.

    Raises:
        UserError: as `read_cntk_model`; or the network is no chain, or has other layers than those of `chain`.
    """
    return chain_of_graph(read_cntk_model(path))


def chain_of_graph(graph: CntkGraph) -> Chain:
    """Finds the chain in a graph; what it is made of is told by shapes and operations, not by names.

    Raises:
        UserError: as `read_cntk_chain`.
    """
    return _Translator(graph).translate()


class _Translator:
    """Follows the image through a graph."""

    def __init__(self, graph: CntkGraph):
        self._graph = graph
        self._users: dict[str, list[CntkFunction]] = {}
        for function in graph.functions.values():
            for uid in dict.fromkeys(function.inputs):
                self._users.setdefault(uid, []).append(function)
        self._image, self._end = self._find_ends()
        needed = self._ancestors(self._end)
        self._order = [function for uid, function in graph.functions.items() if uid in needed]
        self._place = {function.uid: place for place, function in enumerate(self._order)}
        self._layers: list[chain.Layer] = []
        self._channels = self._image.shape[0]
        self._is_flat = False

    def translate(self) -> Chain:
        at = self._image.uid
        while at != self._end:
            users = self._consumers(at)
            if any(user.op == "Slice" for user in users):
                at = self._convolution_of_slices(users, at)
            elif len(users) == 1:
                at = self._step(users[0], at)
            else:
                at = self._normalization(at)
        self._layers += self._probabilities()
        kind = f"CNTK model (version {self._graph.version})"
        height, width = self._image.shape[1:]
        size = (height, width) if min(height, width) > 0 else None
        return Chain(self._graph.path, kind, tuple(self._layers), size)

    # The ends of the chain.

    def _find_ends(self) -> tuple[CntkVariable, str]:
        """The input with the image, and the uid of the logits."""
        path = self._graph.path
        images = [v for v in self._graph.variables.values() if v.kind == "input" and len(v.shape) == 3]
        if not images:
            shapes = [str(v.shape) for v in self._graph.variables.values() if v.kind == "input"][:8]
            raise UserError(
                f"{path} has no input of three axes, but {', '.join(shapes) or 'none at all'}. Expected images "
                "(channel, row, column), as an AlexNet of CNTK takes them: 3 × 227 × 227."
            )
        seen = self._descendants(v.uid for v in images)
        dense = [f for f in self._graph.functions.values() if self._is_dense(f) and f.inputs[1] in seen]
        # Losses may have some, too.
        measures = self._measures(images)
        dense = [f for f in dense if f.uid not in measures] or dense
        if not dense:
            raise UserError(
                f"{path} has no dense layer (Times with weights) that an image comes to. {EXPECTED}, with three dense "
                "layers at the end: give the whole model."
            )
        logits = dense[-1].uid
        before = self._ancestors(logits)
        aside = [f for f in dense if f.uid not in before]
        if aside:
            raise UserError(
                f"{described(self._graph, aside[0])} and {dense[-1].op} {logits!r} are both dense layers that no other "
                f"follows. {EXPECTED}, and one output: save the model with that output alone."
            )
        images = [v for v in images if v.uid in before]
        if len(images) != 1:
            raise UserError(f"{path} computes {logits!r} from {len(images)} images. {EXPECTED}, of one image.")
        # The bias: nothing else is added to the last layer.
        sums = [f.uid for f in self._users.get(logits, ()) if f.op == "Plus" and self._other(f, logits) is not None]
        return images[0], sums[0] if len(sums) == 1 else logits

    def _is_dense(self, function: CntkFunction) -> bool:
        return function.op == "Times" and len(function.inputs) == 2 and self._value(function.inputs[0]) is not None

    def _probabilities(self) -> list[chain.Softmax]:
        """A softmax of the logits, if it is an output of the model.

        Raises:
            UserError: something else comes after the logits, other than losses and metrics.
        """
        outputs = {self._without_identities(root) for root in self._graph.roots}
        left = self._descendants([self._end]) - self._measures([self._image]) - {self._end}
        layers = []
        for uid in (uid for uid in self._graph.functions if uid in left):
            function = self._graph.functions[uid]
            is_softmax = function.op == "Softmax" and uid in outputs
            is_last = len(function.inputs) == 1 and self._without_identities(function.inputs[0]) == self._end
            if function.op not in (*_IDENTITIES, *_PARTS_OF_MEASURES) or (is_softmax and not is_last):
                raise self._error(
                    function, f"comes after the last dense layer with weights, {self._end!r}, and takes no labels"
                )
            if is_softmax:
                layers.append(chain.Softmax(label(function)))
        return layers[:1]

    def _measures(self, images: list[CntkVariable]) -> set[str]:
        """The uids of what depends on labels: on any input but the images."""
        inputs = [v for v in self._graph.variables.values() if v.kind == "input"]
        return self._descendants(v.uid for v in inputs if all(v is not image for image in images))

    def _without_identities(self, uid: str) -> str:
        while (function := self._graph.functions.get(uid)) and function.op in _IDENTITIES and len(function.inputs) == 1:
            uid = function.inputs[0]
        return uid

    # Ways through the graph. Its functions are in order, so that once through them is enough.

    def _descendants(self, uids: Iterable[str]) -> set[str]:
        """The uids given, and those of all functions that depend on them."""
        found = set(uids)
        for uid, function in self._graph.functions.items():
            if not found.isdisjoint(function.inputs):
                found.add(uid)
        return found

    def _ancestors(self, uid: str) -> set[str]:
        """The uid given, and those of all it depends on."""
        found, waiting = {uid}, [uid]
        while waiting:
            function = self._graph.functions.get(waiting.pop())
            new = set(function.inputs) - found if function else set()
            found |= new
            waiting += new
        return found

    def _consumers(self, uid: str) -> list[CntkFunction]:
        """The functions between it and the logits that take it."""
        return [function for function in self._users.get(uid, ()) if function.uid in self._place]

    def _branches(self, uid: str) -> list[CntkFunction]:
        """The functions after it up to the one in which all ways from it meet again, in order."""
        # By uid, how many functions are still to come that take it.
        pending = {uid: len(self._consumers(uid))}
        between = []
        for function in itertools.islice(self._order, self._place.get(uid, -1) + 1, None):
            taken = [i for i in dict.fromkeys(function.inputs) if i in pending]
            if not taken:
                continue
            between.append(function)
            for i in taken:
                pending[i] -= 1
                if not pending[i]:
                    del pending[i]
            pending[function.uid] = len(self._consumers(function.uid))
            if len(pending) == 1:
                break
        return between

    # Layer after layer.

    def _step(self, function: CntkFunction, at: str) -> str:
        """Adds the layer that begins with a function; gives the uid of its result."""
        name = label(function)
        if function.op in _ALONE and function.inputs != (at,):
            raise self._error(function, "does not take what the layer before it gives, and nothing else")
        match function.op:
            case op if op in _IDENTITIES:
                return function.uid
            case op if op in _SCALINGS and all(isinstance(layer, chain.Scaling) for layer in self._layers):
                self._layers.append(self._scaling(function, at))
            case "Convolution":
                return self._convolution(function, at)
            case "ReLU":
                self._layers.append(chain.Relu(name))
            case "Pooling":
                self._layers.append(self._pooling(function))
            case "Dropout":
                self._layers.append(chain.Dropout(name, self._rate(function)))
            case "Reshape":
                # It moves nothing in memory, and dense layers take all there is.
                self._is_flat = True
            case "Times":
                return self._dense(function, at)
            case _:
                raise self._error(function, "is not read there")
        return function.uid

    def _normalization(self, at: str) -> str:
        functions = self._branches(at)
        self._check_is_image(functions[0])
        self._layers.append(read_normalization(self._graph, at, functions, self._channels))
        return functions[-1].uid

    def _scaling(self, function: CntkFunction, at: str) -> chain.Scaling:
        operands = [None if uid == at else self._value(uid) for uid in function.inputs]
        name, is_first = label(function), function.inputs[0] == at
        values = [self._per_channel(function, value) for value in operands if value is not None]
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
        raise self._error(function, "does not take the image and numbers alone")

    def _per_channel(self, function: CntkFunction, value: np.ndarray) -> float | np.ndarray:
        """A number, or one a channel, out of what is combined with an image."""
        if value.size == 1:
            return _float32(value).item()
        shape = (1,) * (3 - value.ndim) + value.shape
        sizes = zip(shape, self._image.shape, strict=True) if len(shape) == 3 else [(0, -1)]
        if not all(size == 1 or size == whole for size, whole in sizes):
            raise self._error(function, f"combines images of {self._image.shape} with an array of {value.shape}")
        value = value.reshape(shape)
        if not np.array_equal(value, np.broadcast_to(value[:, :1, :1], value.shape), equal_nan=True):
            raise self._error(
                function,
                "combines the image with an array that differs from pixel to pixel, such as a mean image. Expected a "
                "number, or one a channel: take this function out of the model in CNTK, and give the means of the "
                "channels instead",
            )
        numbers = _float32(value[:, 0, 0]).astype(np.float64)
        return numbers if len(numbers) > 1 else numbers.item()

    def _convolution(self, function: CntkFunction, at: str) -> str:
        return self._with_bias(self._convolution_without_bias(function, at, self._channels), function)

    def _with_bias(self, layer: chain.Convolution, last: CntkFunction) -> str:
        """Adds a convolution, with the bias that comes after its last function; gives the uid of the result."""
        filters = len(layer.kernel)
        bias, end = self._bias(last, (filters, 1, 1))
        self._layers.append(dataclasses.replace(layer, bias=bias))
        self._channels = filters
        return end

    def _convolution_without_bias(self, function: CntkFunction, at: str, inputs: int) -> chain.Convolution:
        """A convolution of so many channels."""
        self._check_is_image(function)
        attributes = function.attributes
        check_is_plain(self._graph, function, groups=True)
        kernel = self._weights(function, at)
        sizes = checked(self._graph, function, "kernelShape", attributes.get("kernelShape", kernel.shape[:0:-1]), 1)
        kernel = self._kernel(function, kernel, sizes, inputs)
        # Functions that were written for images only have no third axis that counts.
        sizes = sizes[:2] if attributes.get("convolution2D", False) else sizes
        channels = kernel.shape[1]
        windows = read_windows(self._graph, function, sizes, (1, 1, channels))
        self._refuse(function, "kernelShape", sizes[2:] not in ((), (channels,)))
        # With padding the window would move over the channels as well.
        self._refuse(function, "autoPadding", windows.automatic[2] and windows.strides[2] < channels)
        self._refuse(function, "lowerPad", bool(windows.lower[2] + windows.upper[2]))
        strides, padding = (windows.strides[1], windows.strides[0]), self._padding(function, windows)
        return chain.Convolution(label(function), kernel, None, strides, padding, attributes.get("groups", 1))

    def _kernel(self, function: CntkFunction, kernel: np.ndarray, sizes: tuple[int, ...], inputs: int) -> np.ndarray:
        """(out, in / groups, height, width)."""
        if kernel.ndim == 2 and len(sizes) > 1 and inputs > 0:
            # A matrix only by name: in memory it is (out, in, height, width) all the same (CNTK's
            # Source/Math/ConvolutionEngine.cpp: "cudnn layout uses row-major kernel weight matrix").
            cells = inputs * sizes[0] * sizes[1]
            if kernel.size % cells == 0:
                return kernel.reshape(-1, inputs, sizes[1], sizes[0])
        if kernel.ndim == 4 and kernel.shape[:1:-1] == sizes[:2]:
            return kernel
        raise self._error(
            function,
            f"has weights of {kernel.shape} for a kernelShape of {sizes} and {inputs} channels. Expected (out, in, "
            "height, width)",
        )

    def _convolution_of_slices(self, slices: list[CntkFunction], at: str) -> str:
        """Adds a convolution with groups: of slices of the channels, each with weights of its own, and then joined.

        So CNTK's converter of Caffe's models writes it
        (bindings/python/cntk/contrib/crosstalkcaffe/unimodel/cntkinstance.py, `convolution`).
        """
        for function in slices:
            if function.op != "Slice":
                raise self._error(function, "takes all channels of what a Slice takes some of")
            if function.inputs != (at,):
                raise self._error(function, "does not take what the layer before it gives, and nothing else")
            self._check_is_image(function)
        convolutions = [self._only_user(function, "Convolution") for function in slices]
        splices = [self._only_user(function, "Splice") for function in convolutions]
        splice, groups = splices[0], len(slices)
        if other := next((function for function in splices if function is not splice), None):
            raise self._error(
                other, f"and Splice {splice.uid!r} each join some of the convolutions of slices of {at!r}"
            )
        self._refuse(splice, "axis", splice.attributes.get("axis") not in _CHANNEL_AXIS)
        # In the order in which they are joined.
        pair_of = {pair[1].uid: pair for pair in zip(slices, convolutions, strict=True)}
        if sorted(splice.inputs) != sorted(pair_of):
            raise self._error(
                splice, f"joins {len(splice.inputs)} results, which are not those of the {groups} slices of {at!r}"
            )
        pairs = [pair_of[uid] for uid in splice.inputs]
        each = self._channels // groups
        if each < 1 or each * groups != self._channels:
            raise self._error(splice, f"joins {groups} convolutions of slices of {self._channels} channels")
        for i, (function, _) in enumerate(pairs):
            self._check_slice(function, i * each, (i + 1) * each)
        parts = [self._part(convolution, function.uid, each) for function, convolution in pairs]
        for part, (_, convolution) in zip(parts, pairs, strict=True):
            found, expected = [(p.kernel.shape, p.strides, p.padding) for p in (part, parts[0])]
            if found != expected:
                raise self._error(
                    convolution,
                    f"has weights, strides and padding of {found}, the first convolution beside it those of {expected}",
                )
        weights: set[str] = set()
        for _, convolution in pairs:
            # So that the kernel takes no more memory than the file has numbers.
            if convolution.inputs[0] in weights:
                raise self._error(convolution, "has the same weights as another convolution beside it")
            weights.add(convolution.inputs[0])
        kernel = np.concatenate([part.kernel for part in parts])
        layer = dataclasses.replace(parts[0], name=label(splice), kernel=kernel, groups=groups)
        return self._with_bias(layer, splice)

    def _only_user(self, function: CntkFunction, op: str) -> CntkFunction:
        users = self._consumers(function.uid)
        if len(users) != 1 or users[0].op != op:
            found = ", ".join(f"{user.op} {user.uid!r}" for user in users[:4])
            raise self._error(function, f"is followed by {found}, not by one {op} alone")
        return users[0]

    def _check_slice(self, function: CntkFunction, begin: int, end: int) -> None:
        """Checks which channels a Slice takes."""
        attributes = function.attributes
        self._refuse(function, "axis", attributes.get("axis") not in _CHANNEL_AXIS)
        self._refuse(function, "sliceStrides", attributes.get("sliceStrides", 1) != 1)
        found = [attributes.get("beginIndex"), attributes.get("endIndex")]
        if not all(isinstance(index, int) for index in found):
            raise self._error(function, f"has beginIndex and endIndex {str(found)[:80]}, which are no whole numbers")
        # Negative ones count from the end, of which 0 is the end itself.
        found[0] += self._channels if found[0] < 0 else 0
        found[1] += self._channels if found[1] <= 0 else 0
        if found != [begin, end]:
            raise self._error(
                function,
                f"takes channels {found[0]} to {found[1]} of {self._channels}, where by its place in the Splice they "
                f"should be {begin} to {end}, so that all slices are equal and in order",
            )

    def _part(self, function: CntkFunction, at: str, channels: int) -> chain.Convolution:
        """One of the convolutions that are joined."""
        part = self._convolution_without_bias(function, at, channels)
        self._refuse(function, "groups", part.groups != 1)
        if part.kernel.shape[1] != channels:
            raise self._error(function, f"has weights of {part.kernel.shape} for a slice of {channels} channels")
        return part

    def _padding(self, function: CntkFunction, windows: Windows) -> chain.Padding:
        height, width = windows.padding(1), windows.padding(0)
        if height is not None and width is not None:
            return (height, width) if any(height + width) else "valid"
        self._refuse(function, "autoPadding", not all(windows.automatic[:2]))
        return "cntk"

    def _pooling(self, function: CntkFunction) -> chain.MaxPool:
        self._check_is_image(function)
        attributes = function.attributes
        # 1 is the average.
        self._refuse(function, "poolingType", attributes.get("poolingType") != 0)
        windows = read_windows(self._graph, function, attributes.get("poolingWindowShape"), (1, 1, 1))
        self._refuse(function, "poolingWindowShape", len(windows.sizes) > 3 or windows.sizes[2] != 1)
        self._refuse(function, "strides", windows.strides[2] != 1)
        self._refuse(function, "lowerPad", bool(windows.lower[2] + windows.upper[2]))
        padding = self._padding(function, windows)
        if attributes.get("ceilOutDim", False):
            # ceil((size - window) / stride) + 1 outputs, which is Caffe's rule (CNTK's Source/Math/ConvolveGeometry.h,
            # `ComputeOutputShape`); with padding the two differ.
            self._refuse(function, "ceilOutDim", padding != "valid")
            padding = "caffe"
        window, strides = windows.sizes[1::-1], windows.strides[1::-1]
        return chain.MaxPool(label(function), window, strides, padding)

    def _dense(self, function: CntkFunction, at: str) -> str:
        kernel = self._weights(function, at)
        self._refuse(function, "outputRank", function.attributes.get("outputRank", 1) != 1)
        # More than 0 axes left over of the input.
        self._refuse(function, "inferInputRankToMap", function.attributes.get("inferInputRankToMap", 0) not in (0, -1))
        if kernel.ndim < 2:
            raise self._error(function, f"has weights of {kernel.shape}. Expected (channel, row, column, out)")
        kernel = kernel.reshape(-1, kernel.shape[-1])
        bias, end = self._bias(function, kernel.shape[1:])
        self._layers.append(chain.Dense(label(function), kernel, bias))
        self._is_flat = True
        return end

    def _bias(self, function: CntkFunction, shape: tuple[int, ...]) -> tuple[np.ndarray | None, str]:
        """The bias, and the uid of the sum; None and the function's uid if there is none."""
        users = self._consumers(function.uid)
        value = self._other(users[0], function.uid) if len(users) == 1 and users[0].op == "Plus" else None
        if value is None:
            return None, function.uid
        # Axes of length 1 in front change nothing.
        axes = list(itertools.dropwhile(lambda size: size == 1, value.shape))
        if axes not in ([], list(shape)):
            raise self._error(
                users[0], f"adds an array of {value.shape} to {shape[0]} channels. Expected one number for each"
            )
        value = _float32(value).reshape(-1)
        return np.broadcast_to(value, shape[:1]), users[0].uid

    def _rate(self, function: CntkFunction) -> float | None:
        rate = function.attributes.get("dropoutRate")
        is_rate = isinstance(rate, int | float) and 0 <= rate < 1
        self._refuse(function, "dropoutRate", rate is not None and not is_rate)
        return rate

    # What the layers have in common.

    def _value(self, uid: str) -> np.ndarray | None:
        """A parameter's or constant's array."""
        variable = self._graph.variables.get(uid)
        return variable.value if variable else None

    def _other(self, function: CntkFunction, uid: str) -> np.ndarray | None:
        """The array that a function of two inputs takes beside `uid`."""
        if len(function.inputs) != 2 or uid not in function.inputs:
            return None
        return self._value(function.inputs[1 - function.inputs.index(uid)])

    def _weights(self, function: CntkFunction, at: str) -> np.ndarray:
        """The weights, float32, of a function that takes these and what is before it."""
        value = self._value(function.inputs[0]) if len(function.inputs) == 2 and function.inputs[1] == at else None
        if value is None or not value.size:
            raise self._error(function, "does not take weights and what the layer before it gives")
        return _float32(value)

    def _check_is_image(self, function: CntkFunction) -> None:
        self._refuse(function, "imageLayout", function.attributes.get("imageLayout") == _HWC)
        if self._is_flat:
            raise self._error(function, "comes after a Reshape or a dense layer")

    def _refuse(self, function: CntkFunction, attribute: str, condition: bool) -> None:
        windows.refuse(self._graph, function, attribute, condition)

    def _error(self, function: CntkFunction, what: str) -> UserError:
        return windows.error(self._graph, function, what)


def _float32(value: np.ndarray) -> np.ndarray:
    """The array as float32; what is beyond that becomes infinite, which `match_alexnet` refuses."""
    with np.errstate(over="ignore"):
        return np.asarray(value, np.float32)
