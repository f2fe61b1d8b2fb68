"""What `benchmark.py fit` measures: whole trainings, beside the limits of the devices and of the input."""

import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from keras_alexnet import cli
from keras_alexnet.data.maps import TRAIN_MAP, read_map
from keras_alexnet.errors import UserError
from keras_alexnet.training.config import TrainConfig
from keras_alexnet.training.run_files import CHECKPOINT_FOLDER, HISTORY_FILE

SYNTHETIC, REAL, PIPELINE = "fit --synthetic_data", "fit", "training_dataset"


def measure(data_dir: str, network: str, batch_size: int, steps: int, repeats: int) -> dict[str, list[float]]:
    """Images per second of a training on synthetic images, of one on those of `data_dir`, and of their input alone.

    Each repeat is a run of two epochs of `steps` in a process of its own, of which the second one counts: the first
    compiles and starts the input. The three take turns.
    """
    rates: dict[str, list[float]] = {SYNTHETIC: [], REAL: [], PIPELINE: []}
    for _ in range(repeats):
        rates[SYNTHETIC].append(_fit_rate(["--synthetic_data"], network, batch_size, steps))
        rates[REAL].append(_fit_rate([f"--data_dir={data_dir}"], network, batch_size, steps))
        rates[PIPELINE].append(_pipeline_rate(data_dir, batch_size, steps))
    return rates


def checkpoint_seconds(network: str, repeats: int) -> list[float]:
    """What a training stops for each time that a checkpoint is saved: from the variables to the flushed file."""
    with cli.quiet_framework_start():
        from keras_alexnet.training.checkpoint import Progress, save_checkpoint, variable_arrays
        from keras_alexnet.training.distribution import choose_devices
        from keras_alexnet.training.loop import build_model
    with choose_devices("none") as devices:
        model = build_model(TrainConfig(preset=network), 1000, 1, devices)
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for step in range(repeats + 1):
            start = time.perf_counter()
            save_checkpoint(Path(folder, CHECKPOINT_FOLDER), variable_arrays(model), Progress(step, [], {}, 1))
            seconds.append(time.perf_counter() - start)
    return seconds[1:]


def _fit_rate(data: list[str], network: str, batch_size: int, steps: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.run(
            [
                *(sys.executable, "-m", "keras_alexnet.fit", *data, f"--output_dir={folder}", f"--preset={network}"),
                *("--epochs=2", f"--steps_per_epoch={steps}", f"--batch_size={batch_size}", "--strategy=none"),
            ],
            check=False,
            stdout=subprocess.DEVNULL,
        )
        if process.returncode:
            raise UserError("a training failed; its message is above.")
        with open(Path(folder, HISTORY_FILE), newline="", encoding="utf-8") as file:
            return float(list(csv.DictReader(file))[1]["images_per_second"])


def _pipeline_rate(data_dir: str, batch_size: int, steps: int) -> float:
    with cli.quiet_framework_start():
        from keras_alexnet.data.pipeline import training_dataset
    batches = iter(training_dataset(read_map(Path(data_dir, TRAIN_MAP)), batch_size, seed=0))
    next(batches)
    start = time.perf_counter()
    for _ in range(steps):
        next(batches)
    return steps * batch_size / (time.perf_counter() - start)
