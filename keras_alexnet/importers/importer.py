"""AlexNets of Caffe, CNTK, ONNX and torchvision as Keras models."""

import functools
import os
from collections import Counter
from dataclasses import dataclass

import keras

from keras_alexnet.data.class_file import class_file, read_classes
from keras_alexnet.data.class_mappings import read_class_mappings
from keras_alexnet.errors import UserError
from keras_alexnet.importers import formats
from keras_alexnet.importers.alexnet import AlexNetMatch, match_alexnet
from keras_alexnet.importers.caffe.chain import read_caffe_chain
from keras_alexnet.importers.cntk.chain import read_cntk_chain
from keras_alexnet.importers.onnx.chain import read_onnx_chain
from keras_alexnet.importers.preprocessing import Preprocessing, resolve_preprocessing
from keras_alexnet.importers.summary import summarize
from keras_alexnet.importers.torchvision import read_torchvision
from keras_alexnet.importers.weights import layer_weights
from keras_alexnet.model import build_alexnet
from keras_alexnet.model_file import load_model, model_sizes


@dataclass(frozen=True, eq=False)
class ImportedModel:
    """What `import_model` gives.

    Attributes:
        model: as of `build_alexnet`: RGB pixels of 0 to 255 in, logits out.
        classes: the ids of the classes in label order, or None if unknown.
        summary: of layers, shapes, and what became what, for people.
    """

    model: keras.Model
    classes: list[str] | None
    summary: str


def import_model(
    path: str | os.PathLike,
    *,
    deploy: str | os.PathLike | None = None,
    preprocessing: Preprocessing | None = None,
    weights_key: str | None = None,
    classmappings: str | os.PathLike | None = None,
) -> ImportedModel:
    """Reads an AlexNet from another framework's file, whose format is detected from its contents.

    Read are Caffe's `.caffemodel`, CNTK's `.model` and `.dnn` (trainer checkpoints too), `.onnx`, and torchvision's
    state dict as `.safetensors` or in a PyTorch checkpoint; a `.keras` file is taken as it is. The logits are those of
    the framework that wrote the file, within rounding: groups become zeros in plain convolutions, pixels are RGB, and
    what is to be subtracted from them becomes part of the model.

    Args:
        path: the file.
        deploy: a `.prototxt` that describes the layers of a `.caffemodel`.
        preprocessing: what the file does not say of its pixels, or where the default is wrong. It is needed where two
            readings are usual, as for an ONNX model of PyTorch with normalization layers. The defaults are: for Caffe
            BGR and 104, 117, 123; for CNTK BGR and 114; for torchvision RGB and torchvision's mean and deviation;
            nothing for a network that subtracts a mean itself.
        weights_key: which weights of a PyTorch checkpoint to read, if it has several: a key on the way to them, such as
            "ema".
        classmappings: a file of the class ids and the labels that the network was trained with, in either column order;
            fc8 is put into the order of the sorted ids.

    Raises:
        UserError: a file that is damaged, of another kind or another network, or arguments that do not fit.
    """
    path = os.fspath(path)
    kind = formats.detect_format(path)
    if deploy is not None and kind != formats.CAFFE:
        raise UserError(f"{path} is not a Caffe model, and deploy describes the layers of one. Leave it out.")
    if weights_key is not None and kind != formats.TORCHVISION:
        raise UserError(f"{path} is not a PyTorch checkpoint, and weights_key selects weights of one. Leave it out.")
    ids = None if classmappings is None else read_class_mappings(classmappings)
    if kind == formats.KERAS:
        if preprocessing not in (None, Preprocessing()):
            raise UserError(
                f"{path} is a Keras model, which scales pixels itself. Leave out mean, std and channel_order."
            )
        model, summary = load_model(path), f"{path}: a Keras model"
    else:
        found = read_alexnet(path, deploy=deploy, weights_key=weights_key)
        pixels = resolve_preprocessing(found, kind, preprocessing or Preprocessing())
        model = build_alexnet(
            found.num_classes,
            preset=pixels.preset,
            dropout=found.dropout,
            weights=functools.partial(layer_weights, found, pixels.channel_order),
        )
        summary = summarize(found, pixels, model)
    classes = read_classes(path)
    if classes is not None:
        _, num_classes = model_sizes(model)
        if len(classes) != num_classes:
            raise UserError(
                f"{class_file(path)} lists {len(classes):,} classes, but {path} has {num_classes:,}. Remove it if it "
                "belongs to another model."
            )
        if ids not in (None, classes):
            raise UserError(
                f"{class_file(path)} and {os.fspath(classmappings)} list different classes for {path}, or another "
                "order. Leave out the class mappings, or remove the former if it belongs to another model."
            )
    if ids is not None:
        classes = _sort_classes(model, ids, os.fspath(classmappings), path)
        moved = "unchanged" if classes == ids else "fc8 was reordered"
        summary += f"\nClasses  {len(ids):,}, in the order of their sorted ids; {moved}"
    if kind == formats.CNTK and classes == ids:
        advice = "pass" if ids is None else "a sorted list is probably not CNTK's: pass"
        summary += (
            "\nClasses  CNTK's labels follow the order of the folders on the machine that prepared them;\n"
            f"         {advice} the class list of that training as --classmappings"
        )
    return ImportedModel(model, classes, summary)


def _sort_classes(model: keras.Model, ids: list[str], classmappings: str, path: str) -> list[str]:
    """Puts fc8 into the order of the sorted ids, which it returns."""
    _, num_classes = model_sizes(model)
    if len(ids) != num_classes:
        raise UserError(
            f"{classmappings} has {len(ids):,} classes, and {path} has {num_classes:,}. Pass the class mappings "
            "that this network was trained with."
        )
    layer = model.layers[-1]
    if not isinstance(layer, keras.layers.Dense):
        raise UserError(
            f"{path} ends in a layer {layer.name} ({type(layer).__name__}). Expected fc8, a dense layer, whose units "
            "can be reordered. Use a model of keras_alexnet, or leave out the class mappings."
        )
    class_id, count = Counter(ids).most_common(1)[0]
    if count > 1:
        raise UserError(f"{classmappings} has the class {class_id!r} more than once. Expected each once.")
    order = sorted(range(num_classes), key=ids.__getitem__)
    layer.set_weights([array[..., order] for array in layer.get_weights()])
    return [ids[label] for label in order]


def read_alexnet(
    path: str | os.PathLike, *, deploy: str | os.PathLike | None = None, weights_key: str | None = None
) -> AlexNetMatch:
    """Reads another framework's file as far as its layers; see `import_model`, which makes a Keras model of it."""
    path = os.fspath(path)
    match formats.detect_format(path):
        case formats.CAFFE:
            network = read_caffe_chain(path, deploy)
        case formats.CNTK:
            network = read_cntk_chain(path)
        case formats.ONNX:
            network = read_onnx_chain(path)
        case formats.TORCHVISION:
            network = read_torchvision(path, weights_key)
        case _:
            raise UserError(f"{path} is a Keras model. Expected one of Caffe, CNTK, ONNX or torchvision.")
    return match_alexnet(network)
