"""Which layer's the operations of TensorFlow's training step are, and how time is divided among them."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping

from benchmarks.layer_costs import LOSS, OPTIMIZER, row_of

OTHER = "other"


def divide(events: Iterable[tuple[int, int, Hashable]]) -> dict[Hashable, float]:
    """Divides time among what runs.

    Args:
        events: (start, end, name) each; at least one.

    Returns:
        By name its part of the time from the first start to the last end, which is what the parts add up to: a moment
        in which several run counts evenly for each. None has the moments in which none runs.
    """
    changes = [(moment, step, name) for start, end, name in events for moment, step in ((start, 1), (end, -1))]
    changes.sort(key=lambda change: change[0])
    parts: dict[Hashable, float] = defaultdict(float)
    running: Counter = Counter()
    before = changes[0][0]
    for moment, step, name in changes:
        for other, times in running.items():
            parts[other] += (moment - before) * times / running.total()
        if not running and moment > before:
            parts[None] += moment - before
        running[name] += step
        if not running[name]:
            del running[name]
        before = moment
    return dict(parts)


class Attribution:
    """Tells the rows of a step's operations.

    Most bear the name of their layer, as in "alexnet/conv2/convolution" and "gradient_tape/alexnet/conv2/…". Those that
    the network has outside of layers, conversions and the terms of local response normalization, belong to the layer
    that they lead to; a gradient's operations, to the layer whose gradient led to them.

    Args:
        graph: by the operation's name the names of its inputs.
        layers: names of the model's layers.
        optimizer: name of the optimizer.
    """

    def __init__(self, graph: Mapping[str, list[str]], layers: Iterable[str], optimizer: str):
        self._inputs = graph
        self._layers = frozenset(layers)
        self._optimizer = optimizer
        self._consumers: dict[str, list[str]] = defaultdict(list)
        for name, inputs in graph.items():
            for source in inputs:
                self._consumers[source].append(name)
        self._found: dict[str, tuple[str, bool]] = {}

    def row(self, operation: str) -> tuple[str, bool]:
        """The row of an operation, and whether it is of the backward pass."""
        if operation not in self._found:
            self._found[operation] = self._find(operation)
        return self._found[operation]

    def _find(self, operation: str) -> tuple[str, bool]:
        if operation not in self._inputs:
            return OTHER, False
        if operation.startswith(self._optimizer):
            return OPTIMIZER, True
        if "compile_loss/" in operation:
            return LOSS, "gradient_tape/" in operation
        backward, forward = _is_gradient(operation), _is_forward(operation)
        layer = self._layer(operation)
        if not layer and backward:
            layer = self._nearest(operation, self._inputs, _is_gradient)
        elif not layer and forward:
            layer = self._nearest(operation, self._consumers, _is_forward)
        if layer:
            return row_of(layer), backward
        # The metrics have no scope.
        return (OTHER if backward or forward else LOSS), backward

    def _layer(self, operation: str) -> str | None:
        match = re.search(r"(?:^|/)alexnet(?:_\d+)?/(\w+?)(?:_\d+)?/", operation)
        return match[1] if match and match[1] in self._layers else None

    def _nearest(self, operation: str, neighbours: Mapping[str, list[str]], fits: Callable[[str], bool]) -> str | None:
        """The first layer that is met on the way along `neighbours`, through operations that fit."""
        seen, edge = {operation}, [operation]
        while edge:
            edge = [name for before in edge for name in neighbours.get(before, ()) if fits(name) and name not in seen]
            seen.update(edge)
            for name in edge:
                if layer := self._layer(name):
                    return layer
        return None


def _is_gradient(operation: str) -> bool:
    """Sums of gradients, which have no scope of their own, too."""
    return operation.startswith(("gradient_tape/alexnet", "AddN"))


def _is_forward(operation: str) -> bool:
    return operation.startswith("alexnet")
