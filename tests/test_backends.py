"""What each of Keras's backends trains, resumes, traces and evaluates."""

import csv
import dataclasses
import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cntk_reference import REFERENCE, build_reference_network, images_to_keras
from training_process import assert_identical, finish, history_of, installed, start_training, traced_steps

from keras_alexnet import cli, evaluate
from keras_alexnet.model_file import save_model
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


@pytest.mark.parametrize("backend", BACKENDS)
def test_model_file_loads_with_stock_keras_alone(backend, tmp_path):
    save_model(build_reference_network(), tmp_path / "model.keras")
    with np.load(REFERENCE / "cntk_tiny_activations.npz") as reference:
        x, logits = images_to_keras(reference["x"]), reference["logits"]
    np.save(tmp_path / "x.npy", x)
    environment = os.environ | {"KERAS_BACKEND": backend}
    result = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
    )
    assert result.returncode == 0, result.stderr
    loaded = np.load(tmp_path / "logits.npy")
    # PyTorch's convolutions usually are within 2e-6 too; one run in some dozens, on a busy machine, was 1.3e-4 off.
    tolerance = 3e-4 if backend == "torch" else 1e-5
    assert np.abs(loaded - logits).max() < tolerance * np.abs(logits).max()


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


def test_a_killed_run_resumes_bit_identically(uninterrupted, tmp_path):
    process, config = uninterrupted
    run = dataclasses.replace(config, output_dir=str(tmp_path / "run"), checkpoint_minutes=0.0001)
    killed = start_training(process.backend, dataclasses.asdict(run))
    while not any(int(path.stem[5:]) >= 2 for path in (tmp_path / "run/checkpoint").glob("step-*.npz")):
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    process.run(loop.train, run)
    assert "resuming after epoch" in process.printed
    assert_identical(tmp_path / "run", Path(config.output_dir))


def evaluate_here(*arguments: str) -> None:
    evaluate.main(*cli.parse(evaluate.define_flags, list(arguments)))


def rows_of(path: Path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_evaluation_and_report_are_those_of_tensorflow(uninterrupted, tmp_path):
    process, config = uninterrupted
    if process.backend == "tensorflow":
        pytest.skip("what the others are compared with")
    losses = []
    arguments = (f"--model={config.output_dir}/model.keras", f"--data_dir={config.data_dir}", "--batch_size=4")
    for name, run in ((process.backend, process.run), ("tensorflow", lambda function, *rest: function(*rest))):
        run(evaluate_here, *arguments, f"--metrics_file={tmp_path}/{name}.json")
        losses.append(json.loads((tmp_path / f"{name}.json").read_text())["loss"])
        run(evaluate_here, *arguments, "--crops=10", f"--report_dir={tmp_path}/{name}")
    assert losses == pytest.approx([history_of(Path(config.output_dir))[-1]["val_loss"]] * 2, rel=1e-5)
    ours, theirs = tmp_path / process.backend, tmp_path / "tensorflow"
    for row, expected in zip(rows_of(ours / "predictions.csv"), rows_of(theirs / "predictions.csv"), strict=True):
        assert float(row["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-4)
    assert (ours / "per_class.csv").read_bytes() == (theirs / "per_class.csv").read_bytes()


# What Perfetto's file names; TensorFlow writes none.
OPERATIONS = {
    "jax": ("train", "PjitFunction(train_step)", "dot"),
    "torch": ("train 1", "aten::convolution", "ConvolutionBackward0"),
}


def test_a_trace_has_the_steps_asked_for_and_changes_no_bit(uninterrupted, tmp_path):
    process, config = uninterrupted
    if process.backend not in OPERATIONS:
        pytest.skip("see test_profile")
    run = dataclasses.replace(config, output_dir=str(tmp_path / "traced"), profile_steps=(1, 3))
    stdout, stderr = finish(start_training(process.backend, dataclasses.asdict(run)))
    folder = tmp_path / "traced/profile/plugins/profile/steps-1-3"
    path = folder / "perfetto_trace.json.gz"
    assert f"Steps 1 to 3 are traced: https://ui.perfetto.dev opens {path}" in stdout
    assert [line for line in stderr.splitlines() if not line.startswith("epoch ")] == []
    with gzip.open(path) as file:
        names = {event.get("name", "") for event in json.load(file)["traceEvents"]}
    for operation in OPERATIONS[process.backend]:
        assert any(operation in name for name in names), operation
    if process.backend == "jax":
        assert traced_steps(folder) == [1, 2]
    assert_identical(tmp_path / "traced", Path(config.output_dir))
