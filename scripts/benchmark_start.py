"""How long a training waits for its first batch, and in how much memory: what `benchmark.py start` measures.

    python scripts/benchmark_start.py MAP DIFFERENT_LINES BATCH_SIZE FIRST_STEP

measures it in this very process, which has to be a fresh one, and prints the figures as JSON.
"""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from keras_alexnet import cli
from keras_alexnet.data.maps import ImageMap, read_map, write_map
from keras_alexnet.errors import UserError

# As long as the paths of ILSVRC2012 commonly are, which a map's memory depends on.
_DRAWN = "ILSVRC/Data/CLS-LOC/train/n{0:08}/n{0:08}_{0}.JPEG"
_NUM_DRAWN = 64


def write_long_map(path: Path, lines: int, image_map: ImageMap | None) -> int:
    """Writes a map of `lines` lines that names the images of `image_map`, or drawn ones, again and again.

    Returns:
        After how many lines they come again.
    """
    rows = zip(image_map.paths, image_map.labels, strict=True) if image_map else draw_images(path.parent)
    write_map(path, itertools.islice(itertools.cycle(rows), lines))
    return len(image_map) if image_map else _NUM_DRAWN


def draw_images(folder: Path, width: int = 500, height: int = 375) -> list[tuple[str, int]]:
    """Draws JPEGs of ImageNet's common size; returns (path, label) rows."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(_NUM_DRAWN):
        blobs = rng.integers(0, 256, (height // 6, width // 6, 3), dtype=np.uint8)
        path = folder / _DRAWN.format(number)
        path.parent.mkdir(parents=True)
        Image.fromarray(blobs).resize((width, height), Image.Resampling.BICUBIC).save(path, quality=95)
        rows.append((str(path), number))
    return rows


def measure_fresh(path: Path, different_lines: int, batch_size: int, first_step: int) -> dict[str, float]:
    """Runs this file in a process of its own; returns what `measure` does.

    Raises:
        UserError: the process failed.
    """
    command = [sys.executable, os.path.abspath(__file__), path, *map(str, (different_lines, batch_size, first_step))]
    process = subprocess.run(command, capture_output=True, text=True, errors="backslashreplace")
    if process.returncode:
        last = process.stderr.strip().splitlines()[-1:] or [f"exit status {process.returncode}"]
        raise UserError(f"no first batch: {last[0]}")
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
        from keras_alexnet.data.pipeline import find_unreadable, training_dataset
    imported, before = time.perf_counter(), _memory()
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
    after = _memory()
    if before and after:
        figures["framework_mb"] = before["VmRSS"]
        figures["resident_mb"] = after["VmRSS"] - before["VmRSS"]
        figures["peak_mb"] = after["VmHWM"] - before["VmRSS"]
    return figures


def _memory() -> dict[str, float]:
    """This process's `VmRSS` (resident) and `VmHWM` (the most that was) in MB; nothing where there is no /proc."""
    try:
        with open("/proc/self/status", encoding="utf-8") as file:
            fields = dict(line.split(":", 1) for line in file)
    except FileNotFoundError:
        return {}
    return {name: int(fields[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "VmHWM")}


if __name__ == "__main__":
    try:
        print(json.dumps(measure(sys.argv[1], *map(int, sys.argv[2:]))))
    except UserError as error:
        # One line: measure_fresh passes the last one on.
        sys.exit(" ".join(str(error).split("\n")))
