"""Local response normalization as PyTorch exports it: a dozen nodes, by both of its exporters and of all opsets.

`torch.nn.LocalResponseNorm` squares its input, gives it an axis ahead of the channels, pads the channels, averages over
them by a pooling of three axes, and divides its input by (k + alpha · average)^beta. The axes are rearranged by
Reshape, Squeeze, Unsqueeze and If, whose shapes may be computed from those of other values. The nodes are found from
the last to the first (`find_lrn`); that the rearrangements are what they should be is then checked with the shapes of
the activations (`lrn_layer`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from keras_alexnet.importers.chain import LocalResponseNorm
from keras_alexnet.importers.onnx.file import text
from keras_alexnet.importers.onnx.graph import Graph, Node
from keras_alexnet.importers.onnx.values import DAMAGE, REARRANGING, evaluate, stand_in

_STEPS = (*REARRANGING, "Identity", "Pad", "AveragePool")
_MAX_STEPS = 20


@dataclass(frozen=True, eq=False)
class LrnNodes:
    """The nodes of a normalization.

    Attributes:
        image: the name of the activation that is normalized.
        squares: the node that squares it.
        steps: the nodes after that until its average is multiplied by alpha, in order.
        alpha, beta, k: as in `chain.LocalResponseNorm`.
    """

    image: str
    squares: Node
    steps: tuple[Node, ...]
    alpha: float
    beta: float
    k: float


def find_lrn(graph: Graph, node: Node) -> LrnNodes | None:
    """The normalization that ends with a division, or a multiplication by a power below 0; None for another node."""
    found = _divisor(graph, node)
    if found is None:
        return None
    image, base, beta = found
    offset = _with_constant(graph, base, "Add")
    scale = offset and _with_constant(graph, offset[0], "Mul")
    if not scale:
        return None
    steps, name = [], scale[0]
    while (step := graph.producers.get(name)) and step.op in _STEPS and len(steps) < _MAX_STEPS:
        steps.append(step)
        name = graph.source(step)
    squares = graph.producers.get(name)
    if [step.op for step in steps].count("AveragePool") != 1 or squares is None:
        return None
    is_square = squares.op == "Mul" and squares.inputs == (image, image)
    if squares.op == "Pow" and squares.inputs[0] == image:
        is_square = _number(graph, squares, 1) == 2
    return LrnNodes(image, squares, tuple(steps[::-1]), scale[1], beta, offset[1]) if is_square else None


def lrn_layer(
    graph: Graph, node: Node, nodes: LrnNodes, shape: tuple[int, ...], known: Mapping[str, np.ndarray]
) -> LocalResponseNorm:
    """The layer, once the shapes within it are those of a normalization over channels.

    Args:
        graph: the graph.
        node: the last node.
        nodes: all of them.
        shape: (images, channels, rows, columns) of what is normalized.
        known: other activations by name, for shapes that depend on them.
    """
    known = dict(known) | {nodes.squares.outputs[0]: stand_in(shape)}
    batch, channels = shape[:2]
    size = before = after = 0
    try:
        current = shape
        for step in nodes.steps:
            name = step.outputs[0]
            if step.op not in ("Pad", "AveragePool"):
                current = evaluate(graph, name, known).shape
            else:
                # Rearranged so that the channels are the third axis; neither padding nor pooling may touch others.
                if math.prod(current[:2]) != batch or current[2] != channels + before + after:
                    raise ValueError("an axis that is not the channels")
                if step.op == "Pad":
                    more = _padding(graph, step, len(current), known)
                else:
                    size, *more = _window(step, len(current) - 2)
                before, after = before + more[0], after + more[1]
                if step.op == "AveragePool":
                    if (before, after) != ((size - 1) // 2, size // 2):
                        raise ValueError("a window that is not centered")
                    before = after = 0
                current = (*current[:2], channels + before + after, *current[3:])
            known[name] = stand_in(current)
        if current != shape or before or after:
            raise ValueError("another shape in the end")
        if not all(map(math.isfinite, (nodes.alpha, nodes.beta, nodes.k))):
            raise ValueError("numbers that are not finite")
    except DAMAGE as error:
        raise graph.error(
            node,
            f"ends a normalization with {error}",
            "a normalization over neighboring channels, as torch.nn.LocalResponseNorm with an odd size",
        ) from None
    return LocalResponseNorm(node.layer_name(), size, nodes.alpha, nodes.beta, nodes.k)


def _divisor(graph: Graph, node: Node) -> tuple[str, str, float] | None:
    """What is divided by a power, the base of that and its exponent."""
    if len(node.inputs) != 2 or node.op not in ("Div", "Mul"):
        return None
    for at in (1,) if node.op == "Div" else (0, 1):
        power = graph.producers.get(node.inputs[at])
        if power and power.op == "Pow" and (beta := _number(graph, power, 1)) is not None:
            return node.inputs[1 - at], power.inputs[0], beta if node.op == "Div" else -beta
    return None


def _with_constant(graph: Graph, name: str, op: str) -> tuple[str, float] | None:
    """What a node with a constant number combines with it, and that number."""
    node = graph.producers.get(name)
    if node is None or node.op != op or len(node.inputs) != 2:
        return None
    for at in (0, 1):
        if (number := _number(graph, node, at)) is not None:
            return node.inputs[1 - at], number
    return None


def _number(graph: Graph, node: Node, index: int) -> float | None:
    """A constant input that is a single number, as the decimal that it was written as; else None."""
    if not graph.is_constant(node.inputs[index]):
        return None
    array = graph.constant(node, index)
    if array.size != 1 or array.dtype.kind not in "fiV":
        return None
    return float(str(array.reshape(())))


def _padding(graph: Graph, node: Node, rank: int, known: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """The zeros ahead of and after the channels."""
    if "pads" in node.attributes:
        pads, value = node.attributes["pads"], node.attributes.get("value", 0.0)
    else:
        pads = evaluate(graph, node.inputs[1], known).reshape(-1).tolist()
        if not all(isinstance(pad, int) for pad in pads):
            raise ValueError("padding by other numbers than integers")
        value = evaluate(graph, node.inputs[2], known).item() if len(node.inputs) > 2 and node.inputs[2] else 0
        if len(node.inputs) > 3 and node.inputs[3]:
            raise ValueError("padding of chosen axes")
    if value or text(node.attributes.get("mode", "constant")) != "constant":
        raise ValueError("padding by other numbers than 0")
    return _of_channels(pads, rank, 2)


def _window(node: Node, rank: int) -> tuple[int, int, int]:
    """How many channels are averaged, and the zeros ahead of and after them."""
    size, *others = node.attributes["kernel_shape"]
    steps = [*node.attributes.get("strides", ()), *node.attributes.get("dilations", ())]
    if len(others) != rank - 1 or {*others, *steps} - {1}:
        raise ValueError("a window over other axes than the channels")
    pads = node.attributes.get("pads", [0] * (2 * rank))
    if any(pads) and not node.attributes.get("count_include_pad", 0):
        raise ValueError("averages that leave the padding out")
    if text(node.attributes.get("auto_pad", "NOTSET")) not in ("NOTSET", "VALID"):
        raise ValueError("automatic padding")
    return size, *_of_channels(pads, rank, 0)


def _of_channels(pads: list[int], rank: int, axis: int) -> tuple[int, int]:
    """The padding of an axis; the others must have none."""
    before, after = pads[:rank], pads[rank:]
    if len(before) != rank or len(after) != rank:
        raise ValueError("padding of another number of axes")
    found = before.pop(axis), after.pop(axis)
    if any(before) or any(after) or min(found) < 0:
        raise ValueError("padding of other axes than the channels")
    return found
