import dataclasses

import keras
import numpy as np
import pytest
from cntk_reference import REFERENCE, build_reference_network, images_to_keras

from keras_alexnet import model as model_module
from keras_alexnet.model import build_alexnet, read_preset, set_precision
from keras_alexnet.normalization import local_response_norm, read_lrn
from keras_alexnet.presets import LRN, PRESETS, WEIGHTED, preset_name, spatial_sizes

LAYERS = [
    *("image", "input_mean"),
    *("conv1", "relu1", "norm1", "pool1"),
    *("conv2", "relu2", "norm2", "pool2"),
    *("conv3", "relu3", "conv4", "relu4", "conv5", "relu5", "pool5", "flatten"),
    *("fc6", "relu6", "drop6", "fc7", "relu7", "drop7", "fc8"),
]
TINY = {"num_classes": 3, "preset": "tiny"}
NARROW = {"filters": (4, 5, 6, 7, 8), "dense_units": (4, 3)}


def relative_difference(a: np.ndarray, reference: np.ndarray) -> float:
    return np.abs(a - reference).max() / np.abs(reference).max()


@pytest.fixture(scope="module")
def full_network():
    keras.utils.set_random_seed(0)
    return build_alexnet()


def test_full_network_has_cntks_parameters_and_shapes(full_network):
    assert full_network.count_params() == 62_003_496
    assert len(full_network.weights) == 16
    assert [layer.name for layer in full_network.layers] == LAYERS
    shapes = {name: full_network.get_layer(name).output.shape[1:] for name in LAYERS}
    assert shapes["conv1"] == (55, 55, 96)
    assert shapes["pool1"] == (27, 27, 96)
    assert shapes["conv2"] == (27, 27, 192)
    assert shapes["pool2"] == (13, 13, 192)
    assert shapes["conv3"] == shapes["conv4"] == (13, 13, 384)
    assert shapes["conv5"] == (13, 13, 256)
    assert shapes["pool5"] == (6, 6, 256)
    assert shapes["fc6"] == shapes["fc7"] == (4096,)
    assert shapes["fc8"] == (1000,)


def test_initial_weights_are_cntks(full_network):
    for name in WEIGHTED:
        kernel, biases = full_network.get_layer(name).get_weights()
        stddev = 0.005 if name in ("fc6", "fc7") else 0.01
        # Four standard errors of the sample's mean and standard deviation.
        assert abs(kernel.mean()) < 4 * stddev / np.sqrt(kernel.size), name
        assert abs(kernel.std() - stddev) < 4 * stddev / np.sqrt(2 * kernel.size), name
        bias = 0.0 if name in ("conv1", "conv3", "fc8") else 0.1
        np.testing.assert_array_equal(biases, np.float32(bias), err_msg=name)


def test_logits_and_activations_are_cntks():
    network = build_reference_network()
    with np.load(REFERENCE / "cntk_tiny_activations.npz") as reference:
        names = [key.removeprefix("act.") for key in reference.files if key.startswith("act.")]
        every_layer = keras.Model(network.input, [network.get_layer(name).output for name in [*names, "fc8"]])
        *activations, logits = every_layer.predict_on_batch(images_to_keras(reference["x"]))
        assert len(names) == 10
        assert relative_difference(logits, reference["logits"]) < 1e-5
        for name, activation in zip(names, activations, strict=True):
            if activation.ndim == 4:
                activation = activation.transpose(0, 3, 1, 2)
            assert relative_difference(activation, reference[f"act.{name}"].reshape(activation.shape)) < 1e-5, name


def test_given_weights():
    random_ones = build_alexnet(**TINY, seed=0)
    network = build_alexnet(**TINY, dropout=(0.25, 0.5), weights=lambda name: random_ones.get_layer(name).get_weights())
    for weight, expected in zip(network.weights, random_ones.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), expected.numpy())
    # A copy is a new network.
    copy = keras.models.clone_model(network)
    assert 0.004 < copy.get_layer("fc6").kernel.numpy().std() < 0.006
    assert [copy.get_layer(name).rate for name in ("drop6", "drop7")] == [0.25, 0.5]


