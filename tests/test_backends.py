"""What each of Keras's backends trains, resumes, traces and evaluates."""

import dataclasses
import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from cntk_reference import REFERENCE, build_reference_network, images_to_keras
from training_process import assert_identical, history_of, installed, start_training, traced_steps

from keras_alexnet.data.source import read_training_data
from keras_alexnet.inference.evaluation import evaluate_model
from keras_alexnet.model_file import load_model, save_model
from keras_alexnet.training import loop
from keras_alexnet.training.config import TrainConfig

pytestmark = pytest.mark.slow

BACKENDS = installed("tensorflow", "jax", "torch")

ELSEWHERE = """
import sys
sys.modules["keras_alexnet"] = None  # as if it were not installed
import keras, numpy
model = keras.models.load_model("model.keras")
numpy.save("logits.npy", model.predict(numpy.load("x.npy"), verbose=0))
"""


def logits_of(path: Path, x: np.ndarray) -> np.ndarray:
    return keras.models.load_model(path).predict(x, verbose=0)


@pytest.fixture(scope="module")
def cntk_model(tmp_path_factory):
    """The file of a model, images, and CNTK's logits."""
    path = tmp_path_factory.mktemp("cntk") / "model.keras"
    save_model(build_reference_network(), path)
    with np.load(REFERENCE / "cntk_tiny_activations.npz") as reference:
        return path, images_to_keras(reference["x"]), reference["logits"]


def test_model_file_loads_with_stock_keras_alone(cntk_model):
    path, x, logits = cntk_model
    np.save(path.with_name("x.npy"), x)
    environment = os.environ | {"KERAS_BACKEND": "tensorflow"}
    result = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], capture_output=True, text=True, check=False, cwd=path.parent, env=environment
    )
    assert result.returncode == 0, result.stderr
    loaded = np.load(path.with_name("logits.npy"))
    assert np.abs(loaded - logits).max() < 1e-5 * np.abs(logits).max()


@pytest.mark.parametrize("backend", BACKENDS)
def test_logits_of_each_backend_are_cntks(cntk_model, backend_process, backend):
    path, x, logits = cntk_model
    found = backend_process(backend).run(logits_of, path, x)
    # PyTorch's convolutions usually are within 2e-6 too; one run in some dozens, on a busy machine, was 1.3e-4 off.
    tolerance = 3e-4 if backend == "torch" else 1e-5
    assert np.abs(found - logits).max() < tolerance * np.abs(logits).max()


@pytest.fixture(scope="module", params=BACKENDS)
def uninterrupted(request, data_dir, tmp_path_factory, backend_process):
    """A process of a backend, and the settings of a run in it that nothing interrupted."""
    process = backend_process(request.param)
    config = TrainConfig(
        data_dir=str(data_dir),
        output_dir=str(tmp_path_factory.mktemp(request.param) / "uninterrupted"),
        preset="tiny",
        epochs=2,
        steps_per_epoch=5,
        batch_size=3,
        learning_rate=0.001,
        lr_drop_epochs=(1,),
        seed=3,
    )
    process.run(loop.train, config)
    return process, config


# What Perfetto's file names; TensorFlow writes none.
OPERATIONS = {
    "jax": ("train", "PjitFunction(train_step)", "dot"),
    "torch": ("train 1", "aten::convolution", "ConvolutionBackward0"),
}


def test_a_killed_run_with_a_trace_resumes_bit_identically(uninterrupted, tmp_path):
    process, config = uninterrupted
    run = dataclasses.replace(config, output_dir=str(tmp_path / "run"), checkpoint_minutes=0.0001, profile_steps=(1, 3))
    killed = start_training(process.backend, dataclasses.asdict(run))
    # The trace is written before the fourth step.
    while not any(int(path.stem[5:]) >= 4 for path in (tmp_path / "run/checkpoint").glob("step-*.npz")):
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.01)
    killed.kill()
    stdout, stderr = killed.communicate()
    assert [line for line in stderr.splitlines() if not line.startswith("epoch ")] == []

    folder = tmp_path / "run/profile/plugins/profile/steps-1-3"
    if process.backend != "torch":
        assert traced_steps(folder) == [1, 2]
    if process.backend in OPERATIONS:
        path = folder / "perfetto_trace.json.gz"
        assert f"Steps 1 to 3 are traced: https://ui.perfetto.dev opens {path}" in stdout
        with gzip.open(path) as file:
            names = {event.get("name", "") for event in json.load(file)["traceEvents"]}
        for operation in OPERATIONS[process.backend]:
            assert any(operation in name for name in names), operation

    process.run(loop.train, run)
    assert "resuming after epoch" in process.printed
    assert_identical(tmp_path / "run", Path(config.output_dir))


def test_validation_is_that_of_tensorflow(uninterrupted):
    _, config = uninterrupted
    validation = read_training_data(config.data_dir).validation
    results = evaluate_model(load_model(f"{config.output_dir}/model.keras"), validation, 4)
    assert results["loss"] == pytest.approx(history_of(Path(config.output_dir))[-1]["val_loss"], rel=1e-5)
