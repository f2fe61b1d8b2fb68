"""Keras's other backends, and other places: each in a process of its own."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from cntk_reference import REFERENCE, build_reference_network, images_to_keras
from training_process import installed

from keras_alexnet.model_file import save_model

pytestmark = pytest.mark.slow

BACKENDS = installed("tensorflow", "jax", "torch")

ELSEWHERE = """
import sys
sys.modules["keras_alexnet"] = None  # as if it were not installed
import keras, numpy
model = keras.models.load_model("model.keras")
numpy.save("logits.npy", model.predict(numpy.load("x.npy"), verbose=0))
"""


def run(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize("backend", BACKENDS)
def test_model_file_loads_with_stock_keras_alone(backend, tmp_path):
    save_model(build_reference_network(), tmp_path / "model.keras")
    with np.load(REFERENCE / "cntk_tiny_activations.npz") as reference:
        x, logits = images_to_keras(reference["x"]), reference["logits"]
    np.save(tmp_path / "x.npy", x)
    result = run("-c", ELSEWHERE, cwd=tmp_path, env={**os.environ, "KERAS_BACKEND": backend})
    assert result.returncode == 0, result.stderr
    loaded = np.load(tmp_path / "logits.npy")
    # PyTorch's convolutions usually are within 2e-6 too; one run in some dozens, on a busy machine, was 1.3e-4 off.
    tolerance = 3e-4 if backend == "torch" else 1e-5
    assert np.abs(loaded - logits).max() < tolerance * np.abs(logits).max()


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_fit_and_evaluate_on_other_backends(backend, data_dir, tmp_path):
    environment = {**os.environ, "KERAS_BACKEND": backend}
    fit = [
        *("-m", "keras_alexnet.fit", f"--data_dir={data_dir}", f"--output_dir={tmp_path}", "--preset=tiny"),
        *("--batch_size=8", "--learning_rate=0.001", "--lr_drop_epochs=1"),
    ]
    result = run(*fit, "--epochs=1", env=environment)
    assert result.returncode == 0, result.stderr
    assert backend in result.stdout.lower()
    history = (tmp_path / "history.csv").read_text().splitlines()
    row = dict(zip(history[0].split(","), history[1].split(","), strict=True))

    other = run(*fit, "--epochs=2", env={**os.environ, "KERAS_BACKEND": "tensorflow"})
    assert other.returncode == 1
    assert f"backend: {backend} then, tensorflow now" in other.stderr

    losses = []
    for name in (backend, "tensorflow"):
        metrics = tmp_path / f"{name}.json"
        evaluate = ("-m", "keras_alexnet.evaluate", f"--model={tmp_path}/model.keras", f"--data_dir={data_dir}")
        result = run(
            *evaluate, f"--metrics_file={metrics}", "--batch_size=4", env={**os.environ, "KERAS_BACKEND": name}
        )
        assert result.returncode == 0, result.stderr
        losses.append(json.loads(metrics.read_text())["loss"])
    assert losses == pytest.approx([float(row["val_loss"])] * 2, rel=1e-5)
