"""Caffe's networks as chains of layers."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from keras_alexnet.errors import UserError
from keras_alexnet.importers import chain
from keras_alexnet.importers.caffe.reader import CaffeLayer, CaffeNet, read_caffemodel, read_prototxt
from keras_alexnet.importers.chain import Chain

_INPUTS = ("Data", "ImageData", "Input", "MemoryData", "DummyData", "HDF5Data", "WindowData")
# What only measures the network. A layer of such a type is not part of it.
_MEASURES = ("Accuracy", "SoftmaxWithLoss", "MultinomialLogisticLoss", "ArgMax", "Silence", "HDF5Output")


def read_caffe_chain(path: str | os.PathLike, deploy: str | os.PathLike | None = None) -> Chain:
    """Reads a `.caffemodel` as a chain from its first layer to the logits or probabilities.

    What the data layer of either file does with pixels (`mean_value`, `scale`) comes first, as a `Scaling`.

    Args:
        path: the file.
        deploy: a `.prototxt` with the layers that are wanted, which take their weights from the layers of the same
            name in `path`; without it, all layers of `path`.

    Raises:
        UserError: as `read_caffemodel` and `read_prototxt`; or the network is no chain, or has other layers than
            those of `chain`.
    """
    path = os.fspath(path)
    trained = net = read_caffemodel(path)
    described = path
    if deploy is not None:
        described = os.fspath(deploy)
        net = _with_weights(read_prototxt(deploy), described, trained, path)
    layers: list[chain.Layer] = []
    tops: set[str] = set()
    for layer in net.layers:
        where = f"{described}: layer {layer.name!r} ({layer.type})"
        if layer.type in _INPUTS:
            # The first top of the first one; there may be others, for testing.
            tops = tops or set(layer.tops[:1])
        elif layer.type in _MEASURES or (layer.type == "Split" and not tops.intersection(layer.bottoms)):
            continue  # The latter, which Caffe puts in by itself, is of the labels.
        else:
            # The first layer of a .caffemodel without a data layer.
            _check_wiring(layer, tops or set(layer.bottoms), where)
            tops = set(layer.tops)
            if layer.type not in ("Split", "Flatten"):
                layers.append(_translated(layer, where))
    inputs = [layer for layer in net.layers if layer.type in _INPUTS]
    image_size = next(filter(None, map(_image_size, inputs)), None)
    # A description for use has no data layer, which told what becomes of pixels.
    data = next((layer for layer in (*inputs, *trained.layers) if "scale" in layer.parameters), None)
    if data:
        layers[:0] = _scaling(data)
    mean_file = data.parameters["mean_file"] if data and not data.parameters["mean_values"] else None
    return Chain(path, "Caffe model", tuple(layers), image_size, mean_file=mean_file or None)


def _with_weights(net: CaffeNet, deploy: str, trained: CaffeNet, path: str) -> CaffeNet:
    """The layers of `net` with the weights of the layers of the same name in `trained`."""
    blobs = {layer.name: layer for layer in trained.layers if layer.blobs}
    layers = []
    for layer in net.layers:
        source = blobs.get(layer.name)
        if layer.type in ("Convolution", "InnerProduct") and (source is None or source.type != layer.type):
            raise UserError(
                f"{deploy}: layer {layer.name!r} ({layer.type}) has no weights in {path}, whose layers with weights "
                f"are {_listed(list(blobs))}. Give the .prototxt of the same network."
            )
        layers.append(dataclasses.replace(layer, blobs=source.blobs if source else ()))
    return CaffeNet(tuple(layers))


def _check_wiring(layer: CaffeLayer, tops: set[str], where: str) -> None:
    """That the layer takes what the one before it gives, and nothing else."""
    if len(layer.bottoms) != 1 or layer.bottoms[0] not in tops:
        raise UserError(
            f"{where} takes {_listed(layer.bottoms)}, and the layer before it gives {_listed(sorted(tops))}. Expected "
            "an AlexNet, in which each layer takes what the one before it gives; with --deploy the network can be "
            "described by its deploy.prototxt."
        )


def _listed(names: Sequence[str]) -> str:
    shown = [repr(name) for name in names[:8]]
    return ", ".join(shown + ["…"] * (len(names) > 8)) or "nothing"


def _image_size(layer: CaffeLayer) -> tuple[int, int] | None:
    for shape in layer.parameters.get("shapes", ()):
        if len(shape) == 4 and all(shape):
            return shape[2:]
    crop = layer.parameters.get("crop_size")
    return (crop, crop) if crop else None


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
            (top, left) = settings["pad"]
            return chain.Convolution(
                layer.name, kernel, bias, settings["stride"], ((top, top), (left, left)), groups=groups
            )
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
            return chain.Dropout(layer.name, settings["dropout_ratio"])
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
            f"of {' and '.join(map(str, axes))} axes. A .prototxt has no weights: give the .caffemodel; else download "
            "it again."
        )
    return layer.blobs[0], layer.blobs[1] if expected == 2 else None


def _check_shape(kernel: np.ndarray, shape: tuple[int, ...], where: str) -> None:
    if kernel.shape != shape:
        raise UserError(
            f"{where} has weights of the shape {' × '.join(map(str, kernel.shape))}, and by its settings should have "
            f"{' × '.join(map(str, shape))}. The file is damaged, or --deploy describes another network."
        )


def _refuse(where: str, condition: object, name: str, value: object, expected: str) -> None:
    if condition:
        raise UserError(f"{where} has {name} {value}. Expected {expected}, as AlexNet has it.")
