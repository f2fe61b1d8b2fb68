"""Weights of torchvision's AlexNet in safetensors and in both of PyTorch's formats, whatever is around them."""

import argparse
import collections
import enum
import sys
import warnings
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from torch_states import REFERENCE, STATE, check, refused

from keras_alexnet.errors import UserError
from keras_alexnet.importers import chain, formats
from keras_alexnet.importers.alexnet import match_alexnet
from keras_alexnet.importers.preprocessing import Preprocessing, resolve_preprocessing
from keras_alexnet.importers.torchvision import read_torchvision

BIAS = "classifier.6.bias"


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def tensors(torch, state: dict[str, np.ndarray]) -> dict:
    return collections.OrderedDict((key, torch.tensor(array)) for key, array in state.items())


def saved(folder, state: dict[str, np.ndarray]) -> Path:
    """A file of safetensors, with the suffix of another format."""
    path = folder / "net.pth"
    path.unlink(missing_ok=True)
    save_file(state, path)
    return path


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_reference_files(monkeypatch, suffix):
    """Neither needs PyTorch. `test_import` compares their logits."""
    monkeypatch.setitem(sys.modules, "torch", None)
    path = REFERENCE / f"torchvision_c9_fc96.{suffix}"
    network = read_torchvision(path)
    check(network, STATE)
    assert (network.path, network.kind) == (str(path), f"torchvision state dict (.{suffix})")
    assert network.image_size is None
    assert {layer.rate for layer in network.layers if isinstance(layer, chain.Dropout)} == {None}


def test_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(UserError, match=r"pip install 'keras_alexnet\[torchvision\]'"):
        read_torchvision(REFERENCE / "torchvision_c9_fc96.safetensors")


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16, "float64"])
def test_float_types_of_safetensors(tmp_path, dtype):
    state = {name: array.astype(dtype) for name, array in STATE.items()}
    check(read_torchvision(saved(tmp_path, state)), state)


@pytest.mark.slow
@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_float_types_and_memory_layouts_of_pth(tmp_path, torch, is_zip, dtype):
    state = {key: array.to(getattr(torch, dtype)) for key, array in tensors(torch, STATE).items()}
    state["features.3.weight"] = state["features.3.weight"].to(memory_format=torch.channels_last)
    torch.save(state, tmp_path / "net.pth", _use_new_zipfile_serialization=is_zip)
    check(read_torchvision(tmp_path / "net.pth"), {key: array.float().numpy() for key, array in state.items()})


