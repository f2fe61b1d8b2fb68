"""Kills trainings at random moments, has them go on, and compares the results with those of a run left in peace.

    python scripts/stress_resume.py --data_dir=data --kills=50

Each run is started with the same command again and again, and killed by SIGKILL, SIGTERM or Ctrl-C after a random time,
wherever it then is, until it gets to its end; then the next one begins, until there have been as many kills as asked
for. Weights, momenta, seeds, metrics and history have to be the same, bit for bit. Exits with status 1 if they are not.
"""

import argparse
import csv
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from keras_alexnet import cli, machine
from keras_alexnet.errors import UserError
from keras_alexnet.training.config import PRECISIONS
from keras_alexnet.training.run_files import BEST_MODEL_FILE, CHECKPOINT_FOLDER, HISTORY_FILE, MODEL_FILE

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# What a command may end with after each of them: the signal itself, or the documented status.
STATUSES = {signal.SIGKILL: {-9}, signal.SIGTERM: {-15, 143}, signal.SIGINT: {-2, 130}}
TIMES = {"images_per_second", "data_wait", "seconds"}


def start(options: argparse.Namespace, folder: Path) -> subprocess.Popen:
    """Starts or goes on with the run in `folder`."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "keras_alexnet.fit", f"--data_dir={options.data_dir}", f"--output_dir={folder}"),
            *(f"--preset={options.preset}", f"--precision={options.precision}", f"--batch_size={options.batch_size}"),
            *(f"--epochs={options.epochs}", f"--steps_per_epoch={options.steps_per_epoch}"),
            *("--learning_rate=0.001", "--lr_drop_epochs=2", f"--checkpoint_minutes={options.checkpoint_minutes}"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> None:
    """Waits for the end of a run that nobody kills."""
    _, errors = process.communicate()
    if process.returncode:
        sys.exit(f"a run ended with status {process.returncode}:\n{errors}")


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint, None before the first."""
    return max((folder / CHECKPOINT_FOLDER).glob("step-*.npz"), default=None)


def results(folder: Path) -> tuple[dict[str, np.ndarray], list[dict]]:
    """The arrays of the last checkpoint and of both models, and the history without its times."""
    with np.load(newest_checkpoint(folder)) as file:
        arrays = {name: file[name] for name in file.files if name != "state.json"}
    with cli.quiet_framework_start():
        from keras_alexnet.training.model_file import load_model
    for name in (MODEL_FILE, BEST_MODEL_FILE):
        weights = load_model(str(folder / name)).get_weights()
        arrays |= {f"{name} {number}": array for number, array in enumerate(weights)}
    with open(folder / HISTORY_FILE, newline="", encoding="utf-8") as file:
        return arrays, [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def differences(folder: Path, expected: tuple[dict[str, np.ndarray], list[dict]]) -> list[str]:
    """Names of what is not the same, bit for bit."""
    arrays, history = results(folder)
    names = sorted(arrays.keys() | expected[0].keys())
    different = [
        name
        for name in names
        if name not in arrays or name not in expected[0] or arrays[name].tobytes() != expected[0][name].tobytes()
    ]
    return different + (["history"] if history != expected[1] else [])


def main() -> None:
    """Runs until there have been enough kills, and prints what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True, help="folder with the maps")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--steps_per_epoch", type=int, default=40)
    parser.add_argument("--checkpoint_minutes", type=float, default=0.03)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the signals")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    print(
        f"{machine.processor()}; {', '.join(f'{name} {version}' for name, version in machine.versions().items())}\n"
        f"{options.epochs} epochs of {options.steps_per_epoch} steps of {options.batch_size} images, {options.preset}, "
        f"{options.precision}, a checkpoint every {60 * options.checkpoint_minutes:g} s",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch, "whole")
        begin = time.monotonic()
        finish(start(options, whole))
        seconds = time.monotonic() - begin
        expected = results(whole)
        print(f"in peace: {seconds:.0f} s", flush=True)

        kills = Counter()
        positions, wrong, runs = [], 0, 0
        while kills.total() < options.kills:
            runs += 1
            folder = Path(scratch, f"run-{runs}")
            while True:
                process = start(options, folder)
                if kills.total() < options.kills:
                    try:
                        process.wait(chance.uniform(0, 0.6 * seconds))
                    except subprocess.TimeoutExpired:
                        number = chance.choice(SIGNALS)
                        process.send_signal(number)
                        _, errors = process.communicate()
                        if process.returncode not in STATUSES[number] | {0}:
                            sys.exit(f"{number.name} ended a run with status {process.returncode}:\n{errors}")
                        kills[number.name] += 1
                        newest = newest_checkpoint(folder)
                        positions.append(int(newest.stem.removeprefix("step-")) if newest else 0)
                        continue
                finish(process)
                break
            different = differences(folder, expected)
            wrong += bool(different)
            print(f"run {runs}: {', '.join(different) + ' differ' if different else 'the same bits'}", flush=True)
        total = options.epochs * options.steps_per_epoch
        print(
            f"{kills.total()} kills ({', '.join(f'{count} × {name}' for name, count in sorted(kills.items()))}) in "
            f"{runs} runs\n"
            f"newest checkpoint at the kills: {len(set(positions))} different steps of {total} "
            f"({', '.join(map(str, sorted(set(positions))))})\n"
            f"{runs - wrong} of {runs} runs ended with the same bits as the one in peace"
        )
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
