"""Whole trainings on images, compared with synthetic images and with the input pipeline by itself.

Measures the throughput of `python -m keras_alexnet.fit` on one device in the second of two epochs, from its
history.csv; the first epoch compiles and fills the pipeline. Each training is a separate process. The baselines are the
same training with `--synthetic_data`, which reads nothing, and `training_dataset` alone, which computes nothing: the
slower one is the limit of a training whose reading and computing do not slow each other down. Images are those of
--data_dir; without it, 64 JPEGs of ImageNet's most common size are drawn.
"""

import argparse
import csv
import functools
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import common
from keras_alexnet import ImageMap, cli, read_map, write_data_dir
from keras_alexnet.errors import UserError
from keras_alexnet.presets import PRESETS

SYNTHETIC, REAL, PIPELINE = "fit --synthetic_data", "fit", "training_dataset"
QUICK = {"network": "tiny", "steps": 5, "repeats": 1}

_VALIDATION_IMAGES = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this benchmark."""
    parser.set_defaults(repeats=3)
    parser.add_argument("--data_dir", help="folder with map files; without it, images are drawn")
    parser.add_argument("--network", choices=list(PRESETS), default="cntk", help="the preset (%(default)s)")
    parser.add_argument("--batch_size", type=common.at_least_1, default=32, help="images per step (%(default)s)")
    parser.add_argument("--steps", type=common.at_least_1, default=20, help="steps per epoch (%(default)s)")


def run(options: argparse.Namespace) -> dict:
    """Prints and returns the throughput of each variant, and that of the training relative to its limit."""
    with tempfile.TemporaryDirectory() as folder:
        data_dir = options.data_dir or write_data(Path(folder), options.batch_size)
        # Each training warms up by itself.
        rates = common.interleave(_variants(data_dir, options), options.repeats, warm_ups=0)
    common.print_variants(rates)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    baseline = min((SYNTHETIC, PIPELINE), key=medians.get)
    ratio = medians[REAL] / medians[baseline]
    print(f"{REAL}: {ratio:.3f} relative to {baseline}, the slower baseline")
    return {
        **{name: getattr(options, name) for name in ("network", "batch_size", "steps", "repeats")},
        "images": "drawn" if options.data_dir is None else os.path.abspath(options.data_dir),
        "variants": {name: {"images_per_second": common.spread(values)} for name, values in rates.items()},
        "ratio": ratio,
        "baseline": baseline,
    }


def write_data(folder: Path, batch_size: int) -> Path:
    """Draws images and writes maps of them, long enough for a batch; returns `folder`."""
    paths = common.draw_images(folder)
    rows = list(itertools.islice(enumerate(itertools.cycle(paths)), max(batch_size, len(paths))))
    train = ImageMap([path for _, path in rows], [number % len(paths) for number, _ in rows])
    write_data_dir(folder, train, train.take(range(_VALIDATION_IMAGES)), [f"n{n:08}" for n in range(len(paths))])
    return folder


def _variants(data_dir: str | Path, options: argparse.Namespace) -> dict[str, Callable[[], float]]:
    return {
        SYNTHETIC: functools.partial(_fit_rate, "--synthetic_data", options),
        REAL: functools.partial(_fit_rate, f"--data_dir={data_dir}", options),
        PIPELINE: functools.partial(_pipeline_rate, data_dir, options),
    }


def _fit_rate(data: str, options: argparse.Namespace) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "keras_alexnet.fit", data, f"--output_dir={folder}", "--strategy=none"),
            *(f"--preset={options.network}", f"--batch_size={options.batch_size}"),
            *("--epochs=2", f"--steps_per_epoch={options.steps}"),
        ]
        process = subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="backslashreplace"
        )
        if process.returncode:
            sys.stderr.write(process.stderr)
            raise UserError("a training failed; its message is above.")
        with open(Path(folder, "history.csv"), newline="", encoding="utf-8") as file:
            return float(list(csv.DictReader(file))[1]["images_per_second"])


def _pipeline_rate(data_dir: str | Path, options: argparse.Namespace) -> float:
    with cli.quiet_framework_start():
        from keras_alexnet import training_dataset
    image_map, image_size = read_map(Path(data_dir, "train_map.txt")), PRESETS[options.network].image_size
    batches = iter(training_dataset(image_map, options.batch_size, seed=0, image_size=image_size))
    for _ in range(options.steps):
        next(batches)  # As in a first epoch, so that the batches read ahead of time are used up.
    start = time.perf_counter()
    for _ in range(options.steps):
        next(batches)
    return options.steps * options.batch_size / (time.perf_counter() - start)
