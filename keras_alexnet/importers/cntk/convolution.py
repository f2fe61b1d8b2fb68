"""Convolutions and pools of CNTK's graphs; convolutions with groups may be convolutions of slices of the channels."""

import dataclasses

import numpy as np

from keras_alexnet.importers import chain
from keras_alexnet.importers.cntk.graph import CntkFunction
from keras_alexnet.importers.cntk.path import Path
from keras_alexnet.importers.cntk.windows import Windows, check_is_plain, checked, read_windows

# The axis of channels, in CNTK's order; also as CNTK counts it from the end.
_CHANNEL_AXIS = (2, -1)

# ImageLayoutKind, in version 1 files: the order of axes before cuDNN, channels first in CNTK's order.
_HWC = 0


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
    sizes = checked(graph, function, "kernelShape", attributes.get("kernelShape", kernel.shape[:0:-1]), 1)
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


def _padding(path: Path, function: CntkFunction, windows: Windows) -> chain.Padding:
    height, width = windows.padding(1), windows.padding(0)
    if height is not None and width is not None:
        return (height, width) if any(height + width) else "valid"
    path.graph.refuse(function, "autoPadding", not all(windows.automatic[:2]))
    return "cntk"
