"""The way of the image through a CNTK graph: from the input with the image to the logits."""

import itertools
from collections.abc import Iterable

import numpy as np

from keras_alexnet.errors import UserError
from keras_alexnet.importers import chain
from keras_alexnet.importers.arrays import as_float32
from keras_alexnet.importers.cntk.graph import EXPECTED, CntkFunction, CntkGraph, CntkVariable

IDENTITIES = ("NoOp", "Pass", "StopGradient")
# Functions of only the logits that are in losses and metrics.
_PARTS_OF_MEASURES = ("Hardmax", "LogSoftmax", "ReduceElements", "Softmax")


class Path:
    """What an image goes through in a graph.

    Attributes:
        graph: the graph.
        image: the input.
        end: the uid of the logits.
    """

    def __init__(self, graph: CntkGraph):
        """Finds the ends; raises `UserError` if there is not one image and one last dense layer."""
        self.graph = graph
        self._inputs = [variable for variable in graph.variables.values() if variable.kind == "input"]
        self._users: dict[str, list[CntkFunction]] = {}
        for function in graph.functions.values():
            for uid in dict.fromkeys(function.inputs):
                self._users.setdefault(uid, []).append(function)
        self.image, self.end = self._find_ends()
        self._needed = self._ancestors(self.end)

    def consumers(self, uid: str) -> list[CntkFunction]:
        """The functions up to the logits that take it."""
        return [function for function in self._users.get(uid, ()) if function.uid in self._needed]

    def value(self, uid: str) -> np.ndarray | None:
        """A parameter's or constant's array."""
        variable = self.graph.variables.get(uid)
        return variable.value if variable else None

    def operand(self, function: CntkFunction, uid: str) -> np.ndarray | None:
        """The array that a function of two inputs takes in addition to `uid`."""
        if len(function.inputs) != 2 or uid not in function.inputs:
            return None
        return self.value(function.inputs[1 - function.inputs.index(uid)])

    def weights(self, function: CntkFunction, at: str) -> np.ndarray:
        """The weights, float32, of a function that takes these and `at`."""
        value = self.value(function.inputs[0]) if len(function.inputs) == 2 and function.inputs[1] == at else None
        if value is None or not value.size:
            raise self.graph.error(function, "does not take weights and what the layer before it gives")
        return as_float32(value)

    def probabilities(self) -> list[chain.Softmax]:
        """A softmax of the logits, if it is an output of the model; nothing else but losses and metrics may follow."""
        outputs = {self._without_identities(root) for root in self.graph.roots}
        left = self._descendants([self.end]) - self._measures([self.image]) - {self.end}
        layers = []
        for uid in (uid for uid in self.graph.functions if uid in left):
            function = self.graph.functions[uid]
            is_softmax = function.op == "Softmax" and uid in outputs
            is_last = len(function.inputs) == 1 and self._without_identities(function.inputs[0]) == self.end
            if function.op not in (*IDENTITIES, *_PARTS_OF_MEASURES) or (is_softmax and not is_last):
                raise self.graph.error(
                    function, f"comes after the last dense layer with weights, {self.end!r}, and takes no labels"
                )
            if is_softmax:
                layers.append(chain.Softmax(function.label))
        return layers[:1]

    def _find_ends(self) -> tuple[CntkVariable, str]:
        """The input with the image, and the uid of the logits."""
        path = self.graph.path
        images = [v for v in self._inputs if len(v.shape) == 3]
        if not images:
            shapes = [str(v.shape) for v in self._inputs[:8]]
            raise UserError(
                f"{path} has no input of three axes, but {', '.join(shapes) or 'none at all'}. Expected images "
                "(channel, row, column), as an AlexNet of CNTK takes them: 3 × 227 × 227."
            )
        seen = self._descendants(v.uid for v in images)
        products = [f for f in self.graph.functions.values() if f.op == "Times" and len(f.inputs) == 2]
        dense = [f for f in products if self.value(f.inputs[0]) is not None and f.inputs[1] in seen]
        # Losses may have some, too.
        measures = self._measures(images)
        dense = [f for f in dense if f.uid not in measures] or dense
        if not dense:
            raise UserError(
                f"{path} has no dense layer (Times with weights) that depends on an image. {EXPECTED}, with three "
                "dense layers at the end: use the whole model."
            )
        logits = dense[-1].uid
        before = self._ancestors(logits)
        if aside := [f for f in dense if f.uid not in before]:
            raise UserError(
                f"{self.graph.described(aside[0])} and {dense[-1].op} {logits!r} are both dense layers that no other "
                f"follows. {EXPECTED}, and one output: save the model with only that output."
            )
        images = [v for v in images if v.uid in before]
        if len(images) != 1:
            raise UserError(f"{path} computes {logits!r} from {len(images)} images. {EXPECTED}, of one image.")
        # The bias: nothing else is added to the last layer.
        sums = [f.uid for f in self._users.get(logits, ()) if f.op == "Plus" and self.operand(f, logits) is not None]
        return images[0], sums[0] if len(sums) == 1 else logits

    def _measures(self, images: list[CntkVariable]) -> set[str]:
        """The uids of what depends on labels: on any input but the images."""
        return self._descendants(v.uid for v in self._inputs if all(v is not image for image in images))

    def _without_identities(self, uid: str) -> str:
        while (function := self.graph.functions.get(uid)) and function.op in IDENTITIES and len(function.inputs) == 1:
            uid = function.inputs[0]
        return uid

    def _descendants(self, uids: Iterable[str]) -> set[str]:
        """The uids given, and those of all functions that depend on them."""
        found = set(uids)
        # They are in order, so that once through them is enough.
        for uid, function in self.graph.functions.items():
            if not found.isdisjoint(function.inputs):
                found.add(uid)
        return found

    def _ancestors(self, uid: str) -> set[str]:
        """The uid given, and those of all it depends on."""
        found = {uid}
        for function in reversed(self.graph.functions.values()):
            if function.uid in found:
                found.update(function.inputs)
        return found


def bias_of(path: Path, function: CntkFunction, shape: tuple[int, ...]) -> tuple[np.ndarray | None, str]:
    """The bias that is added to a layer's result, of this shape, and the uid of the sum.

    None and the function's own uid if nothing is added.
    """
    users = path.consumers(function.uid)
    value = path.operand(users[0], function.uid) if len(users) == 1 and users[0].op == "Plus" else None
    if value is None:
        return None, function.uid
    # Axes of length 1 in front change nothing.
    axes = list(itertools.dropwhile(lambda size: size == 1, value.shape))
    if axes not in ([], list(shape)):
        raise path.graph.error(
            users[0], f"adds an array of {value.shape} to {shape[0]} channels. Expected one number for each"
        )
    return np.broadcast_to(as_float32(value).reshape(-1), shape[:1]), users[0].uid
