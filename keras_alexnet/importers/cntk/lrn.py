"""Local response normalization in CNTK's graphs, where it is made of simple functions, not always of the same.

So the functions themselves are not compared: they are computed, in float64, and the result is compared with that of
AlexNet's normalization.
"""

import math
from collections.abc import Sequence

import numpy as np

from keras_alexnet.errors import UserError
from keras_alexnet.importers.chain import LocalResponseNorm
from keras_alexnet.importers.cntk.graph import CntkFunction, CntkGraph
from keras_alexnet.importers.cntk.windows import EXPECTED, check_is_plain, described, label, read_windows
from keras_alexnet.presets import LRN_ALPHA, LRN_BETA, LRN_K, LRN_SIZE

_OPERATIONS = {
    "Abs": np.abs,
    "ElementTimes": np.multiply,
    "Exp": np.exp,
    "Log": np.log,
    "Minus": np.subtract,
    "Negate": np.negative,
    "Pass": np.positive,
    "Plus": np.add,
    "Pow": np.power,
    "Reciprocal": np.reciprocal,
    "Sqrt": np.sqrt,
    "StopGradient": np.positive,
}

# Far above any normalization's: they bound the time and the memory that a damaged file can take.
_MAX_FUNCTIONS = 50
_MAX_CHANNELS = 10_000
_MAX_WINDOW = 99

# The constants of the file are float32.
_TOLERANCE = 1e-5


class _OtherError(Exception):
    """It is not AlexNet's local response normalization, for the reason given."""


def read_normalization(
    graph: CntkGraph, source: str, functions: Sequence[CntkFunction], channels: int
) -> LocalResponseNorm:
    """AlexNet's local response normalization, if that is what some functions compute together.

    Args:
        source: the uid of what is normalized, (channels, height, width).
        functions: those between it and the result, in order; the last one gives the result.
        channels: of the source.

    Raises:
        UserError: they compute something else.
    """
    try:
        _compare(graph, source, functions, channels)
    except _OtherError as error:
        raise UserError(
            f"{described(graph, functions[-1])} is where branches from {source!r} meet, which compute something other "
            f"than AlexNet's local response normalization: {error}. {EXPECTED}, without other branches."
        ) from None
    return LocalResponseNorm(label(functions[-1]), LRN_SIZE, LRN_ALPHA, LRN_BETA, LRN_K)


