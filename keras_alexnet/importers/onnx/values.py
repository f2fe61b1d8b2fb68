"""What the values of a graph are that follow from the file: weights as exporters store them, and computed shapes."""

import math
from collections.abc import Mapping

import numpy as np

from keras_alexnet.errors import first_line
from keras_alexnet.importers.arrays import shape_text

# What exporters apply to weights. None of them makes an array much larger, but for casts to strings.
CONSTANT_OPS = ("Constant", "Identity", "Cast", "Reshape", "Transpose", "Squeeze", "Unsqueeze")
# These leave the order of the numbers as it is, and give views: an array without memory remains one.
REARRANGING = ("Flatten", "If", "Reshape", "Squeeze", "Unsqueeze")
# What exporters compute shapes with.
_SHAPE_OPS = ("Add", "Concat", "ConstantOfShape", "Div", "Equal", "Gather", "Mul", "Shape", "Slice", "Sub")
# What damaged nodes raise: their inputs are missing, or of another type or shape.
DAMAGE = (ValueError, TypeError, LookupError)
_MAX_SMALL = 64
_MAX_SIZE = 2**40


class ImpossibleSizeError(ValueError):
    """An activation would be empty, or larger than any memory."""


def stand_in(shape: tuple[int, ...]) -> np.ndarray:
    """Zeros of that shape that take no memory, for an activation; raises `ImpossibleSizeError` if none has it."""
    if min(shape, default=1) < 1 or math.prod(shape) > _MAX_SIZE:
        raise ImpossibleSizeError(f"an activation of {shape_text(shape)} numbers")
    return np.broadcast_to(np.float32(0), shape)


def evaluate(graph, name: str, known: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
    """A value, by onnx's reference implementation of the operators.

    Args:
        graph: the `Graph`.
        name: of the value.
        known: other values, with stand-ins for activations, if `name` depends on the image: only shapes and other
            small arrays are computed then, and views of activations. Otherwise it has to be a constant of the graph.

    Raises:
        DAMAGE: it cannot be computed.
    """
    values = dict(known or {})
    is_small = known is not None
    # Nodes come after those whose outputs they take, so this ends.
    waiting = [name]
    while waiting:
        at = waiting[-1]
        if at in values:
            waiting.pop()
        elif at in graph.tensors:
            values[at] = _array(graph.tensors[at], is_small)
        else:
            node = graph.producers.get(at)
            if node is None or at != node.outputs[0]:
                raise ValueError(f"{at[:100]!r} is not known")
            needed = node.inputs
            if node.op == "If" and node.inputs[0] in values:
                needed = (node.branches[bool(values[node.inputs[0]].item())],)
            if missing := [given for given in needed if given and given not in values]:
                waiting += missing
            elif node.op in ("Identity", "If"):
                values[at] = values[needed[0]]
            else:
                values[at] = _run(node, [values[given] if given else None for given in needed], graph.opset, is_small)
    return values[name]


def _array(tensor, is_small: bool) -> np.ndarray:
    from onnx import numpy_helper

    if is_small and math.prod(tensor.dims) > _MAX_SMALL:
        raise ValueError(f"{len(tensor.dims)} axes of weights in a shape")
    try:
        return numpy_helper.to_array(tensor)
    except Exception as error:  # onnx and NumPy raise errors of many kinds at numbers that do not fit their shape.
        raise ValueError(first_line(error)) from None


def _run(node, inputs: list[np.ndarray | None], opset: int, is_small: bool) -> np.ndarray:
    """The first output of a node."""
    from onnx import NodeProto, helper
    from onnx.reference import ReferenceEvaluator

    if node.op not in CONSTANT_OPS + REARRANGING + _SHAPE_OPS:
        raise ValueError(f"{node.op[:100]} is not among the operators that shapes are computed with")
    is_view = node.op in (*REARRANGING, "Shape")
    if is_small and not is_view and any(x is not None and x.size > _MAX_SMALL for x in inputs):
        raise ValueError(f"{node.op} of an activation, or of too large an array")
    if node.op == "ConstantOfShape" and not 0 <= math.prod(inputs[0].reshape(-1).tolist()) <= _MAX_SMALL:
        raise ValueError("too large an array")
    attributes = list(node.proto.attribute)
    if node.op == "Reshape" and "shape" in node.attributes:
        # Before opset 5, which onnx's implementation lacks.
        inputs, attributes, opset = [inputs[0], np.int64(node.attributes["shape"])], [], 13
    names = [f"input{n}" if x is not None else "" for n, x in enumerate(inputs)]
    proto = NodeProto(op_type=node.op, input=names, output=["output"], attribute=attributes)
    given = dict(zip(names, inputs, strict=True))
    given.pop("", None)
    opsets = [helper.make_opsetid("", opset)]
    function = helper.make_function("keras_alexnet", "value", list(given), ["output"], [proto], opsets)
    # Numbers beyond the range of a type become infinite, which the caller refuses.
    with np.errstate(all="ignore"):
        try:
            result = np.asarray(ReferenceEvaluator(function).run(None, given, attributes={})[0])
        except Exception as error:  # onnx and NumPy raise errors of many kinds at nodes that make no sense.
            raise ValueError(first_line(error)) from None
    if is_small and result.size > _MAX_SMALL and not is_view:
        raise ValueError("too large an array")
    return result
