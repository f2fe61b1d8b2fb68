"""Training and inference steps of the network on a batch in memory, compared with PyTorch.

Variants are this project under each of `--backends`, with the steps of fit and of evaluate and predict. Baselines are
the same network in plain PyTorch (scripts/pytorch_reference.py): eager, with PyTorch's local response normalization;
eager, with this project's form of it as a matrix product, much faster on CPUs ("fast LRN"); and the latter through
torch.compile. They use PyTorch's fused optimizer, and for inference in bfloat16 weights stored in bfloat16.

Images are uint8, labels are of 1000 classes. Training is that of `fit --synthetic_data`: each batch is copied from host
memory. `--batches resident` leaves it on the device, as the PyTorch baselines always do. Inference takes a batch from
pixels to float32 logits in host memory. `--forms` measures other forms of the layers (keras_alexnet/compute.py), named
by those of conv1, normalizations and pools, as in blocks:slices:none.

Each variant has its own process, which stays in memory: about 2 GB each for the full network. They compute on the GPU,
if there is one and --device does not say otherwise. Peak memory is that of the GPU, or else the resident memory of the
whole process, framework included.

PyTorch needs the extra `torch`; torch.compile needs a C++ compiler on CPUs. What is missing is left out.
"""

import argparse
import contextlib
import functools
import importlib.util
import multiprocessing
import operator
import statistics
import tempfile

from benchmarks import common, step_process
from benchmarks.step_process import PYTORCH, Variant
from keras_alexnet.errors import UserError
from keras_alexnet.system import gpu

