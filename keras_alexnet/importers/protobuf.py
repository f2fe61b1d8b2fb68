"""Protobuf messages of other frameworks, read by google.protobuf with only the fields that matter here.

NOTE: all strings are declared as bytes, since the library refuses those that are not UTF-8. Repeated floats and doubles
are declared as repeated bytes: when they are packed, as all writers do, that is what they are on the wire, and the
library makes no object of each number. `read_numbers` also reads those that are not packed.
"""

import functools
from collections.abc import Collection, Mapping

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from keras_alexnet.errors import UserError
from keras_alexnet.importers.files import ModelFile

# Protobuf allows no larger messages.
_MAX_BYTES = 2**31 - 1
_MAX_TEXT = 1_000

_FILE = "messages.proto"


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


def parse(message_type: type[Message], file: ModelFile) -> Message:
    """Decodes a whole file as one message.

    Raises:
        UserError: the bytes are no such message, or more than protobuf allows.
    """
    if len(file) > _MAX_BYTES:
        raise UserError(
            f"{file.path} has {len(file):,} bytes. Expected {file.expected} of less than 2 GiB, protobuf's limit."
        )
    try:
        return message_type.FromString(file.data)
    except DecodeError:
        raise file.error("is something else, corrupted, or truncated") from None


def read_numbers(message: Message, dtypes: Mapping[str, str], where: str) -> np.ndarray:
    """The numbers of the first field that has some, as a flat read-only array; empty if none has.

    Args:
        message: the message.
        dtypes: by the name of a field, declared as repeated bytes, the type of its numbers: "<f4" or "<f8".
        where: the file and what has the numbers, for messages.

    Raises:
        UserError: their bytes are not a multiple of the type's.
    """
    for name, dtype in dtypes.items():
        # A copy only if they are in several pieces.
        if data := b"".join(getattr(message, name)):
            if len(data) % np.dtype(dtype).itemsize:
                raise UserError(
                    f"{where} has {len(data):,} bytes of numbers. Expected a multiple of {dtype[-1]}: download again."
                )
            return np.frombuffer(data, dtype)
    # Then they are among the unknown fields, if there are any.
    for name, dtype in dtypes.items():
        number = message.DESCRIPTOR.fields_by_name[name].number
        values = _unpacked_type(number, dtype).FromString(message.SerializeToString()).values
        if len(values):
            return np.fromiter(values, dtype, len(values))
    return np.empty(0, "<f4")


@functools.cache
def _unpacked_type(number: int, dtype: str) -> type[Message]:
    kind = {"<f4": "repeated float", "<f8": "repeated double"}[dtype]
    return message_types({"Numbers": {"values": (number, kind)}})["Numbers"]


def text(data: bytes, where: str) -> str:
    """A string of the file; bytes that are not UTF-8 become escapes.

    Raises:
        UserError: it is too long for a name.
    """
    if len(data) > _MAX_TEXT:
        raise UserError(f"{where} has a name of {len(data):,} bytes. Expected at most {_MAX_TEXT:,}.")
    return data.decode("utf-8", "backslashreplace")


def as_written(number: float) -> float:
    """The shortest decimal of a float32, so that 0.0001 is not 9.999999747378752e-05."""
    with np.errstate(over="ignore"):
        return float(str(np.float32(number)))
