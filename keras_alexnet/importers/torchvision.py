"""torchvision's AlexNet as a chain of layers, from a PyTorch checkpoint (`.pth`, `.ckpt`, …) or `.safetensors`.

The layers are those of torchvision/models/alexnet.py, after Krizhevsky, "One weird trick for parallelizing
convolutional neural networks" (2014); a state dict has only their weights. Training scripts store it within other
dicts, next to other things, and with prefixes before its names. All of this is detected by the names that end in
`features.0.weight` … `classifier.6.bias`.
"""

import os
import re
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from keras_alexnet.errors import UserError
from keras_alexnet.importers.chain import Chain, Convolution, Dense, Dropout, Layer, MaxPool, Relu
from keras_alexnet.importers.files import open_model_file
from keras_alexnet.importers.torch_file import SAVE, read_torch_file
from keras_alexnet.importers.torch_pickle import Placeholder, Tensor

_EXPECTED = "a state dict of torchvision's alexnet (.pth or .safetensors)"

# What models are wrapped in by DataParallel, DistributedDataParallel and torch.compile.
_WRAPPERS = ("module", "_orig_mod")

# The places of torchvision's layers with weights: how many axes a kernel has.
_KERNEL_AXES = {f"features.{n}": 4 for n in (0, 3, 6, 8, 10)} | {f"classifier.{n}": 2 for n in (1, 4, 6)}
_KEYS = {f"{place}.{kind}" for place in _KERNEL_AXES for kind in ("weight", "bias")}
_NAME = re.compile(r"(?:(?P<prefix>.*)\.)?(?P<name>(?:features|classifier)\..+)")
# A layer that is the only one with weights of an nn.Sequential.
_IN_SEQUENTIAL = re.compile(r"(?P<place>(?:features|classifier)\.\d+)\.(?P<number>\d+)\.(?P<kind>weight|bias)")

_FLOAT_TYPES = ("float16", "bfloat16", "float32", "float64")
_MAX_SHOWN = 4
_MAX_DEPTH = 100
_MAX_KEY = 200


@dataclass(eq=False)
class _Candidate:
    """What may be the state dict of an AlexNet.

    Attributes:
        prefix: the keys of the dicts around it, and what stands before its names.
        weights: torchvision's name → the tensor.
        others: names of other tensors of the same network.
    """

    prefix: str
    weights: dict[str, Tensor | np.ndarray] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """What `weights_key` calls it."""
        return self.prefix or "."

    @property
    def is_complete(self) -> bool:
        return self.weights.keys() == _KEYS and not self.others


def read_torchvision(path: str | os.PathLike, weights_key: str | None = None) -> Chain:
    """Reads the weights of torchvision's AlexNet; the file's format is detected from its contents.

    The state dict may be within any dicts, and its names may have any prefix. Nothing in the file is executed. Arrays
    may be views of the file, which must not change while they are used.

    Args:
        path: the file.
        weights_key: which weights to read, if the file has several: a key on the way to them, such as "ema".

    Returns:
        The network without torchvision's normalization of pixels, of which such files say nothing. Arrays are float32,
        whatever the float type in the file.

    Raises:
        UserError: safetensors is needed and not installed, or the file cannot be read, is something else, is damaged,
            has other weights, or has several and `weights_key` selects none of them.
    """
    file = open_model_file(path, _EXPECTED)
    # The header's length in 8 bytes, and the header, which is JSON; the other formats begin otherwise.
    if bytes(file.data[8:9]) == b"{":
        kind, content = "torchvision state dict (.safetensors)", _read_safetensors(file.path)
    else:
        kind, content = "torchvision state dict (.pth)", read_torch_file(file)
    candidates = _candidates(content, file.path)
    found = _select(candidates, weights_key, file.path)
    if found.prefix:
        kind += f", weights at {found.prefix[:100]!r}"
    arrays = {name: _array(tensor, f"{file.path}: {name}") for name, tensor in found.weights.items()}
    return _chain(arrays, file.path, kind)


