"""What CNTK's graphs compute of pixels before the first layer."""

import numpy as np

from keras_alexnet.importers import chain
from keras_alexnet.importers.arrays import as_float32
from keras_alexnet.importers.cntk.graph import CntkFunction
from keras_alexnet.importers.cntk.path import Path

OPERATIONS = ("ElementTimes", "Minus", "Negate", "PerDimMeanVarNormalization", "Plus")


def read_scaling(path: Path, function: CntkFunction, at: str) -> chain.Scaling:
    """A function of `OPERATIONS` that takes `at` and numbers."""
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
            "number, or one per channel: take this function out of the model in CNTK, and give the means of the "
            "channels instead",
        )
    numbers = as_float32(value[:, 0, 0]).astype(np.float64)
    return numbers if len(numbers) > 1 else numbers.item()
