"""PyTorch's files and safetensors that are damaged, or made to do harm."""

import io
import json
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
from torch_states import STATE, check, refused

from keras_alexnet.importers import torch_pickle
from keras_alexnet.importers.torchvision import read_torchvision


def torch_file(content: dict, is_zip: bool) -> bytes:
    """What torch.save writes of a dict whose arrays become tensors."""
    torch = pytest.importorskip("torch")
    buffer = io.BytesIO()
    content = {key: torch.tensor(value) if isinstance(value, np.ndarray) else value for key, value in content.items()}
    torch.save(content, buffer, _use_new_zipfile_serialization=is_zip)
    return buffer.getvalue()


def written(folder, content: bytes):
    path = folder / "net.pth"
    path.unlink(missing_ok=True)  # Not written over: a mapped file has to stay.
    path.write_bytes(content)
    return path


def safetensors_of(header: dict | bytes, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def pickled(content: bytes) -> bytes:
    """A file of torch.save whose pickle is `content`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", content)
    return buffer.getvalue()


BIAS = "features.0.bias"


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04 and then no archive",
        safetensors_of({BIAS: {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 8]}}, b"12345678"),
        safetensors_of({BIAS: {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}, b"12345678"),
        struct.pack("<Q", 99_999_999) + b"{}",
        # More objects than a checkpoint has.
        pickled(b"}q\0" + b"h\0" * 510_000 + b"."),
        # A tuple so deep that hashing it overflows the stack.
        pickled(b"}" + b")" + b"\x85" * 1_000_000 + b"Ns."),
        # Classes.
        pickled(b"}q\0(" + b"".join(b"cm%d\nc\n" % n for n in range(1100)) + b"t."),
        # A length beyond the file.
        pickled(b"\x8e" + struct.pack("<q", 2**40) + b"abc."),
        # Dicts within dicts, and one within itself.
        pickled(b"".join(b"}X\1\0\0\0a" for _ in range(100_000)) + b"}" + b"s" * 100_000 + b"."),
        pickled(b"}q\0X\1\0\0\0ah\0s."),
        # A stack that ends too early.
        pickled(b"ccollections\nOrderedDict\n(]" + b"e" + b"t."),
        # Attributes of what pickles call, and of tensors.
        pickled(b"ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\0\0\0__defaults__)s\x86b."),
        # An index for which Python would allocate 64 GB.
        pickled(b"}r\xff\xff\xff\xff."),
    ],
)
def test_files_that_would_crash_or_take_all_memory_are_refused(tmp_path, content):
    refused(written(tmp_path, content))


def test_dicts_of_python_2():
    """Their items are an argument, as in the weights that torchvision published first."""
    content = b"ccollections\nOrderedDict\n((l(lS'a'\naI1\naa(lS'b'\naI2\naatR."
    assert torch_pickle.Unpickler(io.BytesIO(content), None, False).load() == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [(0, (9,), (1,)), (1, (8,), (1,)), (0, (2, 2), (7, 1)), (-1, (2,), (1,)), (0, (2,), ())],
)
def test_tensors_have_no_other_numbers_than_their_own(offset, shape, strides):
    storage = torch_pickle.Storage(np.dtype("float32"), 8, lambda: bytes(32))
    with pytest.raises(ValueError, match="tensor"):
        torch_pickle.Tensor(storage, offset, shape, strides)
    tensor = torch_pickle.Tensor(storage, 1, (2, 2), (4, 1))
    tensor.__setstate__((None, {"shape": (1000,)}))
    assert tensor.numpy().shape == (2, 2)


class Malicious:
    """Its pickle makes a folder when it is loaded."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return os.mkdir, (str(self._path),)


@pytest.mark.slow
@pytest.mark.parametrize("is_zip", [True, False])
def test_code_is_not_executed(tmp_path, is_zip):
    trap = tmp_path / "trap"
    content = STATE | {"made": Malicious(trap)}
    check(read_torchvision(written(tmp_path, torch_file(content, is_zip))), STATE)
    path = written(tmp_path, pickle.dumps(Malicious(trap), protocol=2))
    assert "is a pickle, but not of torch.save" in refused(path)
    assert not trap.exists()
    # The trap works.
    pickle.loads(pickle.dumps(Malicious(trap)))
    assert trap.exists()


def test_zip_archives_that_grow_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "net.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10_000_000))
    assert "compressed entries" in refused(tmp_path / "net.pth")


@pytest.mark.slow
def test_lengths_beyond_the_file_are_refused(tmp_path):
    """PyTorch's older format, where a storage is allocated by the length that the file claims."""
    content = torch_file(STATE, is_zip=False)
    # The 5,808 numbers of the first kernel, as the pickle has them.
    length = b"M" + struct.pack("<H", 5808) + b"N"
    assert content.count(length) == 1
    # The second one has more digits than Python prints.
    for number in (b"J" + struct.pack("<i", 2**31 - 1), b"\x8b" + struct.pack("<i", 3000) + b"\x01" * 3000):
        assert "its numbers are cut off" in refused(written(tmp_path, content.replace(length, number + b"N")))