def test_given_weights_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"conv1 has weights of shape \(11,\), expected \(11, 11, 3, 24\)"):
        build_alexnet(**TINY, weights=lambda name: (np.zeros(11, np.float32), np.zeros(24, np.float32)))


@pytest.mark.parametrize(
    ("lrn", "alpha_per_square"),
    [(LRN(), 2e-5), (PRESETS["paper"].lrn, 1e-4), (LRN(size=3, alpha=5e-4, beta=0.6, k=1.5), 5e-4 / 3)],
)
def test_local_response_norm_is_the_formula(lrn, alpha_per_square):
    x = np.random.default_rng(0).normal(0, 60, (2, 3, 3, 12)).astype(np.float32)
    inputs = keras.Input(x.shape[1:])
    output = local_response_norm(inputs, lrn, "norm")
    reach = lrn.size // 2
    squares = np.pad(x.astype(np.float64) ** 2, [(0, 0)] * 3 + [(reach, reach)])
    sums = sum(squares[..., i : i + 12] for i in range(lrn.size))
    expected = x / (lrn.k + alpha_per_square * sums) ** lrn.beta
    np.testing.assert_allclose(keras.Model(inputs, output).predict_on_batch(x), expected, rtol=2e-6)
    assert read_lrn(inputs, output) == lrn


@pytest.mark.parametrize(
    ("rule", "size", "pooled", "first"),
    [("cntk", 55, 28, -1), ("cntk", 28, 14, -1), ("caffe", 54, 27, 0), ("caffe", 13, 6, 0)],
)
def test_pools_are_padded_as_those_of_cntk_and_caffe(rule, size, pooled, first):
    """CNTK's first window is centered on pixel 0; Caffe's last one sticks out where the size is even."""
    x = np.random.default_rng(size).uniform(0, 1, (1, size, size, 2)).astype(np.float32)
    inputs = keras.Input(x.shape[1:])
    result = keras.Model(inputs, model_module._max_pool(inputs, "pool", rule)).predict_on_batch(x)
    windows = [slice(max(2 * i + first, 0), 2 * i + first + 3) for i in range(pooled)]
    expected = [[x[0, rows, columns].max((0, 1)) for columns in windows] for rows in windows]
    np.testing.assert_array_equal(result[0], expected)


@pytest.mark.parametrize(("preset", "parameters"), [("bvlc", 62_378_344), ("torchvision", 61_100_840)])
def test_parameters_of_other_networks(preset, parameters):
    """BVLC's 60,965,224 and the zeros of its groups; what torchvision's documentation says."""
    assert build_alexnet(preset=preset).count_params() == parameters


def test_layers_of_other_presets():
    def order(preset):
        return [layer.name for layer in build_alexnet(2, preset=preset, **NARROW).layers]

    after_pool = [*LAYERS[:4], "pool1", "norm1", "conv2", "relu2", "pool2", "norm2", *LAYERS[10:]]
    without = [name for name in LAYERS if not name.startswith("norm")]
    assert order("cntk") == order("bvlc") == LAYERS
    assert order("caffenet") == after_pool
    assert order("torchvision") == [*without[:2], "conv1_pad", *without[2:]]


@pytest.mark.parametrize(
    ("preset", "pixel", "expected"),
    [
        ("cntk", (200, 100, 50), (86, -14, -64)),
        ("bvlc", (200, 100, 50), (77, -17, -54)),
        ("torchvision", (255, 0, 51), (2.2489083, -2.0357143, -0.9155556)),
    ],
)
def test_what_the_network_makes_of_pixels(preset, pixel, expected):
    """Where torchvision pads them, it pads what it has normalized: zeros are the mean."""
    network = build_alexnet(2, preset=preset, **NARROW)
    size, padding = PRESETS[preset].image_size, PRESETS[preset].conv1_padding
    seen = keras.Model(network.input, network.get_layer("conv1").input)
    result = seen.predict_on_batch(np.full((1, size, size, 3), pixel, np.uint8))[0]
    assert len(result) == size + 2 * padding
    inside = slice(padding, padding + size)
    np.testing.assert_allclose(result[inside, inside], np.broadcast_to(expected, (size, size, 3)), rtol=1e-4)
    assert np.count_nonzero(result) == 3 * size**2


