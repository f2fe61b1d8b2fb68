"""The compute form of a network computes what the network does."""

import keras
import numpy as np
import pytest
from keras import ops
from training_process import installed

from keras_alexnet import model as model_module
from keras_alexnet.compute import PORTABLE, Forms, choose_forms, compute_form
from keras_alexnet.compute_layers import BlockConv2D, SlicedMaxPool
from keras_alexnet.inference.outputs import Outputs
from keras_alexnet.model import build_alexnet, set_precision
from keras_alexnet.model_file import load_model, save_model
from keras_alexnet.normalization import lrn_band, read_lrn
from keras_alexnet.presets import LRN

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


def assert_all_close(distances: dict[str, dict[str, float]]) -> None:
    for forms, of_result in distances.items():
        for name, distance in of_result.items():
            assert distance < TOLERANCE, (forms, name)
    # Not the same operations, or nothing was compared.
    assert any(any(of_result.values()) for of_result in distances.values())


def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 227, 227, 3), np.uint8)


@pytest.mark.parametrize(("scale", "lrn"), [(1.0, LRN()), (1.005, None)])
def test_a_normalization_is_known_by_its_values_though_gpus_round_its_products(scale, lrn):
    x = keras.Input((13, 13, 96))
    # TF32 has the digits of float16, but not its range.
    band = (lrn_band(96, LRN()) * 2**14).astype("float16").astype("float32") / 2**14
    squares = ops.cast(ops.cast(ops.square(x), "float16"), "float32")
    # Composed otherwise, so that the constants cannot be read.
    sums = scale * ops.matmul(squares, ops.convert_to_tensor(band))
    assert read_lrn(x, keras.layers.Multiply()([x, ops.exp(-0.75 * ops.log(1 + sums))])) == lrn


def test_loss_and_gradients_are_those_of_the_model():
    assert_all_close(distances("paper", lrn=LRN(9, 0.5, 0.6, 1.5)))
    for preset in ("cntk_python", "caffenet", "torchvision"):
        assert_all_close(distances(preset, [ALL]))


@pytest.mark.slow
@pytest.mark.parametrize("backend", installed("jax", "torch"))
def test_so_they_are_on_other_backends(backend_process, backend):
    run = backend_process(backend).run
    assert_all_close(run(distances, "caffenet", [ALL]))
    np.testing.assert_allclose(*run(pool_gradients), atol=1e-6)


def test_the_first_of_equal_maxima_gets_the_gradient_as_in_stock_pools():
    np.testing.assert_allclose(*pool_gradients(), atol=1e-6)


def test_blocks_take_images_of_any_size():
    conv = keras.layers.Conv2D(3, 11, strides=4)
    for width, strides in ((227, 55), (228, 55), (230, 55), (231, 56), (11, 1)):
        x = np.random.default_rng(0).normal(size=(2, width, 40, 3)).astype("float32")
        expected = np.asarray(conv(x))
        assert expected.shape == (2, strides, 8, 3)
        np.testing.assert_allclose(np.asarray(BlockConv2D(conv)(x)), expected, atol=1e-5)


def test_pools_take_images_of_any_size_and_pass_on_what_is_not_finite():
    for size in (3, 4, 13):
        x = np.random.default_rng(0).normal(size=(2, size, size + 1, 3)).astype("float32")
        x[1, 1, 1, 1] = np.nan
        expected, found = (np.asarray(pool(x)) for pool in (keras.layers.MaxPooling2D(3, 2), SlicedMaxPool()))
        np.testing.assert_array_equal(found[0], expected[0])
        assert np.isnan(found[1, 0, 0, 1])


def test_variables_are_shared_and_precision_and_frozen_layers_are_the_models():
    model = build_alexnet(10, preset="tiny")
    model.get_layer("conv1").trainable = False
    set_precision(model, "mixed_bfloat16")
    network = compute_form(model, ALL)
    assert [variable.path for variable in network.trainable_variables] == [
        variable.path for variable in model.trainable_variables
    ]
    steps = {step.name: step for step in network.layers[-1].steps}
    assert list(steps) == [layer.name for layer in model.layers[1:]]
    assert {name for name, step in steps.items() if step is not model.get_layer(name)} == {
        *("conv1", "norm1", "norm2", "pool1", "pool2", "pool5")
    }
    for name in ("conv1", "pool1", "fc6"):
        assert steps[name].compute_dtype == "bfloat16", name
    expected, found = (np.asarray(each(images(), training=False)) for each in (model, network))
    assert found.dtype == np.float32
    assert abs(found - expected).max() < 1e-2 * abs(expected).max()
    model.get_layer("fc8").bias.assign(np.arange(10))
    assert np.asarray(network(images(), training=False)).argmax(axis=1).tolist() == [9, 9]


def test_a_saved_model_has_it_and_the_model_knows_nothing_of_it(tmp_path):
    model = lively("tiny")
    config = model.get_config()
    logits = np.asarray(compute_form(model, ALL)(images()))
    for layer in ("norm1", "pool2"):
        expected = Outputs(model, layer=layer)(images(), 2)
        values = np.asarray(compute_form(model, ALL, layer)(images()))
        np.testing.assert_allclose(values, expected, atol=1e-5 * abs(expected).max())
    assert model.get_config() == config
    save_model(model, tmp_path / "model.keras")
    again = compute_form(load_model(str(tmp_path / "model.keras")), ALL)
    assert again.layers[-1].name == "layers"
    np.testing.assert_array_equal(np.asarray(again(images())), logits)


def test_other_networks_keep_their_own_layers(monkeypatch):
    # Only one of its normalizations is something else.
    with monkeypatch.context() as other:
        other.setattr(model_module, "local_response_norm", lambda x, _, name: keras.layers.Multiply(name=name)([x, x]))
        foreign = build_alexnet(10, preset="tiny")
    image = keras.Input((227, 227, 3))
    x = keras.layers.Conv2D(4, 11, strides=4)(image)
    branched = keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(keras.layers.Add()([x, x]))))
    for each in (foreign, branched):
        assert compute_form(each, ALL).layers == each.layers


def test_forms_are_chosen_by_platform():
    assert choose_forms("gpu", "mixed_bfloat16", compiled=True) == ALL
    # Each slice would be a kernel of its own.
    assert choose_forms("gpu", "mixed_bfloat16", compiled=False) == PORTABLE
