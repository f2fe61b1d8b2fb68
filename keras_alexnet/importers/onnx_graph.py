"""The graph of an ONNX model: its nodes, decoded, and the values that do not depend on the image.

The file is not trusted: protobuf has parsed it, which says nothing about what is in it.
"""

import math
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keras_alexnet.errors import UserError
from keras_alexnet.importers.protobuf import as_written

# What export_onnx calls itself: the pixels of its files are RGB.
PRODUCER = "keras_alexnet"

MODEL = "an ONNX model (.onnx)"
AGAIN = "Export or download it again."
ONLY_ALEXNET = "Only AlexNets are read: export the network for inference, without pre- or postprocessing of your own."

# Far beyond what exporters make of a weight; a damaged file must not make us recurse without end.
_DEEPEST_CONSTANT = 30
_MOST_AXES = 32
_SHOWN_LETTERS = 100

# The numbers of onnx.TensorProto.DataType, which are part of the format: (NumPy's type, the field if not raw_data).
_FLOAT16, _BFLOAT16 = 10, 16
_TYPES = {
    1: ("float32", "float_data"),
    6: ("int32", "int32_data"),
    7: ("int64", "int64_data"),
    _FLOAT16: ("float16", "int32_data"),
    11: ("float64", "double_data"),
    _BFLOAT16: ("uint16", "int32_data"),
}
FLOAT_TYPES, _INTEGER_TYPES = (1, _FLOAT16, 11, _BFLOAT16), (6, 7)

# What exporters apply to weights.
_CONSTANT_OPS = ("Constant", "Identity", "Cast", "Reshape", "Transpose", "Squeeze", "Unsqueeze")


