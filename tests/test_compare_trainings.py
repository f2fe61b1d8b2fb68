"""Trainings of both sides, and their curves."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parent.parent / "scripts" / "compare_trainings.py"


def test_curves_of_both_sides_are_drawn_and_nothing_is_trained_twice(data_dir, tmp_path):
    pytest.importorskip("torch")

    def run(*seeds: str) -> str:
        command = [sys.executable, str(SCRIPT), f"--data_dir={data_dir}", f"--output_dir={tmp_path}", "--seeds", *seeds]
        command += ["--", "--preset=tiny", "--batch_size=8", "--epochs=2", "--lr_drop_epochs=1"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert "standard error" not in run("0")
    twin = (tmp_path / "twin-0.csv").stat().st_mtime_ns
    printed = run("0", "1")
    assert printed.count("This run is finished") == 1
    assert (tmp_path / "twin-0.csv").stat().st_mtime_ns == twin
    with open(tmp_path / "curves.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["epoch", "keras_alexnet 0", "twin 0", "keras_alexnet 1", "twin 1"]
    assert [row[0] for row in rows] == ["1", "2"]
    for seed in (0, 1):
        for column, history in ((1 + 2 * seed, f"ours-{seed}/history.csv"), (2 + 2 * seed, f"twin-{seed}.csv")):
            with open(tmp_path / history, newline="") as file:
                assert [float(row["val_top1_error"]) for row in csv.DictReader(file)] == [
                    float(row[column]) for row in rows
                ]
    ours = [100 * float(rows[-1][column]) for column in (1, 3)]
    assert f"{sum(ours) / 2:.1f} ± " in printed
    assert re.search(r"^the means are [+-]\d+\.\d points apart, with a standard error of \d+\.\d$", printed, re.M)
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 1000
