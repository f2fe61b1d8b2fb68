"""The sides that `benchmark.py step` measures in turns, each in a process of its own.

    python scripts/benchmark_step.py SIDE PRECISION NETWORK BATCH_SIZE

is such a process. For each line of its input, a number of steps, it does so many training steps and writes a line of
JSON: the `seconds` that they took and the `parameters` of its network, or the `error` that kept it from them. A process
of its own has the frameworks' threads to itself, and Keras its backend. All of them compute on the CPU.
"""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

from keras_alexnet import cli
from keras_alexnet.errors import UserError
from keras_alexnet.presets import PRESETS

OURS, EAGER, COMPILED = "keras_alexnet", "PyTorch eager", "torch.compile"
LAYOUTS = ("contiguous", "channels_last")
# What Keras calls the precisions; PyTorch's autocast knows bfloat16.
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}

_NUM_CLASSES = 1000
_WARM_UP_STEPS = 2
# Between two turns, so that threads which wait for more work with the processor running have gone to sleep.
_REST_SECONDS = 0.3


def measure(
    backends: Sequence[str], precision: str, network: str, batch_size: int, steps: int, repeats: int
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Measures our training step under each of `backends`, and PyTorch's sides where it is installed.

    Args:
        backends: of Keras.
        precision: a key of `PRECISIONS`.
        network: a key of `PRESETS`.
        batch_size: images a step.
        steps: training steps a repeat.
        repeats: how often each side's turn comes, after a first round that is not counted, as are the steps before it
            that trace and compile.

    Returns:
        By the side's name images per second, one a repeat; and by the name of a side that cannot run, why.

    Raises:
        UserError: one of our sides cannot run, or the sides' networks differ.
    """
    names = [f"{OURS}, {backend}" for backend in backends]
    if importlib.util.find_spec("torch"):
        names += [f"{kind}, {layout}" for kind in (EAGER, COMPILED) for layout in LAYOUTS]
    rates: dict[str, list[float]] = {}
    left_out: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        sides = {}
        for name in names:
            side = stack.enter_context(_Process(name, precision, network, batch_size))
            answer = side.run(_WARM_UP_STEPS)
            if "error" not in answer:
                sides[name] = side
                rates[name] = []
            elif name.startswith(OURS):
                raise UserError(f"{name} does no step: {answer['error']}")
            else:
                left_out[name] = answer["error"]
        for round_number in range(repeats + 1):
            parameters = {}
            for name, side in sides.items():
                time.sleep(_REST_SECONDS)
                answer = side.run(steps)
                if "error" in answer:
                    raise UserError(f"{name} does no more steps: {answer['error']}")
                parameters[name] = answer["parameters"]
                if round_number:
                    rates[name].append(steps * batch_size / answer["seconds"])
            if len(set(parameters.values())) > 1:
                raise UserError(f"the networks differ in their numbers of parameters: {parameters}")
    return rates, left_out


class _Process:
    """This file, run for one side."""

    def __init__(self, name: str, precision: str, network: str, batch_size: int):
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (it is closed at the exit of this context)
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1"}
        environment["KERAS_BACKEND"] = name.removeprefix(f"{OURS}, ") if name.startswith(OURS) else "tensorflow"
        self._process = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), name, precision, network, str(batch_size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=environment,
            text=True,
        )

    def __enter__(self) -> "_Process":
        return self

    def __exit__(self, *_) -> None:
        self._process.kill()
        self._process.communicate()
        self._stderr.close()

    def run(self, steps: int) -> dict:
        """Has it do so many steps; returns its answer."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{steps}\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        return json.loads(answer) if answer else {"error": self._last_words()}

    def _last_words(self) -> str:
        status = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="backslashreplace").strip().splitlines()
        return lines[-1] if lines else f"exit status {status}"


def keras_step(backend_name: str, precision: str, network: str, batch_size: int):
    """Our training step, as `keras_alexnet.fit --synthetic_data` does it.

    Returns:
        The number of parameters, and a function that does a number of steps, compiled by its first call.
    """
    with cli.quiet_framework_start():
        import keras

        from keras_alexnet.data.synthetic import synthetic_training_batches
        from keras_alexnet.training.config import TrainConfig
        from keras_alexnet.training.distribution import choose_devices
        from keras_alexnet.training.loop import build_model

    if keras.backend.backend() != backend_name:
        raise AssertionError(f"Keras runs under {keras.backend.backend()}")
    config = TrainConfig(preset=network, precision=PRECISIONS[precision])
    with choose_devices("none") as devices:
        model = build_model(config, _NUM_CLASSES, 1, devices)
    batches = synthetic_training_batches(batch_size, _NUM_CLASSES, image_size=PRESETS[network].image_size)
    return model.count_params(), lambda steps: model.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0)


def torch_step(kind: str, layout: str, precision: str, network: str, batch_size: int):
    """The same network and update in plain PyTorch, with its fused optimizer; returns what `keras_step` does."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    (c1, c2, c3, c4, c5), units = PRESETS[network].filters, PRESETS[network].dense_units
    norm = lambda: nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)  # noqa: E731
    model = nn.Sequential(
        *(nn.Conv2d(3, c1, 11, stride=4), nn.ReLU(), norm(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(c1, c2, 5, padding=2), nn.ReLU(), norm(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(c2, c3, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(c3, c4, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(c4, c5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Flatten()),
        *(nn.Linear(c5 * 6 * 6, units), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.Linear(units, units), nn.ReLU(), nn.Dropout(0.5)),
        nn.Linear(units, _NUM_CLASSES),
    )
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    model = model.to(memory_format=memory_format)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.0005, fused=True)
    x = torch.randint(0, 256, (batch_size, 3, *(PRESETS[network].image_size,) * 2), dtype=torch.uint8)
    x = x.contiguous(memory_format=memory_format)
    y = torch.randint(0, _NUM_CLASSES, (batch_size,))

    def loss_of(x, y):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(x.float() - 114)
        return nn.functional.cross_entropy(logits.float(), y)

    if kind == COMPILED:
        loss_of = torch.compile(loss_of)

    def run(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            loss_of(x, y).backward()
            optimizer.step()

    return sum(parameter.numel() for parameter in model.parameters()), run


def _build(name: str, precision: str, network: str, batch_size: int) -> tuple[int, Callable[[int], None]]:
    kind, variant = name.split(", ")
    if kind == OURS:
        return keras_step(variant, precision, network, batch_size)
    return torch_step(kind, variant, precision, network, batch_size)


def _answer_lines(name: str, precision: str, network: str, batch_size: str) -> None:
    # The answers alone go to stdout, whatever the frameworks print.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    run = None
    for line in sys.stdin:
        try:
            if run is None:
                parameters, run = _build(name, precision, network, int(batch_size))
            start = time.perf_counter()
            run(int(line))
            answer = {"seconds": time.perf_counter() - start, "parameters": parameters}
        except Exception as error:  # What torch.compile raises where it cannot work is of many kinds.
            answer = {"error": f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        _answer_lines(*sys.argv[1:])