BACKENDS = ("tensorflow", "jax", "torch")
PRECISIONS = ("float32", "mixed_bfloat16")
MODES = ("train", "inference")
NETWORKS = ("cntk", "tiny")  # those of scripts/pytorch_reference.py
QUICK = {
    "network": "tiny",
    "batch_sizes": [8],
    "precision": ["float32"],
    "repeats": 2,
    "backends": ["tensorflow"],
    "layouts": ["channels_last"],
}
_WARM_UP_STEPS = 2
# The first ones are slower: a median needs some more.
_MIN_REPEATS = 3
_EXIT_SECONDS = 20
# Settings that only this project's variants have, and only the baselines.
_OURS_ONLY, _BASELINES_ONLY = ("strategy", "batches", "forms"), ("layout", "fast_lrn")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this benchmark."""
    installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
    several = {"nargs": "+", "help": "one or several (%(default)s)"}
    parser.add_argument("--backends", choices=BACKENDS, default=installed, **several)
    parser.add_argument("--precision", type=_precision, choices=PRECISIONS, default=list(PRECISIONS), **several)
    parser.add_argument("--mode", choices=MODES, default=list(MODES), **several)
    parser.add_argument("--batch_size", dest="batch_sizes", type=common.at_least_1, default=[32], **several)
    parser.add_argument("--network", choices=NETWORKS, default="cntk", help="the preset (%(default)s)")
    parser.add_argument("--steps", type=common.at_least_1, default=2, help="steps per repeat (%(default)s)")
    parser.add_argument("--strategy", choices=["none", "mirrored"], default=["none"], **several)
    parser.add_argument("--batches", choices=["copied", "resident"], default=["copied"], **several)
    parser.add_argument("--forms", type=_forms, default=["auto"], **several)
    parser.add_argument("--device", choices=["auto", "cpu", "gpu"], default="auto", help="(%(default)s)")
    layouts = ["contiguous", "channels_last"]
    parser.add_argument("--layouts", nargs="+", choices=layouts, default=layouts, help="of PyTorch (%(default)s)")


def _precision(text: str) -> str:
    """An argparse type, with a short name for the longer precision."""
    return "mixed_bfloat16" if text == "bfloat16" else text


def _forms(text: str) -> str:
    """An argparse type."""
    known = (("blocks", "none"), ("band", "slices", "none"), ("slices", "none"))
    parts = text.split(":")
    if text != "auto" and not (len(parts) == 3 and all(map(operator.contains, known, parts))):
        choices = ":".join("{" + ",".join(names) + "}" for names in known)
        raise argparse.ArgumentTypeError(f"expected auto or {choices}, got {text!r}")
    return text


def run(options: argparse.Namespace) -> list[dict]:
    """Prints and returns the throughput and the peak memory of each variant."""
    for backend in options.backends:
        if not importlib.util.find_spec(backend):
            raise UserError(f"{backend} of --backends is not installed: pip install -e '.[{backend}]'")
    device = options.device if options.device != "auto" else "gpu" if gpu.count_gpus() else "cpu"
    print(f"network {options.network}, {device}, {options.repeats} repeats of {options.steps} steps")
    rows = []
    for batch_size in options.batch_sizes:
        for precision in options.precision:
            for mode in options.mode:
                print(f"\n{mode}, {precision}, batch size {batch_size}", flush=True)
                shared = {"mode": mode, "precision": precision, "network": options.network, "batch_size": batch_size}
                variants = _variants(options, shared | {"device": device})
                measured = measure(variants, options.steps, options.repeats)
                if options.repeats >= _MIN_REPEATS:
                    _print_ratios(measured)
                else:
                    print(f"No ratios: they need at least {_MIN_REPEATS} repeats.")
                rows += measured
    return rows


def _variants(options: argparse.Namespace, shared: dict) -> list[Variant]:
    training = shared["mode"] == "train"
    variants = [
        Variant(backend, **shared, strategy=strategy, batches=batches, forms=forms)
        for backend in options.backends
        # Inference uses one device, and its batches come from host memory.
        for strategy in (options.strategy if training else ["none"])
        for batches in (options.batches if training else ["copied"])
        for forms in options.forms
    ]
    if importlib.util.find_spec("torch"):
        # Through torch.compile the slow normalization would only take longer to compile.
        kinds = [{"fast_lrn": False}, {"fast_lrn": True}, {"fast_lrn": True, "compiled": True}]
        variants += [Variant(PYTORCH, **shared, layout=layout, **kind) for kind in kinds for layout in options.layouts]
    return variants


def measure(variants: list[Variant], steps: int, repeats: int) -> list[dict]:
    """Measures variants that differ in implementation only, interleaved, and prints the figures of each.

    Returns:
        For each variant that can run: its attributes, `images_per_second` (the median), `images_per_second_min` and
        `_max`, and `peak_memory_mb`.

    Raises:
        UserError: a variant of this project cannot run, or the networks differ.
    """
    with contextlib.ExitStack() as stack:
        processes = {variant: stack.enter_context(_Process(variant)) for variant in variants}
        for variant in variants:
            try:
                processes[variant].run(_WARM_UP_STEPS)
            except UserError as error:
                if variant.backend != PYTORCH:
                    raise
                print(f"left out: {error}", flush=True)
                del processes[variant]
        answers = common.interleave(
            {variant: functools.partial(process.run, steps) for variant, process in processes.items()}, repeats
        )
    if len({answer["parameters"] for measured in answers.values() for answer in measured}) > 1:
        raise UserError(f"the networks differ in their numbers of parameters: {answers}")
    rates = {
        variant: [steps * variant.batch_size / answer["seconds"] for answer in measured]
        for variant, measured in answers.items()
    }
    common.print_variants({variant.name: values for variant, values in rates.items()})
    rows = [_row(variant, values, answers[variant][-1]) for variant, values in rates.items()]
    for row in rows:
        print(f"{row['name']}: peak memory {row['peak_memory_mb']:,.0f} MB")
    return rows


def _row(variant: Variant, rates: list[float], answer: dict) -> dict:
    unused = _OURS_ONLY if variant.backend == PYTORCH else _BASELINES_ONLY
    return {
        "name": variant.name,
        **{name: value for name, value in vars(variant).items() if name not in unused},
        "compiled": answer["compiled"],
        "images_per_second": statistics.median(rates),
        "images_per_second_min": min(rates),
        "images_per_second_max": max(rates),
        "peak_memory_mb": answer["peak_memory_mb"],
    }


def _print_ratios(rows: list[dict]) -> None:
    """Each variant of this project relative to the fastest baseline of each kind."""
    for ours in rows:
        for compiled in (False, True) if ours["backend"] != PYTORCH else ():
            baselines = [row for row in rows if row["backend"] == PYTORCH and row["compiled"] == compiled]
            if baselines:
                best = max(baselines, key=lambda row: row["images_per_second"])
                ratio = ours["images_per_second"] / best["images_per_second"]
                print(f"{ours['name']}: {ratio:.2f} relative to {best['name']}", flush=True)


class _Process:
    """A context manager with the process of a variant, which starts importing its framework at once."""

    def __init__(self, variant: Variant):
        self._name = variant.name
        self._stderr = tempfile.NamedTemporaryFile()  # noqa: SIM115 (closed on exit)
        context = multiprocessing.get_context("spawn")
        self._connection, other_end = context.Pipe()
        arguments = (variant, other_end, self._stderr.name)
        self._process = context.Process(target=step_process.serve, args=arguments, daemon=True)
        self._process.start()
        other_end.close()  # so that this end sees when the process is gone

    def __enter__(self) -> "_Process":
        return self

    def __exit__(self, *_) -> None:
        self._connection.close()  # which ends the process
        self._process.join(_EXIT_SECONDS)
        self._process.kill()
        self._process.join()
        self._stderr.close()

    def run(self, steps: int) -> dict:
        """Runs steps and returns `seconds`, `parameters`, `compiled` and `peak_memory_mb`.

        Raises:
            UserError: the variant cannot run.
        """
        try:
            self._connection.send(steps)
            answer = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            lines = self._stderr.read().decode(errors="backslashreplace").strip().split("\n")
            answer = {"error": f"its process ended with status {self._process.exitcode}. {lines[-1]}"}
        if "error" in answer:
            raise UserError(f"{self._name} cannot run: {answer['error']}")
        return answer
