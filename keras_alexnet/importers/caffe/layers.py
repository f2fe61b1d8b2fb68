"""The layers of Caffe's networks: their types and settings.

Both of Caffe's encodings are read: `layer`, and the older `layers` ("V1", before 2015). The result is the same for
both: types as Caffe names them today.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from google.protobuf.message import Message

from keras_alexnet.errors import UserError
from keras_alexnet.importers.arrays import as_written
from keras_alexnet.importers.caffe.blob import AGAIN, check_count, checked_shape
from keras_alexnet.importers.caffe.schema import V1_TYPES
from keras_alexnet.importers.protobuf import text

_MAX_NAMES = 50
_V1_NAMES = tuple(V1_TYPES.values())
# By the type of a layer, the message that had its settings before `transform_param`.
_OLDER_TRANSFORMATIONS = {"Data": "data_param", "ImageData": "image_data_param", "WindowData": "window_data_param"}


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
            mean_values (one per channel, one for all, or none), scale. Other types: none.
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


def read_layer(layer: Message, where: str) -> CaffeLayer:
    """Reads a layer, a LayerParameter or V1LayerParameter, without its blobs."""
    name = text(layer.name, where)
    where += f" ({name!r})"
    layer_type = _layer_type(layer, where)
    parameters = _parameters(layer_type, layer, where)
    return CaffeLayer(name, layer_type, _texts(layer.bottom, where), _texts(layer.top, where), parameters)


def read_inputs(net: Message, where: str) -> CaffeLayer:
    """The inputs as today's layer; they used to be fields of the network."""
    dims = net.input_dim
    if len(dims) % 4:
        raise UserError(f"{where} has {len(dims):,} times input_dim. Expected four of them for each input.")
    shapes = [dims[at : at + 4] for at in range(0, len(dims), 4)] or [shape.dim for shape in net.input_shape]
    parameters = {"shapes": tuple(checked_shape(shape, where) for shape in shapes)}
    return CaffeLayer("input", "Input", tops=_texts(net.input, where), parameters=parameters)


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
        raise UserError(f"{where} has the type {layer.type}. Expected 0 to {len(_V1_NAMES) - 1}. {AGAIN}")
    if layer_type in ("", "None"):
        raise UserError(f"{where} has no type. Expected one such as Convolution. {AGAIN}")
    return layer_type


def _parameters(layer_type: str, layer: Message, where: str) -> dict[str, object]:
    """The settings of a layer."""
    match layer_type:
        case "Convolution":
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
        case "Pooling":
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
        case "LRN":
            settings, where = layer.lrn_param, f"{where}: lrn_param"
            return {
                "local_size": _integer(settings.local_size, "local_size", 1, where),
                **{name: _finite(getattr(settings, name), name, where) for name in ("alpha", "beta", "k")},
                "norm_region": _enum_name(settings, "norm_region", where),
            }
        case "InnerProduct":
            settings, where = layer.inner_product_param, f"{where}: inner_product_param"
            return {
                "num_output": _required_integer(settings, "num_output", where),
                "bias_term": settings.bias_term,
                "axis": settings.axis,
                "transpose": settings.transpose,
            }
        case "Dropout":
            return {"dropout_ratio": _finite(layer.dropout_param.dropout_ratio, "dropout_ratio", where)}
        case "ReLU":
            return {"negative_slope": _finite(layer.relu_param.negative_slope, "negative_slope", where)}
        case "Input":
            shapes = layer.input_param.shape
            return {"shapes": tuple(checked_shape(shape.dim, f"{where}: input_param") for shape in shapes)}
        case "Data" | "ImageData" | "WindowData" | "MemoryData":
            return _transformation(layer, where, _OLDER_TRANSFORMATIONS.get(layer_type))
    return {}


def _transformation(layer: Message, where: str, older: str | None) -> dict[str, object]:
    """What becomes of pixels."""
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


def _texts(values: Sequence[bytes], where: str) -> tuple[str, ...]:
    check_count(values, _MAX_NAMES, "bottoms or tops", where)
    return tuple(text(value, where) for value in values)


def _required_integer(settings: Message, name: str, where: str) -> int:
    if not settings.HasField(name):
        raise UserError(f"{where} has no {name}. Expected one of 1 or above. {AGAIN}")
    return _integer(getattr(settings, name), name, 1, where)


def _integer(value: int, name: str, least: int, where: str) -> int:
    # Negative numbers of a damaged file are above 2^31 here.
    if not least <= value < 2**31:
        raise UserError(f"{where} has {name} {value:,}. Expected {least} or above, below 2^31. {AGAIN}")
    return value


def _finite(value: float, name: str, where: str) -> float:
    value = as_written(value)
    if not math.isfinite(value):
        raise UserError(f"{where} has {name} {value}. Expected a finite number. {AGAIN}")
    return value


def _enum_name(settings: Message, name: str, where: str) -> str:
    value, known = getattr(settings, name), settings.DESCRIPTOR.fields_by_name[name].enum_type.values_by_number
    if value not in known:
        raise UserError(f"{where} has {name} {value}. Expected 0 to {len(known) - 1}. {AGAIN}")
    return known[value].name


def _pair(settings: Message, name: str, stem: str, default: int | None, least: int, where: str) -> tuple[int, int]:
    """(height, width) from the fields `stem`_h and `stem`_w, or from the field `name`, given once for both or twice."""
    if settings.DESCRIPTOR.fields_by_name.get(f"{stem}_h") and (
        settings.HasField(f"{stem}_h") or settings.HasField(f"{stem}_w")
    ):
        # Caffe takes a missing one as 0, which is right only for pads.
        return tuple(_integer(getattr(settings, f"{stem}_{axis}"), f"{stem}_{axis}", least, where) for axis in "hw")
    values = getattr(settings, name)
    if isinstance(values, int):
        values = [values] if settings.HasField(name) else []
    if len(values) > 2:
        raise UserError(f"{where} has {len(values):,} times {name}. Expected one, or height and width: images are 2-D.")
    if not values and default is None:
        raise UserError(f"{where} has no {name}. Expected one of {least} or above. {AGAIN}")
    values = values or [default]
    height, width = (_integer(value, name, least, where) for value in (values[0], values[-1]))
    return height, width
