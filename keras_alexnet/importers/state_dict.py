"""The weights of torchvision's AlexNet within a checkpoint: the state dict, wherever a training script has put it."""

import math
import re
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from keras_alexnet.errors import UserError
from keras_alexnet.importers.torch_file import SAVE
from keras_alexnet.importers.torch_pickle import Placeholder, Tensor

EXPECTED = "a state dict of torchvision's alexnet (.pth or .safetensors)"
# What models are wrapped in by DataParallel, DistributedDataParallel and torch.compile.
_WRAPPERS = ("module", "_orig_mod")

# The places of torchvision's layers with weights: how many axes a kernel has.
KERNEL_AXES = {f"features.{n}": 4 for n in (0, 3, 6, 8, 10)} | {f"classifier.{n}": 2 for n in (1, 4, 6)}
_KEYS = {f"{place}.{kind}" for place in KERNEL_AXES for kind in ("weight", "bias")}
_NAME = re.compile(r"(?:(?P<prefix>.*)\.)?(?P<name>(?:features|classifier)\..+)")
# A layer that is the only one with weights of an nn.Sequential.
_IN_SEQUENTIAL = re.compile(r"(?P<place>(?:features|classifier)\.\d+)\.(?P<number>\d+)\.(?P<kind>weight|bias)")

_MAX_LISTED = 4
_MAX_DEPTH = 100
_MAX_KEY = 200


@dataclass(eq=False)
class Candidate:
    """What may be the state dict of an AlexNet.

    Attributes:
        prefix: the keys of the dicts around it, and what stands before its names.
        weights: torchvision's name → the tensor.
        others: names of other tensors of the same network.
        normalization: names of tensors that normalize pixels.
    """

    prefix: str
    weights: dict[str, Tensor | np.ndarray] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    normalization: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """What `weights_key` calls it."""
        return self.prefix or "."

    @property
    def is_complete(self) -> bool:
        return self.weights.keys() == _KEYS and not self.others


def find_candidates(content, path: str) -> list[Candidate]:
    """All that may be an AlexNet, wherever it is; raises `UserError` if there is nothing of the kind."""
    if (isinstance(content, Placeholder) and not content) or not isinstance(content, dict | list | tuple):
        raise _not_loaded(content, path)
    candidates: dict[str, Candidate] = {}
    found: list[str] = []
    objects: list[Placeholder] = []
    normalization: list[str] = []
    # Dicts may contain themselves, and any number of dicts within each other.
    waiting, seen = [("", 0, content)], {id(content)}
    while waiting:
        place, depth, state = waiting.pop()
        tensors = {}
        for key, value in state.items() if isinstance(state, dict) else enumerate(state):
            name = f"{place}.{_key(key)}" if place else _key(key)
            if isinstance(value, Placeholder) and not value:
                objects.append(value)
            elif isinstance(value, dict | list | tuple) and id(value) not in seen and depth < _MAX_DEPTH:
                seen.add(id(value))
                waiting.append((name, depth + 1, value))
            # A tensor without axes counts or averages something.
            elif isinstance(value, Tensor | np.ndarray) and value.shape != ():
                tensors[name] = value
        found += tensors
        # The mean or the deviation of pixels, which a layer in front of the network applies.
        normalization += [
            name
            for name, tensor in tensors.items()
            if name.rpartition(".")[2].strip("_") in ("mean", "std") and math.prod(tensor.shape) == 3
        ]
        _add_tensors(candidates, tensors, path)
    if not candidates:
        if found:
            has = f"has the tensors {_listed(found)}"
        elif any("multiarray" in value.source for value in objects):
            raise UserError(
                f"{path} has NumPy arrays in place of tensors. Expected {EXPECTED}: convert them with "
                "{name: torch.from_numpy(array) for name, array in arrays.items()}, and " + f"{SAVE}."
            )
        elif objects:
            raise _not_loaded(objects[0], path)
        else:
            names = [_key(key) for key in content] if isinstance(content, dict) else []
            has = "has no tensors" + (f", but {_listed(names)}" if names else "")
        raise UserError(f"{path} has no weights of torchvision's alexnet: it {has}. Expected {EXPECTED}: {SAVE}.")
    for candidate in candidates.values():
        candidate.normalization = normalization
        candidate.weights = _without_sequentials(candidate.weights)
    return list(candidates.values())


def _not_loaded(content, path: str) -> UserError:
    what = getattr(content, "source", "") or type(content).__name__
    return UserError(
        f"{path} holds an object of {what[:100]}, which was not loaded, since that would execute code. Expected "
        f"{EXPECTED}: if it is a whole model that you trust, load it with torch.load(path, weights_only=False) and "
        f"{SAVE}."
    )


def _key(key) -> str:
    """A key of a dict, for messages and names; any object can be one, with names of any length."""
    return key[:_MAX_KEY] if isinstance(key, str) else f"a key of {type(key).__name__}"


def _add_tensors(candidates: dict[str, Candidate], tensors: dict[str, Tensor | np.ndarray], path: str) -> None:
    """Adds the tensors of one dict to the candidates that they belong to."""
    prefixes, strangers = set(), []
    for name, tensor in tensors.items():
        if not (match := _NAME.fullmatch(name)):
            strangers.append(_unwrapped(name))
            continue
        prefix, plain = _unwrapped(match["prefix"] or ""), _unwrapped(match["name"])
        prefixes.add(prefix)
        weights = candidates.setdefault(prefix, Candidate(prefix)).weights
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
    matches = {name: _IN_SEQUENTIAL.fullmatch(name) for name in weights}
    layers = Counter(place for place, _ in {match.group("place", "number") for match in matches.values() if match})
    return {
        f"{match['place']}.{match['kind']}" if match and layers[match["place"]] == 1 else name: weights[name]
        for name, match in matches.items()
    }


def select_candidate(candidates: list[Candidate], weights_key: str | None, path: str) -> Candidate:
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
        f"{EXPECTED}, with features.0.weight … classifier.6.bias. A network with other layers can be converted from "
        "ONNX: export it with torch.onnx.export."
    )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_LISTED:,} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(name[:100] for name in names[:_MAX_LISTED]) + more
