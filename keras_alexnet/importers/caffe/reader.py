"""Caffe's files: `.caffemodel` (layers and weights), `.prototxt` (layers alone) and `.binaryproto` (a mean image).

Both of Caffe's encodings are read: `layer`, and the older `layers` ("V1", before 2015). The result is the same for
both: types as Caffe names them today, and the weights' shapes as today's layers have them.
"""

import functools
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from google.protobuf import text_format
from google.protobuf.message import Message

from keras_alexnet.errors import UserError
from keras_alexnet.importers.caffe.schema import V1_TYPES, BlobProto, NetDescription, NetParameter
from keras_alexnet.importers.files import open_model_file
from keras_alexnet.importers.formats import MEAN_IMAGE, refuse_other_formats
from keras_alexnet.importers.protobuf import as_written, parse, read_numbers, text

_MODEL = "a Caffe model (.caffemodel)"
_MEAN = "a mean image of Caffe's compute_image_mean (.binaryproto)"
_PROTOTXT = "a description of a network (.prototxt)"
_AGAIN = "Correct a .prototxt; download or save any other file again."

# Far beyond what any network needs; they bound the time and memory that a damaged file can take.
_MAX_LAYERS = 10_000
_MAX_PROTOTXT_BYTES = 2**18
# The library copies the line at each token that it tries.
_MAX_LINE = 20_000
_MAX_BLOBS = 10
_MAX_AXES = 32
_MAX_SHOWN = 200

_V1_NAMES = tuple(V1_TYPES.values())


@dataclass(frozen=True, eq=False)
class CaffeLayer:
    """A layer of a network.

    Attributes:
        name: its name.
        type: its type as Caffe names it today: "Convolution", "ReLU", "LRN", "Pooling", "InnerProduct", "Dropout",
            "Softmax", "Data", "Input", …
        bottoms: what it takes: the names of other layers' tops.
        tops: what it gives; one that is also a bottom is changed in place.
        parameters: its settings, with Caffe's default where the file has none; pairs are (height, width).
            Convolution: num_output, bias_term, kernel, stride, pad, dilation, group. Pooling: method ("MAX", "AVE",
            "STOCHASTIC"), global_pooling, kernel (None if that is true), stride, pad, round_mode ("CEIL", "FLOOR").
            LRN: local_size, alpha (for the whole window), beta, k, norm_region. InnerProduct: num_output, bias_term,
            axis, transpose. Dropout: dropout_ratio. ReLU: negative_slope. Input: shapes, one for each top or one for
            all. Data, ImageData, WindowData, MemoryData: crop_size (0 for the whole image), mean_file (may be empty),
            mean_values (one a channel, one for all, or none), scale. Other types: none.
        blobs: its weights, float32, read-only.
            Convolution: (num_output, channels / group, height, width), (num_output,). InnerProduct: (num_output,
            inputs), (num_output,), with inputs in the order channel, row, column.
    """

    name: str
    type: str
    bottoms: tuple[str, ...] = ()
    tops: tuple[str, ...] = ()
    parameters: dict[str, object] = field(default_factory=dict)
    blobs: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True, eq=False)
class CaffeNet:
    """A network: its layers in the order of the file."""

    layers: tuple[CaffeLayer, ...]


def read_caffemodel(path: str | os.PathLike) -> CaffeNet:
    """Reads a `.caffemodel`.

    Raises:
        UserError: the file is missing, something else, damaged, of Caffe's first format (before V1), or has not as many
            weights as their shapes say.
    """
    file = open_model_file(path, _MODEL)
    return _net(parse(NetParameter, file), file.path)


