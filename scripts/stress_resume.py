"""Kill-and-resume test: interrupts trainings at random moments, resumes them, and compares the results.

    python scripts/stress_resume.py --data_dir=data --kills=50

Each run is started with the same command again and again, and interrupted after a random time, until it completes. The
next run then starts, until there have been --kills kills. A kill is SIGKILL, SIGTERM, SIGINT (Ctrl-C), SIGHUP, or the
run's terminal closing. In addition, some runs lose their terminal while SIGHUP is ignored, as under nohup: they must
continue to the end. Weights, momentum buffers, seeds, metrics and history must be bit-identical to those of an
uninterrupted run; exit status 1 if they are not, or if a run ends with an unexpected status.
"""

import argparse
import csv
import fcntl
import os
import pty
import random
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections import Counter
from pathlib import Path

import numpy as np

from keras_alexnet import cli
from keras_alexnet.errors import UserError
from keras_alexnet.system import machine
from keras_alexnet.training.config import PRECISIONS
from keras_alexnet.training.run_files import BEST_MODEL_FILE, CHECKPOINT_FOLDER, HISTORY_FILE, MODEL_FILE

CLOSED = "closed terminal"
CLOSED_NOHUP = "closed terminal with SIGHUP ignored"
# Exit statuses that each interruption may cause: that of the signal itself, or the documented one.
STATUSES = {
    "SIGKILL": {-9},
    "SIGTERM": {-15, 143},
    "SIGINT": {-2, 130},
    "SIGHUP": {-1, 129},
    CLOSED: {-1, 129},
    CLOSED_NOHUP: set(),  # it does not end the run
}
TIMES = {"images_per_second", "data_wait", "seconds"}


def fit_command(options: argparse.Namespace, folder: Path) -> list[str]:
    """The command that starts or resumes the run in `folder`."""
    return [
        *(sys.executable, "-m", "keras_alexnet.fit", f"--data_dir={options.data_dir}", f"--output_dir={folder}"),
        *(f"--preset={options.preset}", f"--precision={options.precision}", f"--batch_size={options.batch_size}"),
        *(f"--epochs={options.epochs}", f"--steps_per_epoch={options.steps_per_epoch}"),
        *("--learning_rate=0.001", "--lr_drop_epochs=2", f"--checkpoint_minutes={options.checkpoint_minutes}"),
    ]


class Training:
    """A context manager with a training process, which it ends on exit.

    Args:
        command: the command to run.
        log: file for what the command prints on stderr, or on its terminal.
        interruption: a key of `STATUSES`, or None; those that close a terminal have the process run on one.
    """

    def __init__(self, command: list[str], log: Path, interruption: str | None = None):
        self._log = log
        self._interruption = interruption
        self._terminal = None
        with open(log, "wb") as output:
            if interruption in (CLOSED, CLOSED_NOHUP):
                self._start_on_terminal(command, output)
            else:
                self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=output)

    def _start_on_terminal(self, command: list[str], output) -> None:
        ours, its = pty.openpty()
        # The process that holds the other side of the terminal, as a terminal window does. When it ends, the terminal
        # closes.
        self._terminal = subprocess.Popen(["cat"], stdin=ours, stdout=output, stderr=subprocess.DEVNULL)
        os.close(ours)

        def prepare() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # Only from its controlling terminal does a process get SIGHUP.
            if self._interruption == CLOSED_NOHUP:
                signal.signal(signal.SIGHUP, signal.SIG_IGN)

        self._process = subprocess.Popen(
            command, stdin=its, stdout=its, stderr=its, start_new_session=True, preexec_fn=prepare
        )
        os.close(its)

    def __enter__(self) -> "Training":
        return self

    def __exit__(self, *exception) -> None:
        for process in filter(None, (self._process, self._terminal)):
            process.kill()
            process.wait()

    def ends_within(self, seconds: float) -> bool:
        """Waits for the end of the process for at most `seconds`."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def interrupt(self) -> None:
        """Sends the signal, or closes the terminal."""
        if self._terminal:
            self._terminal.kill()
            self._terminal.wait()
        else:
            self._process.send_signal(signal.Signals[self._interruption])

    def completes(self) -> bool:
        """Waits for the end: True if the run is complete, False if the interruption has ended it.

        Exits the script if the process ended with any other status.
        """
        status = self._process.wait()
        if status and status not in STATUSES.get(self._interruption, ()):
            if self._terminal:
                self._terminal.wait()  # until it has read everything
            after = f" after {self._interruption}" if self._interruption else ""
            sys.exit(f"a run ended with status {status}{after}:\n{self._log.read_text(errors='backslashreplace')}")
        return status == 0


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint, None before the first."""
    return max((folder / CHECKPOINT_FOLDER).glob("step-*.npz"), default=None)


