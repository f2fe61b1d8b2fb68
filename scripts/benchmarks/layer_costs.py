"""What the layers of a training step cost at least: operations of products, and bytes between memory and processor."""

import math
import re
from collections import defaultdict
from dataclasses import dataclass

LOSS, OPTIMIZER = "loss and metrics", "optimizer"


@dataclass
class Cost:
    """What a row of the table costs at least in a training step; `dtype` is that of its matrix products."""

    forward_flop: int = 0
    backward_flop: int = 0
    forward_bytes: int = 0
    backward_bytes: int = 0
    dtype: str = "float32"

    @property
    def flop(self) -> int:
        """Forward and backward."""
        return self.forward_flop + self.backward_flop

    @property
    def bytes(self) -> int:
        """Forward and backward."""
        return self.forward_bytes + self.backward_bytes


def row_of(layer: str) -> str:
    """The row that a layer of the network is in: a ReLU is in that of its product, padding in that of what it pads."""
    if match := re.fullmatch(r"relu(\d)", layer):
        return f"{'conv' if int(match[1]) <= 5 else 'fc'}{match[1]}"
    return "fc6" if layer == "flatten" else layer.removesuffix("_pad")


def costs(model, batch_size: int) -> dict[str, Cost]:
    """Counts the operations of products, and the bytes that have to move, as the docstring of benchmarks.layers says.

    Args:
        model: of `build_alexnet`, its precision set.
        batch_size: images a step.

    Returns:
        By row, in the network's order, what a step costs; the loss and the optimizer last.
    """
    rows: dict[str, Cost] = defaultdict(Cost)
    bytes_a_number = 2 if model.get_layer("conv1").compute_dtype == "bfloat16" else 4
    # Gradients flow back as far as to the first layer with weights.
    weights_before = False
    for layer in model.layers:
        kind = type(layer).__name__
        if kind in ("InputLayer", "ZeroPadding2D", "Flatten"):
            continue
        inputs = layer.input[0] if isinstance(layer.input, list) else layer.input
        x, y = (batch_size * bytes_a_number * math.prod(tensor.shape[1:]) for tensor in (inputs, layer.output))
        row = rows[row_of(layer.name)]
        if kind == "Rescaling":
            row.forward_bytes += x // bytes_a_number + y
        elif kind == "ReLU":
            row.backward_bytes += y
        elif kind in ("Conv2D", "Dense"):
            product = 2 * batch_size * math.prod(layer.output.shape[1:]) * math.prod(layer.kernel.shape[:-1])
            weights = 4 * layer.count_params()
            row.dtype = layer.compute_dtype
            row.forward_flop += product
            row.forward_bytes += x + weights + y
            # From x and the gradient of y that of the weights; from the weights and the gradient of y that of x.
            row.backward_flop += 2 * product if weights_before else product
            row.backward_bytes += x + y + weights + (weights + x if weights_before else 0)
            weights_before = True
        else:
            row.forward_bytes += x + y
            row.backward_bytes += x + y + x
    logits = 4 * batch_size * math.prod(model.output.shape[1:])
    rows[LOSS] = Cost(forward_bytes=logits, backward_bytes=2 * logits)
    # Weights, gradients and velocities are read, weights and velocities written.
    rows[OPTIMIZER] = Cost(backward_bytes=5 * 4 * sum(math.prod(v.shape) for v in model.trainable_variables))
    return dict(rows)
