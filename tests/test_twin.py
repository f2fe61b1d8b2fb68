"""The twin in plain PyTorch beside this project's training."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "twin.py"
pytestmark = pytest.mark.slow


def run(*arguments: str) -> str:
    pytest.importorskip("torch")
    result = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def losses_of(*arguments: str) -> list[tuple[float, float]]:
    printed = run("compare", "--preset=tiny", "--batch_size=8", *arguments)
    return [tuple(map(float, pair)) for pair in re.findall(r"^ +\d+ +([\d.]+) +([\d.]+) ", printed, re.MULTILINE)]


def test_both_losses_are_the_same_step_by_step(data_dir):
    # A high rate, so that the momentum matters.
    losses = losses_of(f"--data_dir={data_dir}", "--steps=5", "--learning_rate=0.05")
    assert len(losses) == 5
    assert np.ptp(losses) > 1e-3
    for ours, theirs in losses:
        assert ours == pytest.approx(theirs, rel=1e-6)


def test_large_weights_tell_the_slightest_difference_of_the_networks(data_dir):
    """And of the gradients: the second loss is that after an update. Then rounding at the kinks of ReLU takes over."""
    losses = losses_of(f"--data_dir={data_dir}", "--steps=2", "--learning_rate=0.0001", "--initial=he")
    assert abs(losses[0][0] - losses[1][0]) > 0.1
    for ours, theirs in losses:
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_the_twin_alone_writes_its_history(data_dir, tmp_path):
    output = tmp_path / "new" / "twin.csv"
    run(
        "train", f"--data_dir={data_dir}", "--preset=tiny", "--batch_size=8", "--epochs=2", "--lr_drop_epochs=1",
        f"--output={output}",
    )  # fmt: skip
    with open(output) as file:
        first, second = csv.DictReader(file)
    assert (first["steps"], second["steps"]) == ("3", "6")
    assert float(second["learning_rate"]) == pytest.approx(0.1 * float(first["learning_rate"]))
    for row in (first, second):
        assert float(row["val_top1_error"]) in [pytest.approx(wrong / 7) for wrong in range(8)]
        assert float(row["val_top5_error"]) == 0
        assert 0 < float(row["loss"]) < 2
