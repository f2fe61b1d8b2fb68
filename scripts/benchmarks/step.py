"""Training and inference steps of the network on a batch in memory, beside PyTorch.

Ours, under each of `--backends`, as fit, evaluate and predict do them; beside them the same network in plain PyTorch,
with images in either memory layout: eager, with local response normalization as PyTorch has it; eager, with it in our
form, a matrix product, which is much the faster one on CPUs ("fast LRN"); and that through torch.compile. PyTorch has
its fused optimizer, and its weights themselves in bfloat16 for inference in it.

Images are uint8, labels are of 1000 classes. Ours trains as `fit --synthetic_data` does, each batch copied from the
host's memory; `--batches resident` leaves it on the device, as PyTorch's always is. Inference takes a batch from pixels
to float32 logits in the host's memory, PyTorch's out of pinned memory. `--forms` measures other forms of our layers
(keras_alexnet/compute.py), named by those of conv1, normalizations and pools, as in blocks:slices:none.

Each side has a process of its own, in memory all the while: about 2 GB each of the full network. They compute on the
GPU if there is one and --device does not say otherwise. Peak memory is that of the GPU, or else the resident memory of
the whole process, framework included.

PyTorch needs the extra `torch`; torch.compile needs a C++ compiler on the CPU. Without them their rows are left out.
"""

import argparse
import contextlib
import importlib.util
import json
import operator
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks import common
from keras_alexnet import cli
from keras_alexnet.errors import UserError
from keras_alexnet.presets import PRESETS

PYTORCH = "pytorch"
BACKENDS = ("tensorflow", "jax", "torch")
MODES = ("train", "inference")
# Those that scripts/twin.py, which the PyTorch sides take their network from, knows as well.
NETWORKS = ("cntk", "tiny")
QUICK = {
    "network": "tiny",
    "batch_sizes": [8],
    "precision": ["float32"],
    "steps": 2,
    "repeats": 2,
    "backends": ["tensorflow"],
    "layouts": ["channels_last"],
}
_NUM_CLASSES = 1000
_WARM_UP_STEPS = 2
# Attributes of a side that mean nothing to the others.
_OF_OURS, _OF_PEERS = ("strategy", "batches", "forms"), ("layout", "fast_lrn")


@dataclass(frozen=True)
class Side:
    """What is measured in one process.

    Attributes:
        backend: of Keras; or "pytorch", the peer without Keras.
        mode: a key of `MODES`.
        precision: a key of `common.PRECISIONS`.
        network: a name in `NETWORKS`.
        batch_size: images a step.
        device: "cpu" or "gpu".
        strategy: of ours, as of fit: "none" or "mirrored".
        batches: of ours, "copied" to the device for each step, or "resident" there.
        forms: of ours, "auto" for those that fit takes, or the forms of conv1, norm and pool, as "blocks:slices:none".
        compiled: of the peer, whether through torch.compile.
        layout: of the peer's images and kernels, in memory: "contiguous" or "channels_last".
        fast_lrn: of the peer, whether with our form of local response normalization.
    """

    backend: str
    mode: str
    precision: str
    network: str
    batch_size: int
    device: str
    strategy: str = "none"
    batches: str = "copied"
    forms: str = "auto"
    compiled: bool = False
    layout: str = "channels_last"
    fast_lrn: bool = False

    @property
    def name(self) -> str:
        """For people."""
        if self.backend != PYTORCH:
            unusual = [
                value for value in (self.strategy, self.batches, self.forms) if value not in ("none", "copied", "auto")
            ]
            return ", ".join(["keras_alexnet", self.backend, *unusual])
        kind = "torch.compile" if self.compiled else "PyTorch eager"
        return f"{kind}, {self.layout}{', fast LRN' if self.fast_lrn else ''}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this benchmark."""
    installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
    several = {"nargs": "+", "help": "one or several (%(default)s)"}
    parser.add_argument("--backends", choices=BACKENDS, default=installed, **several)
    parser.add_argument("--precision", choices=list(common.PRECISIONS), default=list(common.PRECISIONS), **several)
    parser.add_argument("--mode", choices=MODES, default=list(MODES), **several)
    parser.add_argument("--batch_size", dest="batch_sizes", type=common.at_least_1, default=[32], **several)
    parser.add_argument("--network", choices=NETWORKS, default="cntk", help="sizes of the layers (%(default)s)")
    parser.add_argument("--steps", type=common.at_least_1, default=2, help="steps a turn (%(default)s)")
    parser.add_argument("--strategy", choices=["none", "mirrored"], default=["none"], **several)
    parser.add_argument("--batches", choices=["copied", "resident"], default=["copied"], **several)
    parser.add_argument("--forms", type=_forms, default=["auto"], **several)
    parser.add_argument("--device", choices=["auto", "cpu", "gpu"], default="auto", help="(%(default)s)")
    parser.add_argument(
        "--layouts",
        nargs="+",
        choices=["contiguous", "channels_last"],
        default=["contiguous", "channels_last"],
        help="of PyTorch's images (%(default)s)",
    )


