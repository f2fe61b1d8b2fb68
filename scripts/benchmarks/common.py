"""Turns, spreads, and the facts that stand beside every figure."""

import argparse
import contextlib
import datetime
import importlib.util
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import features

from keras_alexnet.errors import UserError
from keras_alexnet.system import machine

# What Keras calls the precisions.
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}

# Between two turns, so that threads which wait for more work with the processor running have gone to sleep.
_REST_SECONDS = 0.3


def take_turns(sides: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Calls the sides in turns, A B A B; returns by name what they returned, one a repeat.

    There is a first round that is not counted: it fills caches and compiles.
    """
    figures: dict[str, list[float]] = {name: [] for name in sides}
    for round_number in range(repeats + 1):
        for name, side in sides.items():
            time.sleep(_REST_SECONDS)
            figure = side()
            if round_number:
                figures[name].append(figure)
    return figures


def seconds_of(function: Callable[[], object]) -> Callable[[], float]:
    """A side that calls a function and returns the seconds that it took."""

    def side() -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    return side


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most, for JSON."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def spread_text(values: list[float]) -> str:
    """Median, least and most with three digits at least: "26.6 (24.9–29.9)"."""
    middle = statistics.median(values)
    digits = 0 if middle >= 100 else 1 if middle >= 10 else 2 if middle >= 1 else 3
    return f"{middle:,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def print_sides(sides: dict[str, list[float]], unit: str) -> None:
    """Prints a line a side: name, median and range, unit."""
    width = max(map(len, sides))
    for name, values in sides.items():
        print(f"{name:{width}} {spread_text(values):>25} {unit}", flush=True)


def at_least_1(text: str) -> int:
    """An argparse type."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return number


@contextlib.contextmanager
def temporary_folder(parent: str) -> Iterator[Path]:
    """A new folder, absolute, in the one that --folder names, which is made if need be; removed at the end.

    Raises:
        UserError: it cannot be written to, at the beginning or within.
    """
    try:
        os.makedirs(parent, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix="keras_alexnet_benchmark_") as folder:
            yield Path(folder).absolute()
    except OSError as error:
        raise UserError(
            f"cannot write to {parent}: {error.strerror or error}. Make room or permit writing there, or choose "
            "another --folder."
        ) from error


def versions() -> dict[str, str]:
    """Of Python, of the packages that are measured, and of the libjpeg-turbo inside them."""
    found = machine.versions(("keras", "tensorflow", "jax", "torch", "onnx", "numpy", "pillow", "simplejpeg"))
    for package, library in (("pillow", features.version("libjpeg_turbo")), ("simplejpeg", _turbo_of_simplejpeg())):
        if package in found and library:
            found[package] += f" (libjpeg-turbo {library})"
    return found


def _turbo_of_simplejpeg() -> str | None:
    """simplejpeg does not tell which libjpeg-turbo was built into it, but that library's own text is in there."""
    if not importlib.util.find_spec("simplejpeg"):
        return None
    from simplejpeg import _jpeg

    text = re.search(rb"libjpeg-turbo version ([\d.]+)", Path(_jpeg.__file__).read_bytes())
    return text and text[1].decode()


def facts() -> dict:
    """Where, when and how: `machine`, `versions`, `date`, `command`."""
    return {
        "machine": machine.processor(),
        "versions": versions(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", *sys.argv]),
    }


def gpu_name() -> str | None:
    """Of the first NVIDIA GPU, as its driver tells it; None where there is none."""
    try:
        listing = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return listing.strip().split("\n")[0] or None


def scripts_on_path() -> dict[str, str]:
    """The environment variable by which a process finds what lies in the folder of the scripts."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parent.parent), os.getenv("PYTHONPATH")]))}


def memory_mb() -> dict[str, float]:
    """This process's `VmRSS` (resident) and `VmHWM` (the most that was) in MB; nothing where there is no /proc."""
    try:
        with open("/proc/self/status", encoding="utf-8") as file:
            fields = dict(line.split(":", 1) for line in file)
    except FileNotFoundError:
        return {}
    return {name: int(fields[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "VmHWM")}
