"""Whole trainings on images, beside their limits: synthetic images, and the input alone.

Measured are the images per second of `python -m keras_alexnet.fit` in the second of two epochs, as its history.csv has
them: the first one compiles and starts the input. Each training is a process of its own, on one device. Beside it, in
turns: the same with `--synthetic_data`, which costs no reading; and the batches of `training_dataset` alone, which cost
no computing. The slower one of the two is what a training could reach if reading and computing did not get into each
other's way. Images are those of `--data_dir`; without it, 64 JPEGs of ImageNet's common size are drawn.
"""

import argparse
import csv
import functools
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmarks import common
from benchmarks.drawn import draw_images
from keras_alexnet import cli
from keras_alexnet.data.class_mappings import CLASS_MAPPINGS, write_class_mappings
from keras_alexnet.data.map_file import TRAIN_MAP, VAL_MAP, read_map, write_map
from keras_alexnet.errors import UserError
from keras_alexnet.presets import PRESETS
from keras_alexnet.training.run_files import HISTORY_FILE, RUN_FILE

SYNTHETIC, REAL, PIPELINE = "fit --synthetic_data", "fit", "training_dataset"
QUICK = {"network": "tiny", "steps": 5, "repeats": 1}

_VALIDATION_IMAGES = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the own options."""
    parser.set_defaults(repeats=3)
    parser.add_argument("--data_dir", help="folder with the maps of the images to train on; without it they are drawn")
    parser.add_argument("--network", choices=list(PRESETS), default="cntk", help="the network's sizes (%(default)s)")
    parser.add_argument("--batch_size", type=common.at_least_1, default=32, help="images a step (%(default)s)")
    parser.add_argument("--steps", type=common.at_least_1, default=20, help="steps of an epoch (%(default)s)")


def run(options: argparse.Namespace) -> dict:
    """Prints and returns the images per second of each side, and the ratio of the training to its limit."""
    with tempfile.TemporaryDirectory() as folder:
        data_dir = options.data_dir or write_data(Path(folder), options.batch_size)
        sides = _measure(data_dir, options)
    common.print_sides(sides, "img/s")
    medians = {name: statistics.median(rates) for name, rates in sides.items()}
    limit = min((SYNTHETIC, PIPELINE), key=medians.get)
    ratio = medians[REAL] / medians[limit]
    print(f"{REAL} does {ratio:.3f} of the slower one of the others, {limit}")
    return {
        **{name: getattr(options, name) for name in ("network", "batch_size", "steps", "repeats")},
        "images": "drawn" if options.data_dir is None else os.path.abspath(options.data_dir),
        "sides": {name: {"images_per_second": common.spread(rates)} for name, rates in sides.items()},
        "ratio": ratio,
        "of": limit,
    }


def write_data(folder: Path, batch_size: int) -> Path:
    """Draws images, and writes maps of them that are long enough for a batch; returns `folder`."""
    rows = draw_images(folder)
    write_map(folder / TRAIN_MAP, itertools.islice(itertools.cycle(rows), max(batch_size, len(rows))))
    write_map(folder / VAL_MAP, rows[:_VALIDATION_IMAGES])
    write_class_mappings(folder / CLASS_MAPPINGS, [f"n{label:08}" for _, label in rows])
    return folder


def _measure(data_dir: str | Path, options: argparse.Namespace) -> dict[str, list[float]]:
    """Images per second by side, one a repeat."""
    settings = (options.network, options.batch_size, options.steps)
    sides = {
        SYNTHETIC: functools.partial(_fit_rate, ["--synthetic_data"], *settings),
        REAL: functools.partial(_fit_rate, [f"--data_dir={data_dir}"], *settings),
        PIPELINE: functools.partial(_pipeline_rate, data_dir, *settings),
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.repeats):  # There is nothing to warm up: each training begins with an epoch for that.
        for name, side in sides.items():
            rates[name].append(side())
    return rates


@dataclass(frozen=True)
class Training:
    """What a training has printed and left behind.

    Attributes:
        history: the rows of history.csv, all of them numbers.
        images: how many it went through in each of its epochs.
        parameters: of its network.
        devices: what it computed on, in its own words.
        peak_mb: the most memory that was resident, of the largest of its processes; 1 MB is 10^6 bytes.
    """

    history: list[dict[str, float]]
    images: int
    parameters: int
    devices: str
    peak_mb: float


def train(command: Sequence[str], environment: dict[str, str] | None = None) -> Training:
    """Runs a command of `fit` without its `--output_dir`.

    Args:
        command: the command.
        environment: variables beyond those of this process.

    Raises:
        UserError: it failed; what it said is on stderr.
    """
    with tempfile.TemporaryDirectory() as folder, _text_file() as printed, _text_file() as said:
        process = subprocess.Popen(
            [*command, f"--output_dir={folder}"],
            stdout=printed,
            stderr=said,
            env=os.environ | (environment or {}),
        )
        try:
            # In place of `process.wait`, as it tells of the memory too.
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.terminate()  # Not killed: a launcher ends what it has launched.
            process.wait()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            sys.stderr.write(said.read())
            raise UserError("a training failed; its message is above.")
        with open(Path(folder, HISTORY_FILE), newline="", encoding="utf-8") as file:
            history = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
        record = json.loads(Path(folder, RUN_FILE).read_text(encoding="utf-8"))
        printed.seek(0)
        parameters = int(re.search(r"([\d,]+) parameters", printed.read())[1].replace(",", ""))
    # Linux counts in KiB, macOS in bytes.
    peak_mb = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    images = record["steps"] // len(history) * record["identity"]["batch_size"]
    return Training(history, images, parameters, record["starts"][0]["devices"], peak_mb)


def _text_file() -> IO[str]:
    return tempfile.TemporaryFile("w+", encoding="utf-8", errors="backslashreplace")


def _fit_rate(data: list[str], network: str, batch_size: int, steps: int) -> float:
    command = [
        *(sys.executable, "-m", "keras_alexnet.fit", *data, f"--preset={network}", "--strategy=none"),
        *("--epochs=2", f"--steps_per_epoch={steps}", f"--batch_size={batch_size}"),
    ]
    return train(command).history[1]["images_per_second"]


def _pipeline_rate(data_dir: str | Path, network: str, batch_size: int, steps: int) -> float:
    with cli.quiet_framework_start():
        from keras_alexnet.data.pipeline import training_dataset
    image_map, image_size = read_map(Path(data_dir, TRAIN_MAP)), PRESETS[network].image_size
    batches = iter(training_dataset(image_map, batch_size, seed=0, image_size=image_size))
    for _ in range(steps):
        next(batches)  # As a first epoch, so that batches which were made ahead are used up.
    start = time.perf_counter()
    for _ in range(steps):
        next(batches)
    return steps * batch_size / (time.perf_counter() - start)