def _compare(graph: CntkGraph, source: str, functions: Sequence[CntkFunction], channels: int) -> None:
    """Compares what the functions make of random numbers with what AlexNet's normalization makes of them."""
    if len(functions) > _MAX_FUNCTIONS:
        raise _OtherError(f"they are {len(functions)} functions")
    if not 1 <= channels <= _MAX_CHANNELS:
        raise _OtherError(f"there are {channels} channels")
    random = np.random.default_rng(0)
    shape = (channels, 3, 4)
    # From where only k counts to where only the squares do.
    scale = math.sqrt(LRN_K * LRN_SIZE / LRN_ALPHA)
    x = random.standard_normal(shape) * 10 ** random.uniform(-2, 2, shape) * scale
    squares = np.pad(np.cumsum(x**2, axis=0), ((1, 0), (0, 0), (0, 0)))
    at = np.arange(channels)
    sums = squares[np.minimum(at + LRN_SIZE // 2 + 1, channels)] - squares[np.maximum(at - LRN_SIZE // 2, 0)]
    expected = x * (LRN_K + LRN_ALPHA / LRN_SIZE * sums) ** -LRN_BETA
    if not np.allclose(_computed(graph, source, functions, x), expected, rtol=_TOLERANCE, atol=0):
        raise _OtherError(
            f"their results are not those of size {LRN_SIZE}, alpha {LRN_ALPHA:g}, beta {LRN_BETA:g} and k {LRN_K:g}"
        )


def _computed(graph: CntkGraph, source: str, functions: Sequence[CntkFunction], x: np.ndarray) -> np.ndarray:
    values = {source: x}
    # Enough for the weights of a window where there are few channels.
    max_size = max(x.size, _MAX_WINDOW)
    for function in functions:
        inputs = [
            values[uid] if uid in values else _constant(graph, uid, function, max_size) for uid in function.inputs
        ]
        try:
            with np.errstate(all="ignore"):
                values[function.uid] = _applied(graph, function, inputs, x.size)
        # NumPy's, of shapes that do not fit.
        except (ValueError, OverflowError) as error:
            raise _OtherError(f"{function.op} {function.uid!r} cannot be computed ({error})") from None
    result = values[functions[-1].uid]
    if result.shape != x.shape:
        raise _OtherError(f"their result has the shape {result.shape}, what they begin with {x.shape}")
    return result


def _constant(graph: CntkGraph, uid: str, user: CntkFunction, max_size: int) -> np.ndarray:
    variable = graph.variables.get(uid)
    if variable is None or variable.value is None or variable.value.size > max_size:
        raise _OtherError(f"{user.op} {user.uid!r} takes {uid!r} too, which is not a constant")
    return variable.value.astype(np.float64)


def _applied(graph: CntkGraph, function: CntkFunction, inputs: list[np.ndarray], max_size: int) -> np.ndarray:
    operation = _OPERATIONS.get(function.op)
    if operation and operation.nin == len(inputs):
        # Arrays of many axes could grow at each step.
        if math.prod(np.broadcast_shapes(*(value.shape for value in inputs))) > max_size:
            raise _OtherError(f"{function.op} {function.uid!r} gives more numbers than it takes")
        return operation(*inputs)
    if function.op == "Reshape" and len(inputs) == 1:
        return _reshaped(function, inputs[0])
    if function.op == "Convolution" and len(inputs) == 2:
        return _convolved(graph, function, *inputs)
    raise _OtherError(f"{function.op} {function.uid!r} is not one of its operations")


def _reshaped(function: CntkFunction, x: np.ndarray) -> np.ndarray:
    """Some axes exchanged for others; in CNTK's order, which is the reverse of NumPy's."""
    dimensions = list(x.shape[::-1])
    begin, end = function.attributes.get("beginAxis", 0), function.attributes.get("endAxis", "end")
    # Without an end it is up to the last axis: in version 1 files that is -1.
    end = len(dimensions) if end == -1 or isinstance(end, str) else end
    new = function.attributes.get("newShape")
    if not isinstance(begin, int) or not isinstance(end, int) or not isinstance(new, tuple):
        raise _OtherError(f"Reshape {function.uid!r} has unknown axes")
    return x.reshape([*dimensions[: max(begin, 0)], *new, *dimensions[end:]][::-1])


def _convolved(graph: CntkGraph, function: CntkFunction, kernel: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A convolution with one kernel along one axis."""
    check_is_plain(graph, function)
    kernel_shape = function.attributes.get("kernelShape", kernel.shape[::-1])
    windows = read_windows(graph, function, kernel_shape, x.shape[::-1])
    moved = [axis for axis, size in enumerate(windows.sizes) if size > 1]
    along = moved[0] if moved else 0
    others = [axis for axis in range(x.ndim) if axis != along]
    is_simple = (
        len(windows.sizes) == x.ndim
        and len(moved) <= 1
        and kernel.size == windows.sizes[along] <= _MAX_WINDOW
        and windows.strides[along] == 1
        and all(windows.strides[axis] == 1 or x.shape[::-1][axis] == 1 for axis in others)
        and not any(windows.lower[axis] or windows.upper[axis] for axis in others)
        and max(windows.padding(along)) < _MAX_WINDOW
    )
    if not is_simple:
        raise _OtherError(f"Convolution {function.uid!r} is not of neighbouring channels alone")
    axis = x.ndim - 1 - along
    padded = np.pad(x, [windows.padding(along) if i == axis else (0, 0) for i in range(x.ndim)])
    length = padded.shape[axis] - kernel.size + 1
    if length < 1:
        raise _OtherError(f"Convolution {function.uid!r} has a window larger than what it is moved over")
    shifted = (padded.take(range(i, i + length), axis) * weight for i, weight in enumerate(kernel.ravel()))
    return sum(shifted)
