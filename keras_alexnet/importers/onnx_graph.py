"""The graph of an ONNX model, which the package onnx checks and loads, and whose constants it computes.

The file is not trusted. The checker makes sure that the graph is sorted and that nodes have the attributes of their
operators; what it allows, memory that a small file asks for included, is limited here.

Opsets are distinguished where a layer is read: onnx.version_converter converts neither PyTorch's exports to an older
opset nor the model zoo's first ones, which name no shapes, to a newer one.
"""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from keras_alexnet.errors import UserError
from keras_alexnet.importers.files import open_model_file
from keras_alexnet.importers.protobuf import as_written
from keras_alexnet.system.file_names import from_utf8, to_utf8

MODEL = "an ONNX model (.onnx)"
AGAIN = "Export or download it again, with the files of its weights if it has any."
ONLY_ALEXNET = "Only AlexNets are read: export the network for inference, without pre- or postprocessing of your own."

# Protobuf's limit, and ours for a model with its weights in other files: an AlexNet has 250 MB.
_MAX_BYTES = 2**31
# Exports of AlexNet have up to 120 nodes, and up to 5 that compute a weight.
_MAX_NODES = 1000
_MAX_CONSTANT_NODES = 16
_MAX_AXES = 32
_MAX_SHOWN = 100

_STRING = 8  # onnx.TensorProto.STRING
_FLOAT_TYPES = ("float16", "bfloat16", "float32", "float64")

# What exporters apply to weights. None of them makes an array much larger, but for casts to strings.
_CONSTANT_OPS = ("Constant", "Identity", "Cast", "Reshape", "Transpose", "Squeeze", "Unsqueeze")


def load_model(path: str | os.PathLike):
    """Loads an ONNX model, with weights in other files of its folder, after onnx has checked it.

    Raises:
        UserError: onnx is not installed, or the file is missing, something else or invalid.
    """
    try:
        import onnx
    except ImportError:
        raise UserError(
            f"{os.fspath(path)}: to read {MODEL} the package onnx is needed: pip install 'keras_alexnet[onnx]'"
        ) from None

    file = open_model_file(path, MODEL)
    if len(file) >= _MAX_BYTES:
        raise UserError(
            f"{file.path} has {len(file):,} bytes. Expected {MODEL} of less than 2 GiB, as the format allows no more."
        )
    try:
        # By its path, for the weights in other files: they must be regular files in its folder, and no links. onnx
        # takes names in UTF-8 under every locale, and no others.
        try:
            to_utf8(file.path).encode()
        except UnicodeEncodeError:
            onnx.checker.check_model(bytes(file.data))
        else:
            onnx.checker.check_model(to_utf8(file.path))
        model = onnx.load(file.path, format="protobuf", load_external_data=False)
        _load_external_data(model, os.path.dirname(os.path.abspath(file.path)))
    # onnx and protobuf raise errors of many kinds.
    except Exception as error:
        reason = _first_words(error, 4 * _MAX_SHOWN)
        raise UserError(f"{file.path} is not a valid ONNX model: {reason}. Expected {MODEL}. {AGAIN}") from None
    return model


def _load_external_data(model, folder: str) -> None:
    """Has onnx read the weights that are in other files, each byte once."""
    from onnx import external_data_helper, helper

    unread: dict[str, int] = {}
    left = _MAX_BYTES
    for tensor in _tensors(model.graph):
        if not external_data_helper.uses_external_data(tensor):
            continue
        info = external_data_helper.ExternalDataInfo(tensor)
        num_bytes = math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        if info.length is None:
            tensor.external_data.add(key="length", value=str(num_bytes))
        file = os.path.realpath(os.path.join(folder, from_utf8(info.location)))
        in_file = unread.setdefault(file, os.path.getsize(file))
        if not 0 < num_bytes <= min(in_file, left) or info.length not in (None, num_bytes):
            raise ValueError(
                f"the tensor {shown(text(tensor.name))!r} has {shape_text(tensor.dims)} numbers, and its weights in "
                f"{shown(info.location)!r} another length, or a length beyond the file"
            )
        unread[file] -= num_bytes
        left -= num_bytes
        external_data_helper.load_external_data_for_tensor(tensor, to_utf8(folder))


