"""torchvision's AlexNet as a chain of layers, from a state dict: `.pth` (PyTorch's format) or `.safetensors`.

The layers are those of torchvision/models/alexnet.py, after Krizhevsky, "One weird trick for parallelizing
convolutional neural networks" (2014); a state dict has their weights alone.
"""

import mmap
import os
import pickle
import pickletools
import re
import warnings
import zipfile

import numpy as np

from keras_alexnet.errors import UserError
from keras_alexnet.importers.chain import Chain, Convolution, Dense, Dropout, Layer, MaxPool, Relu
from keras_alexnet.importers.files import open_model_file

_EXPECTED = "a state dict of torchvision's alexnet (.pth or .safetensors)"
_SAVE = "save it with torch.save(model.state_dict(), path)"

# What models are wrapped in by DataParallel, DistributedDataParallel and torch.compile.
_WRAPPERS = ("module", "_orig_mod")
# Where checkpoints have the state dict.
_NESTED = ("state_dict", "model_state_dict", "model")

# The places of torchvision's layers with weights: how many axes a kernel has.
_KERNEL_AXES = {f"features.{n}": 4 for n in (0, 3, 6, 8, 10)} | {f"classifier.{n}": 2 for n in (1, 4, 6)}
_KEYS = {f"{place}.{kind}" for place in _KERNEL_AXES for kind in ("weight", "bias")}

_FLOAT_TYPES = ("float16", "bfloat16", "float32", "float64")
_INTEGER_OPCODES = ("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4")
_SHOWN = 4


def read_torchvision(path: str | os.PathLike) -> Chain:
    """Reads the weights of torchvision's AlexNet; the file's kind is told by its content.

    A checkpoint that has the state dict under "state_dict" or "model" is read too, and names with DataParallel's
    "module.". Nothing in the file is executed. Arrays may be views of the file, which must not
    change while they are used.

    Returns:
        The network without torchvision's normalization of pixels, of which such files say nothing. Arrays are float32,
        whatever the float type in the file.

    Raises:
        UserError: torch or safetensors is needed and not installed, or the file cannot be read, is something else, is
            damaged, or has other weights.
    """
    file = open_model_file(path, _EXPECTED)
    # The header's length in 8 bytes, and the header, which is JSON; the other formats begin otherwise.
    if bytes(file.data[8:9]) == b"{":
        return _chain(_read_safetensors(file.path), file.path, "torchvision state dict (.safetensors)")
    return _chain(_read_torch(file.path, len(file)), file.path, "torchvision state dict (.pth)")


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
            names = _plain_names(list(file.keys()), path)
            return {name: file.get_tensor(key) for name, key in names.items()}
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{path} is damaged, or of another kind ({_brief(error)}). Expected {_EXPECTED}: download it again."
        ) from None


def _read_torch(path: str, size: int) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise UserError(f"{path}: to read it the package torch is needed: pip install 'keras_alexnet[torch]'") from None
    with open(path, "rb") as file:
        is_zip = file.read(2) == b"PK"
    if is_zip:
        _require_stored(path, size)
    else:
        _require_small_integers(path, size)
    try:
        with warnings.catch_warnings():
            # torch uses what it calls deprecated to read its older format.
            warnings.simplefilter("ignore")
            # Mapped, a storage cannot reach beyond the file, whatever length the file claims.
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    # Damaged files make torch's unpickler raise anything.
    except Exception as error:
        raise UserError(_torch_problem(path, error)) from None
    state = _unnested(state, path)
    names = _plain_names(list(state), path)
    return {name: _torch_array(torch, state[key], f"{path}: {key!r}") for name, key in names.items()}


def _require_stored(path: str, size: int) -> None:
    """Refuses archives that would grow when unpacked; torch does not compress."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, RuntimeError) as error:
        raise UserError(
            f"{path} is a damaged zip archive ({_brief(error)}). Expected {_EXPECTED}: download it again."
        ) from None
    is_plain = all(
        entry.compress_type == zipfile.ZIP_STORED and entry.compress_size == entry.file_size for entry in entries
    )
    if not is_plain or sum(entry.file_size for entry in entries) > size:
        raise UserError(
            f"{path} is a zip archive with compressed entries, which torch.save does not write. Expected {_EXPECTED}: "
            f"if it was packed, unpack it; else {_SAVE}."
        )


def _require_small_integers(path: str, size: int) -> None:
    """Refuses a file of torch's older format (before 1.6) that names a length beyond it: torch would allocate it first.

    It is a row of pickles: a magic number, the protocol's, the sizes of C's types, the state, the storages' keys.
    """
    largest = 0
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for n in range(5):
                for opcode, argument, _ in pickletools.genops(data):
                    if n >= 3 and opcode.name in _INTEGER_OPCODES:
                        largest = max(largest, argument)
    # Whatever is not a pickle.
    except Exception as error:
        raise UserError(f"{path} is damaged ({_brief(error)}). Expected {_EXPECTED}: download it again.") from None
    if largest > size:
        raise UserError(
            f"{path} names more numbers than its {size:,} bytes can have. Expected {_EXPECTED}: {_SAVE}, "
            "or download it again."
        )


def _torch_problem(path: str, error: Exception) -> str:
    text = str(error)
    # Such as "Unsupported global: GLOBAL torchvision.models.alexnet.AlexNet was not an allowed global by default."
    code = re.search(r"GLOBAL ([\w.]+)", text)
    if isinstance(error, pickle.UnpicklingError) and code:
        return (
            f"{path} holds more than weights: {code[1][:100]}, which is code. Nothing of it was executed. Expected "
            f"{_EXPECTED}: if it is a whole model that you trust, load it with torch.load and {_SAVE}."
        )
    return f"{path} cannot be read by torch ({_brief(error)}). Expected {_EXPECTED}: {_SAVE}, or download it again."


def _brief(error: Exception) -> str:
    """The first line of a library's message, which may be long, or empty."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _unnested(state, path: str) -> dict:
    if isinstance(state, dict):
        for key in _NESTED:
            if isinstance(state.get(key), dict):
                state = state[key]
                break
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise UserError(f"{path} holds a {type(state).__name__} of no names. Expected {_EXPECTED}: {_SAVE}.")
    return state


