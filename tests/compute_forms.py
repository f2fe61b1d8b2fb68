"""Compares the forms of a network, under any backend."""

import keras
import numpy as np
from keras import ops

from keras_alexnet.compute import Forms, compute_form
from keras_alexnet.compute_layers import SlicedMaxPool
from keras_alexnet.model import build_alexnet

FORMS = (
    Forms(conv1="blocks"),
    Forms(norm="band"),
    Forms(norm="slices"),
    Forms(pool="slices"),
    Forms("blocks", "slices", "slices"),
)
ALL = FORMS[-1]
TOLERANCE = 1e-5

NARROW = (24, 48, 96, 96, 64)


def lively(preset: str, **changes) -> keras.Model:
    """A network whose weights let the signal through, unlike those of the recipe: every layer matters."""
    model = build_alexnet(10, preset=preset, dropout=0.0, **changes)
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if layer.weights:
            kernel, bias = (weight.shape for weight in layer.weights)
            scale = np.sqrt(2 / np.prod(kernel[:-1]))
            if layer.name == "conv1" and preset != "torchvision":  # Pixels of 0 to 255.
                scale /= 50
            layer.set_weights([rng.normal(0, scale, kernel).astype("float32"), rng.normal(0, 0.1, bias)])
    return model


def results_of(network: keras.Model, x: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Logits, loss and the gradient of each variable."""

    def loss_of(logits):
        return ops.mean(keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True))

    variables = network.trainable_variables
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        @tf.function
        def compute(x):
            with tf.GradientTape() as tape:
                logits = network(x, training=True)
                loss = loss_of(logits)
            return logits, loss, tape.gradient(loss, [variable.value for variable in variables])

        logits, loss, gradients = compute(x)
    elif keras.backend.backend() == "jax":
        import jax

        def forward(values, x):
            others = [variable.value for variable in network.non_trainable_variables]
            logits, _ = network.stateless_call(values, others, x, training=True)
            return loss_of(logits), logits

        compute = jax.jit(jax.value_and_grad(forward, has_aux=True))
        (loss, logits), gradients = compute([variable.value for variable in variables], x)
    else:
        network.zero_grad()
        logits = network(x, training=True)
        loss = loss_of(logits)
        loss.backward()
        gradients = [variable.value.grad for variable in variables]
    arrays = dict(zip([variable.path for variable in variables], gradients, strict=True))
    return {
        name: ops.convert_to_numpy(array).copy() for name, array in (arrays | {"logits": logits, "loss": loss}).items()
    }


def distances(preset: str, batch_size: int, all_forms=FORMS, **changes) -> dict[str, dict[str, float]]:
    """By how much each result of each form differs from the model's, of its own largest value."""
    model = lively(preset, **changes)
    return {str(forms): _distances(model, forms, batch_size) for forms in all_forms}


def _distances(model: keras.Model, forms: Forms, batch_size: int) -> dict[str, float]:
    network = compute_form(model, forms)
    assert network.layers[-1].name == "layers"
    assert [id(variable) for variable in network.variables] == [id(variable) for variable in model.variables]
    size = model.input_shape[1]
    smallest: dict[str, float] = {}
    for seed in range(3):
        rng = np.random.default_rng(seed)
        x = rng.integers(0, 256, (batch_size, size, size, 3), np.uint8)
        labels = rng.integers(0, 10, batch_size)
        if not forms.conv1:
            # Windows of the pools whose values are all the same. With another conv1 they would differ by rounding.
            x[0, : size // 2] = 200
        expected, results = results_of(model, x, labels), results_of(network, x, labels)
        for name, value in expected.items():
            distance = float(abs(results[name] - value).max() / abs(value).max())
            # No maximum that goes elsewhere changes these.
            kept = max if name in ("logits", "loss") else min
            smallest[name] = kept(distance, smallest.get(name, distance))
        # In one batch of a dozen, rounding decides on a maximum, mostly of pool5. Its gradient then goes elsewhere,
        # which makes percents of so small a batch's; in several batches running it is a fault.
        if max(smallest.values()) < TOLERANCE:
            break
    return smallest


def pool_gradients() -> tuple[np.ndarray, np.ndarray]:
    """Of the stock max pool and of the sliced one, for windows with several equal maxima."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, (2, 9, 10, 4)).astype("float32")
    upstream = rng.normal(size=(2, 4, 4, 4)).astype("float32")
    return tuple(_input_gradient(pool, x, upstream) for pool in (keras.layers.MaxPooling2D(3, 2), SlicedMaxPool()))


def _input_gradient(layer: keras.Layer, x: np.ndarray, upstream: np.ndarray) -> np.ndarray:
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        x = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        return tape.gradient(y, x, upstream).numpy()
    if keras.backend.backend() == "jax":
        import jax

        _, pull_back = jax.vjp(layer, jax.numpy.asarray(x))
        return np.asarray(pull_back(upstream)[0])
    import torch

    x = torch.from_numpy(x).requires_grad_()
    layer(x).backward(torch.from_numpy(upstream))
    return x.grad.numpy()