def _tensors(graph) -> Iterator:
    yield from graph.initializer
    for node in graph.node:
        if node.op_type == "Constant":
            yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))


class Node:
    """A node.

    Attributes:
        proto: as onnx has it.
        op: its operator, with the domain ahead of it unless that is ONNX's.
        name: may be empty.
        inputs, outputs: names of values; one left out is empty.
        attributes: name → value.
    """

    def __init__(self, proto) -> None:
        from onnx import helper

        if proto.domain == "ai.onnx":
            proto.domain = ""
        self.proto = proto
        self.op = ".".join(filter(None, (text(proto.domain), text(proto.op_type))))
        self.name = text(proto.name)
        self.inputs = tuple(map(text, proto.input))
        self.outputs = tuple(map(text, proto.output))
        # A reference to an attribute of a function has no value. onnx's checker permits it outside of one.
        found = [entry for entry in proto.attribute if not entry.ref_attr_name]
        self.attributes = {text(entry.name): helper.get_attribute_value(entry) for entry in found}

    def layer_name(self, weight: int | None = None) -> str:
        """Its name, or that of the input that is its weight, or of its output."""
        return self.name or (self.inputs[weight] if weight is not None else self.outputs[0])


@dataclass(frozen=True)
class _Constant:
    """How a value that does not depend on the image is computed: the nodes in order, and the tensors they take."""

    nodes: tuple[Node, ...] = ()
    tensors: tuple[str, ...] = ()


