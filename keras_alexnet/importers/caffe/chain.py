"""Caffe's networks as chains of layers."""

import dataclasses
import os
from collections.abc import Mapping

import numpy as np

from keras_alexnet.errors import UserError
from keras_alexnet.importers import chain
from keras_alexnet.importers.caffe.layers import CaffeLayer
from keras_alexnet.importers.caffe.reader import read_caffe_hdf5, read_caffemodel, read_prototxt
from keras_alexnet.importers.caffe.wiring import WEIGHTED, image_path, listed
from keras_alexnet.importers.chain import Chain
from keras_alexnet.importers.files import open_model_file
from keras_alexnet.importers.formats import HDF5, signature


def read_caffe_chain(path: str | os.PathLike, deploy: str | os.PathLike | None = None) -> Chain:
    """Reads a `.caffemodel` or `.caffemodel.h5` as a chain from its first layer to the logits or probabilities.

    What the data layer of either file does with pixels (`mean_value`, `scale`) comes first, as a `Scaling`.

    Args:
        path: the file.
        deploy: a `.prototxt` with the layers that are wanted, which take their weights from the layers of the same
            name in `path`; without it, all layers of `path`. A `.caffemodel.h5` has no layers of its own.

    Raises:
        UserError: a file cannot be read, or the network is not a chain of the layers of `chain`.
    """
    path = described = os.fspath(path)
    trained: tuple[CaffeLayer, ...] = ()
    if signature(open_model_file(path, "a Caffe model")) == HDF5:
        if deploy is None:
            raise UserError(f"{path} has weights, but no layers. Pass the .prototxt of the network as --deploy.")
        blobs = read_caffe_hdf5(path)
    else:
        trained = read_caffemodel(path).layers
        blobs = {layer.name: layer.blobs for layer in trained if layer.blobs}
    layers = trained
    if deploy is not None:
        described = os.fspath(deploy)
        layers = _with_weights(read_prototxt(deploy).layers, described, blobs, path)
    on_path, sources = image_path(layers, described)
    translated = [
        _translated(layer, f"{described}: layer {layer.name!r} ({layer.type})")
        for layer in on_path
        if layer.type not in ("Split", "Flatten")
    ]
    image_size = next(filter(None, map(_image_size, sources)), None)
    translated, image_size = _with_dense_layers(translated, image_size)
    # A description for use has no data layer, which says what becomes of pixels.
    data = [layer for layer in (*sources, *trained) if "scale" in layer.parameters]
    # Of one for training and one for testing, that which has the numbers.
    data = next((layer for layer in data if layer.parameters["mean_values"]), data[0] if data else None)
    if data:
        translated[:0] = _scaling(data)
    mean_file = data.parameters["mean_file"] if data and not data.parameters["mean_values"] else None
    return Chain(path, "Caffe model", tuple(translated), image_size, mean_file=mean_file or None)


def _with_weights(
    layers: tuple[CaffeLayer, ...], deploy: str, blobs: Mapping[str, tuple[np.ndarray, ...]], path: str
) -> tuple[CaffeLayer, ...]:
    """The layers of the file `deploy`, with the weights that `path` has under the same names."""
    for layer in layers:
        if layer.type in WEIGHTED and layer.name not in blobs:
            raise UserError(
                f"{deploy}: layer {layer.name!r} ({layer.type}) has no weights in {path}, whose layers with weights "
                f"are {listed(list(blobs))}. Use the .prototxt of the same network."
            )
    return tuple(dataclasses.replace(layer, blobs=blobs.get(layer.name, ())) for layer in layers)


def _image_size(layer: CaffeLayer) -> tuple[int, int] | None:
    for shape in layer.parameters.get("shapes", ()):
        if len(shape) == 4 and all(shape):
            return shape[2:]
    crop = layer.parameters.get("crop_size")
    return (crop, crop) if crop else None


def _with_dense_layers(
    layers: list[chain.Layer], image_size: tuple[int, int] | None
) -> tuple[list[chain.Layer], tuple[int, int] | None]:
    """The layers with dense ones in place of the convolutions that cover their whole input; and the image size.

    Those are the convolutions after the last pooling in a fully convolutional network. It takes images of any size,
    and gives one result for those of which the first of them covers what the pooling gives. So a size of larger images
    is left out.
    """
    pools = [place for place, layer in enumerate(layers) if isinstance(layer, chain.MaxPool)]
    size, result = image_size, []
    for place, layer in enumerate(layers):
        is_square = isinstance(layer, chain.Convolution) and layer.window[0] == layer.window[1]
        if pools and place > pools[-1] and is_square and layer.groups == 1 and not np.any(layer.padding):
            if size not in (None, layer.window):
                image_size = None
            size = None
            layer = chain.Dense(layer.name, layer.kernel.reshape(len(layer.kernel), -1).T, layer.bias)
        elif size and isinstance(layer, chain.Convolution | chain.MaxPool):
            size = chain.output_size(layer, size)
        result.append(layer)
    return result, image_size