@dataclass(frozen=True, eq=False)
class Node:
    """A node, its texts decoded.

    Attributes:
        op: its operator, with the domain ahead of it unless that is ONNX's.
        name: may be empty.
        inputs, outputs: names of values; one left out is empty.
        attributes: by name, as protobuf messages.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict

    def layer_name(self, weight: int | None = None) -> str:
        """Its name, or that of the input that is its weight, or of its output."""
        return self.name or (self.inputs[weight] if weight is not None else self.outputs[0])


class Graph:
    """A model's graph: its nodes, and the values that do not depend on the image.

    Attributes:
        path: the file, for messages.
        nodes: in the file's order.
        producers: the name of a value → the node that gives it.
        image, output: the names of the input that is not constant, and of the output.
        image_shape: the three sizes of an image in the file's order, 0 for one that is not told; None for none.
        batch: the number of images, if it is fixed.
    """

    def __init__(self, model, path: str):
        graph = model.graph
        self.path = path
        for things, what in [
            (model.functions, "functions of its own"),
            (graph.sparse_initializer, "sparse weights"),
        ]:
            if things:
                raise UserError(f"{path} has {what}. Expected none: export it again without them. {ONLY_ALEXNET}")
        self.nodes = [_node(node) for node in graph.node]
        if not self.nodes:
            raise UserError(f"{path} has no nodes. Expected {MODEL}. {AGAIN}")
        self.producers: dict[str, Node] = {}
        self._tensors: dict[str, object] = {}
        for tensor in graph.initializer:
            self._define(text(tensor.name), tensor, self._tensors)
        for node in self.nodes:
            for name in filter(None, node.outputs):
                self._define(name, node, self.producers)
        self._values: dict[str, np.ndarray] = {}
        self._external_sizes: dict[str, int] = {}
        self._depths = dict.fromkeys(self._tensors, 0)
        # Nodes come after those whose outputs they take, as the format demands.
        for node in self.nodes:
            inputs = list(filter(None, node.inputs))
            if node.op in _CONSTANT_OPS and node.outputs and all(name in self._depths for name in inputs):
                depth = 1 + max((self._depths[name] for name in inputs), default=0)
                if depth <= _DEEPEST_CONSTANT:
                    self._depths[node.outputs[0]] = depth

        # Until IR version 4 initializers had to be among the inputs.
        inputs = [value for value in graph.input if text(value.name) not in self._tensors]
        self._require_one("inputs", inputs, "the images")
        self._require_one("outputs", graph.output, "the logits or probabilities")
        self.image, self.output = text(inputs[0].name), text(graph.output[0].name)
        self.batch, self.image_shape = self._image_sizes(inputs[0].type)

    def error(self, node: Node, problem: str, expected: str) -> UserError:
        """The error that a node has a problem, both worded to follow "… Conv 'name' " and "Expected "."""
        name = node.name or next(filter(None, node.outputs), "")
        return UserError(f"{self.path}: {shown(node.op)} {shown(name)!r} {problem}. Expected {expected}.")

    def is_constant(self, name: str) -> bool:
        """Whether a value does not depend on the image."""
        return name in self._depths

    def constant(self, node: Node, index: int) -> np.ndarray | None:
        """An input that has to be constant; None if it was left out."""
        name = node.inputs[index] if index < len(node.inputs) else ""
        if not name:
            return None
        if not self.is_constant(name):
            raise self.error(node, f"takes {shown(name)!r}, which is not in the file", "a constant")
        if name not in self._values:
            self._values[name] = (
                self._array(self._tensors[name], f"the tensor {shown(name)!r}")
                if name in self._tensors
                else self._computed(self.producers[name])
            )
        return self._values[name]

    def weights(self, node: Node, index: int, axes: int | None = None) -> np.ndarray | None:
        """A constant input in float32, with that many axes; None if it was left out."""
        array = self.constant(node, index)
        if array is None:
            return None
        if array.dtype.kind != "f" or (axes is not None and array.ndim != axes):
            raise self.error(
                node,
                f"takes {shown(node.inputs[index])!r}, which is {array.dtype} of the shape {shape_text(array.shape)}",
                "numbers of a float type" + (f", of {axes} axes" if axes else ""),
            )
        # What is beyond float32 becomes infinite, which the caller refuses.
        with np.errstate(over="ignore"):
            return array.astype(np.float32, copy=False)

    def integers(self, node: Node, index: int) -> list[int] | None:
        """A constant input that is a shape or a list of axes; None if it was left out."""
        array = self.constant(node, index)
        if array is None:
            return None
        if array.dtype.kind != "i" or array.ndim > 1 or array.size > _MOST_AXES:
            raise self.error(
                node,
                f"takes {shown(node.inputs[index])!r}, which is {array.dtype} of the shape {shape_text(array.shape)}",
                f"at most {_MOST_AXES} integers",
            )
        return array.reshape(-1).tolist()

    def attribute(self, node: Node, name: str, kind: str, default=None):
        """An attribute's value.

        Args:
            node: whose attribute it is.
            name: of the attribute.
            kind: its field of AttributeProto: "i", "f", "s", "t", "ints" or "floats".
            default: given if it is not there.
        """
        if name not in node.attributes:
            return default
        attribute = node.attributes[name]
        # AttributeProto.AttributeType, part of the format too.
        if attribute.type != {"f": 1, "i": 2, "s": 3, "t": 4, "floats": 6, "ints": 7}[kind]:
            raise self.error(node, f"has {name} of the type {attribute.type}", "the type that ONNX's operator has")
        value = getattr(attribute, kind)
        return text(value) if kind == "s" else tuple(value) if kind in ("ints", "floats") else value

    def finite(self, node: Node, name: str, default: float) -> float:
        """A float attribute, as the decimal that it was written as."""
        value = as_written(self.attribute(node, name, "f", default))
        if not math.isfinite(value):
            raise self.error(node, f"has {name} {value}", "a finite number")
        return value

    def pair(self, node: Node, name: str, default: tuple[int, int] | None = None) -> tuple[int, int]:
        """An attribute that has a positive number for height and width each."""
        values = self.attribute(node, name, "ints", default)
        if values is None or len(values) != 2 or min(values) < 1:
            raise self.error(node, f"has {name} {ints_text(values)}", "two numbers of 1 or above: images are 2-D")
        return values

    def axes(self, node: Node) -> list[int] | None:
        """The axes of Squeeze and Unsqueeze: an attribute, since opset 13 an input."""
        values = self.attribute(node, "axes", "ints")
        return self.integers(node, 1) if values is None else list(values)[:_MOST_AXES]

    def new_shape(self, node: Node) -> list[int] | None:
        """The shape of Reshape: an input, before opset 5 an attribute."""
        values = self.attribute(node, "shape", "ints")
        return self.integers(node, 1) if values is None else list(values)[:_MOST_AXES]

    def _define(self, name: str, thing, where: dict) -> None:
        if name in self._tensors or name in self.producers:
            raise UserError(f"{self.path} has two values named {shown(name)!r}. Expected names to differ. {AGAIN}")
        where[name] = thing

    def _require_one(self, kind: str, values: Sequence, what: str) -> None:
        if len(values) != 1:
            names = ", ".join(repr(shown(text(value.name))) for value in values[:5]) or "none"
            raise UserError(f"{self.path} has {len(values):,} {kind} ({names}). Expected one: {what}. {ONLY_ALEXNET}")

    def _image_sizes(self, value_type) -> tuple[int | None, tuple[int, ...] | None]:
        if not value_type.HasField("tensor_type") or not value_type.tensor_type.HasField("shape"):
            return None, None
        dims = value_type.tensor_type.shape.dim
        # 0, if it is a name or nothing.
        sizes = [max(dim.dim_value, 0) for dim in dims[:_MOST_AXES]]
        if len(dims) != 4:
            raise UserError(
                f"{self.path} takes images of the shape {shape_text(sizes)}. Expected four sizes: images, channels, "
                "rows, columns."
            )
        return sizes[0] or None, tuple(sizes[1:])

    def _computed(self, node: Node) -> np.ndarray:
        """What a node of `_CONSTANT_OPS` gives out of constants."""
        if node.op == "Constant":
            return self._constant_node(node)
        array = self.constant(node, 0)
        if array is None:
            raise self.error(node, "has no input", "one")
        try:
            if node.op == "Cast":
                return self._cast(node, array)
            if node.op == "Reshape":
                shape = self.new_shape(node)
                if shape is None:
                    raise self.error(node, "has no shape", "one")
                if not self.attribute(node, "allowzero", "i", 0):
                    shape = [array.shape[axis] if size == 0 else size for axis, size in enumerate(shape)]
                return array.reshape(shape)
            if node.op == "Transpose":
                return array.transpose(self.attribute(node, "perm", "ints"))
            if node.op in ("Squeeze", "Unsqueeze"):
                axes = self.axes(node)
                change = np.squeeze if node.op == "Squeeze" else np.expand_dims
                return change(array, None if axes is None else tuple(axes))
        except (ValueError, IndexError, TypeError, OverflowError) as error:
            problem = f"does not fit its input of the shape {shape_text(array.shape)} ({shown(str(error))})"
            raise self.error(node, problem, "a valid model") from None
        return array

    def _cast(self, node: Node, array: np.ndarray) -> np.ndarray:
        to = self.attribute(node, "to", "i")
        if to in FLOAT_TYPES:
            # Numbers of a float type stay as exact as they are.
            return array if array.dtype.kind == "f" else array.astype(np.float32)
        if to in _INTEGER_TYPES and array.dtype.kind == "i":
            return array
        raise self.error(node, f"casts {array.dtype} to ONNX's type {to}", "a float type")

    def _constant_node(self, node: Node) -> np.ndarray:
        for name, kind, dtype in [
            ("value_float", "f", np.float32),
            ("value_floats", "floats", np.float32),
            ("value_int", "i", np.int64),
            ("value_ints", "ints", np.int64),
        ]:
            value = self.attribute(node, name, kind)
            if value is not None:
                return np.asarray(value, dtype)
        tensor = self.attribute(node, "value", "t")
        if tensor is None:
            raise self.error(node, f"has {', '.join(node.attributes) or 'no value'}", "numbers that are not sparse")
        return self._array(tensor, f"the constant {shown(node.layer_name())!r}")

    def _array(self, tensor, what: str) -> np.ndarray:
        """A tensor's numbers; float32 for float16 and bfloat16."""
        from onnx import TensorProto, numpy_helper

        where = f"{self.path}: {what}"
        shape = list(tensor.dims)
        if tensor.data_type not in _TYPES:
            raise UserError(
                f"{where} is of ONNX's type {tensor.data_type}. Expected float32, float64, float16, bfloat16, or "
                "integers for shapes: quantized models are not read."
            )
        dtype, field = _TYPES[tensor.data_type]
        if len(shape) > _MOST_AXES or any(size < 1 for size in shape):
            raise UserError(f"{where} has the shape {shape_text(shape)}. Expected sizes of 1 or above. {AGAIN}")
        num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        if tensor.data_location == TensorProto.EXTERNAL:
            self._load_external(tensor, num_bytes, where)
        elif tensor.HasField("raw_data"):
            _require_bytes(len(tensor.raw_data), num_bytes, where)
        else:
            _require_bytes(len(getattr(tensor, field)) * np.dtype(dtype).itemsize, num_bytes, where)
        try:
            array = numpy_helper.to_array(tensor)
        except (ValueError, TypeError, OverflowError) as error:
            raise UserError(f"{where} is damaged ({shown(str(error))}). Expected {MODEL}. {AGAIN}") from None
        return array.astype(np.float32) if tensor.data_type in (_FLOAT16, _BFLOAT16) else array

    def _load_external(self, tensor, num_bytes: int, where: str) -> None:
        """Reads weights from another file. onnx sees to it that it is in the model's folder, and no link out of it."""
        from onnx import external_data_helper

        settings = {text(entry.key): text(entry.value) for entry in tensor.external_data}
        location = settings.get("location", "")
        folder = os.path.dirname(os.path.abspath(self.path))
        try:
            status = os.stat(os.path.join(folder, location))
            # Before onnx opens it, since opening a named pipe waits for its writer.
            if not location or not stat.S_ISREG(status.st_mode):
                raise ValueError("it is no regular file")
            offset = int(settings.get("offset") or 0)
            length = int(settings.get("length") or num_bytes)
            # Not read over and over: many tensors may share a file, but not its bytes.
            left = self._external_sizes.setdefault(location, status.st_size)
            if length != num_bytes or not 0 <= offset <= status.st_size - length or length > left:
                raise ValueError(
                    f"{num_bytes:,} bytes are needed for its shape, and {length:,} from {offset:,} on are named in a "
                    f"file of {status.st_size:,}"
                )
            self._external_sizes[location] -= length
            del tensor.external_data[:]
            for key, value in (("location", location), ("offset", offset), ("length", length)):
                tensor.external_data.add(key=key, value=str(value))
            external_data_helper.load_external_data_for_tensor(tensor, folder)
        # Beyond OSError and ValueError, onnx has its own ValidationError, which is neither.
        except Exception as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise UserError(
                f"{where} is in a file of its own, {shown(location)!r}, which cannot be read: {shown(str(reason))}. "
                f"Expected it in {folder}, as the exporter wrote it: copy it there too."
            ) from None


