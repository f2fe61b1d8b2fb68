import keras
import numpy as np
import pytest
from keras import layers, ops
from narrow_networks import SIDE, narrow_network

from keras_alexnet import model as model_module
from keras_alexnet.errors import UserError
from keras_alexnet.model import set_precision
from keras_alexnet.model_file import load_model, save_model
from keras_alexnet.presets import LRN, WEIGHTED
from keras_alexnet.training.initial import build_from, freeze_through
from keras_alexnet.training.metrics import compile_model
from keras_alexnet.training.optimizer import SGDWithL2

IMAGES = np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 1])


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[str, keras.Model]:
    """A file of three classes, and the network in it."""
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    network = narrow_network(3)
    network.save(path)
    return str(path), network


def train(network: keras.Model) -> None:
    compile_model(network, SGDWithL2(0.01, l2=0.1))
    for _ in range(2):
        network.train_on_batch(IMAGES, LABELS)


def test_other_classes_have_a_new_fc8_and_the_same_features(saved):
    path, network = saved
    built = build_from(path, 1000)
    features = [keras.Model(model.input, model.get_layer("drop7").output) for model in (built, network)]
    np.testing.assert_array_equal(*(model.predict_on_batch(IMAGES) for model in features))
    kernel, bias = built.get_layer("fc8").get_weights()
    assert kernel.shape == (9, 1000)
    assert abs(kernel.mean()) < 5e-4
    assert 0.009 < kernel.std() < 0.011
    np.testing.assert_array_equal(bias, np.zeros(1000))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"preset": "caffenet"},
        {"preset": "torchvision"},
        {"image_size": 95, "conv1_padding": 3, "pool_padding": "caffe", "input_scale": 0.5},
        {"lrn": LRN(3, 1.23456789e-2, 0.6, 1.5), "dense_units": (9, 7), "input_offset": (-1.0, -2.0, -3.0)},
    ],
)
def test_the_same_classes_give_the_same_logits(tmp_path, settings):
    network = narrow_network(3, **settings)
    network.save(tmp_path / "model.keras")
    built = build_from(tmp_path / "model.keras", 3, dropout=0.25)
    size = network.input_shape[1]
    np.testing.assert_array_equal(*(model.predict_on_batch(IMAGES[:, :size, :size]) for model in (built, network)))
    assert [layer.name for layer in built.layers] == [layer.name for layer in network.layers]
    assert built.count_params() == network.count_params()
    assert built.get_layer("drop6").rate == built.get_layer("drop7").rate == 0.25


def test_the_run_of_the_file_does_not_matter(tmp_path):
    """Neither its precision, nor what it froze, nor its optimizer."""
    network = narrow_network(3)
    freeze_through(network, "conv5")
    set_precision(network, "mixed_bfloat16")
    train(network)
    network.save(tmp_path / "model.keras")
    built = build_from(tmp_path / "model.keras", 3)
    assert len(built.trainable_weights) == 16
    assert {layer.compute_dtype for layer in built.layers} == {"float32"}
    set_precision(network, "float32")
    np.testing.assert_array_equal(built.predict_on_batch(IMAGES), network(IMAGES, training=False))


def other_conv2(x, n, filters, weights, rng, **settings):
    if n == "2":
        return layers.ReLU(name="relu2")(layers.Conv2D(6, 5, padding="same", groups=2, name="conv2")(x))
    return CONV(x, n, filters, weights, rng, **settings)


CONV, NORM = model_module._conv, model_module.local_response_norm


@pytest.mark.parametrize(
    ("function", "replacement", "expected_text"),
    [
        ("_conv", other_conv2, "conv2: its groups is 2, expected 1"),
        ("local_response_norm", lambda x, lrn, name: NORM(x, lrn, name) if name == "norm1" else x, "no layer norm2"),
        (
            "local_response_norm",
            lambda x, _, name: NORM(x, LRN(k=float(name[-1])), name),
            "norm2 computes something else than local response normalization with the constants of norm1",
        ),
    ],
)
def test_another_network_is_refused_with_what_differs(tmp_path, monkeypatch, function, replacement, expected_text):
    monkeypatch.setattr(model_module, function, replacement)
    narrow_network(3).save(tmp_path / "model.keras")
    monkeypatch.undo()
    with pytest.raises(UserError) as raised:
        build_from(tmp_path / "model.keras", 3)
    assert f"cannot start from {tmp_path}/model.keras: its network is not the one" in str(raised.value)
    assert expected_text in str(raised.value)


def test_operations_around_the_layers_are_refused(saved, tmp_path):
    """Pixels in the order BGR, or probabilities: no layer differs, only what comes before or after one."""
    network = saved[1]
    flipped = keras.models.clone_model(
        network,
        call_function=lambda layer, *args, **kwargs: (
            layer(ops.flip(args[0], -1)) if layer.name == "conv1" else layer(*args, **kwargs)
        ),
        input_tensors=keras.Input((SIDE, SIDE, 3), name="image"),
        clone_function=lambda layer: layer.__class__.from_config(layer.get_config()),
    )
    for other, problem in [
        (flipped, "conv1: its input is input_mean by way of operations, expected input_mean"),
        (keras.Model(network.input, ops.softmax(network.output)), "fc8: its output is for other layers"),
        (keras.Sequential([keras.Input((2,)), layers.Dense(1, name="fc8")]), "its model has no layer conv1"),
        (
            keras.Sequential([keras.Input((2,)), *(layers.ReLU(name=name) for name in WEIGHTED)]),
            "a layer of its model is not what its name says",
        ),
    ]:
        other.save(tmp_path / "model.keras")
        with pytest.raises(UserError, match=problem):
            build_from(tmp_path / "model.keras", 3)


def test_frozen_layers_keep_their_weights_to_the_bit(saved, tmp_path):
    network = build_from(saved[0], 3, dropout=0.5)
    freeze_through(network, "fc6")
    before = {name: network.get_layer(name).get_weights() for name in WEIGHTED}
    train(network)
    for name, weights in before.items():
        is_frozen = WEIGHTED.index(name) <= WEIGHTED.index("fc6")
        for old, new in zip(weights, network.get_layer(name).get_weights(), strict=True):
            assert np.array_equal(old, new) == is_frozen, name
    # Dropout behind them goes on.
    dropped = keras.Model(network.input, network.get_layer("drop6").output)
    assert not np.array_equal(dropped(IMAGES, training=True), dropped(IMAGES, training=False))
    # That they were frozen is not saved.
    save_model(network, tmp_path / "model.keras")
    assert len(network.trainable_weights) == 4
    assert len(load_model(tmp_path / "model.keras").trainable_weights) == 16


def test_what_cannot_be_frozen_is_named(saved):
    for layer_name, problem in [
        ("fc8", "cannot freeze through 'fc8': nothing would be left to train; expected one of conv1, conv2, conv3"),
        ("relu5", "cannot freeze through 'relu5'; expected one of conv1, .*, fc7"),
    ]:
        with pytest.raises(UserError, match=problem):
            freeze_through(saved[1], layer_name)
    assert len(saved[1].trainable_weights) == 16
