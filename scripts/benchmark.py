"""Measures this project beside what people would use instead, both sides in turns in one run.

    python scripts/benchmark.py step --batch_size=32

`step`: a training step of the full network (1000 classes) on one batch in memory: Keras under its TensorFlow backend
beside PyTorch on the same network, with its default contiguous layout. It prints the median over the repeats and their
range, with the facts of the machine. PyTorch's rows need it installed (the extra `torch`).
"""

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np

from keras_alexnet import cli

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


def machine_facts() -> str:
    """Processor, cores, matrix instructions, versions."""
    model, flags = platform.processor() or platform.machine(), []
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            facts = dict(line.split(":", 1) for line in file if ":" in line)
        facts = {key.strip(): value.strip() for key, value in facts.items()}
        model, flags = facts.get("model name", model), facts.get("flags", "").split()
    found = [name for name in ("avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    versions = []
    for package in ("keras", "tensorflow", "torch"):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return (
        f"{model}, {os.cpu_count()} cores, {' '.join(found)}; Python {platform.python_version()}, {', '.join(versions)}"
    )


def main() -> None:
    """Runs the benchmark that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    step = commands.add_parser("step", help="training step beside PyTorch")
    step.add_argument("--batch_size", type=int, default=32)
    step.add_argument("--precision", nargs="+", choices=list(PRECISIONS), default=list(PRECISIONS))
    step.add_argument("--steps", type=int, default=4, help="steps a repeat")
    step.add_argument("--repeats", type=int, default=5)
    step.set_defaults(function=benchmark_step)
    options = parser.parse_args()
    print(machine_facts())
    options.function(options)


if __name__ == "__main__":
    main()