def _scaling(layer: CaffeLayer) -> list[chain.Scaling]:
    scale, means = layer.parameters["scale"], layer.parameters["mean_values"]
    return [chain.Scaling(layer.name, scale, -scale * np.array(means or 0.0))] if means or scale != 1 else []


def _translated(layer: CaffeLayer, where: str) -> chain.Layer:
    settings = layer.parameters
    match layer.type:
        case "Convolution":
            _refuse(where, settings["dilation"] != (1, 1), "dilation", settings["dilation"], "1")
            kernel, bias = _weights(layer, where)
            groups, filters = settings["group"], settings["num_output"]
            _refuse(where, filters % groups or kernel.shape[1] < 1, "group", groups, f"a divisor of {filters}")
            _check_shape(kernel, (filters, kernel.shape[1], *settings["kernel"]), where)
            padding = tuple((pad, pad) for pad in settings["pad"])
            return chain.Convolution(layer.name, kernel, bias, settings["stride"], padding, groups)
        case "InnerProduct":
            _refuse(where, settings["axis"] != 1, "axis", settings["axis"], "1")
            kernel, bias = _weights(layer, where)
            kernel = kernel if settings["transpose"] else kernel.T
            _check_shape(kernel, (kernel.shape[0], settings["num_output"]), where)
            return chain.Dense(layer.name, kernel, bias)
        case "ReLU":
            _refuse(where, settings["negative_slope"], "negative_slope", settings["negative_slope"], "0")
            return chain.Relu(layer.name)
        case "LRN":
            region = settings["norm_region"]
            _refuse(where, region != "ACROSS_CHANNELS", "norm_region", region, "ACROSS_CHANNELS")
            return chain.LocalResponseNorm(
                layer.name, settings["local_size"], settings["alpha"], settings["beta"], settings["k"]
            )
        case "Pooling":
            _refuse(where, settings["method"] != "MAX", "pool", settings["method"], "MAX")
            _refuse(where, settings["global_pooling"], "global_pooling", True, "false")
            _refuse(where, settings["pad"] != (0, 0), "pad", settings["pad"], "0")
            padding = {"CEIL": "caffe", "FLOOR": "valid"}[settings["round_mode"]]
            return chain.MaxPool(layer.name, settings["kernel"], settings["stride"], padding)
        case "Dropout":
            rate = settings["dropout_ratio"]
            _refuse(where, not 0 <= rate < 1, "dropout_ratio", rate, "0 up to but not including 1")
            return chain.Dropout(layer.name, rate)
        case "Softmax":
            return chain.Softmax(layer.name)
    raise UserError(
        f"{where}: layers of this type are not read. Expected an AlexNet: Convolution, ReLU, LRN, Pooling, "
        "InnerProduct and Dropout. Other networks need another converter."
    )


def _weights(layer: CaffeLayer, where: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Kernel and bias; the latter None where the layer has none."""
    expected = 1 + bool(layer.parameters["bias_term"])
    axes = (4 if layer.type == "Convolution" else 2, 1)[:expected]
    found = tuple(blob.ndim for blob in layer.blobs)
    if found != axes:
        shapes = ", ".join(" × ".join(map(str, blob.shape)) for blob in layer.blobs) or "nothing"
        raise UserError(
            f"{where} has as its weights {shapes}. Expected {'a kernel and a bias' if expected == 2 else 'a kernel'} "
            f"of {' and '.join(map(str, axes))} axes. A .prototxt has no weights: use the .caffemodel; else download "
            "it again."
        )
    return layer.blobs[0], layer.blobs[1] if expected == 2 else None


def _check_shape(kernel: np.ndarray, shape: tuple[int, ...], where: str) -> None:
    if kernel.shape != shape:
        raise UserError(
            f"{where} has weights of the shape {' × '.join(map(str, kernel.shape))}, and by its settings should have "
            f"{' × '.join(map(str, shape))}. The file is corrupted, or --deploy describes another network."
        )


def _refuse(where: str, condition: object, name: str, value: object, expected: str) -> None:
    if condition:
        raise UserError(f"{where} has {name} {value}. Expected {expected}, as AlexNet has it.")
