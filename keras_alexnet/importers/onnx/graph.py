"""An ONNX model's graph: its nodes, and the values that do not depend on the image.

Opsets are distinguished where a layer is read: onnx.version_converter converts neither PyTorch's exports to an older
opset nor the model zoo's first ones, which name no shapes, to a newer one.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from keras_alexnet.errors import UserError
from keras_alexnet.importers.arrays import FLOAT_TYPES, MAX_AXES, as_float32, as_written, shape_text
from keras_alexnet.importers.onnx.file import ints_text, opset, text, truncate
from keras_alexnet.importers.onnx.values import CONSTANT_OPS, DAMAGE, REARRANGING, evaluate

ONLY_ALEXNET = "Only AlexNets are read: export the network for inference, without pre- or postprocessing of your own"

# Exports of AlexNet have up to 120 nodes, and up to 5 that compute a weight.
_MAX_NODES = 1000
_MAX_CONSTANT_NODES = 16
_MAX_IMAGE_SIZE = 10_000

_STRING = 8  # onnx.TensorProto.STRING


class Node:
    """A node.

    Attributes:
        proto: as onnx has it.
        op: its operator, with the domain ahead of it unless that is ONNX's.
        name: may be empty.
        inputs, outputs: names of values; one left out is empty.
        attributes: name → value.
        has_references: whether attributes are missing, as they refer to those of a function.
        graphs, branches: of an If, the graphs for False and True, and the names of what they give; else empty.
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
        found = [entry for entry in proto.attribute if not entry.ref_attr_name]
        self.attributes = {text(entry.name): helper.get_attribute_value(entry) for entry in found}
        self.has_references = len(found) < len(proto.attribute)
        branches = ("else_branch", "then_branch") if self.op == "If" and not self.has_references else ()
        self.graphs = tuple(self.attributes[name] for name in branches)
        self.branches = tuple(text(graph.output[0].name) if graph.output else "" for graph in self.graphs)

    def layer_name(self, weight: int | None = None) -> str:
        """Its name, or that of the input that is its weight, or of its output."""
        return self.name or (self.inputs[weight] if weight is not None else self.outputs[0])


def _with_branches(nodes: Sequence) -> Iterator[Node]:
    """The nodes of a graph, with those of both branches of each If ahead of it."""
    for proto in nodes:
        node = Node(proto)
        for branch in node.graphs:
            yield from map(Node, branch.node)
        yield node


