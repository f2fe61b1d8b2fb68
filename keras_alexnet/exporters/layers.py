"""The layers of a network in order, as the writers of other formats need them; whatever they do not know is refused."""

import keras
from keras import layers

from keras_alexnet.errors import UserError
from keras_alexnet.model import DATA_FORMAT, is_local_response_norm

# What the writers look at of each class of layer, or take for granted: all else must be as Keras has it by default.
_KNOWN = {
    layers.Rescaling: {},
    layers.ZeroPadding2D: {"data_format": DATA_FORMAT},
    layers.Conv2D: {
        "data_format": DATA_FORMAT,
        "dilation_rate": (1, 1),
        "groups": 1,
        "activation": "linear",
        "use_bias": True,
    },
    layers.ReLU: {"max_value": None, "negative_slope": 0.0, "threshold": 0.0},
    layers.Multiply: {},
    layers.MaxPooling2D: {"data_format": DATA_FORMAT, "padding": "valid"},
    layers.Flatten: {"data_format": DATA_FORMAT},
    layers.Dense: {"activation": "linear", "use_bias": True},
    layers.Dropout: {},
}


def layers_in_order(model: keras.Model) -> list[keras.Layer]:
    """The layers of a model of `build_alexnet` from its pixels to its logits, without the input layer.

    The operations of a local response normalization are left out: the Multiply layer at their end stands for it.

    Raises:
        UserError: another network: not one layer after the other, a layer or setting that `build_alexnet` never uses,
            or another normalization.
    """
    try:
        x, output = model.input, model.output
    except (AttributeError, ValueError):
        raise _unknown("it is no functional model") from None
    chain = [layer for layer in getattr(model, "layers", []) if not isinstance(layer, layers.InputLayer)]
    for layer in chain:
        if type(layer) not in _KNOWN:
            raise _unknown(f"its layer {layer.name} is of the class {type(layer).__name__}")
        for setting, expected in _KNOWN[type(layer)].items():
            found = layer.get_config()[setting]
            if found != expected:
                raise _unknown(f"the {setting} of its layer {layer.name} is {found!r}, expected {expected!r}")
        if isinstance(layer, layers.Multiply):
            if not is_local_response_norm(x, layer.output):
                raise _unknown(f"its layer {layer.name} is no local response normalization with AlexNet's constants")
        elif layer.input is not x:
            raise _unknown(f"the input of its layer {layer.name} is not the output of the layer before it")
        x = layer.output
    if output is not x:
        raise _unknown("its output is not that of its last layer")
    return chain


def _unknown(reason: str) -> UserError:
    return UserError(
        f"this format holds networks of keras_alexnet only, and the model is another: {reason}. Give a model of "
        "keras_alexnet, or write a SavedModel, which holds any network."
    )