def test_numbers_may_be_numpys():
    settings = {"filters": (1,) * 5, "dense_units": (1, 1)}
    model = build_alexnet(np.int64(3), seed=np.int64(1), dropout=np.array([0.25, 0.25]), **settings)
    expected = build_alexnet(3, seed=1, dropout=0.25, **settings)
    assert model.get_layer("drop6").get_config() == expected.get_layer("drop6").get_config()
    assert all(map(np.array_equal, model.get_weights(), expected.get_weights()))


@pytest.mark.parametrize(
    ("arguments", "expected_text"),
    [
        ({"preset": "vgg"}, "'vgg', expected one of cntk, cntk_python, bvlc"),
        ({"pool_padding": "same"}, "pool_padding is 'same', expected one of valid, cntk, caffe"),
        ({"image_size": 50}, "image_size is 50, too small"),
        ({"dropout": (0.5, 0.5, 0.5)}, "dropout has 3 entries, expected one or two"),
        ({"dropout": 1}, "dropout is 1, expected 0 or above and below 1"),
        ({"filters": (1, 2, 3)}, "3 entries, expected five"),
        ({"dense_units": (1, 2, 3)}, "3 entries, expected two"),
    ],
)
def test_bad_arguments_are_refused(arguments, expected_text):
    with pytest.raises(ValueError, match=expected_text):
        build_alexnet(**arguments)


def test_set_precision_equals_a_network_built_so():
    x = np.random.default_rng(0).integers(0, 256, (2, 227, 227, 3), dtype=np.uint8)
    network = build_alexnet(**TINY)
    in_float32 = network(x, training=False)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        built_so = build_alexnet.__wrapped__(**TINY)  # without its own defaults
    finally:
        keras.config.set_dtype_policy("float32")
    built_so.set_weights(network.get_weights())
    set_precision(network, "mixed_bfloat16")
    np.testing.assert_array_equal(network(x, training=False), built_so(x, training=False))
    assert np.any(np.asarray(in_float32) != np.asarray(network(x, training=False)))
    assert {weight.dtype for weight in network.weights} == {"float32"}
    for name in ("input_mean", "norm1", "norm2", "fc8"):
        assert network.get_layer(name).compute_dtype == built_so.get_layer(name).compute_dtype == "float32", name
    assert network.get_layer("conv2").compute_dtype == "bfloat16"
    set_precision(network, "float32")
    np.testing.assert_array_equal(network(x, training=False), in_float32)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_preset_and_the_sizes_of_a_model(preset):
    narrow = dataclasses.replace(PRESETS[preset], **NARROW)
    network = build_alexnet(2, preset=narrow)
    sizes = [network.get_layer(name).output.shape[1] for name in ("conv1", "pool1", "pool2", "pool5")]
    assert spatial_sizes(narrow) == sizes
    assert sizes[-1] == (7 if preset == "cntk_python" else 6)
    found = read_preset(network)
    assert dataclasses.replace(found, pool_padding=narrow.pool_padding) == narrow
    assert spatial_sizes(found) == sizes


def test_a_preset_is_known_by_what_it_computes():
    assert {preset_name(preset) for preset in PRESETS.values()} == set(PRESETS)
    # At 227 pixels Caffe's rule pads nothing; at 224 it does.
    bvlc = dataclasses.replace(PRESETS["bvlc"], pool_padding="valid")
    assert preset_name(bvlc) == "bvlc"
    assert preset_name(dataclasses.replace(bvlc, image_size=224)) is None
    assert preset_name(dataclasses.replace(PRESETS["cntk_python"], pool_padding="caffe")) == "cntk"
