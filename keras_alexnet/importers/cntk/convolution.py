"""Convolutions and pools of CNTK's graphs; convolutions with groups may be convolutions of slices of the channels."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keras_alexnet.errors import UserError
from keras_alexnet.importers import chain
from keras_alexnet.importers.cntk.graph import CntkFunction, CntkGraph
from keras_alexnet.importers.cntk.path import Path

# The axis of channels, in CNTK's order; also as CNTK counts it from the end.
_CHANNEL_AXIS = (2, -1)

# ImageLayoutKind, in version 1 files: the order of axes before cuDNN, channels first in CNTK's order.
_HWC = 0

# Far above any network's, so that what is computed of them stays small.
_MAX_SIZE = 10_000
_MAX_AXES = 8

# A dimension that is not given.
_INFERRED = -1


@dataclass(frozen=True)
class _Windows:
    """What a convolution or a pooling does on each axis, in CNTK's order: width, height, channels, …

    Attributes:
        sizes: of the window.
        strides: between windows.
        automatic: whether CNTK chooses the padding (`lower` and `upper` then do not count).
        lower, upper: padding before and after.
    """

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    automatic: tuple[bool, ...]
    lower: tuple[int, ...]
    upper: tuple[int, ...]

    def padding(self, axis: int) -> tuple[int, int] | None:
        """Padding (before, after) an axis; None if it depends on the axis's length.

        That of CNTK's own choice is (k − 1) / 2 on both sides at a stride of 1 (Source/Math/ConvolveGeometry.h,
        `GetLowerPad`).
        """
        if not self.automatic[axis]:
            return self.lower[axis], self.upper[axis]
        before = (self.sizes[axis] - 1) // 2
        return (before, self.sizes[axis] - 1 - before) if self.strides[axis] == 1 else None


def read_sliced_convolution(
    path: Path, slices: list[CntkFunction], at: str, channels: int
) -> tuple[chain.Convolution, CntkFunction]:
    """A convolution with groups: slices of the channels, each convolved with weights of its own, and then joined.

    So CNTK's converter of Caffe's models writes it
    (bindings/python/cntk/contrib/crosstalkcaffe/unimodel/cntkinstance.py, `convolution`).

    `slices` are all functions that take `at`, which has so many channels; the one that joins them is given as well.
    """
    for function in slices:
        if function.op != "Slice" or function.inputs != (at,):
            raise path.graph.error(function, f"takes {at!r}, of which another function is a Slice")
    convolutions = [_only_user(path, function, "Convolution") for function in slices]
    splices = [_only_user(path, function, "Splice") for function in convolutions]
    splice, groups = splices[0], len(slices)
    # In the order in which they are joined.
    pairs = {pair[1].uid: pair for pair in zip(slices, convolutions, strict=True)}
    if any(other is not splice for other in splices) or sorted(splice.inputs) != sorted(pairs):
        raise path.graph.error(splice, f"does not join just the convolutions of the {groups} slices of {at!r}")
    path.graph.refuse(splice, "axis", splice.attributes.get("axis") not in _CHANNEL_AXIS)
    each = channels // groups
    if each < 1 or each * groups != channels:
        raise path.graph.error(splice, f"joins {groups} convolutions of slices of {channels} channels")
    parts = []
    for place, (function, convolution) in enumerate(pairs[uid] for uid in splice.inputs):
        _check_slice(path, function, place * each, (place + 1) * each)
        part = read_convolution(path, convolution, function.uid, each)
        path.graph.refuse(convolution, "groups", part.groups != 1)
        parts.append(part)
        found, expected = [(p.kernel.shape, p.strides, p.padding) for p in (part, parts[0])]
        if found != expected or part.kernel.shape[1] != each:
            raise path.graph.error(
                convolution,
                f"has weights, strides and padding of {found}, and the first one, of {each} channels, {expected}",
            )
    # So that the kernel takes no more memory than the file has numbers.
    if len({convolution.inputs[0] for convolution in convolutions}) < groups:
        raise path.graph.error(splice, "joins convolutions with the same weights")
    kernel = np.concatenate([part.kernel for part in parts])
    return dataclasses.replace(parts[0], name=splice.label, kernel=kernel, groups=groups), splice


def read_pool(path: Path, function: CntkFunction) -> chain.MaxPool:
    """A max pooling."""
    attributes = function.attributes
    path.graph.refuse(function, "imageLayout", attributes.get("imageLayout") == _HWC)
    # 1 is the average.
    path.graph.refuse(function, "poolingType", attributes.get("poolingType") != 0)
    windows = read_windows(path.graph, function, attributes.get("poolingWindowShape"), (1, 1, 1))
    path.graph.refuse(function, "poolingWindowShape", len(windows.sizes) > 3 or windows.sizes[2] != 1)
    path.graph.refuse(function, "strides", windows.strides[2] != 1)
    path.graph.refuse(function, "lowerPad", bool(windows.lower[2] + windows.upper[2]))
    padding = _padding(path, function, windows)
    if attributes.get("ceilOutDim", False):
        # ceil((size - window) / stride) + 1 outputs, which is Caffe's rule (CNTK's Source/Math/ConvolveGeometry.h,
        # `ComputeOutputShape`); with padding the two differ.
        path.graph.refuse(function, "ceilOutDim", padding != "valid")
        padding = "caffe"
    return chain.MaxPool(function.label, windows.sizes[1::-1], windows.strides[1::-1], padding)


def read_convolution(path: Path, function: CntkFunction, at: str, inputs: int) -> chain.Convolution:
    """A convolution of so many channels, without its bias."""
    graph, attributes = path.graph, function.attributes
    graph.refuse(function, "imageLayout", attributes.get("imageLayout") == _HWC)
    check_is_plain(graph, function, groups=True)
    kernel = path.weights(function, at)
    sizes = _checked(graph, function, "kernelShape", attributes.get("kernelShape", kernel.shape[:0:-1]), 1)
    kernel = _kernel(path, function, kernel, sizes, inputs)
    # Functions that were written for images only have no third axis that counts.
    sizes = sizes[:2] if attributes.get("convolution2D", False) else sizes
    channels = kernel.shape[1]
    windows = read_windows(graph, function, sizes, (1, 1, channels))
    path.graph.refuse(function, "kernelShape", sizes[2:] not in ((), (channels,)))
    # With padding the window would move over the channels as well.
    path.graph.refuse(function, "autoPadding", windows.automatic[2] and windows.strides[2] < channels)
    path.graph.refuse(function, "lowerPad", bool(windows.lower[2] + windows.upper[2]))
    strides, padding = (windows.strides[1], windows.strides[0]), _padding(path, function, windows)
    return chain.Convolution(function.label, kernel, None, strides, padding, attributes.get("groups", 1))


def _kernel(path: Path, function: CntkFunction, kernel: np.ndarray, sizes: tuple[int, ...], inputs: int) -> np.ndarray:
    """(out, in / groups, height, width)."""
    if kernel.ndim == 2 and len(sizes) > 1 and inputs > 0:
        # A matrix only by name: in memory it is (out, in, height, width) all the same (CNTK's
        # Source/Math/ConvolutionEngine.cpp: "cudnn layout uses row-major kernel weight matrix").
        cells = inputs * sizes[0] * sizes[1]
        if kernel.size % cells == 0:
            return kernel.reshape(-1, inputs, sizes[1], sizes[0])
    if kernel.ndim == 4 and kernel.shape[:1:-1] == sizes[:2]:
        return kernel
    raise path.graph.error(
        function,
        f"has weights of {kernel.shape} for a kernelShape of {sizes} and {inputs} channels. Expected (out, in, "
        "height, width)",
    )


def _only_user(path: Path, function: CntkFunction, op: str) -> CntkFunction:
    users = path.consumers(function.uid)
    if len(users) != 1 or users[0].op != op:
        found = ", ".join(f"{user.op} {user.uid!r}" for user in users[:4])
        raise path.graph.error(function, f"is followed by {found}, not only by one {op}")
    return users[0]


def _check_slice(path: Path, function: CntkFunction, begin: int, end: int) -> None:
    """Checks which channels a Slice takes."""
    attributes = function.attributes
    path.graph.refuse(function, "axis", attributes.get("axis") not in _CHANNEL_AXIS)
    path.graph.refuse(function, "sliceStrides", attributes.get("sliceStrides", 1) != 1)
    found = (attributes.get("beginIndex"), attributes.get("endIndex"))
    if found != (begin, end):
        raise path.graph.error(
            function,
            f"takes channels {str(found)[:80]}, where by its place they should be {begin} to {end}, so "
            "that all slices are equal and in order",
        )


def _padding(path: Path, function: CntkFunction, windows: _Windows) -> chain.Padding:
    height, width = windows.padding(1), windows.padding(0)
    if height is not None and width is not None:
        return (height, width) if any(height + width) else "valid"
    path.graph.refuse(function, "autoPadding", not all(windows.automatic[:2]))
    return "cntk"


def read_windows(graph: CntkGraph, function: CntkFunction, sizes: Sequence[int], rest: Sequence[int]) -> _Windows:
    """The windows of a function, each value with as many axes as the function's input has.

    Where a file has fewer, CNTK repeats the last one for each axis of the window, and then takes a default
    (Source/ComputationNetworkLib/ConvolutionalNodes.h, `InferReductionDims`).

    Args:
        sizes: of the window, in CNTK's order.
        rest: strides by default, for each axis of the input.
    """
    axes = len(rest)
    sizes = _checked(graph, function, "window", sizes, 1)

    def values(name: str, least: int, rest: Sequence[int]) -> tuple[int, ...]:
        given = function.attributes.get(name, (least,))
        if name == "strides" and isinstance(given, tuple) and given[2:] == (_INFERRED,):
            # CNTK computes with 2**64 - 1 there: there is no second window over the channels.
            given = (*given[:2], *rest[2:3])
        given = list(_checked(graph, function, name, given, least))
        given += [given[-1]] * (len(sizes) - len(given))
        return tuple(given + list(rest[len(given) :]))

    none = (0,) * axes
    return _Windows(
        sizes + (1,) * (axes - len(sizes)),
        values("strides", 1, rest),
        tuple(map(bool, values("autoPadding", 0, none))),
        values("lowerPad", 0, none),
        values("upperPad", 0, none),
    )


def check_is_plain(graph: CntkGraph, function: CntkFunction, groups: bool = False) -> None:
    """Raises a `UserError` if a convolution is transposed, dilated, over sequences, or has several kernels by place.

    `groups` is whether it may have some.
    """
    attributes = function.attributes
    for name in ("transpose", "sequential", "ceilOutDim"):
        graph.refuse(function, name, attributes.get(name, False) is not False)
    for name, plain in (("sharing", True), ("dilation", 1)):
        graph.refuse(function, name, set(_checked(graph, function, name, attributes.get(name, (plain,)), 0)) != {plain})
    given = attributes.get("groups", 1)
    graph.refuse(function, "groups", not isinstance(given, int) or given < 1 or (given > 1 and not groups))


def _checked(graph: CntkGraph, function: CntkFunction, name: str, values: object, least: int) -> tuple[int, ...]:
    """An attribute that must have a whole number for each axis, of at least `least`."""
    is_list = isinstance(values, list | tuple) and 1 <= len(values) <= _MAX_AXES
    if not is_list or not all(isinstance(value, int) and least <= value <= _MAX_SIZE for value in values):
        raise UserError(
            f"{graph.described(function)} has as its {name} {str(values)[:80]}. Expected whole numbers from {least} "
            f"to {_MAX_SIZE:,}, one for each axis: the file is damaged, or its sizes are not known before it runs."
        )
    return tuple(values)
