"""Protobuf messages of other frameworks, read by google.protobuf with only the fields that matter here.

The library copies what it reads, and takes up to a hundred times the memory of messages of a few bytes. So large and
repeated fields are first taken out of a message, as views of the file; the library reads the small rest.

NOTE: all strings are declared as bytes, since the library refuses those that are not UTF-8.
"""

from collections.abc import Collection, Iterator, Mapping

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from keras_alexnet.errors import UserError
from keras_alexnet.importers.files import ModelFile

# Far beyond what any network needs; they bound the time and memory that a damaged file can take.
_MAX_FIELDS = 100_000
_MAX_SETTINGS_BYTES = 2**20
_MAX_TEXT = 1_000

_FILE = "messages.proto"

# Wire types.
VARINT, _FIXED64, BYTES, _FIXED32 = 0, 1, 2, 5


def message_types(
    messages: Mapping[str, Mapping[str, tuple]],
    enums: Mapping[str, Collection[str]] | None = None,
    unions: Collection[str] = (),
) -> dict[str, type[Message]]:
    """Makes message classes; a class ignores (and keeps) fields that it does not declare.

    Args:
        messages: by the message's name, its fields: name → (number, type) or (number, type, default value). A type is
            a scalar type of protobuf, a message, or an enum; "repeated" may precede it.
        enums: by the enum's name, the names of its values, from 0 on.
        unions: messages of which at most one field is set; `WhichOneof("value")` gives its name.
    """
    enums = enums or {}
    proto = descriptor_pb2.FieldDescriptorProto
    # Edition 2023: fields have presence and defaults, and enums keep values that they do not know.
    file = descriptor_pb2.FileDescriptorProto(name=_FILE, syntax="editions", edition=descriptor_pb2.EDITION_2023)
    for name, values in enums.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        if name in unions:
            message.oneof_decl.add(name="value")
        for field_name, (number, kind, *default) in fields.items():
            label = proto.LABEL_REPEATED if kind.startswith("repeated ") else proto.LABEL_OPTIONAL
            kind = kind.removeprefix("repeated ")
            field = message.field.add(name=field_name, number=number, label=label)
            if kind in messages or kind in enums:
                field.type, field.type_name = proto.TYPE_MESSAGE if kind in messages else proto.TYPE_ENUM, f".{kind}"
            else:
                field.type = proto.Type.Value(f"TYPE_{kind.upper()}")
            if default:
                field.default_value = str(default[0])
            if name in unions:
                field.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClassesForFiles([_FILE], pool)


def fields(data: memoryview, whole: bool = True) -> Iterator[tuple[int, int, memoryview, memoryview]]:
    """The fields of a message in order: (number, wire type, all bytes, contents).

    The contents are those of a string, message or packed array, or the bytes of the number.

    Args:
        data: the message.
        whole: whether a last field that ends beyond the end of the message is an error.

    Raises:
        DecodeError: the bytes are not a message; after the fields that could be read.
    """
    at = 0
    while at < len(data):
        start = at
        tag, at = _varint(data, at)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == VARINT:
            _, end = _varint(data, at)
        elif wire_type == BYTES:
            length, at = _varint(data, at)
            end = at + length
        elif wire_type in (_FIXED32, _FIXED64):
            end = at + (4 if wire_type == _FIXED32 else 8)
        else:
            raise DecodeError(f"wire type {wire_type}")
        if not number or (whole and end > len(data)):
            raise DecodeError(f"field {number} of {end - at} bytes")
        yield number, wire_type, data[start:end], data[at:end]
        at = end


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of up to 64 bits, and where the next one begins."""
    number = 0
    for place, byte in enumerate(data[at : at + 10]):
        number |= (byte & 127) << 7 * place
        if byte < 128:
            return number, at + place + 1
    raise DecodeError("a number that does not end")


def split(data: memoryview, numbers: Collection[int], file: ModelFile) -> tuple[dict[int, list[memoryview]], bytes]:
    """Takes fields out of a message: the contents of each, by number, as views; and the rest of the message.

    `numbers` are those of strings, messages, and arrays of floats or doubles. One that is not packed is in pieces of a
    number each.
    """
    parts: dict[int, list[memoryview]] = {number: [] for number in numbers}
    rest: list[memoryview] = []
    try:
        for count, (number, wire_type, whole, contents) in enumerate(fields(data)):
            if count == _MAX_FIELDS:
                raise file.error(f"has more than {_MAX_FIELDS:,} fields in one message, too many for an AlexNet")
            if number in parts and wire_type != VARINT:
                parts[number].append(contents)
            else:
                rest.append(whole)
    except DecodeError:
        raise _unreadable(file) from None
    if (size := sum(map(len, rest))) > _MAX_SETTINGS_BYTES:
        raise file.error(f"has {size:,} bytes of settings in one message, too many for an AlexNet")
    return parts, b"".join(rest)


def parse(message_type: type[Message], data: bytes, file: ModelFile) -> Message:
    """Decodes a message without large fields."""
    try:
        return message_type.FromString(data)
    except DecodeError:
        raise _unreadable(file) from None


def _unreadable(file: ModelFile) -> UserError:
    return file.error("is something else, corrupted, or truncated")


def read_numbers(pieces: list[memoryview], dtype: str, where: str) -> np.ndarray:
    """The numbers of an array as a flat read-only array; a view of the file if they are in one piece.

    `pieces` are as of `split`; `where` is the file and what has the numbers, for messages.
    """
    data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    size = np.dtype(dtype).itemsize
    if len(data) % size:
        raise UserError(
            f"{where} has {len(data):,} bytes of numbers. Expected a multiple of {size}: the file is corrupted. "
            "Download or save it again."
        )
    return np.frombuffer(data, dtype)


def text(data: bytes, where: str) -> str:
    """A string of the file, of the length of a name; bytes that are not UTF-8 become escapes."""
    if len(data) > _MAX_TEXT:
        raise UserError(f"{where} has a name of {len(data):,} bytes. Expected at most {_MAX_TEXT:,}.")
    return data.decode("utf-8", "backslashreplace")
