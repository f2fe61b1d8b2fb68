"""Caffe's weights as HDF5, `.caffemodel.h5`: a dataset /data/<layer>/<index> for each blob, and nothing of the layers.

The source is BVLC/caffe, src/caffe/net.cpp (`ToHDF5`).
"""

import os

import h5py
import numpy as np

from keras_alexnet.errors import UserError, first_line
from keras_alexnet.importers.arrays import as_float32
from keras_alexnet.importers.caffe.blob import MAX_BLOBS, MAX_LAYERS, check_count
from keras_alexnet.importers.files import open_model_file
from keras_alexnet.importers.formats import MAX_GROWTH

_EXPECTED = "the weights of a Caffe model (.caffemodel.h5)"


def read_caffe_hdf5(path: str | os.PathLike) -> dict[str, tuple[np.ndarray, ...]]:
    """Reads the blobs of the layers that have some, float32, by the layer's name."""
    file = open_model_file(path, _EXPECTED)
    try:
        with h5py.File(file.path, "r") as stored:
            return _read_layers(stored, file.path, len(file))
    # What h5py raises for damaged files.
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise file.error(f"cannot be read ({first_line(error)})") from None


def _read_layers(stored: h5py.File, path: str, file_size: int) -> dict[str, tuple[np.ndarray, ...]]:
    layers = _child(stored, "data", h5py.Group, path)
    check_count(layers, MAX_LAYERS, "layers", path)
    left = MAX_GROWTH * file_size
    blobs = {}
    for name in layers:
        layer = _child(layers, name, h5py.Group, path)
        check_count(layer, MAX_BLOBS, "blobs", f"{path}: layer {name!r}")
        datasets = [_child(layer, str(index), h5py.Dataset, path) for index in range(len(layer))]
        for dataset in datasets:
            left -= dataset.nbytes
            # Those without storage would be read as zeros, and external ones from other files.
            if dataset.dtype.kind != "f" or left < 0 or dataset.external or not dataset.id.get_storage_size():
                raise UserError(
                    f"{path}: {dataset.name} is not an array of floats stored in this file. Expected {_EXPECTED} as "
                    "Caffe writes it: save it again."
                )
        if datasets:
            blobs[name] = tuple(as_float32(dataset[()]) for dataset in datasets)
    return blobs


def _child(group: h5py.Group, name: str, kind: type, path: str) -> h5py.Group | h5py.Dataset:
    """A member of a group that is in this file: links to others are refused."""
    if not isinstance(group.get(name, getlink=True), h5py.HardLink) or not isinstance(child := group[name], kind):
        raise UserError(
            f"{path}: {group.name} has no {kind.__name__.lower()} {name!r}. Expected {_EXPECTED}, with a dataset "
            "/data/<layer>/<index> for each blob."
        )
    return child
