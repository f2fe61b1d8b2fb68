"""torchvision's AlexNet as a chain of layers, from a PyTorch checkpoint (`.pth`, `.ckpt`, …) or `.safetensors`.

The layers are those of torchvision/models/alexnet.py, after Krizhevsky, "One weird trick for parallelizing
convolutional neural networks" (2014); a state dict has only their weights. Training scripts store it within other
dicts, next to other things, and with prefixes before its names. All of this is detected by the names that end in
`features.0.weight` … `classifier.6.bias`.
"""

import dataclasses
import os

import numpy as np

from keras_alexnet.errors import UserError, first_line
from keras_alexnet.importers.arrays import FLOAT_TYPES, as_float32
from keras_alexnet.importers.chain import Chain, Convolution, Dense, Dropout, MaxPool, Relu
from keras_alexnet.importers.files import open_model_file
from keras_alexnet.importers.state_dict import EXPECTED, KERNEL_AXES, find_candidates, select_candidate
from keras_alexnet.importers.torch_file import SAVE, read_torch_file
from keras_alexnet.importers.torch_pickle import Tensor


def read_torchvision(path: str | os.PathLike, weights_key: str | None = None) -> Chain:
    """Reads the weights of torchvision's AlexNet; the file's format is detected from its contents.

    The state dict may be within any dicts, and its names may have any prefix. Nothing in the file is executed. Arrays
    may be views of the file, which must not change while they are used.

    Args:
        path: the file.
        weights_key: which weights to read, if the file has several: a key on the way to them, such as "ema".

    Returns:
        The network without torchvision's normalization of pixels, of which such files say nothing.
    """
    file = open_model_file(path, EXPECTED)
    # The header's length in 8 bytes, and the header, which is JSON; the other formats begin otherwise.
    if bytes(file.data[8:9]) == b"{":
        kind, content = "torchvision state dict (.safetensors)", _read_safetensors(file.path)
    else:
        kind, content = "torchvision state dict (.pth)", read_torch_file(file)
    found = select_candidate(find_candidates(content, file.path), weights_key, file.path)
    if found.prefix:
        kind += f", weights at {found.prefix[:100]!r}"
    arrays = {name: _array(tensor, f"{file.path}: {name}") for name, tensor in found.weights.items()}
    return dataclasses.replace(_chain(arrays, file.path, kind), normalization=tuple(found.normalization))


def _read_safetensors(path: str) -> dict[str, np.ndarray]:
    try:
        from safetensors import safe_open
    except ImportError:
        raise UserError(
            f"{path}: to read it the package safetensors is needed: pip install 'keras_alexnet[torchvision]'"
        ) from None
    # Its own SafetensorError, and whatever NumPy raises at types that it lacks.
    try:
        with safe_open(path, "numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is not a dict
    except Exception as error:
        raise UserError(
            f"{path} is damaged, or of another kind ({first_line(error)}). Expected {EXPECTED}: download it again."
        ) from None


def _array(tensor: Tensor | np.ndarray, where: str) -> np.ndarray:
    """The numbers of a tensor in float32."""
    try:
        array = tensor.numpy() if isinstance(tensor, Tensor) else tensor
    # What zipfile raises at damaged entries.
    except Exception as error:
        raise UserError(f"{where} is damaged ({first_line(error)}). Expected {EXPECTED}: download it again.") from None
    if array.dtype.name not in FLOAT_TYPES:
        raise UserError(f"{where} is of {array.dtype}. Expected one of {', '.join(FLOAT_TYPES)}: {SAVE}.")
    return as_float32(array)


def _chain(arrays: dict[str, np.ndarray], path: str, kind: str) -> Chain:
    def pool(place: str) -> MaxPool:
        return MaxPool(place, (3, 3), (2, 2), "valid")

    def conv(place: str, strides: int, padding: int) -> Convolution:
        kernel, bias = _weights(arrays, path, place)
        return Convolution(place, kernel, bias, (strides, strides), ((padding, padding),) * 2)

    def dense(place: str) -> Dense:
        kernel, bias = _weights(arrays, path, place)
        return Dense(place, kernel.T, bias)

    # The adaptive average pool to 6 × 6 does nothing at 224 × 224 pixels.
    layers = (
        conv("features.0", 4, 2),
        Relu("features.1"),
        pool("features.2"),
        conv("features.3", 1, 2),
        Relu("features.4"),
        pool("features.5"),
        conv("features.6", 1, 1),
        Relu("features.7"),
        conv("features.8", 1, 1),
        Relu("features.9"),
        conv("features.10", 1, 1),
        Relu("features.11"),
        pool("features.12"),
        Dropout("classifier.0"),
        dense("classifier.1"),
        Relu("classifier.2"),
        Dropout("classifier.3"),
        dense("classifier.4"),
        Relu("classifier.5"),
        dense("classifier.6"),
    )
    return Chain(path, kind, layers)


def _weights(arrays: dict[str, np.ndarray], path: str, place: str) -> tuple[np.ndarray, np.ndarray]:
    """A layer's weight and bias."""
    kernel, bias = (arrays[f"{place}.{part}"] for part in ("weight", "bias"))
    if kernel.ndim != KERNEL_AXES[place] or bias.shape != kernel.shape[:1] or not kernel.size:
        raise UserError(
            f"{path}: {place} has a weight of the shape {kernel.shape} and a bias of {bias.shape}. Expected "
            f"{KERNEL_AXES[place]} sizes of 1 or above, and as many biases as the first of them."
        )
    return kernel, bias
