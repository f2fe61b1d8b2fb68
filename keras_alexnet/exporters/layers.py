"""The layers of a network in order, as the writers of other formats need them; whatever they do not know is refused."""

import keras
from keras import layers

from keras_alexnet.compute_layers import LocalResponseNorm
from keras_alexnet.errors import UserError
from keras_alexnet.model import DATA_FORMAT
from keras_alexnet.normalization import read_lrn

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

    The operations of a local response normalization become one layer, a `LocalResponseNorm`.

    Raises:
        UserError: another network: not a chain, or with a layer or setting that `build_alexnet` never uses.
    """
    try:
        x, output = model.input, model.output
    except (AttributeError, ValueError):
        raise _unknown("it is not a functional model") from None
    chain = []
    for layer in model.layers:
        if isinstance(layer, layers.InputLayer):
            continue
        if type(layer) not in _KNOWN:
            raise _unknown(f"its layer {layer.name} is of the class {type(layer).__name__}")
        for setting, expected in _KNOWN[type(layer)].items():
            found = layer.get_config()[setting]
            if found != expected:
                raise _unknown(f"the {setting} of its layer {layer.name} is {found!r}, expected {expected!r}")
        if isinstance(layer, layers.Multiply):
            lrn = read_lrn(x, layer.output)
            if lrn is None:
                raise _unknown(f"its layer {layer.name} is not a local response normalization")
            chain.append(LocalResponseNorm(lrn, "band", name=layer.name))
        elif layer.input is not x:
            raise _unknown(f"the input of its layer {layer.name} is not the output of the layer before it")
        else:
            chain.append(layer)
        x = layer.output
    if output is not x:
        raise _unknown("its output is not that of its last layer")
    return chain


def _unknown(reason: str) -> UserError:
    return UserError(
        f"this format holds networks of keras_alexnet only, and the model is another: {reason}. Use a model of "
        "keras_alexnet, or write a SavedModel, which holds any network."
    )
