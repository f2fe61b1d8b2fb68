"""What the benchmarks share: interleaved repeats, medians, facts of the machine, drawn images."""

import argparse
import datetime
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from keras_alexnet.system import machine

Variant, Measurement = TypeVar("Variant", bound=Hashable), TypeVar("Measurement")

_PACKAGES = ("keras", "tensorflow", "jax", "torch", "numpy", "pillow", "simplejpeg")
_NUM_DRAWN_IMAGES = 64
# Between two measurements, so that threads that spin while they wait for work have gone to sleep.
_REST_SECONDS = 0.3


def interleave(
    variants: dict[Variant, Callable[[], Measurement]], repeats: int, warm_ups: int = 1
) -> dict[Variant, list[Measurement]]:
    """Measures the variants by turns, A B A B, so that the drift of a shared machine affects all of them alike.

    Args:
        variants: functions that measure once.
        repeats: measurements per variant.
        warm_ups: rounds before these, which are not counted: they fill caches and compile.
    """
    measurements: dict[Variant, list[Measurement]] = {variant: [] for variant in variants}
    for round_number in range(warm_ups + repeats):
        for variant, measure in variants.items():
            time.sleep(_REST_SECONDS)
            measurement = measure()
            if round_number >= warm_ups:
                measurements[variant].append(measurement)
    return measurements


def spread(values: list[float]) -> dict[str, float]:
    """Median and range, for JSON."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def spread_text(values: list[float]) -> str:
    """Median and range with at least three digits: "26.6 (24.9–29.9)"."""
    median = statistics.median(values)
    digits = 0 if median >= 100 else 1 if median >= 10 else 2
    return f"{median:,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def print_variants(variants: dict[str, list[float]]) -> None:
    """Prints name, median and range of each variant, in images per second."""
    width = max(map(len, variants))
    for name, values in variants.items():
        print(f"{name:{width}} {spread_text(values):>25} images/s", flush=True)


def at_least_1(text: str) -> int:
    """An argparse type."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return number


def facts() -> dict:
    """Where, when and how something is measured: `machine`, `versions`, `date`, `command`."""
    return {
        "machine": machine.processor(),
        "versions": machine.versions(_PACKAGES),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", *sys.argv]),
    }


def draw_images(folder: Path) -> list[str]:
    """Draws JPEGs of ImageNet's most common size, 500×375; returns their paths."""
    rng = np.random.default_rng(0)
    paths = [folder / f"{number}.JPEG" for number in range(_NUM_DRAWN_IMAGES)]
    for path in paths:
        blobs = rng.integers(0, 256, (62, 83, 3), dtype=np.uint8)
        Image.fromarray(blobs).resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=95)
    return list(map(str, paths))
