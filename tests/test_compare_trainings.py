"""Trainings of both implementations, and their curves."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import compare_trainings
import pytest

SCRIPT = Path(compare_trainings.__file__)


@pytest.mark.slow
def test_both_are_trained_and_their_curves_written(data_dir, tmp_path):
    pytest.importorskip("torch")
    command = [sys.executable, str(SCRIPT), f"--data_dir={data_dir}", f"--output_dir={tmp_path}", "--seeds", "0"]
    command += ["--", "--preset=tiny", "--batch_size=8", "--epochs=2", "--lr_drop_epochs=1"]
    subprocess.run(command, capture_output=True, text=True, check=True)
    with open(tmp_path / "pytorch-0.csv", newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["steps"], second["steps"]) == ("3", "6")
    assert float(second["learning_rate"]) == pytest.approx(0.1 * float(first["learning_rate"]))
    for row in (first, second):
        assert float(row["val_top1_error"]) in [pytest.approx(wrong / 7) for wrong in range(8)]
        assert float(row["val_top5_error"]) == 0
        assert 0 < float(row["loss"]) < 2
    with open(tmp_path / "ours-0" / "history.csv", newline="") as file:
        ours = [row["val_top1_error"] for row in csv.DictReader(file)]
    with open(tmp_path / "curves.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["epoch", "keras_alexnet 0", "pytorch 0"]
    assert [list(map(float, row)) for row in rows] == [
        [1, float(ours[0]), float(first["val_top1_error"])],
        [2, float(ours[1]), float(second["val_top1_error"])],
    ]
    assert "keras_alexnet, seed 0" in (tmp_path / "curves.html").read_text()


def test_agreement_is_given_in_standard_errors(capsys):
    errors = {("keras_alexnet", 0): [0.9, 0.5], ("keras_alexnet", 1): [0.9, 0.6]}
    errors |= {("pytorch", 0): [0.9, 0.4], ("pytorch", 1): [0.9, 0.6]}
    compare_trainings.print_agreement(errors)
    printed = capsys.readouterr().out
    assert re.search(r"^keras_alexnet +55\.0 ± 7\.1% final top-1 error \(seeds: 50\.0, 60\.0\)$", printed, re.M)
    assert printed.endswith("the means differ by +5.0 points, with a standard error of 11.2\n")
