import os
import struct
import tracemalloc

import numpy as np
import pytest

from keras_alexnet.errors import UserError
from keras_alexnet.importers import wire


def varint(number: int) -> bytes:
    number %= 2**64
    encoded = bytearray()
    while number >= 128:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])


def field(number: int, value: int | str | bytes) -> bytes:
    """A field as protobuf writes it: an integer as varint, anything else with its length."""
    if isinstance(value, int):
        return varint(number << 3 | wire.VARINT) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | wire.BYTES) + varint(len(value)) + value


def fixed(number: int, layout: str, *values: float) -> bytes:
    """Numbers of a repeated field that is not packed, `layout` being "<f" or "<d"."""
    wire_type = wire.FIXED32 if layout == "<f" else wire.FIXED64
    return b"".join(varint(number << 3 | wire_type) + struct.pack(layout, value) for value in values)


def packed(number: int, values, dtype: str = "<f4") -> bytes:
    return field(number, np.asarray(values, dtype).tobytes())


def opened(folder, content: bytes) -> wire.Span:
    (folder / "model.bin").write_bytes(content)
    return wire.open_message(folder / "model.bin", "a model (.bin)")


def test_fields_of_every_kind(tmp_path):
    inner = field(1, "conv1") + field(2, -3)
    message = opened(tmp_path, field(1, 300) + field(100, inner) + fixed(3, "<f", 0.5) + fixed(2000, "<d", -0.25))
    number, nested, single, double = message.fields()
    assert [item.number for item in (number, nested, single, double)] == [1, 100, 3, 2000]
    assert [item.at for item in (number, nested, single, double)] == [0, 3, 24, 29]
    assert list(number.integers()) == [number.integer()] == [300]
    name, negative = nested.span().fields()
    assert name.span().text() == "conv1"
    assert [wire.signed(value) for value in negative.integers()] == [-3]
    assert (name.at, negative.at) == (6, 13)
    np.testing.assert_array_equal(single.numbers("<f4"), np.float32([0.5]), strict=True)
    np.testing.assert_array_equal(double.numbers("<f8"), [-0.25], strict=True)


@pytest.mark.parametrize("value", [0, 1, 127, 128, 2**31, 2**63, 2**64 - 1])
def test_integers_of_any_length(tmp_path, value):
    (item,) = opened(tmp_path, field(1, value)).fields()
    assert list(item.integers()) == [value]
    (item,) = opened(tmp_path, field(1, varint(5) + varint(value))).fields()
    assert list(item.integers()) == [5, value]


def test_signed():
    assert [wire.signed(value % 2**64) for value in (0, 7, -1, 2**63 - 1, -(2**63))] == [0, 7, -1, 2**63 - 1, -(2**63)]


def test_text_that_is_not_utf8_is_escaped(tmp_path):
    (item,) = opened(tmp_path, field(1, "é".encode() + b"\xff")).fields()
    assert item.span().text() == "é\\xff"


@pytest.mark.parametrize("number", [5, 16, 3000], ids=["tag of 1 byte", "2 bytes", "2 bytes, large"])
@pytest.mark.parametrize(("layout", "dtype"), [("<f", "<f4"), ("<d", "<f8")])
def test_numbers_are_views_packed_or_not(tmp_path, number, layout, dtype):
    values = np.random.default_rng(1).normal(size=100).astype(dtype)
    in_row, together = fixed(number, layout, *values), packed(number, values, dtype)
    message = opened(tmp_path, field(1, "x") + in_row + field(2, 1) + together + fixed(number, layout, *values[:1]))
    pieces = [item.numbers(dtype) for item in message.fields() if item.number == number]
    assert [len(piece) for piece in pieces] == [100, 100, 1]
    data = np.frombuffer(message.data, np.uint8)
    for piece in pieces:
        assert piece.tobytes() == values[: len(piece)].tobytes()
        assert piece.dtype == dtype
        assert np.shares_memory(piece, data)
        assert not piece.flags.writeable
    assert wire.concatenated(pieces).tobytes() == np.concatenate([values, values, values[:1]]).tobytes()
    assert wire.concatenated(pieces[:1]) is pieces[0]


def test_rows_end_where_another_field_begins(tmp_path):
    counts = [1, 2, 3, 4, 5, 6, 7, 8, 9, 31, 32, 33]
    content = b"".join(fixed(5, "<f", *range(count)) + fixed(6, "<f", 7.0) for count in counts)
    lengths = [len(item.numbers("<f4")) for item in opened(tmp_path, content).fields()]
    assert lengths == [length for count in counts for length in (count, 1)]


