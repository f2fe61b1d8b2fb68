"""Measures this project beside what people would use instead, the sides in turns in one run.

    python scripts/benchmark.py step --batch_size=32
    python scripts/benchmark.py input --map=data/train_map.txt --json=input.json
    python scripts/benchmark.py start
    python scripts/benchmark.py fit --data_dir=data

`step`: a training step of the full network (1000 classes) on one batch in memory, on the CPU: ours, under each of
`--backends`, beside PyTorch on the same network, eager and through torch.compile, with images in either memory layout.
PyTorch's rows need it installed (the extra `torch`), and torch.compile a C++ compiler. Each side has a process of its
own, in memory all the while: about 2 GB each of the full network.

`input`: from a map's paths to finished batches: the training pipeline, its parts and the evaluation pipeline, beside
libjpeg-turbo, which decodes the same files, held in memory, to whole images, and beside a PyTorch DataLoader with
Pillow where PyTorch is installed. libjpeg-turbo runs in as many threads as there are cores, so that every side loads
the machine alike; files that it cannot decode are left out of its count and of "decode and crop". Images per second
are given by the clock and per core, which is per second of the processor's time in all threads and worker processes.
It needs the extra `bench`.

`start`: what a training on a map of that many lines waits for its first batch, beyond the import of the framework, and
the memory it takes then, beyond the framework's: from the first step on, and from step 1,000,000 on.

`fit`: trainings on the images of a folder, beside synthetic images, which cost no reading, and beside the reading
alone; and what a checkpoint costs.

Figures are the median over the repeats and their range, with the facts of the machine.
"""

import argparse
import datetime
import functools
import importlib.metadata
import importlib.util
import json
import re
import shlex
import statistics
import sys
import tempfile
from pathlib import Path

import benchmark_fit as fit_sides
import benchmark_input as input_sides
import benchmark_start
import benchmark_step as step_sides
from PIL import features

from keras_alexnet import machine
from keras_alexnet.atomic import check_target, write_text
from keras_alexnet.data.maps import read_map
from keras_alexnet.errors import UserError
from keras_alexnet.presets import PRESETS
from keras_alexnet.training.config import TrainConfig


def benchmark_step(options: argparse.Namespace) -> None:
    """Prints the images per second of our training step and of PyTorch's, at each precision."""
    if options.json:
        check_target(options.json)
    for backend in options.backends:
        if not importlib.util.find_spec(backend):
            raise UserError(f"{backend} of --backends is not installed: pip install -e '.[{backend}]'")
    print(
        f"network {options.network}, batches of {options.batch_size}, {options.steps} steps a repeat, medians of "
        f"{options.repeats} repeats (and range)"
    )
    figures = {}
    for precision in options.precision:
        rates, left_out = step_sides.measure(
            options.backends, precision, options.network, options.batch_size, options.steps, options.repeats
        )
        figures[precision] = _step_figures(rates, left_out)
        for name, measured in rates.items():
            print(f"{precision:9} {name:30} {_spread(measured):>24} img/s")
        for name, reason in left_out.items():
            print(f"{precision:9} {name:30} left out: {reason}")
        for ratio in figures[precision]["ratios"]:
            print(f"{precision:9} {ratio['name']} does {ratio['ratio']:.2f} of {ratio['of']}", flush=True)
    if options.json:
        settings = {name: getattr(options, name) for name in ("network", "batch_size", "steps", "repeats")}
        _write_json(options.json, {"precisions": figures} | settings)


def _step_figures(rates: dict[str, list[float]], left_out: dict[str, str]) -> dict:
    """Of each side the spread; of each of ours the ratio to the best layout of each kind of PyTorch."""
    medians = {name: statistics.median(measured) for name, measured in rates.items()}
    kinds = ([name for name in rates if name.startswith(kind)] for kind in (step_sides.EAGER, step_sides.COMPILED))
    best = [max(layouts, key=medians.get) for layouts in kinds if layouts]
    return {
        "sides": [{"name": name} | _range(measured) for name, measured in rates.items()],
        "ratios": [
            {"name": name, "of": peer, "ratio": medians[name] / medians[peer]}
            for name in rates
            if name.startswith(step_sides.OURS)
            for peer in best
        ],
        "left_out": left_out,
    }


