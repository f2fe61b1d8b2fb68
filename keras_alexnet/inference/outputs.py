"""Runs batches of images through a network: logits, or the outputs of any layer."""

import contextlib
import math

import keras
import numpy as np
from keras import ops

from keras_alexnet.compute import Forms, choose_forms, compute_form
from keras_alexnet.errors import UserError
from keras_alexnet.model_file import model_sizes
from keras_alexnet.system.keras_settings import keras_defaults
from keras_alexnet.training.devices.platform import current_platform, prefers_xla
from keras_alexnet.training.memory import explained_memory


class Outputs:
    """The outputs of a network for batches of images.

    Args:
        model: from (batch, side, side, 3) RGB pixels of 0 to 255 to logits (batch, num_classes). It is not modified.
        crops: crops of each image; with several of them, logits are the logarithms of their mean probabilities
            (Krizhevsky et al., 2012, section 4.1), and features are means.
        layer: the layer whose outputs to return, such as "relu7"; None for the logits.
        forms: the forms of the layers; None for the fastest known.

    Attributes:
        network: computes them, a batch of uint8 pixels at a time.
        shape: of the output of an image.

    Raises:
        UserError: a model of other inputs or outputs, one that ends in a softmax, or a layer that it does not have.
    """

    @keras_defaults()
    def __init__(self, model: keras.Model, crops: int = 1, layer: str | None = None, forms: Forms | None = None):
        side, _ = model_sizes(model)
        _refuse_probabilities(model)
        if layer is not None:
            _check_layer(model, layer)
        self._model, self._crops, self._platform = model, crops, current_platform()
        compiled = prefers_xla(self._platform)
        if forms is None:
            precision = next((each.dtype_policy.name for each in model.layers if each.weights), "float32")
            forms = choose_forms(self._platform, precision, compiled=compiled)
        network = compute_form(model, forms, layer)
        output = network.output
        if crops > 1:
            inputs = keras.Input((crops, side, side, 3))
            values = ops.cast(network(ops.reshape(inputs, (-1, side, side, 3))), "float32")
            values = ops.reshape(values, (-1, crops, *output.shape[1:]))
            network = keras.Model(inputs, _mean_of_logits(values) if layer is None else ops.mean(values, axis=1))
        network.compile(jit_compile=compiled)
        self.network = network
        self.shape = tuple(output.shape[1:])

    def __call__(self, images: np.ndarray, count: int) -> np.ndarray:
        """Computes a batch.

        Args:
            images: uint8 (batch, side, side, 3), or (batch, crops, side, side, 3) with several crops.
            count: of the images at its beginning; the rest is padding.

        Returns:
            float32 (count, …).

        Raises:
            UserError: it is not finite.
        """
        outputs = np.asarray(self.network.predict_on_batch(images), np.float32)[:count]
        if not np.isfinite(outputs).all():
            raise UserError(
                "the model produced NaN or Inf outputs. Its training diverged, or its file is corrupted. Use another "
                "model."
            )
        return outputs

    def explained_memory(self, batch_size: int) -> contextlib.AbstractContextManager:
        """Within it, too little memory for reading and computing `batch_size` images is a `UserError`."""
        return explained_memory(self._model, batch_size * self._crops, 1, self._platform, training=False)


def layer_names(model: keras.Model) -> list[str]:
    """The layers that have outputs, in the network's order."""
    return [layer.name for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]


def _refuse_probabilities(model: keras.Model) -> None:
    last = model.layers[-1]
    activation = getattr(getattr(last, "activation", None), "__name__", "")
    if isinstance(last, keras.layers.Softmax) or activation in ("softmax", "sigmoid"):
        raise UserError(
            f"the model's last layer, {last.name}, outputs probabilities; expected logits. Use a model without that "
            "activation."
        )


def _check_layer(model: keras.Model, name: str) -> None:
    if name not in layer_names(model):
        raise UserError(f"the model has no layer {name!r}; it has {', '.join(layer_names(model))}.")
    if isinstance(model.get_layer(name), keras.Model):
        raise UserError(f"{name} is a model inside the model. Use that model, model.get_layer({name!r}), by itself.")


def _mean_of_logits(logits):
    """(batch, crops, classes) → logits whose softmax is the mean of the softmax outputs."""
    # The logarithm of a sum of exponentials, since a mean of small probabilities may be 0 in float32.
    return ops.logsumexp(ops.log_softmax(logits), axis=1) - math.log(logits.shape[1])
