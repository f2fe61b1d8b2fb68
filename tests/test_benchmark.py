import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from drawn_images import draw, encode, write_numbered

from keras_alexnet.data.maps import write_map

SCRIPT = Path(__file__).parent.parent / "scripts/benchmark.py"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=os.environ | environment)


def write_images(folder: Path) -> str:
    """A map of six JPEGs and, under the name of one, a PNG, as ImageNet has it."""
    drawn = write_numbered(folder / "images", 6, 60, 48)
    odd = folder / "images" / "png.JPEG"
    odd.write_bytes(encode(draw(60, 48), "PNG"))
    write_map(folder / "map.txt", [*zip(drawn.paths, drawn.labels, strict=True), (str(odd), 6)])
    return str(folder / "map.txt")


@pytest.mark.slow
def test_input_measures_every_side_and_writes_the_figures(tmp_path):
    pytest.importorskip("simplejpeg")
    small = ["--images=14", "--batch_size=4", "--repeats=2", f"--json={tmp_path}/figures.json"]
    process = run("input", f"--map={write_images(tmp_path)}", *small)
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    figures = json.loads((tmp_path / "figures.json").read_text())
    names = [stage["name"] for stage in figures["stages"]]
    assert names[:5] == [
        "libjpeg-turbo, full decode",
        "tf.io.read_file",
        "+ decode and crop",
        "+ resize, round, mirror: training_dataset",
        "evaluation_dataset",
    ]
    assert all(name in process.stdout for name in names)
    # Each row came twice, and the PNG is none for libjpeg-turbo. Whole batches, except in evaluation.
    assert [stage["images"] for stage in figures["stages"]][:5] == [12, 16, 16, 16, 14]
    for stage in figures["stages"]:
        for figure in (stage["wall"], stage["per_core"]):
            assert 0 < figure["min"] <= figure["median"] <= figure["max"]
    assert figures["per_core"] == figures["stages"][3]["per_core"]["median"]
    assert figures["wall"] == figures["stages"][3]["wall"]["median"]
    assert figures["libjpeg_turbo_per_core"] == figures["stages"][0]["per_core"]["median"]
    assert figures["ratio"] == pytest.approx(figures["per_core"] / figures["libjpeg_turbo_per_core"])
    assert (figures["torch_per_core"] is None) == ("torch DataLoader, Pillow" not in names)
    assert (figures["images"], figures["batch_size"], figures["repeats"]) == (14, 4, 2)
    assert "tensorflow" in figures["versions"]
    assert figures["machine"] in process.stdout
    assert "benchmark.py input --map=" in figures["command"]
    assert re.match(r"\d{4}-\d\d-\d\dT", figures["date"])


@pytest.mark.slow
def test_fit_measures_trainings_and_checkpoints(data_dir):
    process = run("fit", f"--data_dir={data_dir}", "--network=tiny", "--batch_size=4", "--steps=2", "--repeats=1")
    assert process.returncode == 0, process.stderr
    assert "Traceback" not in process.stderr
    for name in ("fit --synthetic_data", "fit", "training_dataset"):
        assert re.search(rf"^{name} +[\d.,]+ \([\d.,]+–[\d.,]+\) img/s$", process.stdout, re.MULTILINE), process.stdout
    assert re.search(r"^fit does \d\.\d{3} of the slower one of the others$", process.stdout, re.MULTILINE)
    assert re.search(r"a checkpoint takes [\d.]+ .* \d\.\d\d % of the time", process.stdout)


SMALL_STEP = ("step", "--network=tiny", "--batch_size=2", "--steps=1", "--repeats=2")
EAGER = ["PyTorch eager, contiguous", "PyTorch eager, channels_last"]
COMPILED = ["torch.compile, contiguous", "torch.compile, channels_last"]


