"""Measures this project beside what people would use instead, the sides in turns in one run.

    python scripts/benchmark.py step --batch_size=32
    python scripts/benchmark.py input --map=data/train_map.txt --json=input.json
    python scripts/benchmark.py start

`step`: a training step of the full network (1000 classes) on one batch in memory: Keras under its TensorFlow backend
beside PyTorch on the same network, with its default contiguous layout. PyTorch's rows need it installed (the extra
`torch`).

`input`: from a map's paths to finished batches: the training pipeline, its parts and the evaluation pipeline, beside
libjpeg-turbo, which decodes the same files, held in memory, to whole images, and beside a PyTorch DataLoader with
Pillow where PyTorch is installed. libjpeg-turbo runs in as many threads as there are cores, so that every side loads
the machine alike; files that it cannot decode are left out of its count and of "decode and crop". Images per second
are given by the clock and per core, which is per second of the processor's time in all threads and worker processes.
It needs the extra `bench`.

`start`: what a training on a map of that many lines waits for its first batch, beyond the import of the framework, and
the memory it takes then, beyond the framework's: from the first step on, and from step 1,000,000 on.

Figures are the median over the repeats and their range, with the facts of the machine.
"""

import argparse
import datetime
import functools
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import benchmark_input as sides
import benchmark_start
import numpy as np
from PIL import features

from keras_alexnet import cli
from keras_alexnet.atomic import check_target, write_text
from keras_alexnet.data.maps import read_map
from keras_alexnet.errors import UserError
from keras_alexnet.workers import cpu_count

PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def keras_step(precision: str, images: np.ndarray, labels: np.ndarray) -> Callable[[int], None]:
    """Returns a function that does a number of training steps, compiled by its first call."""
    with cli.quiet_framework_start():
        import keras
        import tensorflow as tf

        from keras_alexnet.model import build_alexnet, set_precision
        from keras_alexnet.training.config import TrainConfig
        from keras_alexnet.training.evaluation import compile_model
        from keras_alexnet.training.optimizer import SGDWithL2

    keras.utils.set_random_seed(0)
    model = build_alexnet()
    set_precision(model, PRECISIONS[precision])
    recipe = TrainConfig()
    compile_model(model, SGDWithL2(recipe.learning_rate, momentum=recipe.momentum, l2=recipe.weight_decay))
    batches = tf.data.Dataset.from_tensors((images, labels)).repeat()
    return lambda steps: model.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0)


def torch_step(precision: str, images: np.ndarray, labels: np.ndarray) -> Callable[[int], None]:
    """The same network and update in plain PyTorch."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    norm = lambda: nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)  # noqa: E731
    network = nn.Sequential(
        *(nn.Conv2d(3, 96, 11, stride=4), nn.ReLU(), norm(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(96, 192, 5, padding=2), nn.ReLU(), norm(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Flatten()),
        *(nn.Linear(256 * 6 * 6, 4096), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(0.5)),
        nn.Linear(4096, 1000),
    )
    if sum(parameter.numel() for parameter in network.parameters()) != 62_003_496:
        raise AssertionError("PyTorch's network is not the same")
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=0.0005)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    y = torch.from_numpy(labels).long()

    def run(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
                logits = network(x.float() - 114)
            nn.functional.cross_entropy(logits.float(), y).backward()
            optimizer.step()

    return run


def benchmark_step(options: argparse.Namespace) -> None:
    """Prints images per second of both sides, measured in turns."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (options.batch_size, 227, 227, 3), dtype=np.uint8)
    labels = rng.integers(0, 1000, options.batch_size).astype(np.int32)
    for precision in options.precision:
        sides = {"keras_alexnet": keras_step(precision, images, labels)}
        if importlib.util.find_spec("torch"):
            sides["pytorch"] = torch_step(precision, images, labels)
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for run in sides.values():
            run(2)
        for _ in range(options.repeats):
            for name, run in sides.items():
                start = time.perf_counter()
                run(options.steps)
                rates[name].append(options.steps * options.batch_size / (time.perf_counter() - start))
        for name, measured in rates.items():
            print(
                f"{precision:9} {name:14} {statistics.median(measured):6.1f} img/s "
                f"({min(measured):.1f} to {max(measured):.1f})"
            )
        if "pytorch" in rates:
            ratio = statistics.median(rates["keras_alexnet"]) / statistics.median(rates["pytorch"])
            print(f"{precision:9} ratio of the medians {ratio:.2f}")


def benchmark_input(options: argparse.Namespace) -> None:
    """Prints the images per second of the input pipelines and of what they are compared with."""
    image_map = read_map(options.map)
    if options.json:
        check_target(options.json)
    stages = sides.measure(image_map, options.batch_size, options.images, options.repeats)
    print(
        f"{options.images:,} images a repeat out of {len(image_map):,}, batches of {options.batch_size}, medians of "
        f"{options.repeats} repeats (and range)"
    )
    print(f"{'img/s':43}{'by the clock':>25}{'per core':>25}")
    for stage in stages:
        print(f"{stage.name:43}{_spread(stage.values('wall')):>25}{_spread(stage.values('per_core')):>25}")
    figures = _input_figures(stages)
    print(f"training_dataset does {figures['ratio']:.2f} of libjpeg-turbo's images per core")
    if options.json:
        figures |= {
            "images": options.images,
            "batch_size": options.batch_size,
            "repeats": options.repeats,
            "machine": machine(),
            "versions": versions(),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": shlex.join(["python", *sys.argv]),
        }
        write_text(options.json, json.dumps(figures, indent=2) + "\n")


