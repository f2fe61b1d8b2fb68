"""Local response normalization, which CNTK's graphs have as simple functions, always in the same form.

That is `x ./ exp(beta .* log(k + window sum of x .* x))`. The sum is a convolution over the channels, which a Reshape
makes an axis of images (CNTK's Examples/Image/Classification/AlexNet, in Python and BrainScript, and its converter of
Caffe's models).
"""

import numpy as np

from keras_alexnet.errors import UserError
from keras_alexnet.importers.chain import LocalResponseNorm
from keras_alexnet.importers.cntk.convolution import check_is_plain, read_windows
from keras_alexnet.importers.cntk.graph import EXPECTED, CntkFunction
from keras_alexnet.importers.cntk.path import Path

# The functions in their order.
_FORM = ("ElementTimes", "Reshape", "Convolution", "Reshape", "Plus", "Log", "ElementTimes", "Exp", "Reciprocal")
_FORM += ("ElementTimes",)
_NUM_INPUTS = [2, 1, 2, 1, 2, 1, 2, 1, 1, 2]
_SPLIT, _SUM, _JOIN, _PLUS, _TIMES = 1, 2, 3, 4, 6
# What the Reshapes take and give, in CNTK's order: the channels become two axes, and one again.
_RESHAPES = {_SPLIT: (3, (-1, 1)), _JOIN: (4, (-1,))}


def read_normalization(path: Path, source: str) -> tuple[LocalResponseNorm, str]:
    """A normalization of `source`, (channels, height, width), and the uid of its result."""
    functions = _functions(path, source)
    if tuple(f.op for f in functions) != _FORM or [len(f.inputs) for f in functions] != _NUM_INPUTS:
        raise _error(path, source, functions, f"they are {' '.join(f.op for f in functions)}, not {' '.join(_FORM)}")
    for place, (rank, shape) in _RESHAPES.items():
        attributes = functions[place].attributes
        # Without an end it is up to the last axis: in version 1 files that is -1.
        is_last = attributes.get("endAxis", -1) in (-1, rank) or isinstance(attributes["endAxis"], str)
        if attributes.get("beginAxis") != 2 or not is_last or attributes.get("newShape") != shape:
            raise _error(path, source, functions, f"{functions[place].uid!r} does not reshape just the channels")
    weights = _window_weights(path, functions)
    k, beta = (_constant(path, functions[place], functions[place - 1].uid) for place in (_PLUS, _TIMES))
    if weights is None or k is None or beta is None:
        raise _error(path, source, functions, "its window, k or beta are not constants")
    size = len(weights)
    alpha = _as_written(float(weights[0]) * size)
    return LocalResponseNorm(functions[-1].label, size, alpha, beta, k), functions[-1].uid


def _functions(path: Path, source: str) -> list[CntkFunction]:
    """The functions from the square on, each taking the one before it, up to the one that takes the source as well."""
    found: list[CntkFunction] = []
    users = [function for function in path.consumers(source) if function.inputs == (source, source)]
    while len(users) == 1 and len(found) < len(_FORM):
        found += users
        if found[1:] and source in found[-1].inputs:
            break
        users = path.consumers(found[-1].uid)
    if not found or sorted(found[-1].inputs) != sorted((source, found[-2].uid if found[1:] else "")):
        users = path.consumers(source)
        raise _error(path, source, found or users, "they do not multiply it by a function of its squares")
    return found


def _window_weights(path: Path, functions: list[CntkFunction]) -> np.ndarray | None:
    """The weights of the neighboring channels, which are all equal; None if it is another convolution."""
    function = functions[_SUM]
    kernel = path.operand(function, functions[_SPLIT].uid)
    if kernel is None or not kernel.size or function.inputs[1] != functions[_SPLIT].uid:
        return None
    check_is_plain(path.graph, function)
    # Strides over the axis of length 1, which it has in addition, do not count.
    windows = read_windows(
        path.graph, function, function.attributes.get("kernelShape", kernel.shape[::-1]), (1, 1, 1, 1)
    )
    half = (kernel.size - 1) // 2
    paddings = [windows.padding(axis) for axis in range(4)] if len(windows.sizes) == 4 else []
    is_window = (
        windows.sizes == (1, 1, 2 * half + 1, 1)
        and kernel.size == 2 * half + 1
        and windows.strides == (1, 1, 1, 1)
        and paddings == [(0, 0), (0, 0), (half, half), (0, 0)]
        and np.all(kernel == kernel.flat[0])
    )
    return kernel.ravel() if is_window else None


def _constant(path: Path, function: CntkFunction, at: str) -> float | None:
    value = path.operand(function, at)
    return _as_written(value.item()) if value is not None and value.size == 1 else None


def _as_written(value: float) -> float:
    """The decimal of which a float32 was made."""
    return float(f"{value:.6g}")


def _error(path: Path, source: str, functions: list[CntkFunction], why: str) -> UserError:
    problem = f"belongs to branches from {source!r} that are not local response normalization: {why}"
    return UserError(f"{path.graph.described(functions[-1])} {problem}. {EXPECTED}, without other branches.")