def _node(node) -> Node:
    domain, op = text(node.domain), text(node.op_type)
    return Node(
        op if domain in ("", "ai.onnx") else f"{domain}.{op}",
        text(node.name),
        tuple(map(text, node.input)),
        tuple(map(text, node.output)),
        {text(attribute.name): attribute for attribute in node.attribute},
    )


def _require_bytes(found: int, expected: int, where: str) -> None:
    if found != expected:
        raise UserError(f"{where} has {found:,} bytes of numbers. Expected {_brief(expected)} for its shape. {AGAIN}")


def text(value: str | bytes) -> str:
    """A string of the file; protobuf gives one that is no UTF-8 as bytes."""
    return value if isinstance(value, str) else value.decode("utf-8", "backslashreplace")


def shown(name: str) -> str:
    """A name of the file for messages, cut off if it is long."""
    return name if len(name) <= _SHOWN_LETTERS else name[:_SHOWN_LETTERS] + "…"


def ints_text(values: Sequence[int] | None) -> str:
    """A list of integers for messages."""
    if values is None:
        return "that is not given"
    return f"[{', '.join(map(str, values[:8]))}{', …' if len(values) > 8 else ''}]"


def shape_text(shape: Sequence[int]) -> str:
    """A shape for messages."""
    return " × ".join(_brief(size) for size in shape[:_MOST_AXES]) or "of a single number"


def _brief(number: int) -> str:
    return f"{number:,}" if number < 2**63 else "beyond 2^63"