class Graph:
    """A model's graph: its nodes, and the values that do not depend on the image.

    Attributes:
        path: the file, for messages.
        opset: the version of ONNX's operators.
        tensors: by name, the tensors of the file.
        producers: the name of a value → the node that gives it.
        image, output: the names of the input that is not constant, and of the output.
        image_shape: the three sizes of an image in the file's order, 0 for an unknown one; None for none.
        batch: the number of images, if it is fixed.
    """

    def __init__(self, path: str, model, tensors: dict):
        graph = model.graph
        self.path = path
        nodes = list(itertools.islice(_with_branches(graph.node), _MAX_NODES + 1))
        for found, what in [
            (model.functions, "functions of its own"),
            (graph.sparse_initializer, "sparse weights"),
            (len(nodes) > _MAX_NODES, f"more than {_MAX_NODES:,} nodes"),
        ]:
            if found:
                raise UserError(f"{path} has {what}. Expected none or fewer: export it without them. {ONLY_ALEXNET}.")
        self.opset = opset(model)
        self.tensors = tensors
        for node in nodes:
            for branch in node.graphs:
                for tensor in branch.initializer:
                    if text(tensor.name) in self.tensors:
                        raise self.error(node, f"has another {truncate(text(tensor.name))!r}", "a name for each value")
                    self.tensors[text(tensor.name)] = tensor
        self.producers: dict[str, Node] = {}
        # The name of a constant → the outputs of the nodes that compute it.
        self._constants: dict[str, frozenset[str]] = dict.fromkeys(self.tensors, frozenset())
        # The checker has made sure that nodes come after those whose outputs they take.
        for node in nodes:
            for name in filter(None, node.outputs):
                # Branches may use a name that the graph uses again, after them.
                if name in self.producers:
                    raise self.error(node, f"gives {truncate(name)!r}, as another node does", "a name for each value")
                self.producers[name] = node
            inputs = list(filter(None, node.inputs))
            is_computed = node.op in CONSTANT_OPS and node.attributes.get("to") != _STRING
            if is_computed and all(name in self._constants for name in inputs):
                needed = frozenset(node.outputs[:1]).union(*(self._constants[name] for name in inputs))
                if len(needed) <= _MAX_CONSTANT_NODES:
                    self._constants[node.outputs[0]] = needed

        # Until IR version 4 initializers had to be among the inputs.
        inputs = [value for value in graph.input if text(value.name) not in self.tensors]
        self._require_one("inputs", inputs, "the images")
        self._require_one("outputs", graph.output, "the logits or probabilities")
        self.image, self.output = text(inputs[0].name), text(graph.output[0].name)
        self.batch, self.image_shape = self._image_sizes(inputs[0].type)

    def error(self, node: Node, problem: str, expected: str) -> UserError:
        """The error that a node has a problem, both worded to follow "… Conv 'name' " and "Expected "."""
        name = node.name or next(filter(None, node.outputs), "")
        return UserError(f"{self.path}: {truncate(node.op)} {truncate(name)!r} {problem}. Expected {expected}.")

    def _array_error(self, node: Node, index: int, array: np.ndarray, expected: str) -> UserError:
        problem = f"takes {truncate(node.inputs[index])!r}, which is {array.dtype} of the shape"
        return self.error(node, f"{problem} {shape_text(array.shape)}", expected)

    def source(self, node: Node) -> str:
        """What a node takes, or what both branches of an If rearrange; empty if that differs."""
        if node.op != "If":
            return node.inputs[0]
        found = set()
        for name in node.branches:
            while (inner := self.producers.get(name)) and inner.op in ("Identity", *REARRANGING) and inner.op != "If":
                name = inner.inputs[0]
            found.add(name)
        return found.pop() if len(found) == 1 else ""

    def is_constant(self, name: str) -> bool:
        """Whether a value does not depend on the image."""
        return name in self._constants

    def constant(self, node: Node, index: int) -> np.ndarray | None:
        """An input that has to be constant; None if it was left out."""
        name = node.inputs[index] if index < len(node.inputs) else ""
        if not name:
            return None
        if name not in self._constants:
            raise self.error(node, f"takes {truncate(name)!r}, which is not in the file", "a constant")
        try:
            array = evaluate(self, name)
        except DAMAGE as error:
            problem = f"takes {truncate(name)!r}, which cannot be computed: {error}"
            raise self.error(node, problem, "a valid model") from None
        if not array.size:
            raise self.error(
                node, f"takes {truncate(name)!r}, which has the shape {shape_text(array.shape)}", "numbers"
            )
        return array

    def weights(self, node: Node, index: int, axes: int | None = None) -> np.ndarray | None:
        """A constant input in float32, with that many axes; None if it was left out."""
        array = self.constant(node, index)
        if array is None:
            return None
        if array.dtype.name not in FLOAT_TYPES or (axes is not None and array.ndim != axes):
            expected = "numbers of a float type" + (f", of {axes} axes" if axes else "")
            raise self._array_error(node, index, array, expected)
        return as_float32(array)

    def integers(self, node: Node, name: str, index: int) -> list[int] | None:
        """A shape or a list of axes: an attribute in old opsets, an input in new ones; None if it was left out."""
        if name in node.attributes:
            return node.attributes[name][:MAX_AXES]
        array = self.constant(node, index)
        if array is None:
            return None
        if array.dtype.kind != "i" or array.ndim > 1 or array.size > MAX_AXES:
            raise self._array_error(node, index, array, f"at most {MAX_AXES} integers")
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
            names = ", ".join(repr(truncate(text(value.name))) for value in values[:5]) or "none"
            raise UserError(f"{self.path} has {len(values):,} {kind} ({names}). Expected one: {what}. {ONLY_ALEXNET}.")

    def _image_sizes(self, value_type) -> tuple[int | None, tuple[int, ...] | None]:
        if not value_type.HasField("tensor_type") or not value_type.tensor_type.HasField("shape"):
            return None, None
        dims = value_type.tensor_type.shape.dim
        # 0, if it is a name or nothing.
        sizes = [max(dim.dim_value, 0) for dim in dims[:MAX_AXES]]
        if len(dims) != 4 or max(sizes) > _MAX_IMAGE_SIZE:
            raise UserError(
                f"{self.path} takes images of the shape {shape_text(sizes)}. Expected four sizes: images, channels, "
                f"rows, columns, each of {_MAX_IMAGE_SIZE:,} at most."
            )
        return sizes[0] or None, tuple(sizes[1:])
