"""Fixtures: a small data set of real JPEGs, and the frameworks started without their chatter."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from map_files import write_map
from PIL import Image

from keras_alexnet import cli
from keras_alexnet.data.class_mappings import CLASS_MAPPINGS, write_class_mappings
from keras_alexnet.data.map_file import TRAIN_MAP, VAL_MAP

REFERENCE = Path(__file__).parent / "reference"
CLASSES = ("n01", "n02", "n03")


def pytest_configure(config):
    # Two workers of tests on two cores are enough for small networks, and Keras's choice must not leak in from outside.
    os.environ.pop("KERAS_BACKEND", None)
    # Without buffers nothing is left to be written when a command ends, as it is for users.
    os.environ.pop("PYTHONUNBUFFERED", None)
    # A shell has what it starts in the background ignore Ctrl-C, which the commands under test would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has it ignored.


def write_images(folder: Path, count: int, seed: int) -> list[tuple[str, int]]:
    """Noise of three colours, one a class, as JPEGs; returns (path, label) rows."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    rows = []
    for number in range(count):
        label = number % len(CLASSES)
        pixels = rng.integers(0, 90, (40, 56, 3), dtype=np.uint8)
        pixels[..., label] += 150
        path = folder / f"{number}.JPEG"
        Image.fromarray(pixels).save(path, quality=95)
        rows.append((str(path), label))
    return rows


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    """A folder with the three map files of 24 training and 7 validation images of three classes. Read only."""
    folder = tmp_path_factory.mktemp("data")
    write_map(folder / TRAIN_MAP, write_images(folder / "train", 24, seed=1))
    write_map(folder / VAL_MAP, write_images(folder / "val", 7, seed=2))
    write_class_mappings(folder / CLASS_MAPPINGS, CLASSES)
    return folder


@pytest.fixture
def own_data_dir(tmp_path) -> Path:
    """As `data_dir`, for tests that spoil it."""
    folder = tmp_path / "data"
    write_map(folder / TRAIN_MAP, write_images(folder / "train", 24, seed=1))
    write_map(folder / VAL_MAP, write_images(folder / "val", 7, seed=2))
    write_class_mappings(folder / CLASS_MAPPINGS, CLASSES)
    return folder


with cli.quiet_framework_start():
    import tensorflow  # noqa: F401
