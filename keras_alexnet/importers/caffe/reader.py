"""Caffe's files: `.caffemodel` (layers and weights), `.prototxt` (layers alone) and `.binaryproto` (a mean image).

Field numbers, names and default values are those of BVLC/caffe, src/caffe/proto/caffe.proto. Both of its encodings are
read: `layer`, and the older `layers` ("V1", before 2015). What comes out is the same for both: types as Caffe names
them today, and the weights' shapes as today's layers have them.
"""

import itertools
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from keras_alexnet.errors import UserError
from keras_alexnet.importers import wire
from keras_alexnet.importers.caffe.schema import BLOB, NET, V1_TYPES
from keras_alexnet.importers.text_format import LONGEST_STRING, as_written, parse_text
from keras_alexnet.importers.wire import Field, Span

_MODEL = "a Caffe model (.caffemodel)"
_MEAN = "a mean image of Caffe's compute_image_mean (.binaryproto)"
_PROTOTXT = "a description of a network (.prototxt)"
_AGAIN = "Correct a .prototxt; download or save any other file again."

# Far beyond what any network needs; they bound the memory that a damaged file can take.
_MOST_ENTRIES = 10_000
_LONGEST_PROTOTXT = 2**20
_MOST_AXES = 32


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
            "STOCHASTIC"), global_pooling, kernel (None if that is true), stride, pad. LRN: local_size, alpha (for the
            whole window), beta, k, norm_region. InnerProduct: num_output, bias_term, axis, transpose. Dropout:
            dropout_ratio. ReLU: negative_slope. Input: shapes, one for each top or one for all. Data, ImageData,
            WindowData, MemoryData: crop_size (0 for the whole image), mean_file (may be empty), mean_values (one a
            channel, one for all, or none), scale. Other types: none.
        blobs: its weights, float32: views of the file (read-only, maybe unaligned) until they are copied.
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
    """A network: its name, which may be empty, and its layers in the order of the file."""

    name: str
    layers: tuple[CaffeLayer, ...]


def read_caffemodel(path: str | os.PathLike) -> CaffeNet:
    """Reads a `.caffemodel`; its weights stay in the file, which must not change while they are used.

    Raises:
        UserError: the file is missing, something else, damaged, of Caffe's first format (before V1), or has weights
            that are not finite or not as many as their shape says.
    """
    message = wire.open_message(path, _MODEL)
    _refuse_other_files(message)
    return _net(_decoded(message, NET), message.path)


def read_prototxt(path: str | os.PathLike) -> CaffeNet:
    """Reads a network's description, such as a `deploy.prototxt`: layers as of `read_caffemodel`, without weights.

    All layers are given: rules for when one is in the network (include, exclude) are passed over, as are all fields
    that `CaffeLayer` does not tell of.

    Raises:
        UserError: the file is missing, too large, or something else.
    """
    message = wire.open_message(path, _PROTOTXT)
    if len(message) > _LONGEST_PROTOTXT:
        raise UserError(f"{message.path} has {len(message):,} bytes: expected {_PROTOTXT}, a text of some thousand.")
    try:
        text = str(message.data, "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{message.path}: at byte {error.start:,} is no text in UTF-8. Expected {_PROTOTXT}; the weights are what "
            "a .caffemodel has."
        ) from None
    return _net(parse_text(text, NET, message.path, _PROTOTXT), message.path)


def read_mean(path: str | os.PathLike) -> np.ndarray:
    """Reads a mean image: (channels, height, width) float32, channels in the order of training, usually BGR.

    Raises:
        UserError: the file is missing, something else, or damaged.
    """
    message = wire.open_message(path, _MEAN)
    _refuse_other_files(message)
    mean = _blob(message, f"{message.path}: the mean image")
    if mean.ndim == 4 and mean.shape[0] == 1:
        mean = mean[0]
    if mean.ndim != 3:
        raise UserError(
            f"{message.path} has the shape {_shape_text(mean.shape)}. Expected {_MEAN}: 1 × channels × height × width."
        )
    return mean