def read_prototxt(path: str | os.PathLike) -> CaffeNet:
    """Reads a network's description, such as a `deploy.prototxt`: layers as of `read_caffemodel`, without weights.

    All layers are given: rules for when one is in the network (include, exclude) are ignored, as are all fields that
    `CaffeLayer` does not mention.

    Raises:
        UserError: the file is missing, too large, or something else.
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
    net = NetDescription()
    try:
        # Unlike Parse, Merge takes the last value of a field that is given twice.
        text_format.Merge(description, net, allow_unknown_field=True)
    except text_format.ParseError as error:
        raise _text_error(file.path, str(error), error.GetLine()) from None
    except RecursionError:
        raise _text_error(file.path, "too many messages within each other") from None
    return _net(net, file.path)


def _text_error(path: str, problem: str, line: int | None = None) -> UserError:
    where = f"{path}, line {line:,}" if line else path
    problem = problem.rstrip(".")
    # The library quotes the line, and says what is wrong with it at the end.
    shown = problem if len(problem) <= _MAX_SHOWN else f"…{problem[-_MAX_SHOWN:]}"
    return UserError(f"{where} is not {_PROTOTXT}: {shown}. Correct it, or give another file.")


def read_mean(path: str | os.PathLike) -> np.ndarray:
    """Reads a mean image: (channels, height, width) float32, channels in the order of training, usually BGR.

    Raises:
        UserError: the file is missing, something else, or damaged.
    """
    file = open_model_file(path, _MEAN)
    refuse_other_formats(file, MEAN_IMAGE)
    mean = _blob(parse(BlobProto, file), f"{file.path}: the mean image")
    if mean.ndim == 4 and mean.shape[0] == 1:
        mean = mean[0]
    if mean.ndim != 3:
        raise UserError(
            f"{file.path} has the shape {_shape_text(mean.shape)}. Expected {_MEAN}: 1 × channels × height × width."
        )
    if not np.isfinite(mean).all():
        raise UserError(f"{file.path} has NaN or infinite pixels. Expected {_MEAN}. {_AGAIN}")
    return mean


def _net(net: Message, path: str) -> CaffeNet:
    if net.layer and net.layers:
        raise UserError(f"{path} has layers of two formats. Expected {_MODEL} as Caffe writes it: save it again.")
    stored = net.layer or net.layers
    if not stored:
        raise UserError(
            f"{path} has no layers. Expected a network: a solver's .prototxt or .solverstate has none; give the "
            "network's own file."
        )
    if len(stored) > _MAX_LAYERS:
        raise UserError(f"{path} has {len(stored):,} layers. Expected {_MAX_LAYERS:,} at most. {_AGAIN}")
    layers = [_layer(layer, path, number) for number, layer in enumerate(stored, 1)]
    if net.input:
        layers.insert(0, _old_input(net, f"{path}: the input"))
    return CaffeNet(tuple(layers))


def _old_input(net: Message, where: str) -> CaffeLayer:
    """The inputs as today's layer; they used to be fields of the network."""
    dims = net.input_dim
    if len(dims) % 4:
        raise UserError(f"{where} has {len(dims):,} times input_dim. Expected four of them for each input.")
    shapes = [dims[at : at + 4] for at in range(0, len(dims), 4)] or [shape.dim for shape in net.input_shape]
    parameters = {"shapes": tuple(_checked_shape(shape, where) for shape in shapes)}
    return CaffeLayer("input", "Input", tops=_texts(net.input, where), parameters=parameters)


def _layer(layer: Message, path: str, number: int) -> CaffeLayer:
    where = f"{path}: layer {number:,}"
    name = text(layer.name, where)
    where += f" ({name!r})"
    layer_type = _layer_type(layer, where)
    parameters = _READERS[layer_type](layer, where) if layer_type in _READERS else {}
    stored = getattr(layer, "blobs", ())
    if len(stored) > _MAX_BLOBS:
        raise UserError(f"{where} has {len(stored):,} blobs. Expected {_MAX_BLOBS} at most. {_AGAIN}")
    blobs = [_blob(blob, f"{where}, blob {index}") for index, blob in enumerate(stored)]
    # V1 files give every blob four dimensions: a bias is (1, 1, 1, n).
    for index, axes in enumerate(_BLOB_AXES.get(layer_type, ())[: len(blobs)]):
        blobs[index] = _without_leading_ones(blobs[index], axes)
    return CaffeLayer(name, layer_type, _texts(layer.bottom, where), _texts(layer.top, where), parameters, tuple(blobs))