class Graph:
    """A model's graph: its nodes, and the values that do not depend on the image.

    Attributes:
        path: the file, for messages.
        producers: the name of a value → the node that gives it.
        image, output: the names of the input that is not constant, and of the output.
        image_shape: the three sizes of an image in the file's order, 0 for an unknown one; None for none.
        batch: the number of images, if it is fixed.
    """

    def __init__(self, model, path: str):
        graph = model.graph
        self.path = path
        for found, what in [
            (model.functions, "functions of its own"),
            (graph.sparse_initializer, "sparse weights"),
            (len(graph.node) > _MAX_NODES, f"{len(graph.node):,} nodes"),
        ]:
            if found:
                raise UserError(f"{path} has {what}. Expected none or fewer: export it without them. {ONLY_ALEXNET}")
        self._opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
        self._tensors = {text(tensor.name): tensor for tensor in graph.initializer}
        nodes = [Node(node) for node in graph.node]
        self.producers = {name: node for node in nodes for name in filter(None, node.outputs)}
        self._constants = {name: _Constant((), (name,)) for name in self._tensors}
        # The checker has seen to it that nodes come after those whose outputs they take.
        for node in nodes:
            inputs = list(filter(None, node.inputs))
            is_computed = node.op in _CONSTANT_OPS and node.attributes.get("to") != _STRING
            if is_computed and all(name in self._constants for name in inputs):
                given = [self._constants[name] for name in inputs]
                needed = dict.fromkeys(step for constant in given for step in constant.nodes)
                if len(needed) < _MAX_CONSTANT_NODES:
                    tensors = dict.fromkeys(name for constant in given for name in constant.tensors)
                    self._constants[node.outputs[0]] = _Constant((*needed, node), tuple(tensors))

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
        return name in self._constants

    def constant(self, node: Node, index: int) -> np.ndarray | None:
        """An input that has to be constant; None if it was left out."""
        name = node.inputs[index] if index < len(node.inputs) else ""
        if not name:
            return None
        if name not in self._constants:
            raise self.error(node, f"takes {shown(name)!r}, which is not in the file", "a constant")
        try:
            array = self._compute(name, self._constants[name])
        # onnx raises errors of many kinds, those of NumPy among them.
        except Exception as error:
            problem = f"takes {shown(name)!r}, which cannot be computed: {_first_words(error, _MAX_SHOWN)}"
            raise self.error(node, problem, "a valid model") from None
        if not array.size:
            raise self.error(node, f"takes {shown(name)!r}, which has the shape {shape_text(array.shape)}", "numbers")
        return array

    def _compute(self, name: str, constant: _Constant) -> np.ndarray:
        from onnx import helper, numpy_helper
        from onnx.reference import ReferenceEvaluator

        given = {tensor: numpy_helper.to_array(self._tensors[tensor]) for tensor in constant.tensors}
        if not constant.nodes:
            return given[name]
        opsets = [helper.make_opsetid("", self._opset)]
        nodes = [node.proto for node in constant.nodes]
        function = helper.make_function("keras_alexnet", "constant", list(given), [name], nodes, opsets)
        # Numbers beyond the range of a type become infinite, which the caller refuses.
        with np.errstate(all="ignore"):
            return np.asarray(ReferenceEvaluator(function).run(None, given, attributes={})[0])

    def weights(self, node: Node, index: int, axes: int | None = None) -> np.ndarray | None:
        """A constant input in float32, with that many axes; None if it was left out."""
        array = self.constant(node, index)
        if array is None:
            return None
        if array.dtype.name not in _FLOAT_TYPES or (axes is not None and array.ndim != axes):
            raise self.error(
                node,
                f"takes {shown(node.inputs[index])!r}, which is {array.dtype} of the shape {shape_text(array.shape)}",
                "numbers of a float type" + (f", of {axes} axes" if axes else ""),
            )
        with np.errstate(over="ignore"):
            return array.astype(np.float32, copy=False)

    def integers(self, node: Node, name: str, index: int) -> list[int] | None:
        """A shape or a list of axes: an attribute in old opsets, an input in new ones; None if it was left out."""
        if name in node.attributes:
            return node.attributes[name][:_MAX_AXES]
        array = self.constant(node, index)
        if array is None:
            return None
        if array.dtype.kind != "i" or array.ndim > 1 or array.size > _MAX_AXES:
            raise self.error(
                node,
                f"takes {shown(node.inputs[index])!r}, which is {array.dtype} of the shape {shape_text(array.shape)}",
                f"at most {_MAX_AXES} integers",
            )
        return array.reshape(-1).tolist()

    def finite(self, node: Node, name: str, default: float) -> float:
        """A float attribute, as the decimal that it was written as."""
        value = as_written(node.attributes.get(name, default))
        if not math.isfinite(value):
            raise self.error(node, f"has {name} {value}", "a finite number")
        return value

    def pair(self, node: Node, name: str, default: tuple[int, int] | None = None) -> tuple[int, int]:
        """An attribute that has a positive number for height and width each."""
        values = node.attributes.get(name, default)
        if values is None or len(values) != 2 or min(values) < 1:
            raise self.error(node, f"has {name} {ints_text(values)}", "two numbers of 1 or above: images are 2-D")
        return tuple(values)

    def _require_one(self, kind: str, values: Sequence, what: str) -> None:
        if len(values) != 1:
            names = ", ".join(repr(shown(text(value.name))) for value in values[:5]) or "none"
            raise UserError(f"{self.path} has {len(values):,} {kind} ({names}). Expected one: {what}. {ONLY_ALEXNET}")

    def _image_sizes(self, value_type) -> tuple[int | None, tuple[int, ...] | None]:
        if not value_type.HasField("tensor_type") or not value_type.tensor_type.HasField("shape"):
            return None, None
        dims = value_type.tensor_type.shape.dim
        # 0, if it is a name or nothing.
        sizes = [max(dim.dim_value, 0) for dim in dims[:_MAX_AXES]]
        if len(dims) != 4:
            raise UserError(
                f"{self.path} takes images of the shape {shape_text(sizes)}. Expected four sizes: images, channels, "
                "rows, columns."
            )
        return sizes[0] or None, tuple(sizes[1:])


def text(value: str | bytes) -> str:
    """A string of the file; protobuf gives one that is no UTF-8 as bytes."""
    return value if isinstance(value, str) else value.decode("utf-8", "backslashreplace")


def shown(name: str, most: int = _MAX_SHOWN) -> str:
    """A name of the file for messages, cut off if it is long."""
    return name if len(name) <= most else name[:most] + "…"


def _first_words(error: Exception, most: int) -> str:
    return shown(" ".join(str(error).split()).rstrip(".") or type(error).__name__, most)


def ints_text(values: Sequence[int] | None) -> str:
    """A list of integers for messages."""
    if values is None:
        return "that is not given"
    return f"[{', '.join(map(str, values[:8]))}{', …' if len(values) > 8 else ''}]"


def shape_text(shape: Sequence[int]) -> str:
    """A shape for messages."""
    return " × ".join(f"{size:,}" for size in shape[:_MAX_AXES]) or "of a single number"