def _refuse_other_files(message: Span) -> None:
    """Names the kinds of files that are given by mistake; any other one shows when it is decoded."""
    head = bytes(message.data[:256])
    # In a binary file the bytes that begin a layer or a blob are no text.
    is_text = not re.search(rb"[^\t\n\r -~]", head)
    for matches, kind, advice in [
        (head.startswith(b"\x89HDF\r\n"), "an HDF5 file", "save it with snapshot_format: BINARYPROTO"),
        (head.startswith(b"PK\x03\x04"), "a zip archive", "unpack it"),
        (head.startswith(b"\x1f\x8b"), "a gzip archive", "unpack it"),
        (head.startswith(b"version https://git-lfs"), "a pointer of Git LFS", "run git lfs pull"),
        (head.lstrip().startswith(b"<"), "a web page", "download the file itself"),
        (is_text, "a text", "the binary file is needed; a .prototxt has no weights"),
    ]:
        if matches:
            raise UserError(f"{message.path} is {kind}. Expected {message.expected}: {advice}.")


def _net(raw: dict[str, list], path: str) -> CaffeNet:
    if raw.get("layer") and raw.get("layers"):
        raise UserError(f"{path} has layers of two formats. Expected {_MODEL} as Caffe writes it: save it again.")
    layers = [
        _layer(layer, path, number) for number, layer in enumerate(raw.get("layer") or raw.get("layers") or [], 1)
    ]
    if not layers:
        raise UserError(
            f"{path} has no layers. Expected a network: a solver's .prototxt or .solverstate has none; give the "
            "network's own file."
        )
    if raw.get("input"):
        layers.insert(0, _old_input(raw, path))
    return CaffeNet(_last(raw, "name", ""), tuple(layers))


def _old_input(raw: dict[str, list], path: str) -> CaffeLayer:
    """The inputs as today's layer, which were fields of the network once."""
    dims = raw.get("input_dim", [])
    if len(dims) % 4:
        raise UserError(f"{path}: there are {len(dims):,} times input_dim. Expected four of them for each input.")
    shapes = [{"dim": dims[at : at + 4]} for at in range(0, len(dims), 4)] or raw.get("input_shape", [])
    parameters = _input({"shape": shapes}, f"{path}: the input")
    return CaffeLayer("input", "Input", tops=tuple(raw["input"]), parameters=parameters)


def _layer(raw: dict[str, list], path: str, number: int) -> CaffeLayer:
    name = _last(raw, "name", "")
    where = f"{path}: layer {number:,} ({name!r})"
    if "layer" in raw:
        raise UserError(
            f"{where} is of Caffe's first format. Expected a format of 2014 or later: convert it with Caffe's tool "
            "upgrade_net_proto_binary (a .prototxt with upgrade_net_proto_text)."
        )
    written = _last(raw, "type", "NONE")
    layer_type = V1_TYPES.get(written, written)
    if layer_type in ("", "None"):
        raise UserError(f"{where} has no type. Expected one such as Convolution. {_AGAIN}")
    parameters = {}
    if layer_type in _READERS:
        *older, source, read = _READERS[layer_type]
        settings = {}
        for message in (*older, source):
            settings |= _last(raw, message, {})
        parameters = read(settings, f"{where}: {source}")
    blobs = [_blob(blob, f"{where}, blob {index}") for index, blob in enumerate(raw.get("blobs", []))]
    # V1 files give every blob four dimensions: a bias is (1, 1, 1, n).
    for index, axes in enumerate(_BLOB_AXES.get(layer_type, ())[: len(blobs)]):
        blobs[index] = _without_leading_ones(blobs[index], axes)
    bottoms, tops = tuple(raw.get("bottom", [])), tuple(raw.get("top", []))
    return CaffeLayer(name, layer_type, bottoms, tops, parameters, tuple(blobs))


def _convolution(raw: dict[str, list], where: str) -> dict[str, object]:
    return {
        "num_output": _integer(raw, "num_output", None, 1, where),
        "bias_term": _last(raw, "bias_term", True),
        "kernel": _pair(raw, "kernel_size", "kernel", None, 1, where),
        "stride": _pair(raw, "stride", "stride", 1, 1, where),
        "pad": _pair(raw, "pad", "pad", 0, 0, where),
        "dilation": _pair(raw, "dilation", "dilation", 1, 1, where),
        "group": _integer(raw, "group", 1, 1, where),
    }