def _forms(text: str) -> str:
    """An argparse type."""
    known = (("blocks", "none"), ("band", "slices", "none"), ("slices", "none"))
    parts = text.split(":")
    if text != "auto" and not (len(parts) == 3 and all(map(operator.contains, known, parts))):
        choices = ":".join("{" + ",".join(names) + "}" for names in known)
        raise argparse.ArgumentTypeError(f"expected auto or {choices}, got {text!r}")
    return text


def run(options: argparse.Namespace) -> list[dict]:
    """Prints images per second of each side; returns a dict for each."""
    for backend in options.backends:
        if not importlib.util.find_spec(backend):
            raise UserError(f"{backend} of --backends is not installed: pip install -e '.[{backend}]'")
    device = options.device if options.device != "auto" else "gpu" if common.gpu_name() else "cpu"
    print(f"network {options.network}, on the {device}, {options.steps} steps a turn, {options.repeats} turns a side")
    rows = []
    for batch_size in options.batch_sizes:
        for precision in options.precision:
            for mode in options.mode:
                alike = {"mode": mode, "precision": precision, "network": options.network, "batch_size": batch_size}
                sides = [
                    Side(backend, **alike, device=device, strategy=strategy, batches=batches, forms=forms)
                    for backend in options.backends
                    # Inference has one device, and its batches come from the host's memory.
                    for strategy in (options.strategy if mode == "train" else ["none"])
                    for batches in (options.batches if mode == "train" else ["copied"])
                    for forms in options.forms
                ]
                if importlib.util.find_spec("torch"):
                    sides += _peers(options.layouts, **alike, device=device)
                print(f"\n{mode}, {precision}, batches of {batch_size}", flush=True)
                measured = measure(sides, options.steps, options.repeats)
                rows += measured
                _print_ratios(measured)
    return rows


def _peers(layouts: list[str], **settings) -> list[Side]:
    # Through torch.compile the slow form would only take longer to compile.
    kinds = [{"fast_lrn": False}, {"fast_lrn": True}, {"fast_lrn": True, "compiled": True}]
    return [Side(PYTORCH, **settings, layout=layout, **kind) for kind in kinds for layout in layouts]


def measure(sides: list[Side], steps: int, repeats: int) -> list[dict]:
    """Measures the sides in turns and prints each one's figures.

    Args:
        sides: alike in all that the user chooses.
        steps: steps of a turn.
        repeats: turns of a side, after a first round that is not counted, as are the steps before it that compile.

    Returns:
        Of each side that can run: its attributes, `images_per_second` (the median), `images_per_second_min` and `_max`,
        and `peak_memory_mb`.

    Raises:
        UserError: one of our sides cannot run, or the sides' networks differ.
    """
    with contextlib.ExitStack() as stack:
        # All import at once, which on several cores takes a part of the time.
        processes = {side: stack.enter_context(_Process(side)) for side in sides}
        for side in sides:
            answer = processes[side].run(_WARM_UP_STEPS)
            if "error" not in answer:
                continue
            if side.backend != PYTORCH:
                raise UserError(f"{side.name} does no step: {answer['error']}")
            print(f"{side.name} is left out: {answer['error']}", flush=True)
            del processes[side]
        seconds = common.take_turns({side: process.seconds_of(steps) for side, process in processes.items()}, repeats)
        answers = {side: process.last for side, process in processes.items()}
    if len({answer["parameters"] for answer in answers.values()}) > 1:
        raise UserError(f"the networks differ in their numbers of parameters: {answers}")
    rates = {side: [steps * side.batch_size / value for value in values] for side, values in seconds.items()}
    common.print_sides({side.name: values for side, values in rates.items()}, "img/s")
    for side, answer in answers.items():
        print(f"{side.name} takes {answer['peak_memory_mb']:,.0f} MB at most")
    return [_row(side, rates[side], answers[side]) for side in rates]


