"""Damaged and hostile files of Caffe: a network or a UserError, in little memory."""

import contextlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from caffe_files import BIAS, DEPLOY, NEW, WEIGHTS, blob, convolution, dims, layer, small_net, small_v1_net
from protobuf_bytes import field, fixed, packed, varint
from reading_memory import check_memory

from keras_alexnet.errors import UserError
from keras_alexnet.importers.caffe.reader import CaffeNet, read_caffemodel, read_prototxt


def read(path: Path, content: bytes, reader: Callable[[Path], CaffeNet] = read_caffemodel) -> CaffeNet:
    path.write_bytes(content)
    return reader(path)


@pytest.mark.parametrize("compose", [small_net, small_v1_net])
def test_every_truncation_is_told(tmp_path, compose):
    """Only a cut between two layers leaves a file that could be meant."""
    content = compose()
    lengths = set()
    for length in range(1, len(content)):
        with contextlib.suppress(UserError):
            lengths.add(len(read(tmp_path / "net", content[:length]).layers))
    assert lengths == {1, 2, 3, 4, 5}


def test_truncated_and_too_large_files_are_told(tmp_path):
    with pytest.raises(UserError, match=" is something else, corrupted, or truncated"):
        read(tmp_path / "truncated", NEW.read_bytes()[:900_000])
    with open(tmp_path / "large", "wb") as file:
        file.truncate(2**31)
    with pytest.raises(UserError, match=r"has 2,147,483,648 bytes. Expected .* of less than 2 GiB"):
        read_caffemodel(tmp_path / "large")


def mutated(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        at = rng.randrange(len(data))
        match rng.randrange(5):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                del data[at : at + rng.randrange(1, 9)]
            case 2:
                data[at:at] = rng.randbytes(rng.randrange(1, 9))
            case 3:
                data[at : at + 1] = varint(rng.choice([2**14, 2**31, 2**32 - 1, 2**62, 2**64 - 1]))
            case 4:
                start = rng.randrange(len(data))
                data[at:at] = data[start : start + rng.randrange(100)]
    return bytes(data)


@pytest.mark.parametrize(
    ("content", "reader"),
    [(small_net(), read_caffemodel), (small_v1_net(), read_caffemodel), (DEPLOY.read_bytes(), read_prototxt)],
    ids=["new", "v1", "prototxt"],
)
def test_mutations_are_read_or_told(tmp_path, content, reader):
    """Whatever the bytes, the outcome is a network or a UserError."""
    rng = random.Random(5)
    outcomes = {"net": 0, "error": 0}
    for _ in range(500):
        try:
            assert read(tmp_path / "net", mutated(content, rng), reader).layers
            outcomes["net"] += 1
        except UserError:
            outcomes["error"] += 1
    assert min(outcomes.values()) > 10


def many(content: bytes) -> bytes:
    return content * (3_000_000 // len(content))


HOSTILE = {
    "names": lambda: layer("r", "ReLU", many(field(3, ""))),
    "names of layers": lambda: many(layer("r", "ReLU", field(3, "ab") * 50)),
    "empty layers": lambda: many(field(100, b"")),
    "empty blobs": lambda: layer("r", "ReLU", many(field(7, b""))),
    "blobs of layers": lambda: many(layer("r", "ReLU", field(7, blob([1.0])) * 10)),
    "dims": lambda: convolution(blob(WEIGHTS), blob(BIAS, many(b"\x01"))),
    "dims of dims": lambda: convolution(blob(WEIGHTS), many(dims(1))),
    "pieces": lambda: convolution(blob(WEIGHTS), many(packed(5, BIAS[:1]))),
    "not packed": lambda: convolution(blob(WEIGHTS), dims(200_000) + fixed(5, "<f", *[1.0] * 200_000)),
    "long name": lambda: field(1, many(b"x")),
    "unknown fields": lambda: small_net() + many(field(6, 1)),
    "unknown messages": lambda: layer("r", "ReLU", many(field(106, field(7, field(1, b""))))),
    "text": lambda: (b"a:1 " * 4_000 + b"\n") * 16,
    "deep text": lambda: b"a{\n" * 80_000,
}


def test_hostile_files_take_little_memory(tmp_path):
    """The library alone took up to sixty times their size."""
    readers = {}
    for name, compose in HOSTILE.items():
        path = tmp_path / name
        path.write_bytes(compose())
        readers[path] = read_prototxt if "text" in name else read_caffemodel
    check_memory(readers)
