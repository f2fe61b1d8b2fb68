"""Which pixels a network of another framework expects, and so what has to become of RGB ones."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keras_alexnet.errors import UserError
from keras_alexnet.importers import formats
from keras_alexnet.importers.alexnet import AlexNetMatch
from keras_alexnet.importers.arrays import numbers_text
from keras_alexnet.presets import PRESETS, Preset, per_channel

CHANNEL_ORDERS = ("bgr", "rgb")

_NAMES = {"torchvision": "torchvision", "cntk": "CNTK", "bvlc": "Caffe"}


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing overrides for imported models: what the file does not say, or not correctly.

    Attributes:
        mean: of the channels, in the file's order; subtracted from pixels of 0 to 255.
        std: what pixels less the mean are divided by, of each channel in the same order.
        channel_order: of the file: "bgr" or "rgb".
    """

    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    channel_order: str | None = None

    def __post_init__(self) -> None:
        """Checks every bound; raises `UserError`."""
        for name, example in (("mean", "104,117,123"), ("std", "58.395,57.12,57.375")):
            values = getattr(self, name)
            if values is None:
                continue
            found = f"{name} is {numbers_text(values, ',')}"
            if len(values) != 3 or not all(map(math.isfinite, values)) or (name == "std" and min(values) <= 0):
                raise UserError(
                    f"{found}; expected three numbers, one a channel in the file's order, such as {example}."
                )
            if 0 < max(map(abs, values)) < 1:
                raise UserError(
                    f"{found}, which is for pixels of 0 to 1. Expected numbers for pixels of 0 to 255: multiply them "
                    f"by 255, as in {example}."
                )
        if self.channel_order not in (None, *CHANNEL_ORDERS):
            raise UserError(f"channel_order is {self.channel_order!r}; expected {' or '.join(CHANNEL_ORDERS)}.")


@dataclass(frozen=True)
class ResolvedPreprocessing:
    """What a file's pixels are, once the file, the user and what is usual are put together.

    Attributes:
        preset: the network, with what it scales RGB pixels by.
        channel_order: of the file.
        order_source: who says so: "the file", "as given" or "assumed".
        mean, std: of each channel, in the file's order: pixels p enter the first convolution as (p - mean) / std.
        source: who says so: "the network itself", "as given", "usual for …", or two of them.
    """

    preset: Preset
    channel_order: str
    order_source: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    source: str


def resolve_preprocessing(found: AlexNetMatch, kind: str, given: Preprocessing) -> ResolvedPreprocessing:
    """Puts together what the network does itself, what the user says, and what is usual for the kind of file.

    Args:
        found: the network.
        kind: of the file, of `formats`.
        given: what the user says. Where the network scales pixels itself, std is for what is done before.
    """
    network, usual = found.network, _usual_preset(found, kind, given)
    if given.channel_order and network.channel_order not in (None, given.channel_order):
        raise UserError(
            f"channel_order is {given.channel_order}, and {network.path} says {network.channel_order}. Leave it out."
        )
    # A mean image that the file only names is none that the network subtracts.
    scales_itself = bool(found.scalings) and not network.mean_file
    known_order = given.channel_order or network.channel_order
    if usual is None and not (known_order and (scales_itself or given.mean is not None)):
        raise _question(found, known_order, scales_itself)
    order, order_source = "rgb" if usual == "torchvision" else "bgr", "assumed"
    for said, source in ((network.channel_order, "the file"), (given.channel_order, "as given")):
        if said:
            order, order_source = said, source
    if scales_itself and given.mean is not None:
        raise UserError(
            f"{network.path} scales its pixels itself (layer {found.scalings[0].name!r}). Leave out mean; std may be "
            "given, for what pixels are divided by before."
        )
    scale, offset, sources = np.ones(3), np.zeros(3), []
    if not scales_itself and usual:
        scale, offset = _input_scaling(usual, order)
        sources = [f"usual for {_NAMES[usual]}"]
    if given.mean is not None or given.std is not None:
        if given.std is None and np.any(scale != 1):
            raise UserError(
                f"{network.path}: --mean is given without --std, and both are usual: {sources[0]} is "
                f"--std={numbers_text(1 / scale, ',')}, and --std=1,1,1 where nothing is divided. Pass one of them."
            )
        std = 1 / scale if given.std is None else np.array(given.std)
        mean = -offset / scale if given.mean is None else np.array(given.mean)
        sources = [f"mean {sources[0]}, std as given"] if given.mean is None and np.any(mean != 0) else ["as given"]
        scale, offset = 1 / std, -mean / std
    for scaling in found.scalings:
        scale, offset = scale * scaling.scale, offset * scaling.scale + scaling.offset
    if found.scalings:
        sources.append("the network itself")
    with np.errstate(divide="ignore", invalid="ignore"):
        mean, std = -offset / scale, 1 / scale
    if found.scalings and given.std is None:
        _refuse_small_pixels(found, mean, std)
    if order_source == "assumed":
        _refuse_other_order(found, mean, order)
    preset = dataclasses.replace(
        found.preset,
        input_scale=_collapsed(_reordered(scale, order)),
        input_offset=_collapsed(_reordered(offset, order)),
    )
    return ResolvedPreprocessing(
        preset, order, order_source, tuple(mean.tolist()), tuple(std.tolist()), ", ".join(sources)
    )