def _row(side: Side, rates: list[float], answer: dict) -> dict:
    spread = common.spread(rates)
    # Of ours, the framework decides on the layout, whatever that of the arrays.
    row = {"name": side.name} | {
        name: value
        for name, value in vars(side).items()
        if name not in (_OF_OURS if side.backend == PYTORCH else _OF_PEERS)
    }
    return row | {
        "compiled": answer["compiled"],
        "images_per_second": spread["median"],
        "images_per_second_min": spread["min"],
        "images_per_second_max": spread["max"],
        "peak_memory_mb": answer["peak_memory_mb"],
    }


def _print_ratios(rows: list[dict]) -> None:
    """Of each of ours, to the best of each kind of PyTorch."""
    for ours in rows:
        for compiled in (False, True) if ours["backend"] != PYTORCH else ():
            peers = [row for row in rows if row["backend"] == PYTORCH and row["compiled"] == compiled]
            if peers:
                best = max(peers, key=lambda row: row["images_per_second"])
                ratio = ours["images_per_second"] / best["images_per_second"]
                print(f"{ours['name']} does {ratio:.2f} of {best['name']}", flush=True)


class _Process:
    """This file, run for one side."""

    def __init__(self, side: Side):
        self.name = side.name
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (it is closed at the exit of this context)
        environment = os.environ | common.scripts_on_path()
        environment["KERAS_BACKEND"] = "tensorflow" if side.backend == PYTORCH else side.backend
        if side.device == "cpu":
            environment |= {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
        # All sides are in the GPU's memory at once, and none may take it whole.
        environment |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.step", json.dumps(vars(side))],
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

    def seconds_of(self, steps: int) -> Callable[[], float]:
        """What does so many steps and returns the seconds that they took; the answer is in `last` then."""

        def turn() -> float:
            self.last = self.run(steps)
            if "error" in self.last:
                raise UserError(f"{self.name} does no more steps: {self.last['error']}")
            return self.last["seconds"]

        return turn

    def _last_words(self) -> str:
        status = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="backslashreplace").strip().splitlines()
        return lines[-1] if lines else f"exit status {status}"


@dataclass(frozen=True)
class _Steps:
    """Of a side: a function that does a number of steps to their end, and facts of it."""

    do: Callable[[int], None]
    parameters: int
    compiled: bool
    peak_memory_mb: Callable[[], float]


def keras_steps(side: Side) -> _Steps:
    """Our steps, in a process whose Keras has the side's backend."""
    with cli.quiet_framework_start():
        import keras

        from keras_alexnet.compute import Forms
        from keras_alexnet.inference.outputs import Outputs
        from keras_alexnet.model import build_alexnet, set_precision
        from keras_alexnet.training.build import build_model, build_network
        from keras_alexnet.training.config import TrainConfig
        from keras_alexnet.training.devices.choice import choose_devices

    if keras.backend.backend() != side.backend:
        raise AssertionError(f"Keras runs under {keras.backend.backend()}")
    precision = common.PRECISIONS[side.precision]
    forms = None
    if side.forms != "auto":
        forms = Forms(*(None if form == "none" else form for form in side.forms.split(":")))
    devices = contextlib.ExitStack().enter_context(choose_devices(side.strategy))  # until the process ends
    if side.mode == "train":
        config = TrainConfig(preset=side.network, precision=precision)
        with devices.scope():
            model = build_model(config, _NUM_CLASSES)
            network = build_network(model, config, 1, devices, forms)
        do = _fit_steps(side, network, devices)
        compiled = network.jit_compile or getattr(network, "compile_replicas", False)
    else:
        model = build_alexnet(_NUM_CLASSES, preset=side.network)
        set_precision(model, precision)
        logits = Outputs(model, forms=forms)
        images = _images(side)

        def do(steps: int) -> None:
            for _ in range(steps):
                logits(images, len(images))

        compiled = logits.network.jit_compile
    return _Steps(do, model.count_params(), bool(compiled), lambda: _peak_memory_mb(side))


