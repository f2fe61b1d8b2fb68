"""What was found in another framework's file and what became of it, in words."""

from collections.abc import Sequence

import keras

from keras_alexnet.importers import chain
from keras_alexnet.importers.alexnet import AlexNetMatch
from keras_alexnet.importers.preprocessing import ResolvedPreprocessing
from keras_alexnet.presets import describe, preset_name


def summarize(found: AlexNetMatch, pixels: ResolvedPreprocessing, model: keras.Model) -> str:
    """Lists the layers of the file with their shapes, what each became, and which pixels file and model take."""
    rows = [("layer of the file", "what", "shape", "of the model", "shape", "")]
    for layer, name in found.mapping:
        source = getattr(layer, "kernel", None)
        kernel = None if source is None else model.get_layer(name).kernel
        remarks = ", ".join(_remarks(layer, name, pixels))
        rows.append((layer.name, chain.NOUNS[type(layer)], _times(source), name, _times(kernel), remarks))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    preset = pixels.preset
    name = preset_name(preset)
    architecture = f"preset {name}" if name else f"AlexNet of {describe(preset)}"
    size = f"{preset.image_size} × {preset.image_size}"
    assumed = ", a size that is assumed" if found.size_is_assumed else ""
    lines = [
        f"{found.network.path}: {found.network.kind}",
        *lines,
        f"Network  {architecture}",
        f"         {found.num_classes:,} classes, {model.count_params():,} parameters",
        _dropout(found),
        f"Pixels   of the file: {pixels.channel_order.upper()} ({pixels.order_source}){_scaling(pixels)}",
        f"         of the model: RGB, 0 to 255, {size}{assumed}; it does the rest itself",
    ]
    if found.network.mean_file:
        lines.append(f"         of the training: less the mean image {found.network.mean_file}; see --mean_file")
    return "\n".join(lines)


def _dropout(found: AlexNetMatch) -> str:
    has_rates = any(name.startswith("drop") for _, name in found.mapping)
    return "Dropout  {:g} after fc6, {:g} after fc7, in training".format(*found.dropout) + (
        "" if has_rates else " (assumed)"
    )


def _remarks(layer: chain.Layer, name: str, pixels: ResolvedPreprocessing) -> list[str]:
    remarks = []
    if name == "conv1" and pixels.channel_order == "bgr":
        remarks.append("BGR turned to RGB")
    if isinstance(layer, chain.Convolution) and layer.groups > 1:
        remarks.append(f"{layer.groups} groups, zeros between them")
    if name == "fc6":
        remarks.append("inputs from channels first to channels last")
    if isinstance(layer, chain.Convolution | chain.Dense) and layer.bias is None:
        remarks.append("no bias: zeros")
    if isinstance(layer, chain.LocalResponseNorm):
        remarks.append(str(pixels.preset.lrn))
    if isinstance(layer, chain.Softmax):
        remarks.append("left out: the model gives logits")
    if isinstance(layer, chain.Dropout):
        left_out = "" if name.startswith("drop") else ", left out"
        remarks.append("no rate in the file" if layer.rate is None else f"rate {layer.rate:g}{left_out}")
    return remarks


def _scaling(pixels: ResolvedPreprocessing) -> str:
    parts = []
    if any(pixels.mean):
        parts.append(f"less {_numbers(pixels.mean)}")
    if set(pixels.std) != {1.0}:
        parts.append(f"divided by {_numbers(pixels.std)}")
    return f", {', '.join(parts) or 'as they are'} ({pixels.source})"


def _numbers(values: Sequence[float]) -> str:
    texts = [f"{value:.6g}" for value in values]
    return texts[0] if len(set(texts)) == 1 else ", ".join(texts)


def _times(array) -> str:
    return "" if array is None else " × ".join(map(str, array.shape))