def _layer_type(layer: Message, where: str) -> str:
    """The type as Caffe names it today."""
    if layer.DESCRIPTOR.name == "LayerParameter":
        layer_type = text(layer.type, where)
    elif layer.HasField("layer"):
        raise UserError(
            f"{where} is of Caffe's first format. Expected a format of 2014 or later: convert it with Caffe's tool "
            "upgrade_net_proto_binary (a .prototxt with upgrade_net_proto_text)."
        )
    elif 0 <= layer.type < len(_V1_NAMES):
        layer_type = _V1_NAMES[layer.type]
    else:
        raise UserError(f"{where} has the type {layer.type}. Expected 0 to {len(_V1_NAMES) - 1}. {_AGAIN}")
    if layer_type in ("", "None"):
        raise UserError(f"{where} has no type. Expected one such as Convolution. {_AGAIN}")
    return layer_type


def _convolution(layer: Message, where: str) -> dict[str, object]:
    settings, where = layer.convolution_param, f"{where}: convolution_param"
    return {
        "num_output": _required_integer(settings, "num_output", where),
        "bias_term": settings.bias_term,
        "kernel": _pair(settings, "kernel_size", "kernel", None, 1, where),
        "stride": _pair(settings, "stride", "stride", 1, 1, where),
        "pad": _pair(settings, "pad", "pad", 0, 0, where),
        "dilation": _pair(settings, "dilation", "dilation", 1, 1, where),
        "group": _integer(settings.group, "group", 1, where),
    }


def _pooling(layer: Message, where: str) -> dict[str, object]:
    settings, where = layer.pooling_param, f"{where}: pooling_param"
    is_global = settings.global_pooling
    return {
        "method": _enum_name(settings, "pool", where),
        "global_pooling": is_global,
        "kernel": None if is_global else _pair(settings, "kernel_size", "kernel", None, 1, where),
        "stride": _pair(settings, "stride", "stride", 1, 1, where),
        "pad": _pair(settings, "pad", "pad", 0, 0, where),
        "round_mode": _enum_name(settings, "round_mode", where),
    }


def _lrn(layer: Message, where: str) -> dict[str, object]:
    settings, where = layer.lrn_param, f"{where}: lrn_param"
    return {
        "local_size": _integer(settings.local_size, "local_size", 1, where),
        **{name: _finite(getattr(settings, name), name, where) for name in ("alpha", "beta", "k")},
        "norm_region": _enum_name(settings, "norm_region", where),
    }


def _inner_product(layer: Message, where: str) -> dict[str, object]:
    settings, where = layer.inner_product_param, f"{where}: inner_product_param"
    return {
        "num_output": _required_integer(settings, "num_output", where),
        "bias_term": settings.bias_term,
        "axis": settings.axis,
        "transpose": settings.transpose,
    }


def _dropout(layer: Message, where: str) -> dict[str, object]:
    return {"dropout_ratio": _finite(layer.dropout_param.dropout_ratio, "dropout_ratio", where)}


def _relu(layer: Message, where: str) -> dict[str, object]:
    return {"negative_slope": _finite(layer.relu_param.negative_slope, "negative_slope", where)}


def _input(layer: Message, where: str) -> dict[str, object]:
    where += ": input_param"
    return {"shapes": tuple(_checked_shape(shape.dim, where) for shape in layer.input_param.shape)}


def _transformation(layer: Message, where: str, older: str | None = None) -> dict[str, object]:
    """What becomes of pixels; `older` names the message that had the settings before `transform_param`."""
    settings, where = layer.transform_param, f"{where}: transform_param"

    def value(name: str) -> Any:
        is_older = older and not settings.HasField(name)
        return getattr(getattr(layer, older) if is_older else settings, name)

    return {
        "crop_size": _integer(value("crop_size"), "crop_size", 0, where),
        "mean_file": text(value("mean_file"), where),
        "mean_values": tuple(_finite(mean, "mean_value", where) for mean in settings.mean_value),
        "scale": _finite(value("scale"), "scale", where),
    }


# How many axes the weights and biases have.
_BLOB_AXES = {"Convolution": (4, 1), "InnerProduct": (2, 1)}

_READERS: dict[str, Callable[[Message, str], dict[str, object]]] = {
    "Convolution": _convolution,
    "Pooling": _pooling,
    "LRN": _lrn,
    "InnerProduct": _inner_product,
    "Dropout": _dropout,
    "ReLU": _relu,
    "Input": _input,
    "Data": functools.partial(_transformation, older="data_param"),
    "ImageData": functools.partial(_transformation, older="image_data_param"),
    "WindowData": functools.partial(_transformation, older="window_data_param"),
    "MemoryData": _transformation,
}


