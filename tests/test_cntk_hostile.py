"""Damaged and hostile files of CNTK: a graph or a UserError, in little memory."""

import random
import tracemalloc

import pytest
from cntk_files import IMAGE, MATRIX, dictionary_of, layered, model_of, network_v1, read_content, size, value_of
from protobuf_bytes import field
from reading_memory import check_memory

from keras_alexnet.errors import UserError
from keras_alexnet.importers.cntk.reader import read_cntk_model

WHOLE = {"v2": layered(), "v1": network_v1(31), "old v1": network_v1(4)}
LIES = [b"\xff" * 4, b"\xff" * 8, b"\xff" * 9 + b"\1", bytes(8), size(2**31), size(2**62), b"\xff\xff\xff\xff\7"]


@pytest.mark.parametrize("whole", WHOLE.values(), ids=WHOLE)
def test_damage_gives_a_graph_or_is_told(tmp_path, whole):
    """Ends and pieces cut off, pieces doubled, bits turned, and numbers that lie; all in little memory."""
    dice = random.Random(1)
    damaged = [whole[:end] for end in range(0, len(whole), 20)]
    for _ in range(300):
        at, other = sorted(dice.choices(range(len(whole)), k=2))
        bit, lie = bytes([whole[at] ^ 1 << dice.randrange(8)]), dice.choice(LIES)
        before = whole[:at]
        endings = (bit + whole[at + 1 :], lie + whole[at + len(lie) :], whole[other:], whole[at:other] + whole[at:])
        damaged.append(before + dice.choice(endings))
    graphs = 0
    tracemalloc.start()
    for content in damaged:
        try:
            graph = read_content(tmp_path, content)
        except UserError:
            continue
        graphs += 1
        values = [v.value for v in graph.variables.values() if v.kind != "input"]
        assert sum(value.nbytes for value in values) <= len(content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000
    assert 20 < graphs < len(damaged) - 20


def many(content: bytes) -> bytes:
    return content * (3_000_000 // len(content))


def entry(key: str, value: bytes) -> bytes:
    return field(2, field(1, key) + field(2, value))


HOSTILE = {
    "empty entries": lambda: many(field(2, b"")),
    "entries": lambda: many(entry("key", value_of(1))),
    "dictionaries": lambda: many(entry("key", value_of({"key": {"key": {}}}))),
    "empty values": lambda: entry("inputs", field(11, many(field(1, b"")))),
    "values": lambda: entry("inputs", field(11, many(field(1, value_of("ab"))))),
    "vectors": lambda: entry("inputs", field(11, many(field(1, field(11, field(1, b"") * 400))))),
    "dims": lambda: entry("shape", field(9, field(1, many(b"\1")))),
    "scalars": lambda: entry("shape", many(field(5, 1))),
    "text": lambda: entry("name", field(8, many(b"x"))),
    "pieces": lambda: model_of(variables=[IMAGE, MATRIX | {"value": field(1, 1) + field(4, many(field(1, b"abcd")))}]),
    "unknown fields": lambda: dictionary_of({"type": "CompositeFunction"}) + many(field(9, 1)),
    "version 1": lambda: network_v1(31)[:400] + many(b"x\0"),
}


def test_hostile_files_take_little_memory(tmp_path):
    for name, compose in HOSTILE.items():
        (tmp_path / name).write_bytes(compose())
    check_memory({tmp_path / name: read_cntk_model for name in HOSTILE})
