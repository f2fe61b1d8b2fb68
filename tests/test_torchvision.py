import argparse
import collections
import datetime
import enum
import io
import json
import os
import pickle
import struct
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from keras_alexnet.errors import UserError
from keras_alexnet.importers import chain, formats, torch_pickle
from keras_alexnet.importers.alexnet import match_alexnet
from keras_alexnet.importers.preprocessing import Preprocessing, resolve_preprocessing
from keras_alexnet.importers.torchvision import read_torchvision

REFERENCE = Path(__file__).parent / "reference"
PTH, SAFETENSORS = (REFERENCE / f"torchvision_c9_fc96.{suffix}" for suffix in ("pth", "safetensors"))
SHAPES = {
    "features.0": (2, 3, 11, 11),
    "features.3": (3, 2, 5, 5),
    "features.6": (4, 3, 3, 3),
    "features.8": (2, 4, 3, 3),
    "features.10": (1, 2, 3, 3),
    "classifier.1": (5, 36),
    "classifier.4": (5, 5),
    "classifier.6": (3, 5),
}


def small_state(dtype=np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    state = {}
    for place, shape in SHAPES.items():
        state[f"{place}.weight"] = rng.normal(size=shape).astype(dtype)
        state[f"{place}.bias"] = rng.normal(size=shape[0]).astype(dtype)
    return state


def check(network: chain.Chain, state: dict[str, np.ndarray]) -> None:
    """The chain has those arrays."""
    for layer in network.layers:
        if isinstance(layer, chain.Convolution | chain.Dense):
            weight = state[f"{layer.name}.weight"].astype(np.float32)
            np.testing.assert_array_equal(layer.kernel, weight.T if isinstance(layer, chain.Dense) else weight)
            np.testing.assert_array_equal(layer.bias, state[f"{layer.name}.bias"].astype(np.float32))
            assert layer.kernel.dtype == layer.bias.dtype == np.float32


def refused(path) -> str:
    with pytest.raises(UserError) as raised:
        read_torchvision(path)
    message = str(raised.value)
    assert str(path) in message
    assert "Expected " in message
    assert len(message) < 1000
    return message


def saved(folder, state: dict) -> Path:
    path = folder / "net.safetensors"
    path.unlink(missing_ok=True)
    save_file(state, path)
    return path


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def tensors(torch, state: dict[str, np.ndarray]) -> dict:
    return collections.OrderedDict((key, torch.tensor(array)) for key, array in state.items())


def check_reference(network: chain.Chain) -> None:
    check(network, load_file(SAFETENSORS))
    conv, pool = ["Convolution", "Relu"], ["MaxPool"]
    found = [type(layer).__name__ for layer in network.layers]
    assert found == [*(conv + pool) * 2, *conv * 3, *pool, *["Dropout", "Dense", "Relu"] * 2, "Dense"]
    assert network.image_size is None
    convolutions = [layer for layer in network.layers if isinstance(layer, chain.Convolution)]
    assert [layer.kernel.shape[0] for layer in convolutions] == [16, 48, 64, 48, 48]
    assert [layer.strides for layer in convolutions] == [(4, 4)] + [(1, 1)] * 4
    assert [layer.padding for layer in convolutions] == [((n, n), (n, n)) for n in (2, 2, 1, 1, 1)]
    assert [layer.groups for layer in convolutions] == [1] * 5
    pools = {(n.window, n.strides, n.padding) for n in network.layers if isinstance(n, chain.MaxPool)}
    assert pools == {((3, 3), (2, 2), "valid")}
    assert {layer.rate for layer in network.layers if isinstance(layer, chain.Dropout)} == {None}
    assert [layer.name for layer in network.layers][:3] == ["features.0", "features.1", "features.2"]
    assert network.layers[-1].name == "classifier.6"


def test_reference_safetensors():
    network = read_torchvision(SAFETENSORS)
    assert (network.path, network.kind) == (str(SAFETENSORS), "torchvision state dict (.safetensors)")
    check_reference(network)


@pytest.mark.slow
def test_reference_pth(torch):
    network = read_torchvision(PTH)
    assert (network.path, network.kind) == (str(PTH), "torchvision state dict (.pth)")
    check_reference(network)


def test_kind_is_told_by_content(tmp_path):
    state = small_state()
    path = tmp_path / "net.pth"
    save_file(state, path)
    check(read_torchvision(path), state)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_float_types_of_safetensors(tmp_path, dtype):
    import ml_dtypes  # noqa: F401 - makes NumPy know bfloat16

    state = small_state(np.dtype(dtype))
    check(read_torchvision(saved(tmp_path, state)), state)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_names_of_wrapped_models(tmp_path, prefix):
    state = small_state()
    path = saved(tmp_path, {prefix + key: array for key, array in state.items()})
    check(read_torchvision(path), state)
    # PyTorch's ImageNet example wraps AlexNet's features alone.
    path = saved(tmp_path, {key.replace("features.", "features.module."): array for key, array in state.items()})
    check(read_torchvision(path), state)


def test_other_weights_are_refused(tmp_path):
    state = small_state()
    more = state | {"layer4.0.conv1.weight": np.ones(1), "bn1.num_batches_tracked": np.ones(1)}
    assert "it has bn1.num_batches_tracked, layer4.0.conv1.weight. Expected" in refused(saved(tmp_path, more))
    del more["features.0.bias"]
    assert ", and it lacks features.0.bias. Expected" in refused(saved(tmp_path, more))
    resnet = {f"layer{n}.0.conv1.weight": np.ones(1) for n in range(9)}
    message = refused(saved(tmp_path, resnet))
    assert "has no weights of torchvision's alexnet: it has the tensors layer0.0.conv1.weight, " in message
    assert "and 5 more. Expected" in message
    twice = state | {"module.features.0.bias": np.ones(2, np.float32)}
    assert "has 'module.features.0.bias' both with and without" in refused(saved(tmp_path, twice))


@pytest.mark.parametrize(
    ("key", "array", "problem"),
    [
        ("features.3.weight", np.ones((3, 2, 5), np.float32), "features.3 has a weight of the shape (3, 2, 5)"),
        ("features.3.bias", np.ones(4, np.float32), "and a bias of (4,)"),
        ("classifier.1.weight", np.ones((5, 0), np.float32), "(5, 0)"),
        ("classifier.4.weight", np.ones((5, 5), np.int64), "classifier.4.weight is of int64"),
        ("classifier.4.bias", np.ones(5, np.complex64), "classifier.4.bias is of complex64"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, key, array, problem):
    assert problem in refused(saved(tmp_path, small_state() | {key: array}))


def safetensors_of(header: dict | bytes, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


FEATURE = "features.0.bias"


@pytest.mark.parametrize(
    "content",
    [
        b"plain text, and no model",
        b"<!DOCTYPE html><html></html>",
        b"{",
        b"\0" * 100,
        safetensors_of({}),
        safetensors_of(b"{not json"),
        safetensors_of({FEATURE: {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
        safetensors_of({FEATURE: {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 8]}}, b"12345678"),
        safetensors_of({FEATURE: {"dtype": "F32", "shape": [2**63, 2**63], "data_offsets": [0, 8]}}, b"12345678"),
        safetensors_of({FEATURE: {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}, b"12345678"),
        struct.pack("<Q", 99_999_999) + b"{}",
    ],
)
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "net.pth"
    path.write_bytes(content)
    refused(path)


def test_type_that_numpy_lacks(tmp_path):
    header, data, state = {}, b"", small_state()
    for key, array in state.items():
        raw = bytes(array.size) if key == FEATURE else array.tobytes()
        dtype = "F8_E4M3" if key == FEATURE else "F32"
        header[key] = {"dtype": dtype, "shape": array.shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    path = tmp_path / "net.safetensors"
    path.write_bytes(safetensors_of(header, data))
    assert "is damaged, or of another kind (module 'numpy' has no attribute" in refused(path)


def test_missing_empty_and_no_file(tmp_path):
    assert "cannot read" in refused(tmp_path / "none.pth")
    with pytest.raises(UserError, match="not a regular file"):
        read_torchvision(tmp_path)
    (tmp_path / "empty.pth").touch()
    assert "is empty" in refused(tmp_path / "empty.pth")


def test_missing_packages(monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(UserError, match=r"pip install 'keras_alexnet\[torchvision\]'"):
        read_torchvision(SAFETENSORS)
    monkeypatch.setitem(sys.modules, "torch", None)
    check_reference(read_torchvision(PTH))


def damaged(content: bytes, count: int):
    """`content` cut off, with bits flipped, and with bytes replaced."""
    rng = np.random.default_rng(7)
    # The second half of a file is weights.
    for size in np.linspace(1, len(content) - 1, count, dtype=int):
        yield content[:size]
    for at in rng.integers(0, 8 * len(content), count):
        flipped = bytearray(content)
        flipped[at // 8] ^= 1 << at % 8
        yield bytes(flipped)
    for _ in range(count):
        mutated = bytearray(content)
        start = int(rng.integers(0, len(content)))
        mutated[start : start + int(rng.integers(0, 9))] = rng.bytes(int(rng.integers(0, 9)))
        yield bytes(mutated)


def check_damaged(path, content: bytes, count: int) -> None:
    """Nothing but UserError is raised; wrong bytes among the weights cannot be told."""
    problems = []
    for altered in damaged(content, count):
        path.unlink(missing_ok=True)
        path.write_bytes(altered)
        try:
            read_torchvision(path)
        except UserError as error:
            problems.append(str(error))
    assert all(str(path) in problem and len(problem) < 1000 for problem in problems)
    # All that are cut off.
    assert len(problems) >= count


def test_damaged_safetensors(tmp_path):
    # Small, so that most of it is not weights.
    path = saved(tmp_path, {key: array[:1] for key, array in small_state(np.float16).items()})
    check_damaged(path, path.read_bytes(), 300)


@pytest.mark.slow
@pytest.mark.parametrize("is_zip", [True, False])
def test_damaged_pth(tmp_path, torch, is_zip):
    path = tmp_path / "net.pth"
    state = {key: array[:1, ..., :1].copy() if array.ndim > 1 else array[:1] for key, array in small_state().items()}
    torch.save(tensors(torch, state), path, _use_new_zipfile_serialization=is_zip)
    check(read_torchvision(path), state)
    check_damaged(path, path.read_bytes(), 200)


@pytest.mark.slow
@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_kinds_of_pth(tmp_path, torch, is_zip, dtype):
    state = {key: array.to(getattr(torch, dtype)) for key, array in tensors(torch, small_state()).items()}
    torch.save(state, tmp_path / "net.pth", _use_new_zipfile_serialization=is_zip)
    check(read_torchvision(tmp_path / "net.pth"), {key: array.float().numpy() for key, array in state.items()})


class Color(enum.Enum):
    RED = 1


INERT = {
    "args": argparse.Namespace(lr=0.01, output=Path("/x")),
    "best": np.float64(56.5),
    "matrix": np.eye(3),
    "when": datetime.datetime(2026, 1, 2),
    "color": Color.RED,
    "history": collections.defaultdict(list, {"loss": [1.0]}),
    "counts": collections.Counter("aab"),
    "names": {"a", "b"},
    (1, 2): "no name",
}


@pytest.mark.slow
@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize(
    ("keys", "prefix", "label"),
    [
        ((), "", ""),
        ((), "backbone.", "backbone"),
        (("model",), "module._orig_mod.", "model"),
        (("state", "net"), "_orig_mod.model.module.", "state.net.model"),
        (("ema", "module"), "", "ema"),
    ],
)
def test_checkpoints_of_trainers(tmp_path, torch, is_zip, keys, prefix, label):
    """Whatever is around the weights, next to them and before their names."""
    state = small_state()
    content = {prefix + name: array for name, array in tensors(torch, state).items()}
    for key in keys[::-1]:
        content = {"epoch": torch.tensor(3), key: content, **INERT}
    torch.save({**content, **INERT}, tmp_path / "net.ckpt", _use_new_zipfile_serialization=is_zip)
    network = read_torchvision(tmp_path / "net.ckpt")
    check(network, state)
    assert network.kind == "torchvision state dict (.pth)" + (f", weights at {label!r}" if label else "")


@pytest.mark.slow
def test_weights_key(tmp_path, torch):
    path = tmp_path / "net.pth"
    raw, ema = small_state(), {name: array + 1 for name, array in small_state().items()}
    averaged = {f"module.{name}": array for name, array in tensors(torch, ema).items()} | {
        "n_averaged": torch.tensor(5)
    }
    torch.save({"model": tensors(torch, raw), "ema": {"state": averaged}}, path)
    with pytest.raises(UserError, match=r"weights of 2 networks: .*, .*such as --weights_key="):
        read_torchvision(path)
    for key, expected in [("model", raw), ("ema", ema), ("ema.state", ema)]:
        check(read_torchvision(path, key), expected)
    with pytest.raises(UserError, match=r"no weights at weights_key 'best'\. Expected one of"):
        read_torchvision(path, "best")


@pytest.mark.parametrize("place", ["classifier.6", "features.10"])
def test_a_layer_in_a_sequential(tmp_path, place):
    state = small_state()
    inside = {name.replace(f"{place}.", f"{place}.1."): array for name, array in state.items()}
    check(read_torchvision(saved(tmp_path, inside)), state)
    inside[f"{place}.0.weight"] = np.ones((1, 1), np.float32)
    assert f"it has {place}.0.weight, {place}.1.bias, {place}.1.weight" in refused(saved(tmp_path, inside))


def test_dense_layers_of_different_widths(tmp_path):
    state = small_state() | {
        "classifier.4.weight": np.ones((2, 5), np.float32),
        "classifier.4.bias": np.ones(2, np.float32),
        "classifier.6.weight": np.ones((3, 2), np.float32),
    }
    check(read_torchvision(saved(tmp_path, state)), state)


class Outer:
    class Mode(enum.Enum):
        A = 1


@pytest.mark.slow
def test_objects_of_nested_classes_and_lists_of_state_dicts(tmp_path, torch):
    state = tensors(torch, small_state())
    for content in ({"model": state, "mode": Outer.Mode.A}, [state, 3], {"models": [state]}):
        torch.save(content, tmp_path / "net.pth")
        check(read_torchvision(tmp_path / "net.pth"), small_state())


@pytest.mark.slow
@pytest.mark.parametrize("is_zip", [True, False])
def test_a_whole_model_is_named(tmp_path, torch, is_zip):
    for content in (torch.nn.Linear(2, 2), {"net": torch.nn.Linear(2, 2)}):
        torch.save(content, tmp_path / "net.pth", _use_new_zipfile_serialization=is_zip)
        assert "whole model" in refused(tmp_path / "net.pth") or "weights" in refused(tmp_path / "net.pth")
        assert "damaged" not in refused(tmp_path / "net.pth")


@pytest.mark.slow
def test_numpy_arrays_are_named(tmp_path, torch):
    torch.save(small_state(), tmp_path / "net.pth")
    assert "NumPy arrays in place of tensors" in refused(tmp_path / "net.pth")


@pytest.mark.slow
def test_a_normalization_in_front_is_asked_about(tmp_path, torch):
    state = {f"1.{name}": value for name, value in tensors(torch, small_state()).items()}
    torch.save({"0.mean": torch.zeros(3), "0.std": torch.ones(3), **state}, tmp_path / "net.pth")
    network = read_torchvision(tmp_path / "net.pth")
    assert network.normalization == ("0.mean", "0.std")
    with pytest.raises(UserError, match=r"normalizes pixels with 0\.mean and 0\.std, but does not say how.*--mean="):
        resolve_preprocessing(match_alexnet(network), formats.TORCHVISION, Preprocessing())


@pytest.mark.slow
def test_torchscript_is_named(tmp_path, torch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It is deprecated.
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "net.pt")
    assert "is a TorchScript archive" in refused(tmp_path / "net.pt")


def pickled(path, content: bytes) -> Path:
    """A file of torch.save whose pickle is `content`."""
    path.unlink(missing_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        b"}q\0" + b"h\0" * 510_000 + b".",
        b"}" + b")" + b"\x85" * 1_000_000 + b"Ns.",  # A tuple so deep that hashing it overflows the stack.
        b"}q\0(" + b"".join(b"cm%d\nc\n" % n for n in range(1100)) + b"t.",
        b"\x8e" + struct.pack("<q", 2**40) + b"abc.",
        b"}" + b"X" + struct.pack("<I", 10_000_000) + b"a" * 10_000_000 + b"Ns.",
        b"".join(b"}X\1\0\0\0a" for _ in range(100_000)) + b"}" + b"s" * 100_000 + b".",
        b"}q\0X\1\0\0\0ah\0s.",
        b"ccollections\nOrderedDict\n(]" + b"e" + b"t.",
        # Attributes of what pickles call, and of tensors.
        b"ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\0\0\0__defaults__)s\x86b.",
    ],
    ids=["objects", "tuples", "classes", "length", "key", "depth", "itself", "underflow", "attributes"],
)
def test_pickles_that_would_crash_or_take_all_memory(tmp_path, content):
    refused(pickled(tmp_path / "net.pth", content))


def test_an_index_for_which_python_would_allocate_64_gb(tmp_path):
    assert "an index of its memo is out of range" in refused(pickled(tmp_path / "net.pth", b"}r\xff\xff\xff\xff."))


def test_dicts_of_python_2():
    """Their items are an argument, as in the weights that torchvision published first."""
    content = b"ccollections\nOrderedDict\n((l(lS'a'\naI1\naa(lS'b'\naI2\naatR."
    assert torch_pickle.Unpickler(io.BytesIO(content), None, False).load() == {"a": 1, "b": 2}


def test_tensors_cannot_be_given_other_numbers_than_they_have():
    storage = torch_pickle.Storage(np.dtype("float32"), 8, lambda: bytes(32))
    for offset, shape, strides in [
        (0, (9,), (1,)),
        (1, (8,), (1,)),
        (0, (2, 2), (7, 1)),
        (-1, (2,), (1,)),
        (0, (2,), ()),
    ]:
        with pytest.raises(ValueError, match="tensor"):
            torch_pickle.Tensor(storage, offset, shape, strides)
    tensor = torch_pickle.Tensor(storage, 1, (2, 2), (4, 1))
    tensor.__setstate__((None, {"shape": (1000,)}))
    assert tensor.numpy().shape == (2, 2)


@pytest.mark.slow
@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_checkpoints(tmp_path, torch, key):
    state = small_state()
    parameters = {
        name.replace("features.", "features.module."): torch.nn.Parameter(array)
        for name, array in tensors(torch, state).items()
    }
    optimizer = torch.optim.SGD(parameters.values(), 0.01, momentum=0.9)
    torch.save(
        {
            "epoch": 90,
            "arch": "alexnet",
            key: parameters,
            "best_acc1": torch.tensor(56.5),
            "optimizer": optimizer.state_dict(),
        },
        tmp_path / "net.pth",
    )
    check(read_torchvision(tmp_path / "net.pth"), state)


@pytest.mark.slow
def test_other_memory_layout_of_pth(tmp_path, torch):
    state = small_state()
    weights = tensors(torch, state)
    weights["features.3.weight"] = weights["features.3.weight"].to(memory_format=torch.channels_last)
    torch.save(weights, tmp_path / "net.pth")
    check(read_torchvision(tmp_path / "net.pth"), state)


@pytest.mark.slow
def test_what_is_no_state_dict(tmp_path, torch):
    path = tmp_path / "net.pth"
    weights = tensors(torch, small_state())
    bias = "classifier.6.bias"
    for thing, problem in [
        (torch.nn.Linear(2, 2), "an object of torch.nn.modules.linear.Linear, which was not loaded"),
        (torch.ones(2), "an object of Tensor"),
        ([1, 2], "it has no tensors"),
        ({1: 2}, "it has no tensors, but a key of int"),
        (
            {"optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}}},
            "tensors optimizer.state.a key of int.",
        ),
        ({"state_dict": {"fc.weight": torch.ones(2)}}, "it has the tensors state_dict.fc.weight"),
        (weights | {bias: 3}, "it lacks classifier.6.bias"),
        (weights | {bias: torch.ones(3).to_sparse()}, "it lacks classifier.6.bias"),
        (weights | {bias: torch.ones(3, device="meta")}, "it lacks classifier.6.bias"),
        (weights | {bias: torch.ones(3, dtype=torch.int64)}, "classifier.6.bias is of int64"),
        # A number repeated 2^40 times by a stride of 0.
        (weights | {bias: torch.ones(1).expand(2**40)}, "it lacks classifier.6.bias"),
    ]:
        path.unlink(missing_ok=True)
        torch.save(thing, path)
        assert problem in refused(path)


class Malicious:
    """Its pickle makes a file when it is loaded."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return os.mkdir, (str(self._path),)


@pytest.mark.slow
@pytest.mark.parametrize("is_zip", [True, False])
def test_code_is_not_executed(tmp_path, torch, is_zip):
    trap, path = tmp_path / "trap", tmp_path / "net.pth"
    state = small_state()
    torch.save(tensors(torch, state) | {"made": Malicious(trap)}, path, _use_new_zipfile_serialization=is_zip)
    check(read_torchvision(path), state)
    path.write_bytes(pickle.dumps(Malicious(trap), protocol=2))
    assert "is a pickle, but not of torch.save" in refused(path)
    assert not trap.exists()
    # The trap works.
    pickle.loads(pickle.dumps(Malicious(trap)))
    assert trap.exists()


@pytest.mark.slow
def test_zip_archives_that_grow_are_refused(tmp_path, torch):
    path = tmp_path / "net.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10_000_000))
    assert "compressed entries" in refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    assert "cannot be read" in refused(path)
    path.write_bytes(b"PK\x03\x04 and then no archive")
    assert "cannot be read (File is not a zip file)" in refused(path)


@pytest.mark.slow
def test_lengths_beyond_the_file_are_refused(tmp_path, torch):
    """torch's older format, where a storage is allocated by the length that the file claims."""
    path = tmp_path / "net.pth"
    weights = tensors(torch, small_state())
    torch.save(weights, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    # The 726 numbers of the first kernel, as the pickle has them.
    length = b"M" + struct.pack("<H", 726) + b"N"
    assert content.count(length) == 1
    path.write_bytes(content.replace(length, b"J" + struct.pack("<i", 2**31 - 1) + b"N"))
    assert "its numbers are cut off" in refused(path)
    # Of more digits than Python prints.
    path.write_bytes(content.replace(length, b"\x8b" + struct.pack("<i", 3000) + b"\x01" * 3000 + b"N"))
    assert "its numbers are cut off" in refused(path)