def test_numbers_of_big_endian_machines(tmp_path):
    with zipfile.ZipFile(REFERENCE / "torchvision_c9_fc96.pth") as old, zipfile.ZipFile(tmp_path / "a", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if "/data/" in name:
                content = np.frombuffer(content, "<f4").astype(">f4").tobytes()
            new.writestr(name, b"big" if name.endswith("/byteorder") else content)
    check(read_torchvision(tmp_path / "a"), STATE)


def test_names_of_wrapped_models_and_layers(tmp_path):
    for old, new in [
        ("", "module."),
        ("", "_orig_mod.module."),
        # PyTorch's ImageNet example wraps AlexNet's features alone.
        ("features.", "features.module."),
        ("classifier.6.", "classifier.6.1."),
    ]:
        renamed = {name.replace(old, new, 1): array for name, array in STATE.items()}
        check(read_torchvision(saved(tmp_path, renamed)), STATE)
    renamed["classifier.6.0.weight"] = np.ones((1, 1), np.float32)
    assert "it has classifier.6.0.weight, classifier.6.1.bias" in refused(saved(tmp_path, renamed))


def test_other_weights_are_refused(tmp_path):
    more = STATE | {"layer4.0.conv1.weight": np.ones(1), "bn1.num_batches_tracked": np.ones(1)}
    del more["features.0.bias"]
    message = refused(saved(tmp_path, more))
    assert "it has bn1.num_batches_tracked, layer4.0.conv1.weight, and it lacks features.0.bias. Expected" in message
    resnet = {f"layer{n}.0.conv1.weight": np.ones(1) for n in range(9)}
    assert "it has the tensors layer0.0.conv1.weight, " in refused(saved(tmp_path, resnet))
    twice = STATE | {"module.features.0.bias": np.ones(2, np.float32)}
    assert "has 'module.features.0.bias' both with and without" in refused(saved(tmp_path, twice))
    shapes = "features.3 has a weight of the shape (48, 16, 5, 5) and a bias of (4,)"
    assert shapes in refused(saved(tmp_path, STATE | {"features.3.bias": np.ones(4, np.float32)}))
    assert f"{BIAS} is of int64" in refused(saved(tmp_path, STATE | {BIAS: np.ones(9, np.int64)}))


class Outer:
    class Mode(enum.Enum):
        A = 1


INERT = {
    "args": argparse.Namespace(lr=0.01, output=Path("/x")),
    "best": np.float64(56.5),
    "mode": Outer.Mode.A,
    "history": collections.defaultdict(list, {"loss": [1.0]}),
    "names": {"a", "b"},
    (1, 2): "no name",
}


@pytest.mark.slow
@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize(
    ("key", "prefix", "label"),
    [
        ("state_dict", "module._orig_mod.", "state_dict"),
        ("state_dict", "_orig_mod.model.module.", "state_dict.model"),
        ("", "backbone.", "backbone"),
    ],
)
def test_checkpoints_of_trainers(tmp_path, torch, is_zip, key, prefix, label):
    """Whatever is around the weights, next to them and before their names."""
    weights = {prefix + name: torch.nn.Parameter(tensor) for name, tensor in tensors(torch, STATE).items()}
    optimizer = torch.optim.SGD(weights.values(), 0.01, momentum=0.9)
    facts = {"epoch": torch.tensor(3), "optimizer": optimizer.state_dict(), **INERT}
    content = {key: weights, **facts} if key else weights | facts
    torch.save(content, tmp_path / "net.ckpt", _use_new_zipfile_serialization=is_zip)
    network = read_torchvision(tmp_path / "net.ckpt")
    check(network, STATE)
    assert network.kind == f"torchvision state dict (.pth), weights at {label!r}"


@pytest.mark.slow
def test_weights_key(tmp_path, torch):
    path = tmp_path / "net.pth"
    ema = {name: array + 1 for name, array in STATE.items()}
    averaged = {f"module.{name}": tensor for name, tensor in tensors(torch, ema).items()}
    averaged["n_averaged"] = torch.tensor(5)
    torch.save({"model": tensors(torch, STATE), "ema": {"state": [averaged]}}, path)
    with pytest.raises(UserError, match=r"weights of 2 networks: .*, .*such as --weights_key="):
        read_torchvision(path)
    for key, expected in [("model", STATE), ("ema", ema), ("state", ema)]:
        check(read_torchvision(path, key), expected)
    with pytest.raises(UserError, match=r"no weights at weights_key 'best'\. Expected one of"):
        read_torchvision(path, "best")


@pytest.mark.slow
def test_a_normalization_in_front_is_asked_about(tmp_path, torch):
    state = {f"1.{name}": value for name, value in tensors(torch, STATE).items()}
    torch.save({"0.mean": torch.zeros(3), "0.std": torch.ones(3), **state}, tmp_path / "net.pth")
    network = read_torchvision(tmp_path / "net.pth")
    with pytest.raises(UserError, match=r"normalizes pixels with 0\.mean and 0\.std, but does not say how.*--mean="):
        resolve_preprocessing(match_alexnet(network), formats.TORCHVISION, Preprocessing())


@pytest.mark.slow
def test_what_is_no_state_dict_is_named(tmp_path, torch):
    path = tmp_path / "net.pth"
    weights = tensors(torch, STATE)
    for content, problem in [
        (torch.nn.Linear(2, 2), "an object of torch.nn.modules.linear.Linear, which was not loaded"),
        ({"net": torch.nn.Linear(2, 2)}, "an object of torch.nn.modules.linear.Linear, which was not loaded"),
        ({1: 2}, "it has no tensors, but a key of int"),
        (STATE, "NumPy arrays in place of tensors"),
        (weights | {BIAS: torch.ones(9).to_sparse()}, f"it lacks {BIAS}"),
        # A number repeated 2^40 times by a stride of 0.
        (weights | {BIAS: torch.ones(1).expand(2**40)}, f"it lacks {BIAS}"),
    ]:
        for is_zip in (True, False):
            path.unlink(missing_ok=True)
            torch.save(content, path, _use_new_zipfile_serialization=is_zip)
            assert problem in refused(path)
    path.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It is deprecated.
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    assert "is a TorchScript archive" in refused(path)
