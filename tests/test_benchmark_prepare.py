"""`scripts/benchmark.py prepare`: both sides list the same images, and the figures are there."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from benchmark_process import SCRIPT, check_spread, figures_of, run

OURS, PLAIN = "keras_alexnet.prepare", "scandir + ElementTree"


@pytest.mark.slow
def test_both_sides_list_all_that_was_generated(tmp_path):
    trees = tmp_path / "trees"
    trees.mkdir()
    figures, printed = figures_of(tmp_path, "prepare", "--files=803", f"--folder={trees}", "--repeats=2")
    assert (figures["files"], figures["classes"], figures["repeats"]) == (800, 4, 2)
    assert (figures["training_images"], figures["validation_images"]) == (400, 200)
    assert "800 files: 400 training images of 4 classes, 200 validation images, as many annotations\n" in printed
    assert [side["name"] for side in figures["sides"]] == [OURS, PLAIN]
    for side in figures["sides"]:
        assert side["listed"] == {"train_map.txt": 400, "val_map.txt": 200, "classmappings.txt": 4}
        assert f"{side['name']} lists 400 training and 200 validation images of 4 classes\n" in printed
        check_spread(side["seconds"])
        check_spread(side["files_per_second"])
        assert side["files_per_second"]["max"] == pytest.approx(800 / side["seconds"]["min"])
        for unit in ("s", "files/s"):
            assert re.search(rf"^{re.escape(side['name'])} +[\d.,]+ \([\d.,]+–[\d.,]+\) {unit}$", printed, re.MULTILINE)
    for part in figures["parts"]:
        check_spread(part["seconds"])
        assert f"\n{part['name']} " in printed
    ours, plain = (side["files_per_second"]["median"] for side in figures["sides"])
    assert figures["ratio"] == pytest.approx(ours / plain)
    assert printed.endswith(f"\n{OURS} does {figures['ratio']:.2f} of {PLAIN}\n")
    assert not any(trees.iterdir())


def with_another_side(folder: Path, text: str, mutated: str) -> Path:
    """A copy of the benchmarks in which `text` of `prepare`'s is another."""
    shutil.copytree(SCRIPT.parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    module = folder / "benchmarks" / "prepare.py"
    source = module.read_text(encoding="utf-8")
    assert source.count(text) == 1
    module.write_text(source.replace(text, mutated), encoding="utf-8")
    return folder / SCRIPT.name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "mutated", "message"),
    [
        (
            "os.scandir(os.path.join(train_dir, class_id)))",
            "os.scandir(os.path.join(train_dir, class_id)) if label < 3)",
            rf"different train_map\.txt: line 301 is '.*n01479785_103\.JPEG\\t3\\n' of {OURS}, '' of scandir \+ El",
        ),
        (
            "{label_of[class_id]}",
            "{label_of[class_id] ^ 1}",
            rf"different val_map\.txt: line 1 is '.*_00000001\.JPEG\\t(\d)\\n' of {OURS}, '.*\\t(?!\1)\d\\n' of scan",
        ),
        ('find("object/name")', 'find("object/no_name")', r"scandir \+ ElementTree writes no maps: AttributeError: "),
    ],
    ids=["a class without images", "other labels", "failure"],
)
def test_a_side_that_lists_something_else_is_told_instead_of_figures(tmp_path, text, mutated, message):
    script = with_another_side(tmp_path / "scripts", text, mutated)
    command = [sys.executable, script, "prepare", "--files=800", f"--folder={tmp_path}", "--repeats=1"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert process.returncode == 1
    assert len(process.stderr.splitlines()) == 1
    assert re.search(message, process.stderr), process.stderr
    assert "files/s" not in process.stdout
    assert os.listdir(tmp_path) == ["scripts"]


@pytest.mark.slow
def test_ctrl_c_removes_the_tree(tmp_path):
    command = [sys.executable, SCRIPT, "prepare", f"--folder={tmp_path}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    # Some classes are written, and most are not.
    while process.poll() is None and len(list(tmp_path.glob("*/ILSVRC/Data/CLS-LOC/train/*"))) < 3:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=600)
    assert (process.returncode, errors) == (130, "benchmark.py: interrupted\n")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--files=3"], 1, "--files is 3, expected at least 4"),
        (["--files=0"], 2, "--files: expected an integer of at least 1, got '0'"),
        (["--folder={}/file/folder"], 1, "cannot write to {}/file/folder: Not a directory."),
    ],
)
def test_mistakes_are_told_in_a_line(tmp_path, arguments, status, message):
    (tmp_path / "file").touch()
    process = run("prepare", *(argument.format(tmp_path) for argument in arguments))
    assert process.returncode == status
    assert "Traceback" not in process.stderr
    assert message.format(tmp_path) in process.stderr.splitlines()[-1]
