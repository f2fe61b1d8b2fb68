"""Caffe's files: `.caffemodel` (layers and weights), `.prototxt` (only layers) and `.caffemodel.h5` (only weights)."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass

import h5py
import numpy as np
from google.protobuf import text_format
from google.protobuf.message import Message

from keras_alexnet.errors import UserError, first_line
from keras_alexnet.importers.arrays import as_float32
from keras_alexnet.importers.caffe.blob import check_count, read_blob
from keras_alexnet.importers.caffe.layers import CaffeLayer, read_inputs, read_layer
from keras_alexnet.importers.caffe.schema import BLOBS, LAYERS, NetParameter
from keras_alexnet.importers.files import ModelFile, open_model_file
from keras_alexnet.importers.formats import MAX_GROWTH
from keras_alexnet.importers.protobuf import parse, split

_MODEL = "a Caffe model (.caffemodel)"
_PROTOTXT = "a description of a network (.prototxt)"
_HDF5 = "the weights of a Caffe model (.caffemodel.h5)"

# Far beyond what any network needs; they bound the time and memory that a damaged file can take.
_MAX_LAYERS = 1_000
_MAX_BLOBS = 10
_MAX_PROTOTXT_BYTES = 2**18
# The library copies the line at each token that it tries.
_MAX_LINE = 20_000
_MAX_PROBLEM = 200

# How many axes the weights and biases have.
_BLOB_AXES = {"Convolution": (4, 1), "InnerProduct": (2, 1)}


@dataclass(frozen=True, eq=False)
class CaffeNet:
    """A network: its layers in the order of the file."""

    layers: tuple[CaffeLayer, ...]


def read_caffemodel(path: str | os.PathLike) -> CaffeNet:
    """Reads a `.caffemodel`, of BVLC's Caffe or NVIDIA's; Caffe's first format (before V1) is refused."""
    file = open_model_file(path, _MODEL, is_message=True)
    parts, rest = split(file.data, LAYERS, file)
    _check_layers(list(parts.values()), file.path)
    layers = [
        _layer(kind, data, f"{file.path}: layer {place:,}", file)
        for number, kind in LAYERS.items()
        for place, data in enumerate(parts[number], 1)
    ]
    return _net(parse(NetParameter, rest, file), layers, file.path)


def read_prototxt(path: str | os.PathLike) -> CaffeNet:
    """Reads a network's description, such as a `deploy.prototxt`: layers as of `read_caffemodel`, without weights.

    All layers are given: rules for when one is in the network (include, exclude) are ignored, as are all fields that
    `CaffeLayer` does not mention.
    """
    file = open_model_file(path, _PROTOTXT)
    if len(file) > _MAX_PROTOTXT_BYTES:
        raise UserError(f"{file.path} has {len(file):,} bytes: expected {_PROTOTXT}, a text of a few thousand.")
    try:
        description = str(file.data, "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file.path}: byte {error.start:,} is not UTF-8 text. Expected {_PROTOTXT}; the weights are in the "
            ".caffemodel."
        ) from None
    if (longest := max(map(len, description.split("\n")))) > _MAX_LINE:
        raise _text_error(file.path, f"a line of it has {longest:,} characters, where {_MAX_LINE:,} are the most")
    net = NetParameter()
    try:
        # Unlike Parse, Merge takes the last value of a field that is given twice.
        text_format.Merge(description, net, allow_unknown_field=True)
    except text_format.ParseError as error:
        raise _text_error(file.path, str(error), error.GetLine()) from None
    except ValueError as error:  # a number beyond its type
        raise _text_error(file.path, first_line(error)) from None
    except RecursionError:
        raise _text_error(file.path, "too many messages within each other") from None
    _check_layers([net.layer, net.layers], file.path)
    layers = [
        read_layer(layer, f"{file.path}: layer {place:,}") for place, layer in enumerate(net.layer or net.layers, 1)
    ]
    return _net(net, layers, file.path)


def _text_error(path: str, problem: str, line: int | None = None) -> UserError:
    where = f"{path}, line {line:,}" if line else path
    problem = problem.rstrip(".")
    # The library quotes the line, and says what is wrong with it at the end.
    if len(problem) > _MAX_PROBLEM:
        problem = f"…{problem[-_MAX_PROBLEM:]}"
    return UserError(f"{where} is not {_PROTOTXT}: {problem}. Correct it, or use another file.")


