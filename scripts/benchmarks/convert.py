"""How long conversions of a full-size network take, beside PyTorch's and Keras's and a plain copy.

Measured are the seconds from file to file, through `import_model`, `save_model` and `export_model`, and the most memory
that was resident meanwhile. The files to convert are made first, with random weights: `.keras`, torchvision's `.pth`
and `.safetensors`, `.onnx`, and a `.caffemodel` with BVLC's groups. (CNTK's are left out: its graphs take many lines to
make.) All networks have the widths that --network says, and so nearly the same number of weights.

Beside them, in turns: PyTorch, which loads a state dict, puts it into the same network and saves it again, or writes it
as ONNX, by either of its exporters; Keras's and TensorFlow's own exports as SavedModel and LiteRT; and the limit, which
is to read the `.keras` file and to write as much. Every file is flushed to disk. Exports of keras_alexnet are run and
compared before they are kept, which is part of their time and not of the others'.

Each conversion is a process of its own, and the frameworks that it needs are imported before the time begins; that time
and memory are told too. Afterwards what was written is loaded and has to give the logits of the network that the source
was made of. Needed are the packages of '.[export,torch,torchvision]', and onnxscript for the newer one of PyTorch's
exporters; what one of them is missing for is left out.
"""

import argparse
import dataclasses
import functools
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import common
from benchmarks.convert_sources import TORCHVISION_NAMES, make_sources, torch_network
from keras_alexnet import cli
from keras_alexnet.errors import UserError
from keras_alexnet.presets import PRESETS

QUICK = {"network": "tiny", "repeats": 1, "conversions": ["from_caffe"]}

LIMIT = "the limit: read and write"

# Of the largest logit.
_TOLERANCE = 1e-4
# What Keras or keras_alexnet import beyond TensorFlow for a file, some when it is asked for.
_PACKAGES = {
    ".pth": ("torch",),
    ".safetensors": ("safetensors.numpy",),
    ".onnx": ("onnx",),
    ".tflite": ("tensorflow.lite.python.lite",),
}


@dataclass(frozen=True)
class Side:
    """A conversion.

    Attributes:
        kind: what `--conversions` calls it.
        by: how it is done, a key of `_CONVERTERS`.
        source: the file that is read.
        target: the file or folder that is written.
    """

    kind: str
    by: str
    source: str
    target: str

    @property
    def name(self) -> str:
        """For people."""
        who = {"torch.onnx": "torch.onnx.export", "torch.onnx, older": "torch.onnx.export(dynamo=False)"}.get(self.by)
        return f"{Path(self.source).suffix} → {_kind(self.target)}, {who or self.by}"