def test_empty_packed_field(tmp_path):
    (item,) = opened(tmp_path, field(5, b"")).fields()
    assert (len(item.numbers("<f4")), list(item.integers()), item.span().text()) == (0, [], "")


@pytest.mark.parametrize(
    ("content", "at", "told"),
    [
        (field(1, 1) + b"\x00\x01", 2, "is a field of number 0, which"),
        (field(1, 1) + b"\x80", 2, "an integer is cut off"),
        (b"\x08\x80\x80", 1, "an integer is cut off"),
        (b"\x08" + b"\xff" * 10 + b"\x01", 1, "is an integer of more than 64 bits"),
        (b"\x08" + b"\xff" * 9 + b"\x02", 1, "is an integer of more than 64 bits"),
        (varint(2**40) + b"\x01", 0, "is a field of number 137,438,953,472, which"),
        (b"\x0b\x0c", 0, "is a field of wire type 3,"),
        (b"\x0c", 0, "is a field of wire type 4,"),
        (b"\x0f", 0, "is a field of wire type 7,"),
        (field(1, "abc")[:-1], 0, "begins a field of 3 bytes, of which the file has only 2"),
        (
            b"\x0a" + varint(2**63) + b"abc",
            0,
            "begins a field of 9,223,372,036,854,775,808 bytes, of which the file has",
        ),
        (b"\x0a" + varint(-1) + b"abc", 0, "begins a field of 18,446,744,073,709,551,615 bytes"),
        (fixed(1, "<f", 1.0)[:-1], 0, "begins a field of 4 bytes, of which the file has only 3"),
        (fixed(1, "<d", 1.0, 2.0)[:-1], 9, "begins a field of 8 bytes, of which the file has only 7"),
    ],
)
def test_damage_is_told_with_its_offset(tmp_path, content, at, told):
    with pytest.raises(UserError) as raised:
        list(opened(tmp_path, content).fields())
    message = str(raised.value)
    assert message.startswith(f"{tmp_path}/model.bin: at byte {at} {told}")
    assert message.endswith("Expected a model (.bin); if it is one, it is damaged: download or copy it again.")


def test_nested_lengths_are_checked_against_the_message_around(tmp_path):
    lying = b"\x0a\x09abc"
    nested, _ = opened(tmp_path, field(1, lying) + field(2, b"much that follows")).fields()
    with pytest.raises(
        UserError, match="at byte 2 begins a field of 9 bytes, of which the message around it has only 3"
    ):
        list(nested.span().fields())


@pytest.mark.parametrize(
    ("content", "read", "told"),
    [
        (field(4, 1), lambda item: item.span(), "is field 4 with wire type 0 instead of 2"),
        (field(4, 1), lambda item: item.numbers("<f4"), "is field 4 with wire type 0 instead of 5"),
        (fixed(4, "<d", 1), lambda item: item.numbers("<f4"), "is field 4 with wire type 1 instead of 5"),
        (fixed(4, "<f", 1), lambda item: item.numbers("<f8"), "is field 4 with wire type 5 instead of 1"),
        (field(4, b"\x01"), lambda item: item.integer(), "is field 4 with wire type 2 instead of 0"),
        (fixed(4, "<f", 1), lambda item: item.integers(), "is field 4 with wire type 5 instead of 0 or 2"),
        (field(4, b"\x80"), lambda item: list(item.integers()), "an integer is cut off"),
        (field(4, b"12345"), lambda item: item.numbers("<f4"), "are 5 bytes of numbers, which is no multiple of 4"),
    ],
)
def test_fields_of_another_kind_than_asked_for(tmp_path, content, read, told):
    (item,) = opened(tmp_path, content).fields()
    with pytest.raises(UserError, match=f"at byte [02] {told}"):
        read(item)


def test_files_that_cannot_be_mapped(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    for name, told in [
        ("missing", "^cannot read .*/missing: No such file or directory. Expected a model"),
        ("empty", "/empty is empty. Expected a model"),
        ("", "is no regular file. Give the name of a model"),
        ("pipe", "is no regular file"),
    ]:
        with pytest.raises(UserError, match=told):
            wire.open_message(tmp_path / name, "a model")


def test_nothing_large_is_made_of_many_numbers(tmp_path):
    """Numbers that are not packed are a view with a stride, whatever stands between them."""
    row = b"\x2d\x00\x00\x80\x3f" * 200_000
    message = opened(tmp_path, row + field(1, 1) + row)
    tracemalloc.start()
    try:
        lengths = [len(item.numbers("<f4")) for item in message.fields() if item.number == 5]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert lengths == [200_000, 200_000]
    assert peak < len(message)