def _read_safetensors(path: str) -> dict[str, np.ndarray]:
    try:
        from safetensors import safe_open
    except ImportError:
        raise UserError(
            f"{path}: to read it the package safetensors is needed: pip install -e '.[torchvision]'"
        ) from None
    # Its own SafetensorError, and whatever NumPy raises at types that it lacks.
    try:
        with safe_open(path, "numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is not a dict
    except Exception as error:
        raise UserError(
            f"{path} is damaged, or of another kind ({_brief(error)}). Expected {_EXPECTED}: download it again."
        ) from None


def _brief(error: Exception) -> str:
    """The first line of a library's message, which may be long, or empty."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _candidates(content, path: str) -> list[_Candidate]:
    """All that may be an AlexNet, wherever it is; raises `UserError` if there is nothing of the kind."""
    if not isinstance(content, dict) or (isinstance(content, Placeholder) and not content):
        what = getattr(content, "source", "") or type(content).__name__
        raise UserError(
            f"{path} holds an object of {what[:100]}, which was not loaded, since that would execute code. Expected "
            f"{_EXPECTED}: if it is a whole model that you trust, load it with torch.load(path, weights_only=False) "
            f"and {SAVE}."
        )
    candidates: dict[str, _Candidate] = {}
    found: list[str] = []
    # Dicts may contain themselves, and any number of dicts within each other.
    waiting, seen = [("", 0, content)], {id(content)}
    while waiting:
        place, depth, state = waiting.pop()
        tensors = {}
        for key, value in state.items():
            name = f"{place}.{_key(key)}" if place else _key(key)
            if isinstance(value, dict) and id(value) not in seen and depth < _MAX_DEPTH:
                seen.add(id(value))
                waiting.append((name, depth + 1, value))
            # A tensor without axes counts or averages something.
            elif isinstance(value, Tensor | np.ndarray) and value.shape != ():
                tensors[name] = value
        found += tensors
        _add_tensors(candidates, tensors, path)
    if not candidates:
        if found:
            has = f"has the tensors {_listed(found)}"
        else:
            has = f"has no tensors, but {_listed([_key(key) for key in content]) or 'nothing'}"
        raise UserError(f"{path} has no weights of torchvision's alexnet: it {has}. Expected {_EXPECTED}: {SAVE}.")
    for candidate in candidates.values():
        candidate.weights = _without_sequentials(candidate.weights)
    return list(candidates.values())


def _key(key) -> str:
    """A key of a dict, for messages and names; any object can be one, with names of any length."""
    return key[:_MAX_KEY] if isinstance(key, str) else f"a key of {type(key).__name__}"


def _add_tensors(candidates: dict[str, _Candidate], tensors: dict[str, Tensor | np.ndarray], path: str) -> None:
    """Adds the tensors of one dict to the candidates that they belong to."""
    prefixes, strangers = set(), []
    for name, tensor in tensors.items():
        if not (match := _NAME.fullmatch(name)):
            strangers.append(_unwrapped(name))
            continue
        prefix, plain = _unwrapped(match["prefix"] or ""), _unwrapped(match["name"])
        prefixes.add(prefix)
        weights = candidates.setdefault(prefix, _Candidate(prefix)).weights
        if plain in weights:
            raise UserError(f"{path} has {name!r} both with and without a wrapper's prefix. Expected one of them.")
        weights[plain] = tensor
    for prefix in prefixes:
        start = f"{prefix}." if prefix else ""
        candidates[prefix].others += [name.removeprefix(start) for name in strangers if name.startswith(start)]


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _without_sequentials(weights: dict[str, Tensor | np.ndarray]) -> dict[str, Tensor | np.ndarray]:
    """Names as without an nn.Sequential around a layer: classifier.6.0.weight is classifier.6.weight."""
    numbers = defaultdict(set)
    for name in weights:
        if match := _IN_SEQUENTIAL.fullmatch(name):
            numbers[match["place"]].add(match["number"])
    plain = {}
    for name, tensor in weights.items():
        match = _IN_SEQUENTIAL.fullmatch(name)
        if match and len(numbers[match["place"]]) == 1:
            name = f"{match['place']}.{match['kind']}"
        plain[name] = tensor
    return plain


def _select(candidates: list[_Candidate], weights_key: str | None, path: str) -> _Candidate:
    """The candidate that is meant; raises `UserError` if that is not clear."""
    if weights_key is not None:
        named = [found for found in candidates if weights_key in (found.label, *found.prefix.split("."))]
        if not named:
            raise UserError(
                f"{path} has no weights at weights_key {weights_key!r}. Expected one of "
                f"{_listed([found.label for found in candidates])}."
            )
        # Exactly that key, if it is one and is part of others too.
        candidates = [found for found in named if found.label == weights_key] or named
    complete = [found for found in candidates if found.is_complete]
    if len(complete) == 1:
        return complete[0]
    if complete:
        labels = [found.label for found in complete]
        raise UserError(
            f"{path} has the weights of {len(complete)} networks: {_listed(labels)}. Choose one, such as "
            f"--weights_key={labels[0]}. (An EMA is the moving average of the weights, with which networks are usually "
            "evaluated.)"
        )
    nearest = max(candidates, key=lambda found: len(found.weights.keys() & _KEYS))
    names = nearest.weights.keys()
    extra, missing = sorted(names - _KEYS) + nearest.others, sorted(_KEYS - names)
    problems = [f"it has {_listed(extra)}"] * bool(extra) + [f"it lacks {_listed(missing)}"] * bool(missing)
    raise UserError(
        f"{path} does not hold torchvision's alexnet, but another network: {', and '.join(problems)}. Expected "
        f"{_EXPECTED}, with features.0.weight … classifier.6.bias. A network with other layers can be converted from "
        "ONNX: export it with torch.onnx.export."
    )


def _listed(names: list[str]) -> str:
    shown = ", ".join(name[:100] for name in names[:_MAX_SHOWN])
    return shown + (f" and {len(names) - _MAX_SHOWN:,} more" if len(names) > _MAX_SHOWN else "")


def _array(tensor: Tensor | np.ndarray, where: str) -> np.ndarray:
    """The numbers of a tensor in float32."""
    try:
        array = tensor.numpy() if isinstance(tensor, Tensor) else tensor
    # What zipfile raises at damaged entries.
    except Exception as error:
        raise UserError(f"{where} is damaged ({_brief(error)}). Expected {_EXPECTED}: download it again.") from None
    if array.dtype.name not in _FLOAT_TYPES:
        raise UserError(f"{where} is of {array.dtype}. Expected one of {', '.join(_FLOAT_TYPES)}: {SAVE}.")
    # What is beyond float32 becomes infinite, which the caller refuses.
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)


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
    """A layer's weight and bias."""
    kernel, bias = (arrays[f"{place}.{part}"] for part in ("weight", "bias"))
    if kernel.ndim != _KERNEL_AXES[place] or bias.shape != kernel.shape[:1] or not kernel.size:
        raise UserError(
            f"{path}: {place} has a weight of the shape {kernel.shape} and a bias of {bias.shape}. Expected "
            f"{_KERNEL_AXES[place]} sizes of 1 or above, and as many biases as the first of them."
        )
    return kernel, bias