def benchmark_input(options: argparse.Namespace) -> None:
    """Prints the images per second of the input pipelines and of what they are compared with."""
    image_map = read_map(options.map)
    if options.json:
        check_target(options.json)
    stages = input_sides.measure(image_map, options.batch_size, options.images, options.repeats)
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
        figures |= {name: getattr(options, name) for name in ("images", "batch_size", "repeats")}
        _write_json(options.json, figures)


def _input_figures(stages: list[input_sides.Stage]) -> dict:
    named = {stage.name: stage for stage in stages}
    ours, turbo = named[input_sides.TRAINING], named[input_sides.LIBJPEG_TURBO]
    torch = named.get(input_sides.TORCH)
    return {
        "per_core": ours.median("per_core"),
        "wall": ours.median("wall"),
        "libjpeg_turbo_per_core": turbo.median("per_core"),
        "torch_per_core": torch and torch.median("per_core"),
        "ratio": ours.median("per_core") / turbo.median("per_core"),
        "stages": [
            {"name": stage.name, "images": stage.images}
            | {figure: _range(stage.values(figure)) for figure in ("wall", "per_core")}
            for stage in stages
        ],
    }


def _write_json(path: str, figures: dict) -> None:
    """Writes figures with where, when and how they were measured."""
    figures = figures | {
        "machine": machine.processor(),
        "versions": versions(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", *sys.argv]),
    }
    write_text(path, json.dumps(figures, indent=2) + "\n")


def _range(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


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


def benchmark_fit(options: argparse.Namespace) -> None:
    """Prints the images per second of trainings and of their limits, and the cost of checkpoints."""
    rates = fit_sides.measure(options.data_dir, options.network, options.batch_size, options.steps, options.repeats)
    for name, measured in rates.items():
        print(f"{name:24} {_spread(measured):>24} img/s")
    medians = {name: statistics.median(measured) for name, measured in rates.items()}
    limit = min(medians[fit_sides.SYNTHETIC], medians[fit_sides.PIPELINE])
    print(f"{fit_sides.REAL} does {medians[fit_sides.REAL] / limit:.3f} of the slower one of the others")
    seconds = fit_sides.checkpoint_seconds(options.network, options.repeats)
    share = statistics.median(seconds) / (60 * TrainConfig().checkpoint_minutes)
    print(f"a checkpoint takes {_spread(seconds)} s, {100 * share:.2f} % of the time at the default interval")


def versions() -> dict[str, str]:
    """Of Python, of the packages that are measured, and of the libjpeg-turbo inside them."""
    found = machine.versions(("keras", "tensorflow", "jax", "torch", "numpy", "pillow", "simplejpeg"))
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
    return f"{machine.processor()}; {', '.join(f'{name} {version}' for name, version in versions().items())}"


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
    precisions = list(step_sides.PRECISIONS)
    step.add_argument("--precision", nargs="+", choices=precisions, default=precisions, help="one or several")
    step.add_argument(
        "--backends",
        nargs="+",
        choices=["tensorflow", "jax", "torch"],
        default=["tensorflow"],
        help="of ours, one or several",
    )
    step.add_argument("--network", choices=list(PRESETS), default="cntk", help="sizes of the layers")
    step.add_argument("--json", help="file to write the figures to as well")
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
    fit = add("fit", help="trainings beside their limits, and what checkpoints cost")
    fit.add_argument("--data_dir", required=True, help="folder with the maps")
    fit.add_argument("--network", choices=list(PRESETS), default="cntk", help="the network's sizes")
    fit.add_argument("--batch_size", type=_count, default=32, help="images a step")
    fit.add_argument("--steps", type=_count, default=20, help="steps of an epoch")
    fit.add_argument("--repeats", type=_count, default=3, help="how often each side's turn comes")
    fit.set_defaults(function=benchmark_fit)
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
