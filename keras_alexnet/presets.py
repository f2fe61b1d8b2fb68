"""The named networks, and what AlexNets differ in. No framework is imported."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

# The side of the images of CNTK's and Caffe's networks, in pixels.
IMAGE_SIZE = 227
# The constants of local response normalization in Caffe's and CNTK's networks; see `LRN`.
LRN_SIZE, LRN_K, LRN_ALPHA, LRN_BETA = 5, 1.0, 1e-4, 0.75
# Layers with weights, from the image on; without fc8, as nothing would be left to train.
FREEZABLE = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")
WEIGHTED = (*FREEZABLE, "fc8")


@dataclass(frozen=True)
class LRN:
    """Constants of local response normalization: x / (k + alpha / size · Σ x²)^beta, the sum over `size` channels.

    This is the formula of Caffe, CNTK, ONNX and PyTorch. The paper (section 3.3) does not divide alpha by the size: its
    alpha of 1e-4 is 5e-4 here.

    Attributes:
        size: neighboring channels, an odd number: the channel itself and as many on both sides.
        alpha, beta, k: numbers above 0.

    Raises:
        ValueError: a constant outside of these bounds.
    """

    size: int = LRN_SIZE
    alpha: float = LRN_ALPHA
    beta: float = LRN_BETA
    k: float = LRN_K

    def __post_init__(self) -> None:
        if self.size not in range(1, 100, 2):
            raise ValueError(f"normalization size {self.size}, expected an odd number of 1 to 99")
        for name in ("alpha", "beta", "k"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"normalization {name} {value:g}, expected a number above 0")

    def __str__(self) -> str:
        return f"size {self.size}, alpha {self.alpha:.7g}, beta {self.beta:.7g}, k {self.k:.7g}"


@dataclass(frozen=True)
class Preset:
    """Architecture parameters of an AlexNet variant; classes and dropout are arguments of `build_alexnet`.

    Attributes:
        filters: of conv1 to conv5.
        dense_units: of fc6 and fc7; a single number is for both.
        image_size: side of the square images, in pixels.
        conv1_padding: zeros around the image, once its mean is subtracted.
        normalization: where local response normalization is: "before_pool", "after_pool" (pool1 and pool2 each), or
            "none".
        lrn: its constants.
        pool_padding: the rule for the edges of the max pools, a key of `POOL_PADDINGS`.
        input_scale, input_offset: pixels p of 0 to 255 enter the network as scale · p + offset; a number, or one each
            for red, green and blue.
    """

    filters: tuple[int, int, int, int, int]
    dense_units: tuple[int, int]
    image_size: int = IMAGE_SIZE
    conv1_padding: int = 0
    normalization: str = "before_pool"
    lrn: LRN = LRN()
    pool_padding: str = "valid"
    input_scale: float | tuple[float, float, float] = 1.0
    input_offset: float | tuple[float, float, float] = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.dense_units, int):
            object.__setattr__(self, "dense_units", (self.dense_units, self.dense_units))


def _torchvision_scale_and_offset() -> dict[str, Any]:
    """(p / 255 - mean) / deviation, as torchvision normalizes for all of its networks (transforms/_presets.py)."""
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return {
        "input_scale": tuple(1 / (255 * d) for d in deviation),
        "input_offset": tuple(-m / d for m, d in zip(mean, deviation, strict=True)),
    }


# Caffe's mean of ImageNet, subtracted from red, green and blue (python/caffe/imagenet/ilsvrc_2012_mean.npy, rounded).
_CAFFE_OFFSET = (-123.0, -117.0, -104.0)

PRESETS = {
    # CNTK's example, BrainScript/AlexNet.cntk.
    "cntk": Preset(filters=(96, 192, 384, 384, 256), dense_units=(4096, 4096), input_offset=-114.0),
    # The same by CNTK's Python/AlexNet_ImageNet_Distributed.py, whose pools inherit the padding.
    "cntk_python": Preset((96, 192, 384, 384, 256), (4096, 4096), pool_padding="cntk", input_offset=-114.0),
    # Caffe, models/bvlc_alexnet and models/bvlc_reference_caffenet, their groups as zeros in the kernels.
    "bvlc": Preset((96, 256, 384, 384, 256), (4096, 4096), pool_padding="caffe", input_offset=_CAFFE_OFFSET),
    "caffenet": Preset(
        (96, 256, 384, 384, 256),
        (4096, 4096),
        normalization="after_pool",
        pool_padding="caffe",
        input_offset=_CAFFE_OFFSET,
    ),
    # Krizhevsky, Sutskever and Hinton (2012), section 3. The paper's: filters, units, images of 224×224, overlapping
    # pools, normalization before them and its constants. Chosen: no groups; zeros around the image, as without them 224
    # pixels do not give the 55×55 of figure 2; Caffe's mean per channel, where the paper subtracts a mean image.
    "paper": Preset(
        (96, 256, 384, 384, 256),
        (4096, 4096),
        image_size=224,
        conv1_padding=2,
        lrn=LRN(size=5, alpha=5e-4, beta=0.75, k=2.0),
        input_offset=_CAFFE_OFFSET,
    ),
    # torchvision/models/alexnet.py, after Krizhevsky's "One weird trick …" (2014).
    "torchvision": Preset(
        (64, 192, 384, 256, 256),
        (4096, 4096),
        image_size=224,
        conv1_padding=2,
        normalization="none",
        **_torchvision_scale_and_offset(),
    ),
    # CNTK's layers at a fraction of the width, for trying things and for tests.
    "tiny": Preset(filters=(24, 48, 96, 96, 64), dense_units=(256, 256), input_offset=-114.0),
}

NORMALIZATIONS = ("before_pool", "after_pool", "none")

POOL_WINDOW, POOL_STRIDE = 3, 2


def _cntk_padding(size: int) -> tuple[int, int]:
    """CNTK's automatic padding: it centers the first window on pixel 0, unlike TensorFlow's "same" on even sizes."""
    return 1, size % 2


def _caffe_padding(size: int) -> tuple[int, int]:
    """Caffe lets the last window stick out where the size is even."""
    return 0, (size - POOL_WINDOW) % POOL_STRIDE


# The rule's name → (size → cells before, cells after). Cells of padding are never the maximum.
POOL_PADDINGS = {"valid": lambda size: (0, 0), "cntk": _cntk_padding, "caffe": _caffe_padding}


def effective_padding(size: int, padding: tuple[int, int]) -> tuple[int, int]:
    """How much of a pool's padding its windows reach; at the end it may be less than there is."""
    before, after = padding
    windows = (size + before + after - POOL_WINDOW) // POOL_STRIDE + 1
    return before, max((windows - 1) * POOL_STRIDE + POOL_WINDOW - size - before, 0)


