"""scripts/benchmark.py, on few small images and one step."""

import json
import subprocess
import sys

import benchmark
import pytest
from drawn_images import draw, encode, write_numbered
from map_files import write_map


@pytest.fixture
def measure(tmp_path, capsys):
    """A function that runs a benchmark, and returns what it writes with --json and what it prints."""

    def run(name: str, *arguments: object) -> tuple[dict | list, str]:
        options = ["--repeats=1", *map(str, arguments), f"--json={tmp_path}/figures.json"]
        benchmark.run(benchmark.parse([name, *options]))
        return json.loads((tmp_path / "figures.json").read_text()), capsys.readouterr().out

    return run


def test_a_mistake_is_explained_in_one_line(tmp_path):
    command = [sys.executable, benchmark.__file__, "input", f"--map={tmp_path}/map.txt", f"--json={tmp_path}"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 1
    assert process.stderr.startswith(f"benchmark.py: cannot write {tmp_path}: it is not a regular file. ")
    assert process.stderr.count("\n") == 1


@pytest.mark.slow
def test_step_is_compared_with_pytorch(measure, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setenv("CXX", f"{tmp_path}/none")  # as if there were no compiler
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", f"{tmp_path}/cache")
    arguments = ("--backends=tensorflow", "--precision=bfloat16", "--batch_size=2", "--mode=train", "--network=tiny")
    settings = ("--steps=1", "--layouts=channels_last", "--device=cpu", "--batches=resident", "--repeats=3")
    rows, printed = measure("step", *arguments, *settings)
    eager = ["PyTorch eager, channels_last", "PyTorch eager, channels_last, fast LRN"]
    ours = "keras_alexnet, tensorflow, resident"
    assert [row["name"] for row in rows] == [ours, *eager]
    for row in rows:
        assert (row["mode"], row["precision"], row["batch_size"]) == ("train", "mixed_bfloat16", 2)
        assert 0 < row["images_per_second_min"] <= row["images_per_second"] <= row["images_per_second_max"]
        assert row["peak_memory_mb"] > 50
        assert {"machine", "versions", "date", "command"} <= row.keys()
    assert "left out: torch.compile, channels_last, fast LRN cannot run: " in printed
    rates = {row["name"]: row["images_per_second"] for row in rows}
    best = max(eager, key=rates.get)
    assert f"\n{ours}: {rates[ours] / rates[best]:.2f} relative to {best}\n" in printed


@pytest.mark.slow
def test_input_measures_each_source_of_the_same_images(measure, tmp_path):
    pytest.importorskip("simplejpeg")
    drawn = write_numbered(tmp_path / "images", 6, 60, 48)
    png = tmp_path / "images" / "png.JPEG"  # as in ImageNet
    png.write_bytes(encode(draw(60, 48), "PNG"))
    write_map(tmp_path / "map.txt", [*zip(drawn.paths, drawn.labels, strict=True), (str(png), 6)])
    figures, printed = measure("input", f"--map={tmp_path}/map.txt", "--images=14", "--batch_size=4")
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
def test_fit_is_compared_with_its_limits(measure):
    figures, printed = measure("fit", "--network=tiny", "--batch_size=4", "--steps=1")
    rates = {name: figure["images_per_second"]["median"] for name, figure in figures["variants"].items()}
    assert list(rates) == ["fit --synthetic_data", "fit", "training_dataset"]
    limit = min(rates["fit --synthetic_data"], rates["training_dataset"])
    assert figures["ratio"] == pytest.approx(rates["fit"] / limit)
    assert f"fit: {figures['ratio']:.3f} relative to {figures['baseline']}" in printed