def _pooling(raw: dict[str, list], where: str) -> dict[str, object]:
    is_global = _last(raw, "global_pooling", False)
    # Not repeated in this message, where the last one counts.
    raw = {name: values[-1:] for name, values in raw.items()}
    return {
        "method": _last(raw, "pool", "MAX"),
        "global_pooling": is_global,
        "kernel": None if is_global else _pair(raw, "kernel_size", "kernel", None, 1, where),
        "stride": _pair(raw, "stride", "stride", 1, 1, where),
        "pad": _pair(raw, "pad", "pad", 0, 0, where),
    }


def _lrn(raw: dict[str, list], where: str) -> dict[str, object]:
    return {
        "local_size": _integer(raw, "local_size", 5, 1, where),
        "alpha": _finite(raw, "alpha", 1.0, where),
        "beta": _finite(raw, "beta", 0.75, where),
        "k": _finite(raw, "k", 1.0, where),
        "norm_region": _last(raw, "norm_region", "ACROSS_CHANNELS"),
    }


def _inner_product(raw: dict[str, list], where: str) -> dict[str, object]:
    return {
        "num_output": _integer(raw, "num_output", None, 1, where),
        "bias_term": _last(raw, "bias_term", True),
        "axis": _integer(raw, "axis", 1, -_MOST_AXES, where),
        "transpose": _last(raw, "transpose", False),
    }


def _dropout(raw: dict[str, list], where: str) -> dict[str, object]:
    return {"dropout_ratio": _finite(raw, "dropout_ratio", 0.5, where)}


def _relu(raw: dict[str, list], where: str) -> dict[str, object]:
    return {"negative_slope": _finite(raw, "negative_slope", 0.0, where)}


def _input(raw: dict[str, list], where: str) -> dict[str, object]:
    return {"shapes": tuple(_checked_shape(shape.get("dim", []), where) for shape in raw.get("shape", []))}


def _transformation(raw: dict[str, list], where: str) -> dict[str, object]:
    means = tuple(_finite({"mean_value": [value]}, "mean_value", 0.0, where) for value in raw.get("mean_value", []))
    return {
        "crop_size": _integer(raw, "crop_size", 0, 0, where),
        "mean_file": _last(raw, "mean_file", ""),
        "mean_values": means,
        "scale": _finite(raw, "scale", 1.0, where),
    }


# How many axes the weights and biases have.
_BLOB_AXES = {"Convolution": (4, 1), "InnerProduct": (2, 1)}

# The types with parameters, the messages that have them, an older one first, and their reader.
_READERS = {
    "Convolution": ("convolution_param", _convolution),
    "Pooling": ("pooling_param", _pooling),
    "LRN": ("lrn_param", _lrn),
    "InnerProduct": ("inner_product_param", _inner_product),
    "Dropout": ("dropout_param", _dropout),
    "ReLU": ("relu_param", _relu),
    "Input": ("input_param", _input),
    "Data": ("data_param", "transform_param", _transformation),
    "ImageData": ("image_data_param", "transform_param", _transformation),
    "WindowData": ("window_data_param", "transform_param", _transformation),
    "MemoryData": ("transform_param", _transformation),
}


def _last(raw: dict[str, list], name: str, default):
    """The value of a field that is not repeated: the last one counts."""
    return raw[name][-1] if raw.get(name) else default


def _integer(raw: dict[str, list], name: str, default: int | None, least: int, where: str) -> int:
    return _checked_integer(_last(raw, name, default), name, least, where)


def _checked_integer(value: int | None, name: str, least: int, where: str) -> int:
    if value is None:
        raise UserError(f"{where} has no {name}. Expected one of {least} or above. {_AGAIN}")
    if not least <= value < 2**31:
        raise UserError(f"{where} has {name} {_brief(value)}. Expected {least} or above, below 2^31. {_AGAIN}")
    return value


def _finite(raw: dict[str, list], name: str, default: float, where: str) -> float:
    value = _last(raw, name, default)
    if not math.isfinite(value):
        raise UserError(f"{where} has {name} {value}. Expected a finite number. {_AGAIN}")
    return value


def _pair(raw: dict[str, list], name: str, stem: str, default: int | None, least: int, where: str) -> tuple[int, int]:
    """(height, width) from the fields `stem`_h and `stem`_w, or from the field `name`, given once for both or twice."""
    if f"{stem}_h" in raw or f"{stem}_w" in raw:
        # Caffe takes a missing one as 0, which is right for pads alone.
        return tuple(_integer(raw, f"{stem}_{axis}", 0, least, where) for axis in "hw")
    values = raw.get(name) or [default]
    if len(values) > 2:
        raise UserError(f"{where} has {len(values):,} times {name}. Expected one, or height and width: images are 2-D.")
    height, width = (_checked_integer(value, name, least, where) for value in (values[0], values[-1]))
    return height, width