def _check_layers(kinds: Sequence[Sequence], path: str) -> None:
    """Checks that there are layers, not too many, and only of one of the two encodings."""
    if all(kinds):
        raise UserError(f"{path} has layers of two formats. Expected {_MODEL} as Caffe writes it: save it again.")
    if not any(kinds):
        raise UserError(
            f"{path} has no layers. Expected a network: a solver's .prototxt has none; use the network's own file."
        )
    check_count(max(kinds, key=len), _MAX_LAYERS, "layers", path)


def _net(net: Message, layers: list[CaffeLayer], path: str) -> CaffeNet:
    return CaffeNet((*([read_inputs(net, f"{path}: the input")] if net.input else []), *layers))


def _layer(kind: type[Message], data: memoryview, where: str, file: ModelFile) -> CaffeLayer:
    parts, rest = split(data, [BLOBS[kind]], file)
    layer = read_layer(parse(kind, rest, file), where)
    where += f" ({layer.name!r})"
    stored = parts[BLOBS[kind]]
    check_count(stored, _MAX_BLOBS, "blobs", where)
    blobs = [read_blob(blob, f"{where}, blob {index}", file) for index, blob in enumerate(stored)]
    # V1 files give every blob four dimensions: a bias is (1, 1, 1, n).
    for index, axes in enumerate(_BLOB_AXES.get(layer.type, ())[: len(blobs)]):
        blobs[index] = _without_leading_ones(blobs[index], axes)
    return dataclasses.replace(layer, blobs=tuple(blobs))


def _without_leading_ones(blob: np.ndarray, axes: int) -> np.ndarray:
    """`blob` with that many axes, if those before them are of size 1."""
    extra = blob.ndim - axes
    return blob.reshape(blob.shape[extra:]) if extra > 0 and set(blob.shape[:extra]) == {1} else blob


def read_caffe_hdf5(path: str | os.PathLike) -> dict[str, tuple[np.ndarray, ...]]:
    """Reads the blobs of the layers that have some, float32, by the layer's name.

    Each is a dataset /data/<layer>/<index> (BVLC/caffe, src/caffe/net.cpp, `ToHDF5`); of the layers there is nothing.
    """
    file = open_model_file(path, _HDF5)
    try:
        with h5py.File(file.path, "r") as stored:
            return _read_layers(stored, file.path, len(file))
    # What h5py raises for damaged files.
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise file.error(f"cannot be read ({first_line(error)})") from None


def _read_layers(stored: h5py.File, path: str, file_size: int) -> dict[str, tuple[np.ndarray, ...]]:
    layers = _child(stored, "data", h5py.Group, path)
    check_count(layers, _MAX_LAYERS, "layers", path)
    left = MAX_GROWTH * file_size
    blobs = {}
    for name in layers:
        layer = _child(layers, name, h5py.Group, path)
        check_count(layer, _MAX_BLOBS, "blobs", f"{path}: layer {name!r}")
        datasets = [_child(layer, str(index), h5py.Dataset, path) for index in range(len(layer))]
        for dataset in datasets:
            left -= dataset.nbytes
            # Those without storage would be read as zeros, and external ones from other files.
            if dataset.dtype.kind != "f" or left < 0 or dataset.external or not dataset.id.get_storage_size():
                raise UserError(
                    f"{path}: {dataset.name} is not an array of floats stored in this file. Expected {_HDF5} as "
                    "Caffe writes it: save it again."
                )
        if datasets:
            blobs[name] = tuple(as_float32(dataset[()]) for dataset in datasets)
    return blobs


def _child(group: h5py.Group, name: str, kind: type, path: str) -> h5py.Group | h5py.Dataset:
    """A member of a group that is in this file: links to others are refused."""
    if not isinstance(group.get(name, getlink=True), h5py.HardLink) or not isinstance(child := group[name], kind):
        raise UserError(
            f"{path}: {group.name} has no {kind.__name__.lower()} {name!r}. Expected {_HDF5}, with a dataset "
            "/data/<layer>/<index> for each blob."
        )
    return child