def _input_figures(stages: list[sides.Stage]) -> dict:
    named = {stage.name: stage for stage in stages}
    ours, turbo = named[sides.TRAINING], named[sides.LIBJPEG_TURBO]
    torch = named.get(sides.TORCH)
    return {
        "per_core": ours.median("per_core"),
        "wall": ours.median("wall"),
        "libjpeg_turbo_per_core": turbo.median("per_core"),
        "torch_per_core": torch and torch.median("per_core"),
        "ratio": ours.median("per_core") / turbo.median("per_core"),
        "stages": [
            {"name": stage.name, "images": stage.images}
            | {
                figure: {
                    "median": stage.median(figure),
                    "min": min(stage.values(figure)),
                    "max": max(stage.values(figure)),
                }
                for figure in ("wall", "per_core")
            }
            for stage in stages
        ],
    }


def _spread(values: list[float]) -> str:
    digits = 0 if min(values) >= 1000 else 1
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def benchmark_start_up(options: argparse.Namespace) -> None:
    """Prints seconds and memory until the first batch of a training on a long map."""
    image_map = read_map(options.map) if options.map else None
    if options.lines < options.batch_size:
        raise UserError(f"--lines is {options.lines}, expected at least the {options.batch_size} of a batch.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "train_map.txt")
        different = benchmark_start.write_long_map(path, options.lines, image_map)
        print(f"{options.lines:,} lines ({path.stat().st_size / 1e6:.1f} MB), first batch of {options.batch_size}")
        for first_step in (0, 1_000_000):
            figures = benchmark_start.measure_fresh(path, different, options.batch_size, first_step)
            print(
                f"from step {first_step:<9,} {figures['first_batch_seconds']:6.2f} s beyond the import of "
                f"{figures['import_seconds']:.2f} s"
            )
            if "resident_mb" in figures:
                print(
                    f"{'':19} {figures['resident_mb']:6.0f} MB resident beyond the framework's "
                    f"{figures['framework_mb']:.0f} MB, {figures['peak_mb']:.0f} MB at most"
                )


def machine() -> str:
    """Processor, cores, matrix instructions."""
    model, flags = platform.processor() or platform.machine(), []
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            facts = dict(line.split(":", 1) for line in file if ":" in line)
        facts = {key.strip(): value.strip() for key, value in facts.items()}
        model, flags = facts.get("model name", model), facts.get("flags", "").split()
    found = [name for name in ("avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    cores = f"{os.cpu_count()} cores"
    if cpu_count() != os.cpu_count():
        cores += f", {cpu_count()} of them used"
    return f"{model}, {cores}, {' '.join(found)}"


def versions() -> dict[str, str]:
    """Of Python, of the packages that are measured, and of the libjpeg-turbo inside them."""
    found = {"Python": platform.python_version()}
    for package in ("keras", "tensorflow", "torch", "numpy", "pillow", "simplejpeg"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
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


def machine_facts() -> str:
    """Processor, cores, matrix instructions, versions."""
    return f"{machine()}; {', '.join(f'{name} {version}' for name, version in versions().items())}"


def _count(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return number


def main() -> None:
    """Runs the benchmark that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="benchmark", metavar="BENCHMARK")
    add = functools.partial(commands.add_parser, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    step = add("step", help="training step beside PyTorch")
    step.add_argument("--batch_size", type=_count, default=32, help="images a step")
    step.add_argument(
        "--precision", nargs="+", choices=list(PRECISIONS), default=list(PRECISIONS), help="one or several"
    )
    step.add_argument("--steps", type=_count, default=4, help="steps a repeat")
    step.add_argument("--repeats", type=_count, default=5, help="how often each side's turn comes")
    step.set_defaults(function=benchmark_step)
    from_files = add("input", help="input pipelines beside libjpeg-turbo and PyTorch")
    from_files.add_argument("--map", required=True, help="map file of the images, such as train_map.txt")
    from_files.add_argument("--json", help="file to write the figures to as well")
    from_files.add_argument("--batch_size", type=_count, default=64, help="images a batch")
    from_files.add_argument(
        "--images", type=_count, default=2000, help="images a repeat, chosen from the map, or again and again"
    )
    from_files.add_argument("--repeats", type=_count, default=5, help="how often each side's turn comes")
    from_files.set_defaults(function=benchmark_input)
    start = add("start", help="time and memory until the first batch")
    start.add_argument("--map", help="map file of the images to read; some are drawn if it is not given")
    start.add_argument("--lines", type=_count, default=1_281_167, help="lines of the map that is read")
    start.add_argument("--batch_size", type=_count, default=256, help="images in the first batch")
    start.set_defaults(function=benchmark_start_up)
    options = parser.parse_args()
    try:
        print(machine_facts(), flush=True)
        options.function(options)
    except UserError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
