"""`benchmark.py step`."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from benchmark_process import SCRIPT, figures_of, run

pytestmark = pytest.mark.slow

SMALL = ("step", "--network=tiny", "--batch_size=2", "--steps=1", "--repeats=2", "--layouts", "channels_last")
EAGER = ["PyTorch eager, channels_last", "PyTorch eager, channels_last, fast LRN"]
COMPILED = ["torch.compile, channels_last, fast LRN"]


def test_each_side_has_a_row_and_the_best_peer_is_counted(tmp_path):
    pytest.importorskip("torch")
    rows, printed = figures_of(tmp_path, *SMALL, "--mode=train", "--precision=bfloat16", "--backends=tensorflow")
    rates = {row["name"]: row["images_per_second"] for row in rows}
    # torch.compile needs a compiler, which not every machine has.
    assert list(rates)[:3] == ["keras_alexnet, tensorflow", *EAGER]
    assert set(list(rates)[3:]) <= set(COMPILED)
    for row in rows:
        assert (row["mode"], row["precision"], row["batch_size"], row["network"]) == ("train", "bfloat16", 2, "tiny")
        assert row["backend"] == ("tensorflow" if row["name"].startswith("keras_alexnet") else "pytorch")
        assert row["compiled"] == row["name"].startswith("torch.compile")
        assert 0 < row["images_per_second_min"] <= row["images_per_second"] <= row["images_per_second_max"]
        assert row["peak_memory_mb"] > 50
        assert {"machine", "versions", "date", "command"} <= row.keys()
        assert re.search(rf"^{row['name']} +[\d.,]+ \([\d.,]+–[\d.,]+\) img/s$", printed, re.MULTILINE)
    best = max(EAGER, key=rates.get)
    assert (
        f"keras_alexnet, tensorflow does {rates['keras_alexnet, tensorflow'] / rates[best]:.2f} of {best}\n" in printed
    )


def test_both_modes_other_backends_and_no_compiler(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("jax")
    no_compiler = {"CXX": f"{tmp_path}/none", "TORCHINDUCTOR_CACHE_DIR": f"{tmp_path}/cache"}
    rows, printed = figures_of(tmp_path, *SMALL, "--precision=float32", "--backends", "jax", "torch", **no_compiler)
    names = ["keras_alexnet, jax", "keras_alexnet, torch", *EAGER]
    assert [(row["mode"], row["name"]) for row in rows] == [
        (mode, name) for mode in ("train", "inference") for name in names
    ]
    assert [row["compiled"] for row in rows] == 2 * [True, False, False, False]
    for name in COMPILED:
        assert len(re.findall(rf"^{name} is left out: .*compiler", printed, re.MULTILINE)) == 2
    assert " of torch.compile" not in printed


@pytest.mark.parametrize(
    ("backend", "arguments", "name"),
    [
        ("tensorflow", ["--strategy=mirrored", "--batches=resident"], "mirrored, resident"),
        ("jax", ["--batches=resident", "--forms=none:slices:none"], "resident, none:slices:none"),
    ],
)
def test_variants_of_ours_are_measured(tmp_path, backend, arguments, name):
    pytest.importorskip(backend)
    rows, _ = figures_of(tmp_path, *SMALL, "--mode=train", "--precision=float32", "--backends", backend, *arguments)
    assert rows[0]["name"] == f"keras_alexnet, {backend}, {name}"
    assert rows[0]["images_per_second"] > 0


def test_unknown_forms_are_refused_with_those_there_are():
    process = run("step", "--forms=slices")
    assert process.returncode == 2
    assert "expected auto or {blocks,none}:{band,slices,none}:{slices,none}, got 'slices'" in process.stderr


def test_a_folder_is_no_file_for_the_figures(tmp_path):
    process = run("step", f"--json={tmp_path}")
    assert process.returncode == 1
    assert f"cannot write {tmp_path}: it is no regular file" in process.stderr


_SAME_LOGITS = """
import numpy as np, torch
from twin import Twin
from keras_alexnet import build_alexnet

model = build_alexnet(7, preset="tiny")
for layer in model.layers:
    if layer.weights:
        # Weights at which the logits differ from image to image.
        kernel, bias = layer.get_weights()
        scale = np.sqrt(2 / np.prod(kernel.shape[:-1])) / (100 if layer.name == "conv1" else 1)
        layer.set_weights([scale / kernel.std() * kernel, bias])
pixels = np.random.default_rng(0).integers(0, 256, (3, 227, 227, 3), np.uint8)
ours = model.predict_on_batch(pixels)
assert np.ptp(ours) > 0.1
for product_norm in (False, True):
    twin = Twin("tiny", 7, dropout=0.5, product_norm=product_norm).eval()
    twin.load_from(model)
    with torch.inference_mode():
        theirs = twin(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.ptp(ours))
"""


def test_the_peers_compute_the_same_network():
    pytest.importorskip("torch")
    program = f"import sys; sys.path.insert(0, {str(Path(SCRIPT).parent)!r})\n{_SAME_LOGITS}"
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
