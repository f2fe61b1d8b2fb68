"""scripts/benchmark.py, run as a user runs it, on few small images and one step."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks import fit
from drawn_images import draw, encode, write_numbered
from map_files import write_map

from keras_alexnet.data.map_file import read_map

SCRIPTS = Path(__file__).parent.parent / "scripts"


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPTS / "benchmark.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=os.environ | environment)


def figures_of(tmp_path: Path, *arguments: object, **environment: str) -> tuple[dict | list, str]:
    """What a successful benchmark writes with --json, and what it prints."""
    process = run(*arguments, f"--json={tmp_path}/figures.json", **environment)
    assert (process.returncode, process.stderr) == (0, "")
    return json.loads((tmp_path / "figures.json").read_text()), process.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["input", "--map={}/map.txt", "--json={}"], 1, "cannot write {}: it is not a regular file"),
        (["step", "--network=vgg"], 2, "--network: invalid choice: 'vgg'"),
        (["step", "--forms=slices"], 2, "expected auto or {{blocks,none}}:{{band,slices,none}}:{{slices,none}}"),
    ],
)
def test_mistakes_are_explained_in_one_line(tmp_path, arguments, status, message):
    process = run(*(argument.format(tmp_path) for argument in arguments))
    assert process.returncode == status
    assert "Traceback" not in process.stderr
    assert message.format(tmp_path) in process.stderr.splitlines()[-1]


@pytest.mark.slow
def test_step_compares_backends_with_pytorch(tmp_path):
    pytest.importorskip("jax")
    pytest.importorskip("torch")
    no_compiler = {"CXX": f"{tmp_path}/none", "TORCHINDUCTOR_CACHE_DIR": f"{tmp_path}/cache"}
    arguments = ("--backends", "tensorflow", "jax", "--precision", "bfloat16", "--batch_size", "2", "--mode", "train")
    settings = ("--network=tiny", "--steps=1", "--repeats=1", "--layouts=channels_last", "--device=cpu")
    rows, printed = figures_of(tmp_path, "step", *arguments, *settings, "--batches=resident", **no_compiler)
    eager = ["PyTorch eager, channels_last", "PyTorch eager, channels_last, fast LRN"]
    ours = [f"keras_alexnet, {name}" for name in ("tensorflow, resident", "jax, resident")]
    assert [row["name"] for row in rows] == ours + eager
    for row in rows:
        assert (row["mode"], row["precision"], row["batch_size"]) == ("train", "mixed_bfloat16", 2)
        assert 0 < row["images_per_second_min"] <= row["images_per_second"] <= row["images_per_second_max"]
        assert row["peak_memory_mb"] > 50
        assert {"machine", "versions", "date", "command"} <= row.keys()
    assert "left out: torch.compile, channels_last, fast LRN cannot run: " in printed
    rates = {row["name"]: row["images_per_second"] for row in rows}
    best = max(eager, key=rates.get)
    assert f"\n{ours[0]}: {rates[ours[0]] / rates[best]:.2f} relative to {best}\n" in printed


@pytest.mark.slow
def test_input_measures_each_source_of_the_same_images(tmp_path):
    pytest.importorskip("simplejpeg")
    drawn = write_numbered(tmp_path / "images", 6, 60, 48)
    png = tmp_path / "images" / "png.JPEG"  # as in ImageNet
    png.write_bytes(encode(draw(60, 48), "PNG"))
    write_map(tmp_path / "map.txt", [*zip(drawn.paths, drawn.labels, strict=True), (str(png), 6)])
    sizes = ("--images=14", "--batch_size=4", "--repeats=1")
    figures, printed = figures_of(tmp_path, "input", f"--map={tmp_path}/map.txt", *sizes)
    assert list(figures["variants"]) == [
        "libjpeg-turbo, full decode",
        "training_dataset",
        "training_dataset of cached images",
        "training_dataset of resized copies",
        "training_dataset of resized copies in a tar",
        "training_dataset of stored pixels",
        "evaluation_dataset",
    ]
    for name, rates in figures["variants"].items():
        assert rates["wall"]["median"] > 0
        assert rates["per_core"]["median"] > 0
        assert f"\n{name} " in printed
    medians = {name: rates["per_core"]["median"] for name, rates in figures["variants"].items()}
    assert figures["ratio"] == pytest.approx(medians["training_dataset"] / medians["libjpeg-turbo, full decode"])


@pytest.mark.slow
def test_fit_is_compared_with_its_limits(data_dir, tmp_path):
    arguments = ("--network=tiny", "--batch_size=4", "--steps=2", "--repeats=1")
    figures, printed = figures_of(tmp_path, "fit", f"--data_dir={data_dir}", *arguments)
    rates = {name: figure["images_per_second"]["median"] for name, figure in figures["variants"].items()}
    assert list(rates) == ["fit --synthetic_data", "fit", "training_dataset"]
    limit = min(rates["fit --synthetic_data"], rates["training_dataset"])
    assert figures["ratio"] == pytest.approx(rates["fit"] / limit)
    assert f"fit: {figures['ratio']:.3f} relative to {figures['baseline']}" in printed


def test_drawn_images_fill_a_batch(tmp_path):
    folder = fit.write_data(tmp_path, batch_size=100)
    train_map = read_map(folder / "train_map.txt", num_classes=64)
    assert len(train_map) == 100
    assert len(set(train_map.paths)) == 64
    np.testing.assert_array_equal(train_map.labels[64:], train_map.labels[:36])
    assert set(read_map(folder / "val_map.txt").paths) <= set(train_map.paths)
