"""Local response normalization in CNTK's graphs, where it is made of simple functions, not always of the same.

So it is not the functions that are compared: they are computed, in float64, and what they give tells the constants.
"""

import math
from collections.abc import Sequence

import numpy as np

from keras_alexnet.errors import UserError
from keras_alexnet.importers.chain import LocalResponseNorm
from keras_alexnet.importers.cntk.graph import CntkFunction, CntkGraph
from keras_alexnet.importers.cntk.windows import EXPECTED, check_is_plain, described, label, read_windows

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
_MOST_FUNCTIONS = 50
_MOST_CHANNELS = 10_000
_LARGEST_WINDOW = 99

_TOLERANCE = 1e-5


class _OtherError(Exception):
    """It is no local response normalization, for the reason given."""


def read_normalization(
    graph: CntkGraph, source: str, functions: Sequence[CntkFunction], channels: int
) -> LocalResponseNorm:
    """The local response normalization that some functions compute together.

    Args:
        source: the uid of what is normalized, (channels, height, width).
        functions: those between it and the result, in order; the last one gives the result.
        channels: of the source.

    Raises:
        UserError: they compute something else.
    """
    try:
        size, alpha, beta, k = _constants(graph, source, functions, channels)
    except _OtherError as error:
        raise UserError(
            f"{described(graph, functions[-1])} is where branches from {source!r} meet, which compute something else "
            f"than a local response normalization: {error}. {EXPECTED}, without other branches."
        ) from None
    return LocalResponseNorm(label(functions[-1]), size, alpha, beta, k)


def _constants(
    graph: CntkGraph, source: str, functions: Sequence[CntkFunction], channels: int
) -> tuple[int, float, float, float]:
    """Size, alpha, beta and k, checked on random numbers."""
    if len(functions) > _MOST_FUNCTIONS:
        raise _OtherError(f"they are {len(functions)} functions")
    if not 1 <= channels <= _MOST_CHANNELS:
        raise _OtherError(f"there are {channels} channels")

    def compute(x: np.ndarray) -> np.ndarray:
        return _computed(graph, source, functions, x)

    def gain(value: float) -> float:
        """y / x of a channel alone: (k + a · x²)^-beta, a being alpha / size."""
        x = np.zeros((channels, 1, 1))
        x[0] = value
        result = compute(x)[0].item() / value
        if not (math.isfinite(result) and result > 0):
            raise _OtherError(f"they make {result * value} of {value} in the first channel and 0 in the others")
        return result

    # Of tiny numbers only k is left to see, of huge ones only a and beta.
    tiny, huge, larger = 1e-100, 1e20, 1e40
    beta = (math.log(gain(huge)) - math.log(gain(larger))) / (2 * math.log(larger / huge))
    if beta < 1e-3:
        raise _OtherError("their result does not fall with the squares")
    try:
        a = math.exp(-math.log(gain(huge)) / beta) / huge**2
        k = math.exp(-math.log(gain(tiny)) / beta)
    except OverflowError:
        raise _OtherError("it has no such constants") from None

    # How far a huge number in the first channel reaches.
    x = np.ones((channels, 1, 1))
    without = compute(x)
    x[0] = huge
    changed = np.abs(compute(x) - without) > 1e-3 * np.abs(without)
    size = 2 * int(np.flatnonzero(changed)[-1]) + 1 if changed.any() else 1

    # The constants of the file are float32, and so have 7 digits.
    alpha, beta, k = (float(f"{value:.7g}") for value in (a * size, beta, k))
    if not all(1e-30 < constant < 1e30 for constant in (alpha, k)):
        raise _OtherError(f"alpha would be {alpha} and k {k}")
    _check(compute, channels, size, alpha, beta, k)
    return size, alpha, beta, k


def _check(compute, channels: int, size: int, alpha: float, beta: float, k: float) -> None:
    random = np.random.default_rng(0)
    shape = (channels, 3, 4)
    # Around where neither k nor the squares are all.
    x = random.standard_normal(shape) * 10 ** random.uniform(-2, 2, shape) * math.sqrt(k / (alpha / size))
    squares = np.pad(np.cumsum(x**2, axis=0), ((1, 0), (0, 0), (0, 0)))
    at = np.arange(channels)
    sums = squares[np.minimum(at + size // 2 + 1, channels)] - squares[np.maximum(at - size // 2, 0)]
    with np.errstate(all="ignore"):
        expected = x * (k + alpha / size * sums) ** -beta
    if not (np.abs(compute(x) - expected) <= _TOLERANCE * np.abs(expected)).all():
        raise _OtherError(f"the nearest one has size {size}, alpha {alpha:g}, beta {beta:g} and k {k:g}")


def _computed(graph: CntkGraph, source: str, functions: Sequence[CntkFunction], x: np.ndarray) -> np.ndarray:
    values = {source: x}
    # Enough for the weights of a window where there are few channels.
    most = max(x.size, _LARGEST_WINDOW)
    for function in functions:
        inputs = [values[uid] if uid in values else _constant(graph, uid, function, most) for uid in function.inputs]
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


def _constant(graph: CntkGraph, uid: str, user: CntkFunction, most: int) -> np.ndarray:
    variable = graph.variables.get(uid)
    if variable is None or variable.value is None or variable.value.size > most:
        raise _OtherError(f"{user.op} {user.uid!r} takes {uid!r} too, which is no constant")
    return variable.value.astype(np.float64)


def _applied(graph: CntkGraph, function: CntkFunction, inputs: list[np.ndarray], most: int) -> np.ndarray:
    operation = _OPERATIONS.get(function.op)
    if operation and operation.nin == len(inputs):
        # Arrays of many axes could grow at each step.
        if math.prod(np.broadcast_shapes(*(value.shape for value in inputs))) > most:
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
        and kernel.size == windows.sizes[along] <= _LARGEST_WINDOW
        and windows.strides[along] == 1
        and all(windows.strides[axis] == 1 or x.shape[::-1][axis] == 1 for axis in others)
        and not any(windows.lower[axis] or windows.upper[axis] for axis in others)
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
