"""Arrays, numbers and shapes as the files of all frameworks have them."""

from collections.abc import Sequence

import numpy as np

FLOAT_TYPES = ("float16", "bfloat16", "float32", "float64")

# NumPy 1.26 goes no further; no framework's AlexNet has more than 6.
MAX_AXES = 32


def as_float32(array: np.ndarray) -> np.ndarray:
    """The array as float32; what is beyond that becomes infinite, which `match_alexnet` refuses."""
    with np.errstate(over="ignore"):
        return np.asarray(array, np.float32)


def as_written(number: float) -> float:
    """The shortest decimal of a float32, so that 0.0001 is not 9.999999747378752e-05."""
    return float(str(as_float32(number)))


def numbers_text(values: Sequence[float] | np.ndarray, separator: str = ", ") -> str:
    """Numbers for messages; with a comma alone between them, as flags have them."""
    return separator.join(f"{value:.6g}" for value in values)


def shape_text(shape: Sequence[int]) -> str:
    """A shape for messages."""
    sizes = [size_text(size) for size in shape[:MAX_AXES]] + ["…"] * (len(shape) > MAX_AXES)
    return " × ".join(sizes) or "of a single number"


def size_text(size: int) -> str:
    """A size, or the product of some, which may have thousands of digits."""
    return f"{size:,}" if abs(size) < 2**63 else "beyond 2^63"
