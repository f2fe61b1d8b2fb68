import json
import os
import random
import subprocess
import sys

import keras
import numpy as np
import pytest
from training_process import assert_identical

from keras_alexnet import cli, fit
from keras_alexnet.data.map_file import VAL_MAP, read_map
from keras_alexnet.errors import UserError
from keras_alexnet.inference.files import predict_images
from keras_alexnet.model import build_alexnet
from keras_alexnet.system.keras_settings import keras_defaults, select_backend
from keras_alexnet.training import loop


@pytest.fixture
def keras_json(tmp_path, monkeypatch):
    """Writes keras.json, in a folder that Keras would look into."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    return lambda settings: (tmp_path / "keras.json").write_text(json.dumps(settings))


def test_the_backend_is_that_of_the_environment_or_of_keras_json(keras_json, monkeypatch):
    assert select_backend() == "tensorflow"
    keras_json({"backend": "torch"})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert select_backend() == "torch"
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert select_backend() == "jax"
    monkeypatch.setenv("KERAS_BACKEND", "")
    assert select_backend() == "torch"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "theano"}, "the backend in .*keras.json is 'theano'; expected one of .* Or set KERAS_BACKEND"),
        ({"backend": "jax"}, "the backend in .*keras.json is jax, which is not installed"),
        ({"floatx": "float8"}, "floatx is 'float8' in .*keras.json, which Keras rejects"),
        ([], "keras.json does not contain a JSON object"),
    ],
)
def test_what_keras_would_reject_in_keras_json_is_named(keras_json, monkeypatch, settings, message):
    keras_json(settings)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=message):
        select_backend()


def test_networks_and_predictions_are_the_same_whatever_the_defaults_are(data_dir):
    images = read_map(data_dir / VAL_MAP)
    expected = predict_images(build_alexnet(3, preset="tiny", seed=7), images, crops=10)
    try:
        keras.config.set_floatx("float16")
        keras.config.set_dtype_policy("mixed_float16")
        model = build_alexnet(3, preset="tiny", seed=7)
        found = predict_images(model, images, crops=10)
        assert (keras.config.floatx(), keras.config.dtype_policy().name) == ("float16", "mixed_float16")
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    assert model.input.dtype == "float32"
    np.testing.assert_array_equal(found, expected)


def test_threads_that_overlap_leave_the_settings_of_the_process_alone():
    keras.config.set_max_epochs(5)
    try:
        first, second = keras_defaults(), keras_defaults()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert keras.config.max_epochs() is None
        second.__exit__(None, None, None)
        assert keras.config.max_epochs() == 5
    finally:
        keras.config.set_max_epochs(None)


def test_a_seed_leaves_the_random_numbers_of_others_alone():
    random.seed(5)
    expected = random.random()
    random.seed(5)
    build_alexnet(3, preset="tiny", seed=7)
    assert random.random() == expected


@pytest.mark.slow
def test_leftover_settings_change_no_number_of_a_run(data_dir, tmp_path):
    settings = {"floatx": "float16", "image_data_format": "channels_first", "backend": "theano"}
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    environment = {"KERAS_BACKEND": "tensorflow", "KERAS_HOME": str(tmp_path), "MPLBACKEND": "module://no_such.backend"}
    environment |= {"KERAS_MAX_STEPS_PER_EPOCH": "1", "KERAS_MAX_EPOCHS": ""}
    run = [f"--data_dir={data_dir}", "--preset=tiny", "--epochs=1", "--batch_size=8", "--lr_drop_epochs="]
    loop.train(fit.config_from(cli.parse(fit.define_flags, [*run, f"--output_dir={tmp_path}/expected"])[0]))
    command = [sys.executable, "-m", "keras_alexnet.fit", *run, f"--output_dir={tmp_path}/run"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)
    assert result.returncode == 0, result.stderr
    assert_identical(tmp_path / "run", tmp_path / "expected")
