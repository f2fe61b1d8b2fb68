"""CNTK models as graphs, whichever of CNTK's two file formats they are in."""

import graphlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_alexnet.errors import UserError

COPY_AGAIN = "The file is damaged: download or copy it again"
EXPECTED = (
    "Expected an AlexNet: convolutions, ReLU, local response normalization, max pooling, dense layers and dropout, one "
    "after the other"
)


@dataclass(frozen=True)
class CntkVariable:
    """An input, a parameter or a constant.

    Attributes:
        uid: its name in `CntkFunction.inputs`, unique in the graph.
        kind: "input", "parameter" (learned) or "constant" (not learned; in a version 1 file also a parameter that was
            kept as it is, at a learning rate of 0).
        name: what its author called it; may be empty.
        shape: in row-major order, so CNTK's dimensions reversed: convolution kernels are (out, in, height, width),
            dense ones (channel, row, column, out) or (in, out), images (channel, row, column), channels being blue,
            green, red. An input's may have -1 (inferred) or -3 (free).
        value: a parameter's or constant's array of this shape, float32 or float64, read-only; None for an input. It
            may be an unaligned view of the file, which must not change while it is used.
    """

    uid: str
    kind: str
    name: str
    shape: tuple[int, ...]
    value: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True)
class CntkFunction:
    """A primitive operation with one output.

    Attributes:
        uid: its name in `CntkFunction.inputs` and `CntkGraph.roots`, unique in the graph.
        op: the operation, as CNTK's PrimitiveOpType calls it, in both formats; "op 123" for a code that is not known.
        name: what its author called it; often empty, and the name is that of a block.
        inputs: uids of variables and functions, in the order of the operation's arguments.
        attributes: by CNTK's v2 names, in both formats ("strides", "autoPadding", "lowerPad", "poolingWindowShape", …).
            Those that have a value per axis are as CNTK writes them: width, height, channels. Version 1 files lack
            some, such as Dropout's rate, and may have one more axis than version 2 files have.
        blocks: the names of the blocks it belongs to, from the outermost to the innermost: CNTK's layers library makes
            one of each layer. A name may be empty; version 1 files have no blocks.
    """

    uid: str
    op: str
    name: str
    inputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    blocks: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The innermost block with a name, or the function's name, or its uid."""
        return next((name for name in (*reversed(self.blocks), self.name) if name), self.uid)


@dataclass(frozen=True)
class CntkGraph:
    """A model.

    Attributes:
        path: the file, for messages.
        version: of the file format: 1 or 2.
        variables: by uid, in the file's order.
        functions: by uid; each comes after those it takes its inputs from.
        roots: uids of the outputs. A training checkpoint has the loss and the metric among them.
    """

    path: str
    version: int
    variables: dict[str, CntkVariable]
    functions: dict[str, CntkFunction]
    roots: tuple[str, ...]

    def described(self, function: CntkFunction) -> str:
        """A function, for messages."""
        name = f" ({function.label})" if function.label != function.uid else ""
        return f"{self.path}: {function.op} {function.uid!r}{name}"

    def error(self, function: CntkFunction, what: str) -> UserError:
        """The error that a function `what`: "is this", "has that"."""
        return UserError(
            f"{self.described(function)} {what}. {EXPECTED}. Save the model without it, or convert another."
        )

    def refuse(self, function: CntkFunction, attribute: str, condition: bool) -> None:
        """Raises a `UserError` about an attribute of a function if the condition is true."""
        if condition:
            value = str(function.attributes.get(attribute))[:80]
            raise self.error(function, f"has {attribute} {value}, which an AlexNet does not have")


def make_graph(
    path: str, version: int, variables: Iterable[CntkVariable], functions: Iterable[CntkFunction], roots: Iterable[str]
) -> CntkGraph:
    """Puts the functions in order; checks that all they refer to is there once, and that none depends on itself."""
    variable_of: dict[str, CntkVariable] = {}
    function_of: dict[str, CntkFunction] = {}
    for node, nodes in [(v, variable_of) for v in variables] + [(f, function_of) for f in functions]:
        if node.uid in variable_of or node.uid in function_of:
            raise UserError(f"{path}: {node.uid!r} appears twice; expected names to differ. {COPY_AGAIN}.")
        nodes[node.uid] = node
    roots = tuple(dict.fromkeys(roots))
    for user, uids in [(f"{f.op} {uid!r}", f.inputs) for uid, f in function_of.items()] + [("the model", roots)]:
        for uid in uids:
            if uid not in function_of and uid not in variable_of:
                raise UserError(f"{path}: {user} refers to {uid!r}, which is not there. {COPY_AGAIN}.")
    predecessors = {uid: [i for i in f.inputs if i in function_of] for uid, f in function_of.items()}
    try:
        order = list(graphlib.TopologicalSorter(predecessors).static_order())
    except graphlib.CycleError as error:
        raise UserError(
            f"{path}: {' → '.join(error.args[1][:5])} … is a cycle. Expected a feed-forward network, such as AlexNet; "
            "recurrent ones are not read."
        ) from None
    if not roots:
        raise UserError(f"{path} has no outputs. Expected a network, not single variables.")
    return CntkGraph(path, version, variable_of, {uid: function_of[uid] for uid in order}, roots)