def _refuse_small_pixels(found: AlexNetMatch, mean: np.ndarray, std: np.ndarray) -> None:
    """Refuses a network whose own scaling is for pixels of 0 to 1, as PyTorch's often is."""
    if np.abs(std).min() < 0.99 or 0 < np.abs(mean).max() < 1:
        raise UserError(
            f"{found.network.path}: layer {found.scalings[0].name!r} subtracts {numbers_text(mean)} and divides by "
            f"{numbers_text(std)}, as for pixels of 0 to 1. Pass --std=255,255,255 if that is right, and --std=1,1,1 "
            "if the network takes pixels of 0 to 255."
        )


def _refuse_other_order(found: AlexNetMatch, mean: np.ndarray, order: str) -> None:
    """Refuses a mean in the opposite of the usual order: in photographs, red has the largest and blue the smallest."""
    first, second, third = mean if order == "bgr" else mean[::-1]
    if first > second > third:
        raise UserError(
            f"{found.network.path}: {numbers_text(mean)} are subtracted from the channels, which are assumed to be "
            f"{order.upper()}, but look like those of {order[::-1].upper()}. Pass the right one as --channel_order."
        )


def _usual_preset(found: AlexNetMatch, kind: str, given: Preprocessing) -> str | None:
    """The name of the preset whose scaling of pixels such a file usually needs; None where there are two readings."""
    if found.network.normalization:
        return None
    if kind == formats.ONNX:
        if found.network.framework:
            kind = found.network.framework
        elif found.preset.normalization == "none" and found.preset.conv1_padding == 2 and given.channel_order != "bgr":
            kind = formats.TORCHVISION
        else:
            return None
    if kind == formats.TORCHVISION:
        return "torchvision"
    # CNTK's pools round up where CNTK has converted them from Caffe.
    return "cntk" if kind == formats.CNTK and found.preset.pool_padding != "caffe" else "bvlc"


def _question(found: AlexNetMatch, order: str | None, scales_itself: bool) -> UserError:
    """The error that asks for what the file does not say, with the flags of both usual readings."""
    path = found.network.path
    if scales_itself:
        return UserError(
            f"{path} scales its pixels itself, but does not say the order of its channels, and both orders are common. "
            "Add --channel_order=rgb if it was trained on RGB images, as with PyTorch and torchvision, or "
            "--channel_order=bgr if on BGR images, as with Caffe and OpenCV."
        )
    readings = []
    for name, usual_order in (("torchvision", "rgb"), ("bvlc", "bgr")):
        chosen = order or usual_order
        scale, offset = _input_scaling(name, chosen)
        flags = f"--channel_order={chosen} --mean={numbers_text(-offset / scale, ',')}"
        readings.append(flags + (f" --std={numbers_text(1 / scale, ',')}" if np.any(scale != 1) else ""))
    says = "does not say which pixels it was trained on"
    if tensors := found.network.normalization:
        says = f"normalizes pixels with {' and '.join(tensors[:2])}, but does not say how"
    return UserError(
        f"{path} {says}, and two ways are common. Add {readings[0]} for images "
        f"normalized as with torchvision, or {readings[1]} for images as in Caffe; or other numbers, such as "
        "--mean=0,0,0 where nothing is subtracted."
    )


def _input_scaling(preset: str, order: str) -> list[np.ndarray]:
    """By what a named network scales pixels, scale and offset, for channels in that order."""
    values = PRESETS[preset].input_scale, PRESETS[preset].input_offset
    return [_reordered(np.array(per_channel(value)), order) for value in values]


def _reordered(values: np.ndarray, order: str) -> np.ndarray:
    """Values of RGB channels for those of the file, or the other way round."""
    return values[::-1] if order == "bgr" else values


def _collapsed(values: np.ndarray) -> float | tuple[float, float, float]:
    """One number, where all are the same."""
    red, green, blue = (values + 0.0).tolist()  # No -0.0.
    return red if red == green == blue else (red, green, blue)
