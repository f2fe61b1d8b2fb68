"""Protobuf messages, encoded by hand: also those that no library writes."""

import struct

import numpy as np

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


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
        return varint(number << 3 | _VARINT) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | _BYTES) + varint(len(value)) + value


def fixed(number: int, layout: str, *values: float) -> bytes:
    """Numbers of a repeated field that is not packed, `layout` being "<f" or "<d"."""
    wire_type = _FIXED32 if layout == "<f" else _FIXED64
    return b"".join(varint(number << 3 | wire_type) + struct.pack(layout, value) for value in values)


def packed(number: int, values, dtype: str = "<f4") -> bytes:
    return field(number, np.asarray(values, dtype).tobytes())