def results(folder: Path) -> tuple[dict[str, np.ndarray], list[dict]]:
    """The arrays of the last checkpoint and of both models, and the history without its times."""
    with np.load(newest_checkpoint(folder)) as file:
        arrays = {name: file[name] for name in file.files if name != "state.json"}
    with cli.quiet_framework_start():
        from keras_alexnet.model_file import load_model
    for name in (MODEL_FILE, BEST_MODEL_FILE):
        weights = load_model(str(folder / name)).get_weights()
        arrays |= {f"{name} {number}": array for number, array in enumerate(weights)}
    with open(folder / HISTORY_FILE, newline="", encoding="utf-8") as file:
        return arrays, [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def differences(folder: Path, expected: tuple[dict[str, np.ndarray], list[dict]]) -> list[str]:
    """Names of the results that are not bit-identical to the expected ones."""
    arrays, history = results(folder)
    names = sorted(arrays.keys() | expected[0].keys())
    different = [
        name
        for name in names
        if name not in arrays or name not in expected[0] or arrays[name].tobytes() != expected[0][name].tobytes()
    ]
    return different + (["history"] if history != expected[1] else [])


def main() -> None:
    """Runs until there have been enough kills, and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True, help="folder with the maps")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--steps_per_epoch", type=int, default=40)
    parser.add_argument("--checkpoint_minutes", type=float, default=0.03)
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments and interruptions")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    print(
        f"{machine.processor()}; {', '.join(f'{name} {version}' for name, version in machine.versions().items())}\n"
        f"{options.epochs} epochs of {options.steps_per_epoch} steps of {options.batch_size} images, {options.preset}, "
        f"{options.precision}, a checkpoint every {60 * options.checkpoint_minutes:g} s",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as scratch:
        log, uninterrupted = Path(scratch, "log"), Path(scratch, "uninterrupted")
        begin = time.monotonic()
        with Training(fit_command(options, uninterrupted), log) as training:
            training.completes()
        seconds = time.monotonic() - begin
        expected = results(uninterrupted)
        print(f"uninterrupted run: {seconds:.0f} s", flush=True)

        kills, survived, too_late = Counter(), 0, 0
        positions, wrong, runs = set(), 0, 0
        while kills.total() < options.kills:
            runs += 1
            folder = Path(scratch, f"run-{runs}")
            complete = False
            while not complete:
                interruption = chance.choice(list(STATUSES)) if kills.total() < options.kills else None
                with Training(fit_command(options, folder), log, interruption) as training:
                    interrupted = interruption and not training.ends_within(chance.uniform(0, 0.6 * seconds))
                    if interrupted:
                        training.interrupt()
                    complete = training.completes()
                if not interrupted:
                    continue
                if not complete:
                    kills[interruption] += 1
                    newest = newest_checkpoint(folder)
                    positions.add(int(newest.stem.removeprefix("step-")) if newest else 0)
                elif interruption == CLOSED_NOHUP:
                    survived += 1
                else:
                    too_late += 1
            different = differences(folder, expected)
            wrong += bool(different)
            print(f"run {runs}: {', '.join(different) + ' differ' if different else 'bit-identical'}", flush=True)
        print(
            f"{kills.total()} kills ({', '.join(f'{count} × {name}' for name, count in sorted(kills.items()))}) in "
            f"{runs} runs\n"
            f"newest checkpoint at the kills: {len(positions)} different steps of "
            f"{options.epochs * options.steps_per_epoch} ({', '.join(map(str, sorted(positions)))})\n"
            f"{survived} of {runs} runs continued to the end after their terminal closed with SIGHUP ignored\n"
            f"{too_late} of {runs} runs completed because a kill came too late\n"
            f"{runs - wrong} of {runs} runs are bit-identical to the uninterrupted one"
        )
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