def _texts(values: Iterable[bytes], where: str) -> tuple[str, ...]:
    return tuple(text(value, where) for value in values)


def _required_integer(settings: Message, name: str, where: str) -> int:
    if not settings.HasField(name):
        raise UserError(f"{where} has no {name}. Expected one of 1 or above. {_AGAIN}")
    return _integer(getattr(settings, name), name, 1, where)


def _integer(value: int, name: str, least: int, where: str) -> int:
    # Negative numbers of a damaged file are above 2^31 here.
    if not least <= value < 2**31:
        raise UserError(f"{where} has {name} {value:,}. Expected {least} or above, below 2^31. {_AGAIN}")
    return value


def _finite(value: float, name: str, where: str) -> float:
    value = as_written(value)
    if not math.isfinite(value):
        raise UserError(f"{where} has {name} {value}. Expected a finite number. {_AGAIN}")
    return value


def _enum_name(settings: Message, name: str, where: str) -> str:
    value, known = getattr(settings, name), settings.DESCRIPTOR.fields_by_name[name].enum_type.values_by_number
    if value not in known:
        raise UserError(f"{where} has {name} {value}. Expected 0 to {len(known) - 1}. {_AGAIN}")
    return known[value].name


def _pair(settings: Message, name: str, stem: str, default: int | None, least: int, where: str) -> tuple[int, int]:
    """(height, width) from the fields `stem`_h and `stem`_w, or from the field `name`, given once for both or twice."""
    if settings.DESCRIPTOR.fields_by_name.get(f"{stem}_h") and (
        settings.HasField(f"{stem}_h") or settings.HasField(f"{stem}_w")
    ):
        # Caffe takes a missing one as 0, which is right for pads alone.
        return tuple(_integer(getattr(settings, f"{stem}_{axis}"), f"{stem}_{axis}", least, where) for axis in "hw")
    values = getattr(settings, name)
    if isinstance(values, int):
        values = [values] if settings.HasField(name) else []
    if len(values) > 2:
        raise UserError(f"{where} has {len(values):,} times {name}. Expected one, or height and width: images are 2-D.")
    if not values and default is None:
        raise UserError(f"{where} has no {name}. Expected one of {least} or above. {_AGAIN}")
    values = values or [default]
    height, width = (_integer(value, name, least, where) for value in (values[0], values[-1]))
    return height, width


def _blob(blob: Message, where: str) -> np.ndarray:
    """The numbers of a blob in their shape, float32; those beyond float32 become infinite."""
    old = ("num", "channels", "height", "width")
    is_old = any(blob.HasField(name) for name in old)
    shape = _checked_shape([getattr(blob, name) for name in old] if is_old else blob.shape.dim, where)
    numbers = read_numbers(blob, {"double_data": "<f8", "data": "<f4"}, where)
    if not numbers.size or numbers.size != math.prod(shape):
        raise UserError(
            f"{where} has {numbers.size:,} numbers. Expected {_brief(math.prod(shape))} for its shape "
            f"{_shape_text(shape)}, and at least one. {_AGAIN}"
        )
    with np.errstate(over="ignore"):
        return numbers.astype("<f4", copy=False).reshape(shape)


def _checked_shape(dims: Sequence[int], where: str) -> tuple[int, ...]:
    if len(dims) > _MAX_AXES or any(size < 0 for size in dims):
        raise UserError(
            f"{where} has the shape {_shape_text(dims)}. Expected at most {_MAX_AXES} sizes, none negative. {_AGAIN}"
        )
    return tuple(dims)


def _without_leading_ones(blob: np.ndarray, axes: int) -> np.ndarray:
    """`blob` with that many axes, if those before them are of size 1."""
    extra = blob.ndim - axes
    return blob.reshape(blob.shape[extra:]) if extra > 0 and set(blob.shape[:extra]) == {1} else blob


def _shape_text(shape: Sequence[int]) -> str:
    sizes = [_brief(size) for size in shape[:_MAX_AXES]] + ["…"] * (len(shape) > _MAX_AXES)
    return " × ".join(sizes) or "of a single number"


def _brief(number: int) -> str:
    return f"{number:,}" if abs(number) < 2**63 else "beyond 2^63"
