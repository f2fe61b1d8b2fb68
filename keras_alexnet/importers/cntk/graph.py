"""CNTK models as graphs, whichever of CNTK's two file formats they are in."""

import graphlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_alexnet.errors import UserError
from keras_alexnet.importers import wire

COPY_AGAIN = "The file is damaged: download or copy it again"

# NumPy 1.26 goes no further; CNTK's own models have at most 6 axes.
MAX_RANK = 32

_V1_START = "BCN\0".encode("utf-16-le")
# The key of field 1 (the version) or of field 2 (an entry) of a protobuf Dictionary.
_V2_STARTS = (b"\x08", b"\x12")
_OTHER_KINDS = {
    b"ktnc": "CNTK's form for models of more than 2 GB, which is not read",
    b"PK": "a zip archive, such as .keras and .pth files are",
    b"\x89HDF": "an HDF5 file",
    b"\x1f\x8b": "a gzip archive: unpack it first",
    b"<": "a web page or XML",
    b"\x0a": "another protobuf file, such as .caffemodel files are",
}


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
        value: a parameter's or constant's array of this shape, float32 or float64; None for an input. A read-only
            view of the file, maybe unaligned; the file has to stay as it is for as long as it is used.
    """

    uid: str
    kind: str
    name: str
    shape: tuple[int, ...]
    value: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True)
class CntkBlock:
    """A named group of functions, as CNTK's layers library makes one of each layer.

    Attributes:
        name: what its author called it, such as "conv1"; may be empty.
        op: what it computes, such as "Convolution", "Dense", "LocalResponseNormalization".
    """

    name: str
    op: str


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
        blocks: the blocks it belongs to, from the outermost to the innermost; always empty in version 1 files.
    """

    uid: str
    op: str
    name: str
    inputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    blocks: tuple[CntkBlock, ...] = ()


@dataclass(frozen=True)
class CntkGraph:
    """A model: what `read_cntk_model` gives.

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


def read_cntk_model(path: str | os.PathLike) -> CntkGraph:
    """Reads a CNTK model of either format, told by content: v2 (protobuf, `.model`) or v1 (`.dnn`).

    The file is mapped into memory, so arrays take memory only as they are used.

    Raises:
        UserError: the file cannot be read, is no CNTK model, is damaged, or has what is not read: unknown operations in
            a v1 file, recurrence, sparse or integer arrays, values that are not finite.
    """
    # They need this module's classes.
    from keras_alexnet.importers.cntk import v1, v2

    file = wire.open_message(path, "a CNTK model (.model or .dnn)")
    start = bytes(file.data[:16])
    if start.startswith(_V1_START):
        return v1.read_graph(file)
    if start.startswith(_V2_STARTS):
        return v2.read_graph(file)
    kind = next((kind for head, kind in _OTHER_KINDS.items() if start.lstrip().startswith(head)), "something else")
    raise UserError(
        f"{file.path} is no CNTK model: it begins with {start!r} ({kind}). Expected a model saved by CNTK: protobuf "
        f"(usually .model) or the older binary format (usually .dnn), which begins with 'BCN'."
    )


def make_graph(
    path: str, version: int, variables: Iterable[CntkVariable], functions: Iterable[CntkFunction], roots: Iterable[str]
) -> CntkGraph:
    """Puts the functions in order, having checked that all they refer to is there.

    Raises:
        UserError: a uid is there twice or not at all, functions form a cycle, or there are no roots.
    """
    variable_of: dict[str, CntkVariable] = {}
    function_of: dict[str, CntkFunction] = {}
    for node, nodes in [(v, variable_of) for v in variables] + [(f, function_of) for f in functions]:
        if node.uid in variable_of or node.uid in function_of:
            raise UserError(f"{path}: {node.uid!r} is there twice; expected names to differ. {COPY_AGAIN}.")
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


def checked_values(values: np.ndarray, dimensions: tuple[int, ...], where: str) -> np.ndarray:
    """A view of a flat array with CNTK's `dimensions` reversed.

    Args:
        values: as many as the dimensions' product; the caller has made sure.
        dimensions: column-major, as CNTK writes them.
        where: the file and the variable, for messages.

    Raises:
        UserError: some values are NaN or infinite.
    """
    finite = np.isfinite(values)
    if not finite.all():
        raise UserError(
            f"{where}: {values.size - np.count_nonzero(finite):,} of its {values.size:,} values are NaN or infinite; "
            "expected numbers. The training may have diverged: take a checkpoint of an earlier epoch."
        )
    return values.reshape(dimensions[::-1])