def _blob(message: Span, where: str) -> np.ndarray:
    """The numbers of a blob in their shape, float32."""
    raw = _decoded(message, BLOB)
    old = [_last(raw, name, None) for name in ("num", "channels", "height", "width")]
    if any(size is not None for size in old):
        dims = [size or 0 for size in old]
    else:
        dims = _last(raw, "shape", {}).get("dim", [])
    shape = _checked_shape(dims, where)
    name, dtype = ("double_data", "<f8") if raw.get("double_data") else ("data", "<f4")
    pieces = [piece.numbers(dtype) for piece in raw.get(name, [])]
    count = sum(map(len, pieces))
    if not count or count != math.prod(shape):
        raise UserError(
            f"{where} has {count:,} numbers. Expected {_brief(math.prod(shape))} for its shape {_shape_text(shape)}, "
            f"and at least one. {_AGAIN}"
        )
    numbers = wire.concatenated(pieces)
    # min() and max() pass NaN on, and unlike isfinite() they make no array; casting may overflow to infinity.
    with np.errstate(invalid="ignore", over="ignore"):
        numbers = numbers.astype("<f4", copy=False)
        finite = np.isfinite(numbers.min()) and np.isfinite(numbers.max())
    if not finite:
        raise UserError(
            f"{where} has numbers that are NaN, infinite or beyond float32. Expected finite ones: take a snapshot "
            "from before training diverged, or download the file again."
        )
    return numbers.reshape(shape)


def _checked_shape(dims: list[int], where: str) -> tuple[int, ...]:
    if len(dims) > _MOST_AXES or any(not 0 <= size < 2**63 for size in dims):
        raise UserError(
            f"{where} has the shape {_shape_text(dims)}. Expected at most {_MOST_AXES} sizes, none negative. {_AGAIN}"
        )
    return tuple(dims)


def _without_leading_ones(blob: np.ndarray, axes: int) -> np.ndarray:
    """`blob` with that many axes, if those before them are of size 1."""
    extra = blob.ndim - axes
    return blob.reshape(blob.shape[extra:]) if extra > 0 and set(blob.shape[:extra]) == {1} else blob


def _shape_text(shape: Sequence[int]) -> str:
    sizes = [_brief(size) for size in shape[:_MOST_AXES]]
    if len(shape) > len(sizes):
        sizes.append("…")
    return " × ".join(sizes) or "of a single number"


def _brief(number: int) -> str:
    return f"{number:,}" if abs(number) < 2**63 else "beyond 2^63"


def _decoded(message: Span, schema: dict) -> dict[str, list]:
    """The fields of a message that `schema` knows: name → values, in the order of the file."""
    names = {number: (name, kind) for name, (number, kind) in schema.items()}
    raw: dict[str, list] = {}
    for item in message.fields():
        if item.number not in names:
            continue
        name, kind = names[item.number]
        values = raw.setdefault(name, [])
        values += itertools.islice(_values(item, name, kind), _MOST_ENTRIES + 1)
        if len(values) > _MOST_ENTRIES:
            raise item.error(f"is the field {name} for more than the {_MOST_ENTRIES:,}th time")
    return raw


def _values(item: Field, name: str, kind) -> Iterator:
    """The values of a field as objects of its kind."""
    if kind is Field:
        yield item
    elif kind is Span:
        yield item.span()
    elif kind is str:
        if len(item.span()) > LONGEST_STRING:
            raise item.error(f"is a {name} of {len(item.span()):,} bytes, where {LONGEST_STRING:,} are the most")
        yield item.span().text()
    elif kind is float:
        yield from map(as_written, item.numbers("<f4"))
    elif kind == list[int]:
        yield from map(wire.signed, item.integers())
    elif kind is int:
        yield wire.signed(item.integer())
    elif kind is bool:
        yield bool(item.integer())
    elif isinstance(kind, dict):
        yield _decoded(item.span(), kind)
    elif item.integer() < len(kind):
        yield kind[item.integer()]
    else:
        raise item.error(f"is a {name} of {item.integer():,}, where 0 to {len(kind) - 1} are known")
