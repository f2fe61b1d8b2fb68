"""The example of the library's use, as a user runs it."""

import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from conftest import write_images

from keras_alexnet.model import build_alexnet
from keras_alexnet.model_file import save_model

SCRIPT = Path(__file__).parent.parent / "scripts" / "fine_tune_photos.py"


@pytest.mark.slow
def test_it_classifies_and_trains(tmp_path):
    keras.utils.set_random_seed(0)
    save_model(build_alexnet(5, preset="tiny"), tmp_path / "trained.keras")
    for path, label in write_images(tmp_path / "all", 42, seed=1):
        folder = tmp_path / "photos" / ("red", "green", "blue")[label]
        folder.mkdir(parents=True, exist_ok=True)
        Path(path).rename(folder / Path(path).name)
    command = [sys.executable, SCRIPT, *(tmp_path / name for name in ("trained.keras", "photos", "out"))]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    # Even random features tell plain colors.
    assert "trained.keras: 0.0% error on 9 photos" in result.stdout
    assert re.search(r"^fine-tuned: [\d.]+% error on 9 photos$", result.stdout, re.MULTILINE)
    assert (tmp_path / "out" / "best.classes.txt").read_text() == "blue\t0\ngreen\t1\nred\t2\n"