OURS, TORCH, KERAS = "keras_alexnet", "PyTorch", "Keras"
SIDES = (
    Side("from_caffe", OURS, "caffe.caffemodel", "written.keras"),
    Side("from_torchvision", OURS, "torchvision.pth", "written.keras"),
    Side("from_torchvision", OURS, "torchvision.safetensors", "written.keras"),
    Side("from_torchvision", TORCH, "torchvision.pth", "written.pth"),
    Side("from_onnx", OURS, "cntk.onnx", "written.keras"),
    Side("to_onnx", OURS, "cntk.keras", "written.onnx"),
    Side("to_onnx", "torch.onnx", "cntk.pth", "written.onnx"),
    Side("to_onnx", "torch.onnx, older", "cntk.pth", "written.onnx"),
    Side("to_savedmodel", OURS, "cntk.keras", "written"),
    Side("to_savedmodel", KERAS, "cntk.keras", "written"),
    Side("to_litert", OURS, "cntk.keras", "written.tflite"),
    Side("to_litert", KERAS, "cntk.keras", "written.tflite"),
)
CONVERSIONS = tuple(dict.fromkeys(side.kind for side in SIDES))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the own options."""
    parser.add_argument(
        "--network", choices=list(PRESETS), default="cntk", help="the network whose widths all have (%(default)s)"
    )
    parser.add_argument(
        "--conversions", nargs="+", choices=CONVERSIONS, default=list(CONVERSIONS), help="which of them (all)"
    )
    parser.add_argument(
        "--folder",
        default=tempfile.gettempdir(),
        help="a folder on the disk to write to, where files of 2 GB come and go (%(default)s)",
    )
    parser.set_defaults(repeats=3)


def run(options: argparse.Namespace) -> dict:
    """Prints and returns the seconds and the memory of each side."""
    with common.temporary_folder(options.folder) as folder:
        return _measure(options.network, options.conversions, options.repeats, folder)


def _measure(network: str, conversions: list[str], repeats: int, folder: Path) -> dict:
    answer = _process("make", network, folder, folder)
    if "made" not in answer:
        raise UserError(f"the files to convert could not be made: {answer}")
    sides: dict[str, dict] = {}
    left_out: dict[str, str] = {}
    for kind in conversions:
        group = {LIMIT: Side(kind, "copy", "cntk.keras", "copied")}
        group |= {side.name: side for side in SIDES if side.kind == kind}
        print(kind, flush=True)
        results, missing = _take_turns(group, answer["left_out"], repeats, folder)
        for name, reason in missing.items():
            print(f"{name} left out: {reason}")
        sides[kind] = _told(group, results)
        left_out |= missing
    return {"network": network, "repeats": repeats, "conversions": sides, "left_out": left_out}


def _take_turns(
    sides: dict[str, Side], not_made: dict[str, str], repeats: int, folder: Path
) -> tuple[dict[str, list[dict]], dict[str, str]]:
    """What the sides answer, a repeat each; and by the name of one that cannot run, why.

    There is no first round: a side begins in a new process each time, and its source has just been written.
    """
    results: dict[str, list[dict]] = {}
    left_out = {name: not_made[side.source] for name, side in sides.items() if side.source in not_made}
    for _ in range(repeats):
        for name in [name for name in sides if name not in left_out]:
            side = sides[name]
            os.sync()
            answer = _process(side.by, folder / side.source, folder / side.target, folder)
            if "left_out" in answer:
                left_out[name] = answer["left_out"]
            else:
                results.setdefault(name, []).append(answer)
    return results, left_out


def _told(sides: dict[str, Side], found: dict[str, list[dict]]) -> dict[str, dict]:
    """Prints the figures of the sides of a conversion and returns them."""
    figures = {
        name: {"checked": results[0]["checked"], "bytes": results[0]["bytes"]}
        | {
            key: common.spread([result[key] for result in results])
            for key in ("seconds", "import_seconds", "import_mb", "peak_mb")
            if results[0][key]
        }
        for name, results in found.items()
    }
    common.print_sides({f"  {name}": [result["seconds"] for result in results] for name, results in found.items()}, "s")
    for name, figure in figures.items():
        if "peak_mb" in figure and name != LIMIT:
            most, before, start = (figure[key]["median"] for key in ("peak_mb", "import_mb", "import_seconds"))
            print(f"  {name}: at most {most:,.0f} MB; the import before took {start:.1f} s and {before:,.0f} MB")
        if not figure["checked"] and name != LIMIT:
            print(f"  {name}: not checked, as its runtime is not installed")
    for name in (name for name in found if sides[name].by == OURS):
        for other in (other for other in found if sides[other].by != OURS):
            ratio = figures[name]["seconds"]["median"] / figures[other]["seconds"]["median"]
            print(f"  {name} takes {ratio:.2f} of the time of {other}")
    return figures


def _process(task: str, *arguments: object) -> dict:
    """Runs this module for one task in a process of its own; returns what it answers."""
    environment = os.environ | {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1"}
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.convert", task, *map(str, arguments)],
        cwd=Path(__file__).parent.parent,
        env=environment,
        capture_output=True,
        text=True,
        errors="backslashreplace",
        check=False,
    )
    lines = process.stdout.strip().splitlines()
    if process.returncode or not lines:
        last = process.stderr.strip().splitlines()[-1:] or [f"exit status {process.returncode}"]
        raise UserError(f"{task} of {arguments[0]} failed: {last[0]}")
    return json.loads(lines[-1])


# What follows runs in those processes.


@dataclass(frozen=True)
class Converter:
    """A way from file to file.

    Attributes:
        start: imports what is needed for such files; raises ImportError where that is not installed.
        convert: reads the one and writes the other.
        logits: of what was written, for images; None if its runtime is not installed.
    """

    start: Callable[[Path, Path], None]
    convert: Callable[[Path, Path], None]
    logits: Callable[[Path, np.ndarray], np.ndarray | None]


def _convert(by: str, source: Path, target: Path, folder: Path) -> dict:
    """Converts, measures that, and checks what was written."""
    converter = _CONVERTERS[by]
    try:
        start = time.perf_counter()
        converter.start(source, target)
        import_seconds = time.perf_counter() - start
        before = common.memory_mb().get("VmRSS")
        start = time.perf_counter()
        converter.convert(source, target)
        _flush(target)
        seconds = time.perf_counter() - start
    except ImportError as error:
        return {"left_out": str(error)}
    peak = common.memory_mb().get("VmHWM")
    files = [path for path in (target, *target.rglob("*")) if path.is_file()]
    with np.load(folder / f"{source.stem}.npz") as known:
        logits, expected = converter.logits(target, known["images"]), known["logits"]
    if logits is not None and not np.abs(logits - expected).max() <= _TOLERANCE * np.abs(expected).max():
        raise UserError(f"the logits of {target} are not those of {source}: the figures would mean nothing.")
    return {
        "seconds": seconds,
        "import_seconds": import_seconds,
        "import_mb": before,
        "peak_mb": peak,
        "bytes": sum(path.stat().st_size for path in files),
        "checked": logits is not None,
    }


def _flush(path: Path) -> None:
    for file in (path, *path.rglob("*")):
        if file.is_file():
            with open(file, "rb+") as opened:
                os.fsync(opened.fileno())


def _kind(target: str | Path) -> str:
    return {".keras": ".keras", ".pth": ".pth", ".onnx": "ONNX", ".tflite": "LiteRT", "": "SavedModel"}[
        Path(target).suffix
    ]


def _import(*names: str) -> None:
    for name in names:
        importlib.import_module(name)


def _start_ours(source: Path, target: Path) -> None:
    from keras_alexnet.exporters import exporter as export  # noqa: F401
    from keras_alexnet.exporters.runtimes import PACKAGES, is_installed
    from keras_alexnet.importers import importer  # noqa: F401

    _import(*_PACKAGES.get(source.suffix, ()), *_PACKAGES.get(target.suffix, ()))
    kind = _kind(target)
    if kind in PACKAGES and is_installed(kind):
        _import(PACKAGES[kind].replace("-", "_"))


def _ours(source: Path, target: Path) -> None:
    from keras_alexnet.exporters.exporter import export_model
    from keras_alexnet.importers.importer import import_model
    from keras_alexnet.model_file import save_model

    model = import_model(source).model
    if target.suffix == ".keras":
        save_model(model, target)
    else:
        export_model(model, target)


def _logits(target: Path, images: np.ndarray) -> np.ndarray | None:
    """By the runtime that the format is meant for."""
    from keras_alexnet.exporters.runtimes import is_installed, load_exported
    from keras_alexnet.model_file import load_model

    if target.suffix == ".keras":
        return load_model(str(target)).predict_on_batch(images)
    kind = _kind(target)
    return load_exported(kind, target)[1](images) if is_installed(kind) else None


def _start_keras(source: Path, target: Path) -> None:
    _import("keras", "tensorflow", *_PACKAGES.get(target.suffix, ()))


def _keras(source: Path, target: Path) -> None:
    import keras
    import tensorflow as tf

    model = keras.models.load_model(source, compile=False)
    if _kind(target) == "LiteRT":
        target.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    else:
        model.export(target, verbose=False)


def _logits_of_keras(target: Path, images: np.ndarray) -> np.ndarray | None:
    """Keras names what goes in and out by itself."""
    import tensorflow as tf

    if _kind(target) == "SavedModel":
        loaded = tf.saved_model.load(target)
        return loaded.serve(images).numpy()
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        return None
    runner = Interpreter(model_content=target.read_bytes()).get_signature_runner("serving_default")
    (name,) = runner.get_input_details()
    (logits,) = runner(**{name: images}).values()
    return logits


def _load_torch(path: Path):
    """The network of a state dict that this made: torchvision's, or CNTK's."""
    import torch

    state = torch.load(path, weights_only=True)
    kernels = [array for array in state.values() if array.ndim > 1]
    preset = dataclasses.replace(
        PRESETS["torchvision" if TORCHVISION_NAMES[1] + ".weight" in state else "cntk"],
        filters=tuple(len(kernel) for kernel in kernels[:5]),
        dense_units=len(kernels[5]),
    )
    network = torch_network(preset)
    network.load_state_dict(state)
    return network, preset


def _torch(source: Path, target: Path) -> None:
    import torch

    torch.save(_load_torch(source)[0].state_dict(), target)


def _logits_of_torch(target: Path, images: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        return _load_torch(target)[0](torch.from_numpy(images)).numpy()


def _torch_onnx(options: dict[str, object], source: Path, target: Path) -> None:
    import torch

    network, preset = _load_torch(source)
    images = torch.zeros((2, preset.image_size, preset.image_size, 3))
    torch.onnx.export(network, (images,), target, input_names=["image"], output_names=["logits"], **options)


def _copy(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())


_BATCH = {"image": {0: "batch"}}
_NEWER = {"dynamic_shapes": _BATCH, "external_data": False, "verbose": False}
_OLDER = {"dynamo": False, "dynamic_axes": _BATCH}

_CONVERTERS = {
    "copy": Converter(lambda source, target: None, _copy, lambda target, images: None),
    OURS: Converter(_start_ours, _ours, _logits),
    KERAS: Converter(_start_keras, _keras, _logits_of_keras),
    TORCH: Converter(lambda source, target: _import("torch"), _torch, _logits_of_torch),
    "torch.onnx": Converter(
        lambda source, target: _import("torch.onnx", "onnxscript"), functools.partial(_torch_onnx, _NEWER), _logits
    ),
    "torch.onnx, older": Converter(
        lambda source, target: _import("torch.onnx"), functools.partial(_torch_onnx, _OLDER), _logits
    ),
}


def _answer(task: str, *arguments: str) -> dict:
    with cli.quiet_framework_start(), warnings.catch_warnings():
        # The exporters warn at length.
        warnings.simplefilter("ignore")
        if task == "make":
            return {"made": True, "left_out": make_sources(arguments[0], Path(arguments[1]))}
        return _convert(task, *map(Path, arguments))


if __name__ == "__main__":
    try:
        print("\n" + json.dumps(_answer(*sys.argv[1:])))
    except UserError as problem:
        # One line: the process that started this one passes the last one on.
        sys.exit(" ".join(str(problem).split("\n")))
