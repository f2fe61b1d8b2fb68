"""Trainings in processes of their own, and what they leave behind."""

import contextlib
import csv
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from backend_processes import NUM_DEVICES

from keras_alexnet.presets import PRESETS, Preset

# The columns of history.csv that no two runs share.
TIMES = {"images_per_second", "data_wait", "seconds"}

_PROGRAM = """
import json, os, sys
from keras_alexnet import cli
num_devices = int(sys.argv[1])
with cli.quiet_framework_start():
    import tensorflow as tf
    from keras_alexnet.report.train import train
    from keras_alexnet.training.config import TrainConfig
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * num_devices
)
for config in sys.argv[2:]:
    train(TrainConfig(**json.loads(config)))
"""


@contextlib.contextmanager
def small_preset() -> Iterator[None]:
    """Within it, and in this process only, there is a preset "small": a narrow network of images of 67×67."""
    with mock.patch.dict(PRESETS, small=Preset((4, 6, 5, 7, 8), (9, 9), image_size=67, input_offset=-114.0)):
        yield


def installed(*backends: str) -> list:
    """Parameters of tests, of which those are skipped whose backend is not installed."""
    return [
        pytest.param(name, marks=pytest.mark.skipif(not importlib.util.find_spec(name), reason=f"no {name} installed"))
        for name in backends
    ]


def start_training(backend: str, *configs: dict, num_devices: int = 1) -> subprocess.Popen:
    """Starts a process that trains one run after the other, with so many logical devices under TensorFlow."""
    # As many devices as a `BackendProcess` has under JAX, since they share the CPU's threads.
    flags = f"--xla_force_host_platform_device_count={NUM_DEVICES}"
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(num_devices), *map(json.dumps, configs)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "KERAS_BACKEND": backend, "XLA_FLAGS": flags},
    )


def finish(process: subprocess.Popen) -> tuple[str, str]:
    """Waits for a success, and returns what was printed on stdout and stderr."""
    with process:
        try:
            stdout, stderr = process.communicate(timeout=600)
        finally:
            process.kill()
    assert process.returncode == 0, stderr
    return stdout, stderr


def newest_checkpoint(folder: Path) -> Path:
    return max((folder / "checkpoint").glob("step-*.npz"))


def arrays_of(folder: Path) -> dict[str, np.ndarray]:
    """The variables at the end of a run."""
    with np.load(newest_checkpoint(folder)) as file:
        return {name: file[name] for name in file.files if name != "state.json"}


def history_of(folder: Path) -> list[dict[str, float]]:
    with open(folder / "history.csv", newline="") as file:
        return [{k: float(v) for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def traced_steps(folder: Path) -> list[int]:
    """The steps in a trace for xprof, whose schema TensorFlow has."""
    (host,) = (plane for plane in xspace(folder).planes if plane.name == "/host:CPU")
    return sorted(
        stat.int64_value
        for line in host.lines
        for event in line.events
        if host.event_metadata[event.metadata_id].name == "train"
        for stat in event.stats
        if host.stat_metadata[stat.metadata_id].name == "step_num"
    )


def xspace(folder: Path):
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    (path,) = folder.glob("*.xplane.pb")
    return xplane_pb2.XSpace.FromString(path.read_bytes())


def assert_identical(folder: Path, expected: Path) -> None:
    """The same history but for its times, and the same bits in the last checkpoint."""
    assert history_of(folder) == history_of(expected)
    arrays, expected_arrays = arrays_of(folder), arrays_of(expected)
    assert arrays.keys() == expected_arrays.keys()
    for name, array in expected_arrays.items():
        assert (arrays[name].dtype, arrays[name].tobytes()) == (array.dtype, array.tobytes()), name


def assert_close(folder: Path, expected: Path) -> None:
    """The same weights, momentum buffers and errors, but for rounding."""
    arrays, expected_arrays = arrays_of(folder), arrays_of(expected)
    assert arrays.keys() == expected_arrays.keys()
    for name, array in expected_arrays.items():
        if not name.startswith("metrics/"):
            # Biases of the first layers have hardly left 0, and gradients of that size are all rounding.
            atol = 1e-8 + 1e-5 * np.abs(array.astype(np.float64)).max()
            np.testing.assert_allclose(arrays[name], array, rtol=0, atol=atol, err_msg=name)
    for row, expected_row in zip(history_of(folder), history_of(expected), strict=True):
        for name, value in expected_row.items():
            np.testing.assert_allclose(row[name], value, rtol=1e-5, err_msg=name)
