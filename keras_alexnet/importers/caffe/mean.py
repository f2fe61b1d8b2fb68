"""Means of the training images, as Caffe's tools write them: `.binaryproto`, and `.npy` as Caffe's Python code does."""

import os

import numpy as np

from keras_alexnet.errors import UserError, first_line
from keras_alexnet.importers.arrays import as_float32, shape_text
from keras_alexnet.importers.caffe.blob import AGAIN, read_blob
from keras_alexnet.importers.files import open_model_file
from keras_alexnet.importers.formats import ADVICE, MEAN_IMAGE, NPY, other_format, signature

_EXPECTED = "a mean image of Caffe (.binaryproto), or an array of 3 numbers or of 3 × height × width (.npy)"


def read_mean(path: str | os.PathLike) -> np.ndarray:
    """Reads a mean image, or a mean per channel.

    Returns:
        (channels, height, width) float32, height and width being 1 for a mean per channel; channels in the order of
        training, usually BGR.
    """
    file = open_model_file(path, _EXPECTED)
    found = signature(file)
    if found == NPY:
        mean = _read_npy(file.path)
    elif found in ADVICE and found != MEAN_IMAGE:
        raise other_format(file, found)
    else:
        file = open_model_file(path, _EXPECTED, is_message=True)
        mean = read_blob(file.data, f"{file.path}: the mean image", file)
    shape = mean.shape
    if mean.ndim > 1 and len(mean) == 1:
        mean = mean[0]
    if mean.shape == (3,):
        mean = mean[:, np.newaxis, np.newaxis]
    # An image with its channels last would give a mean per row.
    if mean.ndim != 3 or len(mean) not in (1, 3):
        raise UserError(
            f"{file.path} has the shape {shape_text(shape)}. Expected {_EXPECTED}, channels first; else pass the "
            "three numbers as --mean."
        )
    if not np.isfinite(mean).all():
        raise UserError(f"{file.path} has NaN or infinite pixels. Expected {_EXPECTED}. {AGAIN}")
    return mean


def _read_npy(path: str) -> np.ndarray:
    try:
        # Mapped, so that a false shape takes no memory.
        mean = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy parses the header as Python code, which raises nearly anything.
        raise UserError(
            f"{path} is not a readable NumPy array ({first_line(error)}). Expected {_EXPECTED}. Save it again with "
            "numpy.save."
        ) from None
    if mean.dtype.kind not in "fiu" or not mean.size:
        raise UserError(f"{path} has {mean.size:,} values of type {mean.dtype}. Expected {_EXPECTED}.")
    return as_float32(mean).copy()