@pytest.mark.slow
def test_step_measures_every_side_and_writes_the_figures(tmp_path):
    pytest.importorskip("torch")
    process = run(*SMALL_STEP, "--precision=bfloat16", f"--json={tmp_path}/figures.json")
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["network"], figures["batch_size"], figures["steps"], figures["repeats"]) == ("tiny", 2, 1, 2)
    assert {"machine", "versions", "date", "command"} <= figures.keys()
    assert list(figures["precisions"]) == ["bfloat16"]
    found = figures["precisions"]["bfloat16"]
    medians = {side["name"]: side["median"] for side in found["sides"]}
    # torch.compile needs a compiler, which not every machine has.
    assert [*medians, *found["left_out"]] == ["keras_alexnet, tensorflow", *EAGER, *COMPILED]
    assert set(found["left_out"]) <= set(COMPILED)
    for side in found["sides"]:
        assert 0 < side["min"] <= side["median"] <= side["max"]
        assert re.search(rf"bfloat16 +{side['name']} +[\d.,]+ \([\d.,]+–[\d.,]+\) img/s", process.stdout)
    for ratio, kind in zip(found["ratios"], (EAGER, COMPILED), strict=False):
        best = max(medians[name] for name in kind if name in medians)
        assert medians[ratio["of"]] == best
        assert ratio["ratio"] == pytest.approx(medians["keras_alexnet, tensorflow"] / best)
        assert f"keras_alexnet, tensorflow does {ratio['ratio']:.2f} of {ratio['of']}" in process.stdout


@pytest.mark.slow
def test_step_without_a_compiler_and_with_other_backends(tmp_path):
    pytest.importorskip("torch")
    backends = [name for name in ("jax", "torch") if importlib.util.find_spec(name)]
    no_compiler = {"CXX": f"{tmp_path}/none", "TORCHINDUCTOR_CACHE_DIR": f"{tmp_path}/cache"}
    process = run(*SMALL_STEP, "--precision=float32", "--backends", *backends, **no_compiler)
    assert process.returncode == 0, process.stderr
    for backend in backends:
        assert re.search(rf"keras_alexnet, {backend} +\d.* img/s", process.stdout)
        assert re.search(rf"keras_alexnet, {backend} does \d+\.\d\d of PyTorch eager", process.stdout)
    for name in COMPILED:
        assert re.search(rf"float32 +{name} +left out: .*compiler", process.stdout)
    assert "of torch.compile" not in process.stdout


@pytest.mark.slow
def test_start_tells_time_and_memory_of_the_first_batch():
    process = run("start", "--lines=2000", "--batch_size=8")
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    assert "2,000 lines" in process.stdout
    assert re.search(r"from step 0 +\d+\.\d\d s beyond the import of \d", process.stdout)
    assert re.search(r"from step 1,000,000 +\d+\.\d\d s beyond the import of \d", process.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("command", [["input"], ["start", "--lines=20"]])
def test_an_unreadable_image_is_named(tmp_path, command):
    if command == ["input"]:
        pytest.importorskip("simplejpeg")
    write_map(tmp_path / "map.txt", [(str(tmp_path / "gone.JPEG"), 0)])
    process = run(*command, f"--map={tmp_path}/map.txt", "--batch_size=8")
    assert process.returncode == 1
    assert len(process.stderr.splitlines()) == 1
    assert f"cannot read the image {tmp_path}/gone.JPEG (line 1 of " in process.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["input", "--map={}/none.txt"], 1, "cannot read {}/none.txt: No such file"),
        (["input", "--map={}/map.txt", "--images=8"], 1, "--images is 8, expected at least the 64 of a batch"),
        (["input", "--map={}/map.txt", "--json={}"], 1, "cannot write {}: it is no regular file"),
        (["input", "--map={}/map.txt", "--repeats=0"], 2, "--repeats: expected an integer of at least 1, got '0'"),
        (["input"], 2, "required: --map"),
        (["start", "--lines=20"], 1, "--lines is 20, expected at least the 256 of a batch"),
        (["step", "--json={}"], 1, "cannot write {}: it is no regular file"),
        (["step", "--network=vgg"], 2, "--network: invalid choice: 'vgg'"),
        (["step", "--backends", "theano"], 2, "--backends: invalid choice: 'theano'"),
        ([], 2, "required: BENCHMARK"),
    ],
)
def test_mistakes_are_told_in_a_line(tmp_path, arguments, status, message):
    if "--images=8" in arguments:
        pytest.importorskip("simplejpeg")
    write_map(tmp_path / "map.txt", [(str(tmp_path / "gone.JPEG"), 0)])
    process = run(*(argument.format(tmp_path) for argument in arguments))
    assert process.returncode == status
    assert "Traceback" not in process.stderr
    assert message.format(tmp_path, tmp_path) in process.stderr.splitlines()[-1]
