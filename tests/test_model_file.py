"""Files of models, and what other versions of Keras need of them."""

import json
import zipfile

import keras
import numpy as np
import pytest

from keras_alexnet.model import build_alexnet
from keras_alexnet.model_file import load_model, save_model
from keras_alexnet.presets import LRN

# Arguments of layers in Keras 3.6; later versions know more.
LAYER_ARGUMENTS = {
    "InputLayer": {"batch_shape", "sparse", "optional", "ragged"},
    "Rescaling": {"scale", "offset"},
    "ZeroPadding2D": {"padding", "data_format"},
    "Conv2D": {
        *("filters", "kernel_size", "strides", "padding", "data_format", "dilation_rate", "groups", "activation"),
        *("use_bias", "kernel_initializer", "bias_initializer"),
    },
    "ReLU": {"max_value", "negative_slope", "threshold"},
    "Multiply": set(),
    "MaxPooling2D": {"pool_size", "strides", "padding", "data_format"},
    "Flatten": {"data_format"},
    "Dense": {"units", "activation", "use_bias", "kernel_initializer", "bias_initializer"},
    "Dropout": {"rate", "noise_shape", "seed"},
}
OPERATIONS = {"Multiply", "Square", "Matmul", "Add", "Rsqrt", "Sqrt", "Power"}
SETTINGS = {"filters": (4, 6, 5, 7, 8), "dense_units": (9, 8)}


@pytest.mark.parametrize(
    "settings",
    [{"preset": "paper", "image_size": 67}, {"preset": "caffenet", "lrn": LRN(beta=0.5), "image_size": 72}],
)
def test_files_hold_what_keras_3_6_knows(tmp_path, settings):
    model = build_alexnet(3, **SETTINGS | settings, dropout=(0.3, 0.6))
    save_model(model, tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as file:
        config = json.loads(file.read("config.json"))["config"]
    for entry in config["layers"]:
        if entry["module"] == "keras.layers":
            assert entry["config"].keys() <= LAYER_ARGUMENTS[entry["class_name"]] | {"name", "dtype", "trainable"}
        else:
            # Operations take no arguments, not even with a name: unlike `ops.cast`.
            assert entry["module"].startswith("keras.src.ops.")
            assert entry["class_name"] in OPERATIONS
            assert entry["config"].keys() == {"name"}
        if entry["class_name"] == "Rescaling":
            scale, offset = entry["config"]["scale"], entry["config"].get("offset", 0.0)
            assert type(scale) is type(offset), "Keras 3.11 fails"

    loaded = load_model(tmp_path / "model.keras")
    model.save(tmp_path / "plain.keras")
    assert loaded.get_config() == load_model(tmp_path / "plain.keras").get_config()
    for weights, expected in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(weights, expected)


def test_files_of_older_versions_load(tmp_path):
    """With operations and arguments that are no longer written."""
    from keras import layers, ops

    x = inputs = keras.Input((8, 8, 3), name="image")
    x = ops.cast(x, "float32")
    x = layers.Multiply(dtype="float32", name="norm1")([x, ops.square(x)])
    keras.Model(inputs, layers.Dense(2, name="fc8")(layers.Flatten()(x))).save(tmp_path / "model.keras")
    assert load_model(tmp_path / "model.keras").output_shape == (None, 2)
