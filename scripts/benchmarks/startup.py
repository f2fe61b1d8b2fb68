"""How long the commands take to start, and a training until its first step and its first batch.

Each figure is taken in turns with its limit, and each turn is a process of its own:

The commands: `--help` of each, beside `python -c pass`.

The first step: from the command to the end of the first training step of `fit --synthetic_data`, under each of
`--backends`, on the CPU, beside `import keras` under that backend alone; and beside PyTorch, where it is installed:
import torch, make the same network, do one step. The parts are told: the framework's import; then, until the network is
made, our own imports and the variables; the first step, which traces and compiles; and the second one, which does not.
What is beyond the import and the time of such a step is ours, or Keras's on our behalf.

The first batch: seconds and memory from the framework's import until there is the first batch of images of a map of
`--lines` lines, by default as many as ILSVRC2012 has, from step 0 and from step 1,000,000.
"""

import argparse
import dataclasses
import functools
import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import common
from benchmarks.drawn import NUM_IMAGES, draw_images
from keras_alexnet import cli
from keras_alexnet.data.image_map import ImageMap
from keras_alexnet.data.map_file import read_map, write_map
from keras_alexnet.errors import UserError
from keras_alexnet.presets import PRESETS

COMMANDS = ("prepare", "fit", "evaluate", "predict", "convert")
BACKENDS = ("tensorflow", "jax", "torch")
QUICK = {"repeats": 1, "network": "tiny", "lines": 20_000, "first_steps": [0]}
PYTHON, PYTORCH = "python -c pass", "PyTorch"

_STEP_BATCH_SIZE = 32  # images
_ON_CPU = {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}

