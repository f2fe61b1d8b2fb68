"""A network as a chain of layers, whichever file it comes from: what the readers of each format give.

Arrays are as the source has them: channels first, in its own order of colors, with its groups. They may be read-only
views of the file.
"""

from dataclasses import dataclass

import numpy as np

# (before, after) on the two axes of images, or the rule by which it follows from the size: "valid", "caffe", "cntk" as
# in `presets.POOL_PADDINGS`, or ONNX's "same_upper" and "same_lower".
Padding = str | tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer, with its name in the file: in messages, and in what is printed; may be empty."""

    name: str


@dataclass(frozen=True, eq=False)
class Scaling(Layer):
    """scale · x + offset, of the pixels; each a number or an array with one for each channel, in the file's order."""

    scale: float | np.ndarray = 1.0
    offset: float | np.ndarray = 0.0


@dataclass(frozen=True, eq=False)
class Convolution(Layer):
    """A 2-D convolution without dilation.

    Attributes:
        kernel: (out, in / groups, height, width).
        bias: (out,), or None for none.
        strides: height, width.
        padding: zeros around its input.
        groups: into which inputs and outputs are split.
    """

    kernel: np.ndarray
    bias: np.ndarray | None
    strides: tuple[int, int]
    padding: Padding
    groups: int = 1

    @property
    def window(self) -> tuple[int, int]:
        return self.kernel.shape[2:]


@dataclass(frozen=True, eq=False)
class Relu(Layer):
    """max(x, 0)."""


@dataclass(frozen=True, eq=False)
class LocalResponseNorm(Layer):
    """x / (k + alpha / size · Σ x²)^beta, the sum over `size` neighboring channels."""

    size: int
    alpha: float
    beta: float
    k: float


@dataclass(frozen=True, eq=False)
class MaxPool(Layer):
    """The maximum of each window (height, width), padding left out."""

    window: tuple[int, int]
    strides: tuple[int, int]
    padding: Padding


@dataclass(frozen=True, eq=False)
class Dense(Layer):
    """A fully connected layer, of all there is of an image.

    Attributes:
        kernel: (inputs, units); the inputs in the order channel, row, column.
        bias: (units,), or None for none.
    """

    kernel: np.ndarray
    bias: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Dropout(Layer):
    """Dropout in training, inverted, so that inference does nothing; the rate is None if unknown."""

    rate: float | None = None


@dataclass(frozen=True, eq=False)
class Softmax(Layer):
    """Probabilities out of logits."""


@dataclass(frozen=True, eq=False)
class Chain:
    """A network.

    Attributes:
        path: its file, for messages.
        kind: of the file, for people, such as "Caffe model".
        layers: in order, from the pixels to the logits or probabilities; losses and metrics left out.
        image_size: (height, width) of its inputs, if the file states it.
        channel_order: "bgr" or "rgb", if the file states it.
        mean_file: the mean image that was subtracted from its pixels first, where the file names one.
        normalization: names of tensors that normalize pixels, if the file has some and does not say which pixels.
        framework: "caffe" or "cntk", where a file of another format says that it comes from there.
    """

    path: str
    kind: str
    layers: tuple[Layer, ...]
    image_size: tuple[int, int] | None = None
    channel_order: str | None = None
    mean_file: str | None = None
    framework: str | None = None
    normalization: tuple[str, ...] = ()


def output_size(layer: Convolution | MaxPool, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a layer's output; at least 1, as the sizes of unusual images are checked elsewhere."""
    sizes = []
    for axis, stride in enumerate(layer.strides):
        if layer.padding in ("same_upper", "same_lower"):
            sizes.append(-(-size[axis] // stride))
            continue
        total = size[axis] - layer.window[axis] + (0 if isinstance(layer.padding, str) else sum(layer.padding[axis]))
        sizes.append(max((-(-total // stride) if layer.padding == "caffe" else total // stride) + 1, 1))
    return sizes[0], sizes[1]


# What to call each kind of layer.
NOUNS = {
    Scaling: "scaling",
    Convolution: "convolution",
    Relu: "ReLU",
    LocalResponseNorm: "local response normalization",
    MaxPool: "max pooling",
    Dense: "dense layer",
    Dropout: "dropout",
    Softmax: "softmax",
}
