"""Fixtures: a small data set of real JPEGs, processes of other backends, and a quiet start of the frameworks."""

import os
import shutil
import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest
from backend_processes import BackendProcess
from map_files import write_map
from PIL import Image

from keras_alexnet import cli
from keras_alexnet.data.class_mappings import CLASS_MAPPINGS, write_class_mappings
from keras_alexnet.data.map_file import TRAIN_MAP, VAL_MAP

REFERENCE = Path(__file__).parent / "reference"
CLASSES = ("n01", "n02", "n03")


def pytest_configure(config):
    # The user's choice of a backend must not leak in.
    os.environ.pop("KERAS_BACKEND", None)
    if not hasattr(config, "workerinput"):
        # Processes under JAX compile the same programs. Those that pytest-xdist starts inherit this.
        cache = tempfile.mkdtemp(prefix="keras_alexnet-tests-")
        config.add_cleanup(lambda: shutil.rmtree(cache, ignore_errors=True))
        os.environ |= {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    # Without buffers nothing is left to be written when a command ends, as it is for users.
    os.environ.pop("PYTHONUNBUFFERED", None)
    # A shell has what it starts in the background ignore Ctrl-C, which the commands under test would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has it ignored.


def write_images(folder: Path, count: int, seed: int) -> list[tuple[str, int]]:
    """Noise of three colors, one a class, as JPEGs; returns (path, label) rows."""
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


def write_data(folder: Path) -> Path:
    """Writes the map files of 24 training and 7 validation images of three classes, and the images."""
    write_map(folder / TRAIN_MAP, write_images(folder / "train", 24, seed=1))
    write_map(folder / VAL_MAP, write_images(folder / "val", 7, seed=2))
    write_class_mappings(folder / CLASS_MAPPINGS, CLASSES)
    return folder


@pytest.fixture(scope="session")
def backend_process():
    """A function from the name of a backend to its `BackendProcess`, which lasts as long as the tests."""
    started: dict[str, BackendProcess] = {}
    yield lambda backend: started.get(backend) or started.setdefault(backend, BackendProcess(backend))
    for process in started.values():
        process.end()


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    """A folder with the three map files of 24 training and 7 validation images of three classes. Read only."""
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def own_data_dir(tmp_path) -> Path:
    """As `data_dir`, for tests that change it."""
    return write_data(tmp_path / "data")


with cli.quiet_framework_start():
    import tensorflow  # noqa: F401
