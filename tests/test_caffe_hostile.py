"""Damaged and hostile files of Caffe: a network or a UserError, in little memory."""

import contextlib
import random

import pytest
from caffe_files import BIAS, DEPLOY, NEW, WEIGHTS, blob, convolution, dims, layer, small_net, small_v1_net
from protobuf_bytes import field, fixed, packed, varint
from reading_memory import check_memory

from keras_alexnet.errors import UserError
from keras_alexnet.importers.caffe import reader as caffe


def read(folder, content: bytes) -> caffe.CaffeNet:
    (folder / "net.caffemodel").write_bytes(content)
    return caffe.read_caffemodel(folder / "net.caffemodel")


@pytest.mark.parametrize("compose", [small_net, small_v1_net])
def test_every_truncation_is_told(tmp_path, compose):
    """Only a cut between two layers leaves a file that could be meant."""
    content = compose()
    lengths = set()
    for length in range(1, len(content)):
        with contextlib.suppress(UserError):
            lengths.add(len(read(tmp_path, content[:length]).layers))
    assert lengths == {1, 2, 3, 4, 5}


def test_truncated_reference_is_told(tmp_path):
    content = NEW.read_bytes()[:900_000]
    with pytest.raises(UserError, match=" is something else, corrupted, or truncated"):
        read(tmp_path, content)


def test_files_beyond_protobufs_limit_are_told(tmp_path):
    with open(tmp_path / "net.caffemodel", "wb") as file:
        file.truncate(2**31)
    with pytest.raises(UserError, match=r"has 2,147,483,648 bytes. Expected .* of less than 2 GiB"):
        caffe.read_caffemodel(tmp_path / "net.caffemodel")


def mutated(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        at = rng.randrange(len(data))
        match rng.randrange(6):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at] = rng.randrange(256)
            case 2:
                del data[at : at + rng.randrange(1, 9)]
            case 3:
                data[at:at] = rng.randbytes(rng.randrange(1, 9))
            case 4:
                data[at : at + 1] = varint(rng.choice([2**14, 2**31, 2**32 - 1, 2**62, 2**64 - 1]))
            case 5:
                start = rng.randrange(len(data))
                data[at:at] = data[start : start + rng.randrange(100)]
        if len(data) < 2:
            return content[:2]
    return bytes(data[: rng.randrange(1, len(data))] if rng.random() < 0.1 else data)


@pytest.mark.parametrize("compose", [small_net, small_v1_net])
def test_mutations_are_read_or_told(tmp_path, compose):
    """Whatever the bytes, the outcome is a network or a UserError."""
    content, rng = compose(), random.Random(5)
    outcomes = {"net": 0, "error": 0}
    for _ in range(1000):
        try:
            assert read(tmp_path, mutated(content, rng)).layers
            outcomes["net"] += 1
        except UserError:
            outcomes["error"] += 1
    assert min(outcomes.values()) > 50


def many(content: bytes, size: int = 3_000_000) -> bytes:
    return content * (size // len(content))


HOSTILE = {
    "names": lambda: layer("r", "ReLU", many(field(3, ""))),
    "names of layers": lambda: many(layer("r", "ReLU", field(3, "ab") * 50)),
    "empty layers": lambda: many(field(100, b"")),
    "settings of layers": lambda: many(layer("r", "ReLU", b"\x08\x01" * 400), 500_000),
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
    "text of one line": lambda: b"a:1 " * 60_000,
    "deep text": lambda: b"a{\n" * 80_000,
}


def test_hostile_files_take_little_memory(tmp_path):
    """The library alone took up to sixty times their size."""
    for name, compose in HOSTILE.items():
        (tmp_path / name).write_bytes(compose())
    module = "keras_alexnet.importers.caffe.reader"
    check_memory(
        {
            tmp_path / name: f"{module}.read_prototxt" if "text" in name else f"{module}.read_caffemodel"
            for name in HOSTILE
        }
    )


def test_mutated_prototxts_are_read_or_told(tmp_path):
    text, rng = DEPLOY.read_bytes(), random.Random(6)
    outcomes = {"net": 0, "error": 0}
    path = tmp_path / "deploy.prototxt"
    for _ in range(500):
        path.write_bytes(mutated(text, rng))
        try:
            assert caffe.read_prototxt(path).layers
            outcomes["net"] += 1
        except UserError:
            outcomes["error"] += 1
    assert min(outcomes.values()) > 10
