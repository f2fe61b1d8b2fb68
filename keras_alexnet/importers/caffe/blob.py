"""Caffe's blobs: arrays of numbers with a shape."""

import math
from collections.abc import Sequence, Sized

import numpy as np

from keras_alexnet.errors import UserError
from keras_alexnet.importers.arrays import MAX_AXES, as_float32, shape_text, size_text
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

# The types of `raw_data`: double, float and half precision.
_RAW_TYPES = {0: "<f8", 1: "<f4", 2: "<f2"}


def read_blob(data: memoryview, where: str, file: ModelFile) -> np.ndarray:
    """Decodes a BlobProto: its numbers in their shape, float32; `where` is the file and the blob, for messages."""
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
            f"{where} has {numbers.size:,} numbers. Expected {size_text(math.prod(shape))} for its shape "
            f"{shape_text(shape)}, and at least one. {AGAIN}"
        )
    return as_float32(numbers).reshape(shape)


def check_count(found: Sized, most: int, noun: str, where: str) -> None:
    """Raises `UserError` if there are more than a network has."""
    if len(found) > most:
        raise UserError(f"{where} has {len(found):,} {noun}. Expected {most:,} at most. {AGAIN}")


def checked_shape(dims: Sequence[int], where: str) -> tuple[int, ...]:
    """A shape; raises `UserError` if it has too many axes, or a negative one."""
    if len(dims) > MAX_AXES or any(size < 0 for size in dims):
        raise UserError(
            f"{where} has the shape {shape_text(dims)}. Expected at most {MAX_AXES} sizes, none negative. {AGAIN}"
        )
    return tuple(dims)
