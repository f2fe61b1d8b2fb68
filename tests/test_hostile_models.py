"""Damaged and hostile files of Caffe and CNTK: a network or a UserError, in little memory."""

import io
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Callable

import h5py
import numpy as np
import pytest
from caffe_files import BIAS, DEPLOY, NEW, blob, convolution, dims, layer, small_net
from caffe_files import WEIGHTS as KERNEL
from cntk_files import IMAGE, MATRIX, layered, model_of, network_v1, size, value_of
from protobuf_bytes import field, packed

from keras_alexnet.errors import UserError
from keras_alexnet.importers.caffe.reader import read_caffe_hdf5, read_caffemodel, read_prototxt
from keras_alexnet.importers.cntk.reader import read_cntk_model


def hdf5() -> bytes:
    """Small arrays, with HDF5's structures between them."""
    file = io.BytesIO()
    with h5py.File(file, "w") as stored:
        for index in range(8):
            stored[f"data/conv{index}/0"] = np.ones((2, 2), "f4")
    return file.getvalue()


WHOLE = {
    "caffemodel": (small_net(), read_caffemodel),
    "prototxt": (DEPLOY.read_bytes(), read_prototxt),
    "hdf5": (hdf5(), read_caffe_hdf5),
    "cntk v2": (layered(), read_cntk_model),
    "cntk v1": (network_v1(31), read_cntk_model),
    "cntk old v1": (network_v1(4), read_cntk_model),
}
LIES = [b"\xff" * 4, b"\xff" * 8, b"\xff" * 9 + b"\1", bytes(8), size(2**31), size(2**62), b"\xff\xff\xff\xff\7"]


def damaged(content: bytes, dice: random.Random) -> bytes:
    """An end or a piece cut off, a piece doubled, a bit turned, or a number that lies."""
    at, other = sorted(dice.choices(range(len(content)), k=2))
    before, bit, lie = content[:at], bytes([content[at] ^ 1 << dice.randrange(8)]), dice.choice(LIES)
    endings = [b"", content[other:], content[at:other] + content[at:]]
    endings += [bit + content[at + 1 :], lie + content[at + len(lie) :]]
    return before + dice.choice(endings)


@pytest.mark.parametrize(("content", "read"), WHOLE.values(), ids=WHOLE)
def test_damaged_files_are_read_or_reported(tmp_path, content, read):
    dice = random.Random(1)
    outcomes = {"network": 0, "error": 0}
    tracemalloc.start()
    for number in range(300):
        path = tmp_path / str(number)
        path.write_bytes(damaged(content, dice))
        try:
            read(path)
            outcomes["network"] += 1
        except UserError:
            outcomes["error"] += 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000
    assert min(outcomes.values()) > 5


def test_truncated_and_too_large_files_are_reported(tmp_path):
    (tmp_path / "truncated").write_bytes(NEW.read_bytes()[:900_000])
    with pytest.raises(UserError, match=" is something else, corrupted, or truncated"):
        read_caffemodel(tmp_path / "truncated")
    with open(tmp_path / "large", "wb") as file:
        file.truncate(2**31)
    with pytest.raises(UserError, match=r"has 2,147,483,648 bytes. Expected .* of less than 2 GiB"):
        read_caffemodel(tmp_path / "large")


def many(content: bytes) -> bytes:
    return content * (1_500_000 // len(content))


def entry(key: str, value: bytes) -> bytes:
    return field(2, field(1, key) + field(2, value))


def hostile_files() -> dict[Callable, dict[str, bytes]]:
    """By what reads them, and their names."""
    return {
        read_caffemodel: {
            "names": layer("r", "ReLU", many(field(3, ""))),
            "empty layers": many(field(100, b"")),
            "blobs of layers": many(layer("r", "ReLU", field(7, blob([1.0])) * 10)),
            "dims of dims": convolution(blob(KERNEL), many(dims(1))),
            "pieces": convolution(blob(KERNEL), many(packed(5, BIAS[:1]))),
            "unknown messages": layer("r", "ReLU", many(field(106, field(7, field(1, b""))))),
        },
        read_prototxt: {"text": (b"a:1 " * 4_000 + b"\n") * 16, "deep text": b"a{\n" * 80_000},
        read_cntk_model: {
            "entries": many(entry("key", value_of(1))),
            "dictionaries": many(entry("key", value_of({"key": {"key": {}}}))),
            "empty values": entry("inputs", field(11, many(field(1, b"")))),
            "vectors": entry("inputs", field(11, many(field(1, field(11, field(1, b"") * 400))))),
            "scalars": entry("shape", many(field(5, 1))),
            "numbers": model_of(variables=[IMAGE, MATRIX | {"value": field(1, 1) + field(4, many(field(1, b"abcd")))}]),
            "version 1": network_v1(31)[:400] + many(b"x\0"),
        },
    }


# Reads files and prints by how many bytes the memory grew at most for each. Not by getrusage(), which also counts the
# process that started this one.
MEASURE = """
import importlib, re, sys
from keras_alexnet.errors import UserError

def memory(kind):
    with open("/proc/self/status") as status:
        return int(re.search(rf"{kind}:\\s+(\\d+) kB", status.read())[1]) * 1024

for argument in sys.argv[1:]:
    module, function, path = argument.split("=", 2)
    read = getattr(importlib.import_module(module), function)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = memory("VmRSS")
    try:
        network = read(path)
    except UserError as error:
        assert len(str(error)) < 1000
    print(memory("VmHWM") - before)
    network = None
"""


def test_hostile_files_take_little_memory(tmp_path):
    """The library alone took up to sixty times their size."""
    arguments, most = [], []
    for read, contents in hostile_files().items():
        for name, content in contents.items():
            (tmp_path / name).write_bytes(content)
            arguments.append(f"{read.__module__}={read.__name__}={tmp_path / name}")
            most.append(2 * len(content) + 24 * 2**20)
    process = subprocess.run([sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    for argument, grown, limit in zip(arguments, map(int, process.stdout.split()), most, strict=True):
        assert grown < limit, argument