def _fit_steps(side: Side, network, devices) -> Callable[[int], None]:
    """What does steps of `fit`; it ends with the metrics of the last one."""
    from keras_alexnet.data.synthetic import SameBatch, synthetic_training_batches

    batches = synthetic_training_batches(side.batch_size, _NUM_CLASSES, image_size=PRESETS[side.network].image_size)

    def fit(steps: int) -> None:
        with devices.feed(batches) as feed:
            network.fit(feed, steps_per_epoch=steps, shuffle=False, verbose=0)

    if side.batches == "copied":
        return fit
    # What the feed gives is on the device.
    if side.backend != "tensorflow":
        with devices.feed(batches) as feed:
            on_device = SameBatch(feed[0], None)
        return lambda steps: network.fit(on_device, steps_per_epoch=steps, shuffle=False, verbose=0)
    fit(1)  # Keras makes its function.
    with devices.feed(batches) as feed:
        batch = next(iter(network.distribute_strategy.experimental_distribute_dataset(feed)))

    def resident(steps: int) -> None:
        for _ in range(steps):
            logs = network.train_function(iter([batch]))
        for value in logs.values():
            value.numpy()

    return resident


def torch_steps(side: Side) -> _Steps:
    """The same network and update in plain PyTorch."""
    import torch
    from twin import Twin

    torch.manual_seed(0)
    # What Keras's backends do with float32 on a GPU.
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    device = "cuda" if side.device == "gpu" else "cpu"
    layout = torch.channels_last if side.layout == "channels_last" else torch.contiguous_format
    model = Twin(side.network, _NUM_CLASSES, dropout=0.5, product_norm=side.fast_lrn).layers
    model = model.to(device, memory_format=layout)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    images = torch.from_numpy(_images(side)).permute(0, 3, 1, 2).contiguous(memory_format=layout)
    if device == "cuda":
        images = images.pin_memory() if side.mode == "inference" else images.to(device)
    labels = torch.randint(0, _NUM_CLASSES, (side.batch_size,), device=device)

    def logits_of(images):
        with torch.autocast(device, dtype=torch.bfloat16, enabled=side.precision == "bfloat16"):
            return model(images.float() - 114).float()

    if side.mode == "inference":
        model.eval()
        for layer in model:
            if side.precision == "bfloat16" and isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
                # Else autocast would convert them at every step.
                layer.to(torch.bfloat16)
        logits_of = torch.compile(logits_of) if side.compiled else logits_of

        @torch.inference_mode()
        def do(steps: int) -> None:
            for _ in range(steps):
                logits_of(images.to(device, non_blocking=True)).cpu()
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.0005, fused=True)

        def loss_of(images, labels):
            return torch.nn.functional.cross_entropy(logits_of(images), labels)

        loss_of = torch.compile(loss_of) if side.compiled else loss_of

        def do(steps: int) -> None:
            for _ in range(steps):
                optimizer.zero_grad()
                loss = loss_of(images, labels)
                loss.backward()
                optimizer.step()
            # As that of Keras ends with the metrics; it waits for a GPU as well.
            loss.item()
            if device == "cuda":
                torch.cuda.synchronize()

    return _Steps(do, parameters, side.compiled, lambda: _peak_memory_mb(side))


def _images(side: Side):
    import numpy as np

    size = PRESETS[side.network].image_size
    return np.random.default_rng(0).integers(0, 256, (side.batch_size, size, size, 3), np.uint8)


def _peak_memory_mb(side: Side) -> float:
    if side.device == "cpu":
        import resource

        # Linux counts in KiB, macOS in bytes.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    if side.backend == PYTORCH:
        import torch

        return torch.cuda.max_memory_allocated() / 1e6
    from keras_alexnet.training.memory import peak_gpu_bytes

    return peak_gpu_bytes() / 1e6


def _answer_lines(side: Side) -> None:
    """For each line of the input, a number of steps, does them and writes a line of JSON."""
    # The answers alone go to stdout, whatever the frameworks print.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        steps = torch_steps(side) if side.backend == PYTORCH else keras_steps(side)
        for line in sys.stdin:
            start = time.perf_counter()
            steps.do(int(line))
            answer = {
                "seconds": time.perf_counter() - start,
                "parameters": steps.parameters,
                "compiled": steps.compiled,
                "peak_memory_mb": steps.peak_memory_mb(),
            }
            print(json.dumps(answer), file=answers, flush=True)
    except Exception as error:  # What torch.compile raises where it cannot work is of many kinds.
        answer = {"error": f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        _answer_lines(Side(**json.loads(sys.argv[1])))
