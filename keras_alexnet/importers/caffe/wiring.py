"""The way of the image through a Caffe network, which also has layers for labels, losses and metrics."""

from collections.abc import Sequence

from keras_alexnet.errors import UserError
from keras_alexnet.importers.caffe.layers import CaffeLayer

WEIGHTED = ("Convolution", "InnerProduct")

# What only measures the network, in addition to all that takes labels.
_MEASURES = ("ArgMax", "Silence", "HDF5Output", "Accuracy")
# Layers that change nothing in a dense layer's output.
_TRANSPARENT = ("Split", "Flatten", "Dropout")


def image_path(layers: Sequence[CaffeLayer], path: str) -> tuple[list[CaffeLayer], list[CaffeLayer]]:
    """Finds what an image goes through: the layers before the last one with weights, and a softmax behind it.

    Args:
        layers: of the network, in order.
        path: the file that describes them, for messages.

    Returns:
        (the layers in order, the layers that give the image: several in a network for training and testing).
    """
    before = _inputs(layers)
    weighted = [place for place, layer in enumerate(layers) if layer.type in WEIGHTED]
    if not weighted:
        raise UserError(f"{path} has no layers with weights. Expected an AlexNet: use the network's own file.")
    end = weighted[-1]
    places: list[int] = []
    place: int | None = end
    while place is not None and layers[place].bottoms:
        layer = layers[place]
        if len(layer.bottoms) != 1:
            raise UserError(
                f"{path}: layer {layer.name!r} ({layer.type}) takes {listed(layer.bottoms)}. Expected an AlexNet, in "
                "which each layer takes the output of one other; with --deploy the network can be described by its "
                "deploy.prototxt."
            )
        places.insert(0, place)
        place = before[place][0]
    if others := [layers[place] for place in weighted if place not in places]:
        raise UserError(
            f"{path}: layers {others[0].name!r} and {layers[end].name!r} both have weights, and neither uses the "
            "output of the other. Expected an AlexNet with one output; with --deploy it can be described by a "
            "prototxt without the other layers."
        )
    image = layers[places[0]].bottoms[0] if places else None
    sources = [layer for layer in layers if not layer.bottoms and image in layer.tops]
    places += _outputs(layers, before, end)
    return [layers[place] for place in places], sources


def listed(names: Sequence[str]) -> str:
    """Some names for messages."""
    return ", ".join([*map(repr, names[:8]), *["…"] * (len(names) > 8)]) or "nothing"


def _inputs(layers: Sequence[CaffeLayer]) -> list[list[int | None]]:
    """For each layer the places of those that give its bottoms; None for one that no layer gives."""
    writers: dict[str, int] = {}
    inputs = []
    for place, layer in enumerate(layers):
        inputs.append([writers.get(bottom) for bottom in layer.bottoms])
        # A layer that works in place is the last one to write its blob.
        writers.update(dict.fromkeys(layer.tops, place))
    return inputs


def _outputs(layers: Sequence[CaffeLayer], before: Sequence[Sequence[int | None]], end: int) -> list[int]:
    """The places of the layers that take only the logits and do not just measure or copy them."""
    logits, measures, outputs = {end}, set(), []
    for place in range(end + 1, len(layers)):
        taken, layer = set(before[place]), layers[place]
        if not taken & (logits | measures):
            continue
        if taken - logits or layer.type in _MEASURES or layer.type.endswith("Loss"):
            measures.add(place)
            continue
        logits.add(place)
        if layer.type not in _TRANSPARENT:
            outputs.append(place)
    return outputs
