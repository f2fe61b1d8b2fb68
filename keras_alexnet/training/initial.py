"""Networks that start from the weights of a saved model, and layers that keep theirs."""

import os

import keras

from keras_alexnet.errors import UserError, raise_if_any
from keras_alexnet.model import build_alexnet, read_preset
from keras_alexnet.model_file import load_model
from keras_alexnet.normalization import read_lrn
from keras_alexnet.presets import FREEZABLE, WEIGHTED, Preset, per_channel

# Of a layer's settings, those of the run and of the new weights: what the network computes does not depend on them.
_NOT_COMPARED = ("trainable", "dtype", "kernel_initializer", "bias_initializer", "rate", "seed")


def build_from(
    path: str | os.PathLike, num_classes: int, *, dropout: float = 0.5, seed: int | None = None
) -> keras.Model:
    """Builds the network of a saved model with its weights, for other training and perhaps for other classes.

    It is rebuilt by `build_alexnet`, and so is trainable throughout and in float32, whatever the run was that wrote
    the file.

    Args:
        path: a `.keras` file of a network of `build_alexnet`.
        num_classes: units of fc8. Where the file has as many, fc8 is the file's; else it is new.
        dropout: rate after fc6 and fc7, in place of the file's.
        seed: of a new fc8 and of dropout, as for `build_alexnet`.

    Raises:
        UserError: the file cannot be loaded, or `build_alexnet` cannot build its network.
    """
    path = os.fspath(path)
    saved = load_model(path)
    layers = {layer.name: layer for layer in getattr(saved, "layers", [])}
    missing = [name for name in WEIGHTED if name not in layers]
    if missing:
        raise UserError(
            f"cannot start from {path}: its model has no layer {missing[0]}; expected those of AlexNet, "
            f"{', '.join(WEIGHTED)}. Use a model of keras_alexnet, such as the model.keras of another run."
        )
    try:
        classes = layers["fc8"].units
        preset = read_preset(saved)
        model = build_alexnet(num_classes, preset=preset, dropout=dropout, seed=seed)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"cannot start from {path}: a layer of its model is not what its name says ({error}). Use a model of "
            "keras_alexnet, such as the model.keras of another run."
        ) from None
    raise_if_any(
        _differences(saved, model, preset),
        f"cannot start from {path}: its network is not the one that keras_alexnet builds with the same sizes. Use a "
        "model of keras_alexnet, such as the model.keras of another run",
    )
    for name in WEIGHTED if classes == num_classes else FREEZABLE:
        model.get_layer(name).set_weights(layers[name].get_weights())
    return model


def freeze_through(model: keras.Model, layer_name: str) -> None:
    """Makes the weights of every layer up to and including `layer_name` untrainable.

    Neither gradients nor weight decay change them: the optimizer never sees them. Call it before compiling. Dropout
    behind frozen layers continues. It is a property of the run, not of the network: `save_model` leaves it out.

    Args:
        model: of `build_alexnet`.
        layer_name: one of `FREEZABLE`.

    Raises:
        UserError: another name.
    """
    if layer_name not in FREEZABLE:
        reason = ": nothing would be left to train" if layer_name == "fc8" else ""
        raise UserError(f"cannot freeze through {layer_name!r}{reason}; expected one of {', '.join(FREEZABLE)}.")
    for name in FREEZABLE[: FREEZABLE.index(layer_name) + 1]:
        model.get_layer(name).trainable = False


def _differences(saved: keras.Model, expected: keras.Model, preset: Preset) -> list[str]:
    """How the network of `saved` differs from `expected`, a line each; weights and the number of classes aside."""
    found, wanted = _settings(saved), _settings(expected)
    problems = [f"it has no layer {name}" for name in wanted if name not in found]
    problems += [f"it has a layer {name}, of {found[name]['class']}" for name in found if name not in wanted]
    wanted["fc8"]["units"] = found["fc8"].get("units")
    for name in wanted.keys() & found.keys():
        for setting in sorted(wanted[name].keys() | found[name].keys()):
            is_set_to, expected_setting = found[name].get(setting), wanted[name].get(setting)
            if is_set_to != expected_setting:
                problems.append(f"{name}: its {setting} is {is_set_to}, expected {expected_setting}")
    if not problems:
        problems = [
            f"{name} computes something else than local response normalization with the constants of norm1"
            for name in ("norm1", "norm2")
            if name in wanted and read_lrn(*_around(saved, expected, name)) != preset.lrn
        ]
    return sorted(problems)


def _settings(model: keras.Model) -> dict[str, dict]:
    """Of each layer its class, where its input comes from and its output goes, and its config."""
    # As a functional model, whose config has the connections of the layers.
    model = keras.Model(model.inputs, model.outputs)
    entries = {entry["name"]: entry for entry in model.get_config()["layers"]}
    named = {name for name, entry in entries.items() if entry["module"] == "keras.layers"}
    settings = {}
    for name in named:
        entry = entries[name]
        sources, operations = set(), False
        waiting = _sources(entry["inbound_nodes"])
        while waiting:
            source = waiting.pop()
            if source in named:
                sources.add(source)
            else:
                operations = True
                waiting += _sources(entries[source]["inbound_nodes"])
        config = {key: value for key, value in entry["config"].items() if key not in _NOT_COMPARED}
        # A number for all channels, a tuple, or a list out of a file.
        config |= {key: per_channel(config[key]) for key in ("scale", "offset") if key in config}
        settings[name] = config | {
            "class": entry["class_name"],
            "input": ", ".join(sorted(sources)) + (" by way of operations" if operations else ""),
            "output": "the logits" if name in model.output_names else "for other layers",
        }
    return settings


def _sources(node) -> list[str]:
    """The names of the layers and operations whose outputs occur in the inbound nodes of a config."""
    if isinstance(node, dict):
        if "keras_history" in node:
            return [node["keras_history"][0]]
        node = list(node.values())
    if isinstance(node, list | tuple):
        return [name for child in node for name in _sources(child)]
    return []


def _around(saved: keras.Model, expected: keras.Model, name: str) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Input and output in `saved` of a layer of `expected`, with the operations between it and the layer before it."""
    names = [layer.name for layer in expected.layers]
    return saved.get_layer(names[names.index(name) - 1]).output, saved.get_layer(name).output