# It tells how far it has come as `fit` does. Of the twin, which is plain PyTorch, the commands' parts are not used.
_TORCH_PROGRAM = """
import sys
import numpy as np
from twin import MomentumSGD, Twin, training_step
network, batch_size, image_size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
model = Twin(network, 1000, dropout=0.5)
optimizer = MomentumSGD(model.parameters())
print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters", flush=True)
rng = np.random.default_rng(0)
pixels = rng.integers(0, 256, (batch_size, image_size, image_size, 3), np.uint8)
labels = rng.integers(0, 1000, batch_size)
for step in (1, 2):
    training_step(model, optimizer, pixels, labels, 0.01)
    print(f"epoch 1/1  {step}/3", flush=True)
"""
_PARTS = {
    "total_seconds": "until the first step is done",
    "import_seconds": "of that: the import of the framework alone",
    "build_seconds": "then, until the network is made",
    "first_step_seconds": "the first step",
    "second_step_seconds": "beside it: the second step",
    "beyond_seconds": "beyond the import and the second step's time",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the own options."""
    parser.set_defaults(repeats=3)
    parser.add_argument(
        "--backends", nargs="+", choices=BACKENDS, default=["tensorflow"], help="of the first step (%(default)s)"
    )
    parser.add_argument(
        "--network", choices=["cntk", "tiny"], default="cntk", help="the network of the first step (%(default)s)"
    )
    parser.add_argument("--map", help="map file of the images of the first batch; some are drawn if it is not given")
    parser.add_argument(
        "--lines", type=common.at_least_1, default=1_281_167, help="lines of the map that is read (%(default)s)"
    )
    parser.add_argument(
        "--batch_size", type=common.at_least_1, default=256, help="images in the first batch (%(default)s)"
    )
    parser.add_argument(
        "--first_steps",
        nargs="+",
        type=int,
        default=[0, 1_000_000],
        help="steps from which the first batch is made (%(default)s)",
    )


def run(options: argparse.Namespace) -> dict:
    """Prints and returns the seconds of commands, first steps and first batches, and the memory of the last."""
    for backend in options.backends:
        if not importlib.util.find_spec(backend):
            raise UserError(f"{backend} of --backends is not installed: pip install -e '.[{backend}]'")
    if options.lines < options.batch_size:
        raise UserError(f"--lines is {options.lines}, expected at least the {options.batch_size} of a batch.")
    if min(options.first_steps) < 0:
        raise UserError(f"--first_steps has {min(options.first_steps)}, expected steps from 0 on.")
    image_map = read_map(options.map) if options.map else None
    figures = {
        "commands": _commands(options.repeats),
        "first_step": _first_steps(options.backends, options.network, options.repeats),
        "first_batch": _first_batches(image_map, options),
    }
    return figures | {name: getattr(options, name) for name in ("network", "lines", "batch_size", "repeats")}


def _commands(repeats: int) -> dict:
    """The seconds of each command's help."""
    sides = {PYTHON: [sys.executable, "-c", "pass"]}
    sides |= {f"{name} --help": [sys.executable, "-m", f"keras_alexnet.{name}", "--help"] for name in COMMANDS}
    turns = {name: common.seconds_of(functools.partial(_call, command)) for name, command in sides.items()}
    seconds = common.take_turns(turns, repeats)
    common.print_sides(seconds, "s")
    return {name: {"seconds": common.spread(values)} for name, values in seconds.items()}


def _call(command: Sequence[str], environment: dict[str, str] | None = None) -> None:
    process = subprocess.run(
        command, capture_output=True, text=True, errors="backslashreplace", env=os.environ | (environment or {})
    )
    if process.returncode:
        raise UserError(f"{' '.join(command)} failed: {_last_line(process.stderr, process.returncode)}")


def _last_line(said: str, status: int) -> str:
    return (said.strip().splitlines() or [f"exit status {status}"])[-1]


def _first_steps(backends: Sequence[str], network: str, repeats: int) -> dict:
    """The seconds of the parts of a training's start, and PyTorch's."""
    imports = {f"fit, {backend}": ("keras", _ON_CPU | {"KERAS_BACKEND": backend}) for backend in backends}
    starts = {name: (_fit_command(network), environment) for name, (_, environment) in imports.items()}
    if importlib.util.find_spec("torch"):
        imports[PYTORCH] = "torch", {}
        sizes = (network, str(_STEP_BATCH_SIZE), str(PRESETS[network].image_size))
        starts[PYTORCH] = [sys.executable, "-c", _TORCH_PROGRAM, *sizes], common.scripts_on_path()
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in starts}
    parameters = {}
    for round_number in range(repeats + 1):
        for name, start in starts.items():
            package, environment = imports[name]
            # Python's exit takes up to a second where so much is imported, and is no part of a start.
            imported = [sys.executable, "-c", f"import os, {package}; os._exit(0)"]
            bare = common.seconds_of(functools.partial(_call, imported, environment))()
            if round_number:  # The first round only brings the framework's files into memory.
                parameters[name], *moments = _start_training(*start)
                turns[name].append(_parts(bare, *moments))
    if len(set(parameters.values())) > 1:
        raise UserError(f"the networks differ in their numbers of parameters: {parameters}")
    figures = {}
    for name, of_side in turns.items():
        parts = {part: [turn[part] for turn in of_side] for part in _PARTS}
        figures[name] = {part: common.spread(values) for part, values in parts.items()}
        print(f"{name}: {parameters[name]} parameters, batch of {_STEP_BATCH_SIZE}")
        common.print_sides({f"  {_PARTS[part]}": values for part, values in parts.items()}, "s")
    for name in figures if PYTORCH in figures else ():
        if name != PYTORCH:
            ours, theirs = (figures[side]["total_seconds"]["median"] for side in (name, PYTORCH))
            print(f"{name} takes {ours / theirs:.2f} of the time of {PYTORCH} until the first step is done", flush=True)
    return figures


def _fit_command(network: str) -> list[str]:
    # Each line of --log_every is printed before the next step begins.
    return [
        *(sys.executable, "-m", "keras_alexnet.fit", "--synthetic_data", f"--preset={network}", "--strategy=none"),
        *("--epochs=1", "--steps_per_epoch=3", "--log_every=1", f"--batch_size={_STEP_BATCH_SIZE}"),
    ]


def _start_training(command: list[str], environment: dict[str, str]) -> tuple[str, float, float, float]:
    """Runs a training until its second step is done.

    Returns:
        The number of parameters, as it is printed when the network is made; the seconds from the command until then,
        until the first step is done, and until the second one is.

    Raises:
        UserError: it ended before.
    """
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+", errors="backslashreplace") as said:
        begin = time.perf_counter()
        process = subprocess.Popen(
            [*command, f"--output_dir={folder}/run"],
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env=os.environ | environment,
        )
        parameters, moments = "", []
        with process:
            try:
                for line in process.stdout:
                    made = re.search(r"([\d,]+) parameters", line)
                    if made or "epoch 1/1 " in line:
                        parameters = made[1] if made else parameters
                        moments.append(time.perf_counter() - begin)
                    if len(moments) == 3:
                        return parameters, *moments
            finally:
                process.kill()
        said.seek(0)
        raise UserError(f"a training did no second step: {_last_line(said.read(), process.returncode)}")


