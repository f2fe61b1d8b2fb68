"""The windows of CNTK's convolutions and poolings, from the attributes of their functions."""

from collections.abc import Sequence
from dataclasses import dataclass

from keras_alexnet.errors import UserError
from keras_alexnet.importers.cntk.graph import CntkFunction, CntkGraph

# Far above any network's, so that what is computed of them stays small.
_MAX_SIZE = 10_000
_MAX_AXES = 8

# A dimension that is not given.
_INFERRED = -1


@dataclass(frozen=True)
class Windows:
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


def read_windows(graph: CntkGraph, function: CntkFunction, sizes: Sequence[int], rest: Sequence[int]) -> Windows:
    """The windows of a function, each value with as many axes as the function's input has.

    Where a file has fewer, CNTK repeats the last one for each axis of the window, and then takes a default
    (Source/ComputationNetworkLib/ConvolutionalNodes.h, `InferReductionDims`).

    Args:
        sizes: of the window, in CNTK's order.
        rest: strides by default, for each axis of the input.
    """
    axes = len(rest)
    sizes = checked(graph, function, "window", sizes, 1)

    def values(name: str, least: int, rest: Sequence[int]) -> tuple[int, ...]:
        given = function.attributes.get(name, (least,))
        if name == "strides" and isinstance(given, tuple) and given[2:] == (_INFERRED,):
            # CNTK computes with 2**64 - 1 there: there is no second window over the channels.
            given = (*given[:2], *rest[2:3])
        given = list(checked(graph, function, name, given, least))
        given += [given[-1]] * (len(sizes) - len(given))
        return tuple(given + list(rest[len(given) :]))

    none = (0,) * axes
    return Windows(
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
        graph.refuse(function, name, set(checked(graph, function, name, attributes.get(name, (plain,)), 0)) != {plain})
    given = attributes.get("groups", 1)
    graph.refuse(function, "groups", not isinstance(given, int) or given < 1 or (given > 1 and not groups))


def checked(graph: CntkGraph, function: CntkFunction, name: str, values: object, least: int) -> tuple[int, ...]:
    """An attribute that must have a whole number for each axis, of at least `least`."""
    is_list = isinstance(values, list | tuple) and 1 <= len(values) <= _MAX_AXES
    if not is_list or not all(isinstance(value, int) and least <= value <= _MAX_SIZE for value in values):
        raise UserError(
            f"{graph.described(function)} has as its {name} {str(values)[:80]}. Expected whole numbers from {least} "
            f"to {_MAX_SIZE:,}, one for each axis: the file is damaged, or its sizes are not known before it runs."
        )
    return tuple(values)