def spatial_sizes(preset: Preset) -> list[int]:
    """The sides of what conv1, pool1, pool2 and pool5 give; one may be 0 or less, where the image is too small."""
    sizes = [(preset.image_size + 2 * preset.conv1_padding - 11) // 4 + 1]
    for _ in range(3):
        padding = sum(POOL_PADDINGS[preset.pool_padding](sizes[-1]))
        sizes.append((sizes[-1] + padding - POOL_WINDOW) // POOL_STRIDE + 1)
    return sizes


def preset_name(preset: Preset) -> str | None:
    """The name of the same network in `PRESETS`, or None; its pools may be padded alike by another rule."""
    for name, known in PRESETS.items():
        same_rule = replace(preset, pool_padding=known.pool_padding)
        if same_rule == known and _pool_paddings(preset) == _pool_paddings(known):
            return name
    return None


def _pool_paddings(preset: Preset) -> list[tuple[int, int]]:
    return [POOL_PADDINGS[preset.pool_padding](size) for size in spatial_sizes(preset)[:3]]


def describe(preset: Preset) -> str:
    """All architecture parameters of a network, for people."""
    fc6, fc7 = preset.dense_units
    side = preset.image_size
    padding = f" padded by {preset.conv1_padding}" if preset.conv1_padding else ""
    normalization = "no normalization"
    if preset.normalization != "none":
        place = preset.normalization.replace("_pool", " the pools")
        normalization = f"normalization {place} ({preset.lrn})"
    scale, offset = (numbers_text(per_channel(value)) for value in (preset.input_scale, preset.input_offset))
    return "; ".join(
        (
            f"{'-'.join(map(str, preset.filters))} filters",
            f"{fc6:,} dense units" if fc6 == fc7 else f"{fc6:,} and {fc7:,} dense units",
            f"{side}×{side} pixels{padding}, scale {scale}, offset {offset}",
            normalization,
            f"pool padding {preset.pool_padding}",
        )
    )


def per_channel(value: float | Sequence[float]) -> tuple[float, float, float]:
    """A number for red, green and blue each."""
    red, green, blue = (value,) * 3 if isinstance(value, int | float) else value
    return red, green, blue


def numbers_text(values: Sequence[float]) -> str:
    """A number for each channel, or one where they are all the same."""
    texts = [f"{value:.7g}" for value in values]
    return texts[0] if len(set(texts)) == 1 else f"({', '.join(texts)})"