def _parts(bare: float, made: float, first: float, second: float) -> dict[str, float]:
    """Seconds by the names of `_PARTS`."""
    values = (first, bare, made - bare, first - made, second - first, first - bare - (second - first))
    return dict(zip(_PARTS, values, strict=True))


def _first_batches(image_map: ImageMap | None, options: argparse.Namespace) -> dict:
    """Seconds and memory by the step that is begun from."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "train_map.txt")
        different = write_long_map(path, options.lines, image_map)
        print(f"{options.lines:,} lines ({path.stat().st_size / 1e6:.1f} MB), first batch of {options.batch_size}")
        turns: dict[int, list[dict[str, float]]] = {step: [] for step in options.first_steps}
        for _ in range(options.repeats):
            for step, of_step in turns.items():
                of_step.append(measure_fresh(path, different, options.batch_size, step))
    figures = {}
    for step, of_step in turns.items():
        measured = {figure: [turn[figure] for turn in of_step] for figure in of_step[0]}
        figures[str(step)] = {figure: common.spread(values) for figure, values in measured.items()}
        texts = {figure: common.spread_text(values) for figure, values in measured.items()}
        print(
            f"from step {step:<9,} {texts['first_batch_seconds']} s beyond the import of {texts['import_seconds']} s",
            flush=True,
        )
        if "resident_mb" in texts:
            print(
                f"{'':19} {texts['resident_mb']} MB resident beyond the framework's {texts['framework_mb']} MB, "
                f"{texts['peak_mb']} MB at most",
                flush=True,
            )
    return figures


def write_long_map(path: Path, lines: int, image_map: ImageMap | None) -> int:
    """Writes a map of `lines` lines that names the images of `image_map`, or drawn ones, again and again.

    Returns:
        After how many lines they come again.
    """
    rows = zip(image_map.paths, image_map.labels, strict=True) if image_map else draw_images(path.parent)
    write_map(path, itertools.islice(itertools.cycle(rows), lines))
    return len(image_map) if image_map else NUM_IMAGES


def measure_fresh(path: Path, different_lines: int, batch_size: int, first_step: int) -> dict[str, float]:
    """Runs this file in a process of its own; returns what `measure` does.

    Raises:
        UserError: the process failed.
    """
    numbers = map(str, (different_lines, batch_size, first_step))
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.startup", path, *numbers],
        capture_output=True,
        text=True,
        errors="backslashreplace",
        env=os.environ | common.scripts_on_path(),
    )
    if process.returncode:
        raise UserError(f"no first batch: {_last_line(process.stderr, process.returncode)}")
    return json.loads(process.stdout)


def measure(path: str, different_lines: int, batch_size: int, first_step: int) -> dict[str, float]:
    """Reads a map, in which the lines come again after `different_lines`, and makes the first batch.

    Returns:
        `import_seconds` and `first_batch_seconds`, which begins where that ends; under Linux also `framework_mb`, the
        resident memory after the import, and how much above it memory is after the first batch, `resident_mb`, and was
        at its highest, `peak_mb`. 1 MB is 10^6 bytes.

    Raises:
        UserError: an image cannot be read.
    """
    start = time.perf_counter()
    with cli.quiet_framework_start():
        import tensorflow as tf

        from keras_alexnet.data.order import batch_rows
        from keras_alexnet.data.pipeline import training_dataset
        from keras_alexnet.data.unreadable import find_unreadable
    imported, before = time.perf_counter(), common.memory_mb()
    image_map = read_map(path)
    batches = iter(training_dataset(image_map, batch_size, seed=0, first_step=first_step))
    try:
        next(batches)
    except (OSError, tf.errors.OpError):
        # TensorFlow does not name the file, and the map that is read will be gone.
        image_map = dataclasses.replace(image_map, source="the map")
        rows = batch_rows(len(image_map), batch_size, seed=0, step=first_step) % different_lines
        unreadable = find_unreadable(image_map, sorted({int(row) for row in rows}))
        if unreadable is None:
            raise
        raise unreadable from None
    figures = {"import_seconds": imported - start, "first_batch_seconds": time.perf_counter() - imported}
    after = common.memory_mb()
    if before and after:
        figures["framework_mb"] = before["VmRSS"]
        figures["resident_mb"] = after["VmRSS"] - before["VmRSS"]
        figures["peak_mb"] = after["VmHWM"] - before["VmRSS"]
    return figures


if __name__ == "__main__":
    try:
        print(json.dumps(measure(sys.argv[1], *map(int, sys.argv[2:]))))
    except UserError as error:
        # One line: measure_fresh passes the last one on.
        sys.exit(" ".join(str(error).split("\n")))
