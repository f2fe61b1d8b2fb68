"""Caffe's blobs: arrays of numbers with a shape."""

import math
from collections.abc import Sequence

import numpy as np

from keras_alexnet.errors import UserError
from keras_alexnet.importers.caffe.schema import (
    DATA,
    DIFF,
    DOUBLE_DATA,
    DOUBLE_DIFF,
    RAW_DATA,
    RAW_DIFF,
    BlobProto,
)
from keras_alexnet.importers.files import ModelFile
from keras_alexnet.importers.protobuf import parse, read_numbers, split

AGAIN = "Correct a .prototxt; download or save any other file again."

_MAX_AXES = 32

# The types of `raw_data`: double, float and half precision.
_RAW_TYPES = {0: "<f8", 1: "<f4", 2: "<f2"}


def read_blob(data: memoryview, where: str, file: ModelFile) -> np.ndarray:
    """Decodes a BlobProto: its numbers in their shape, float32; those beyond float32 become infinite.

    Args:
        data: the message.
        where: the file and the blob, for messages.
        file: the file.

    Raises:
        UserError: the message is corrupted, or has more or fewer numbers than its shape.
    """
    parts, rest = split(data, (DATA, DIFF, DOUBLE_DATA, DOUBLE_DIFF, RAW_DATA, RAW_DIFF), file)
    blob = parse(BlobProto, rest, file)
    old = ("num", "channels", "height", "width")
    is_old = any(blob.HasField(name) for name in old)
    shape = checked_shape([getattr(blob, name) for name in old] if is_old else blob.shape.dim, where)
    if parts[RAW_DATA]:
        if blob.raw_data_type not in _RAW_TYPES:
            raise UserError(
                f"{where} has raw_data of type {blob.raw_data_type}. Expected 0 (double), 1 (float) or 2 (half "
                f"precision). {AGAIN}"
            )
        numbers = read_numbers(parts[RAW_DATA], _RAW_TYPES[blob.raw_data_type], where)
    elif parts[DOUBLE_DATA]:
        numbers = read_numbers(parts[DOUBLE_DATA], "<f8", where)
    else:
        numbers = read_numbers(parts[DATA], "<f4", where)
    if not numbers.size or numbers.size != math.prod(shape):
        raise UserError(
            f"{where} has {numbers.size:,} numbers. Expected {_brief(math.prod(shape))} for its shape "
            f"{shape_text(shape)}, and at least one. {AGAIN}"
        )
    with np.errstate(over="ignore"):
        return numbers.astype("<f4", copy=False).reshape(shape)


def checked_shape(dims: Sequence[int], where: str) -> tuple[int, ...]:
    """A shape, if it can be one.

    Raises:
        UserError: it has too many axes, or a negative one.
    """
    if len(dims) > _MAX_AXES or any(size < 0 for size in dims):
        raise UserError(
            f"{where} has the shape {shape_text(dims)}. Expected at most {_MAX_AXES} sizes, none negative. {AGAIN}"
        )
    return tuple(dims)


def shape_text(shape: Sequence[int]) -> str:
    """A shape for messages."""
    sizes = [_brief(size) for size in shape[:_MAX_AXES]] + ["…"] * (len(shape) > _MAX_AXES)
    return " × ".join(sizes) or "of a single number"


def _brief(number: int) -> str:
    return f"{number:,}" if abs(number) < 2**63 else "beyond 2^63"