def _plain_names(keys: list[str], path: str) -> dict[str, str]:
    """torchvision's names → the keys of the file; all of them have to be there, and no others."""
    names: dict[str, str] = {}
    for key in keys:
        name = ".".join(part for part in key.split(".") if part not in _WRAPPERS)
        if name in names:
            raise UserError(f"{path} has both {names[name][:100]!r} and {key[:100]!r}. Expected one of them.")
        names[name] = key
    extra, missing = [name for name in names if name not in _KEYS], sorted(_KEYS - set(names))
    problems = [f"it has {_listed(extra)}"] * bool(extra) + [f"it lacks {_listed(missing)}"] * bool(missing)
    if problems:
        raise UserError(
            f"{path} is no AlexNet of torchvision's: {', and '.join(problems)}. Expected {_EXPECTED}, with "
            "features.0.weight … classifier.6.bias."
        )
    return names


def _listed(names: list[str]) -> str:
    shown = ", ".join(name[:100] for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else "")


def _torch_array(torch, tensor, where: str) -> np.ndarray:
    is_plain = (
        isinstance(tensor, torch.Tensor)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and tensor.dtype in [getattr(torch, name) for name in _FLOAT_TYPES]
        # A tensor may claim to repeat its numbers beyond all memory, at a stride of 0.
        and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    )
    if not is_plain:
        raise UserError(f"{where} is no plain array of a float type, or damaged. Expected {_EXPECTED}: {_SAVE}.")
    tensor = tensor.detach()
    # NumPy has no bfloat16.
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _chain(arrays: dict[str, np.ndarray], path: str, kind: str) -> Chain:
    def relu(place: str) -> Layer:
        return Relu(place)

    def pool(place: str) -> Layer:
        return MaxPool(place, (3, 3), (2, 2), "valid")

    def conv(place: str, strides: int, padding: int) -> Layer:
        kernel, bias = _weights(arrays, path, place)
        return Convolution(place, kernel, bias, (strides, strides), ((padding, padding),) * 2)

    def dense(place: str) -> Layer:
        kernel, bias = _weights(arrays, path, place)
        return Dense(place, kernel.T, bias)

    # The adaptive average pool to 6 × 6 does nothing at 224 × 224 pixels.
    layers = (
        conv("features.0", 4, 2),
        relu("features.1"),
        pool("features.2"),
        conv("features.3", 1, 2),
        relu("features.4"),
        pool("features.5"),
        conv("features.6", 1, 1),
        relu("features.7"),
        conv("features.8", 1, 1),
        relu("features.9"),
        conv("features.10", 1, 1),
        relu("features.11"),
        pool("features.12"),
        Dropout("classifier.0"),
        dense("classifier.1"),
        relu("classifier.2"),
        Dropout("classifier.3"),
        dense("classifier.4"),
        relu("classifier.5"),
        dense("classifier.6"),
    )
    return Chain(path, kind, layers)


def _weights(arrays: dict[str, np.ndarray], path: str, place: str) -> tuple[np.ndarray, np.ndarray]:
    """A layer's weight and bias, as float32."""
    kernel, bias = (arrays[f"{place}.{part}"] for part in ("weight", "bias"))
    for array in (kernel, bias):
        if array.dtype.name not in _FLOAT_TYPES:
            raise UserError(f"{path}: {place} is of {array.dtype}. Expected one of {', '.join(_FLOAT_TYPES)}: {_SAVE}.")
    if kernel.ndim != _KERNEL_AXES[place] or bias.shape != kernel.shape[:1] or not kernel.size:
        raise UserError(
            f"{path}: {place} has a weight of the shape {kernel.shape} and a bias of {bias.shape}. Expected "
            f"{_KERNEL_AXES[place]} sizes of 1 or above, and as many biases as the first of them."
        )
    # What is beyond float32 becomes infinite, which the caller refuses.
    with np.errstate(over="ignore"):
        return kernel.astype(np.float32, copy=False), bias.astype(np.float32, copy=False)
