"""Compares the forms of a network, under any backend."""

import keras
import numpy as np
from keras import ops

from keras_alexnet.compute import Forms, compute_form
from keras_alexnet.compute_layers import SlicedMaxPool
from keras_alexnet.model import build_alexnet

ALL = Forms("blocks", "slices", "slices")
FORMS = (Forms(norm="band"), Forms(norm="slices", pool="slices"), ALL)
TOLERANCE = 1e-5

SMALL = {"filters": (24, 48, 96, 96, 64), "dense_units": 64, "image_size": 131}
# So large that a step leaves nothing in the weights but the gradient.
RATE = 1e6


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


def compiled(network: keras.Model, loss) -> keras.Model:
    network.compile(keras.optimizers.SGD(RATE), loss, jit_compile=keras.backend.backend() == "jax")
    return network


def gradients(network: keras.Model, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """The gradient of each variable of a compiled network, and the loss."""
    before = network.get_weights()
    loss = network.train_on_batch(x, y)
    after = network.get_weights()
    network.set_weights(before)
    arrays = [(old - new) / RATE for old, new in zip(before, after, strict=True)]
    return dict(zip([variable.path for variable in network.weights], arrays, strict=True)) | {"loss": np.array(loss)}


def distances(preset: str, all_forms=FORMS, **changes) -> dict[str, dict[str, float]]:
    """By how much loss and gradients of each form differ from the model's, of their own largest value.

    The gradient of the last bias shows the logits.
    """
    model = lively(preset, **SMALL, **changes)
    compiled(model, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return {str(forms): _distances(model, forms) for forms in all_forms}


def _distances(model: keras.Model, forms: Forms) -> dict[str, float]:
    network = compiled(compute_form(model, forms), model.loss)
    assert network.layers[-1].name == "layers"
    assert [id(variable) for variable in network.variables] == [id(variable) for variable in model.variables]
    size = model.input_shape[1]
    smallest: dict[str, float] = {}
    for seed in range(3):
        rng = np.random.default_rng(seed)
        x = rng.integers(0, 256, (2, size, size, 3), np.uint8)
        labels = rng.integers(0, 10, 2)
        if not forms.conv1:
            # Windows of the pools whose values are all the same. With another conv1 they would differ by rounding.
            x[0, : size // 2] = 200
        expected, results = gradients(model, x, labels), gradients(network, x, labels)
        for name, value in expected.items():
            distance = float(abs(results[name] - value).max() / abs(value).max())
            # No maximum that goes elsewhere changes the loss.
            kept = max if name == "loss" else min
            smallest[name] = kept(distance, smallest.get(name, distance))
        # In one batch of a dozen, rounding decides on a maximum, mostly of pool5. Its gradient then goes elsewhere,
        # which makes percents of so small a batch's; in several batches running it is a fault.
        if max(smallest.values()) < TOLERANCE:
            break
    return smallest


def pool_gradients() -> list[np.ndarray]:
    """Of the stock max pool and of the sliced one, for windows with several equal maxima."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, (2, 9 * 10 * 4)).astype("float32")
    upstream = rng.normal(size=(2, 4, 4, 4)).astype("float32")
    found = []
    for pool in (keras.layers.MaxPooling2D(3, 2), SlicedMaxPool()):
        values = keras.layers.Embedding(2, x.shape[1])
        network = keras.Sequential([keras.Input(()), values, keras.layers.Reshape((9, 10, 4)), pool])
        values.set_weights([x])
        compiled(network, lambda upstream, y: ops.sum(upstream * y, axis=(1, 2, 3)))
        found.append(gradients(network, np.arange(2), upstream)[values.embeddings.path])
    return found
