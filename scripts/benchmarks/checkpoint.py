"""What a checkpoint costs a training, beside Keras's, PyTorch's, and a plain write.

Measured are the seconds from the variables of the full network, weights and momenta, to a file that is flushed to
disk; those from the file back to the variables; and both for the weights alone, as `model.keras` has them. Beside them,
in turns: `keras.Model.save` and `load_weights`; `torch.save` and `torch.load`, where PyTorch is installed; and the
limit, which is to write the same numbers one after the other, and to read them to where they are to be.

Every side writes the same weights and momenta, random numbers, to the same file system, flushes its file, and has it
removed at the end of its turn. What a turn reads back has to be what was written, bit for bit. Before a side writes,
all that still waits to be written on the machine is flushed, so that none pays for another's work. What is read is in
the page cache, as it is when a run is started again on the same machine: a disk takes its time beyond that.
"""

import argparse
import functools
import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import common
from keras_alexnet import cli
from keras_alexnet.errors import UserError
from keras_alexnet.presets import PRESETS
from keras_alexnet.system.process_pool import cpu_count
from keras_alexnet.training.config import TrainConfig

OURS, KERAS, TORCH, LIMIT = "keras_alexnet", "Keras", "PyTorch", "the limit"
QUICK = {"network": "tiny", "repeats": 1}

_NUM_CLASSES = 1000

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Side:
    """A way to keep variables in a file.

    Attributes:
        write: writes them to a file in the folder that it is given, flushed; returns the file.
        read: reads them from the file that `write` has returned into the variables, or to where the limit has them.
        clear: forgets the variables, so that nothing but `read` can bring them back.
        held: copies of the variables.
    """

    write: Callable[[Path], Path]
    read: Callable[[Path], None]
    clear: Callable[[], None]
    held: Callable[[], Arrays]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the own options."""
    parser.add_argument("--network", choices=list(PRESETS), default="cntk", help="the network's sizes (%(default)s)")
    parser.add_argument(
        "--folder",
        default=tempfile.gettempdir(),
        help="a folder on the disk to write to, where some files of at most 0.5 GB come and go (%(default)s)",
    )
    parser.set_defaults(repeats=3)


def run(options: argparse.Namespace) -> dict:
    """Prints and returns the seconds of each side, its bytes, and the share of a training's time."""
    with common.temporary_folder(options.folder) as folder:
        return _measure(options.network, options.repeats, folder)


def _measure(network: str, repeats: int, folder: Path) -> dict:
    with cli.quiet_framework_start():
        from keras_alexnet.training.checkpoint import variable_arrays
    model = _model(network)
    every = variable_arrays(model)
    weights, momenta = _weights_and_momenta(every)
    figures = {
        "network": network,
        "repeats": repeats,
        "weight_bytes": sum(array.nbytes for array in weights.values()),
        "momentum_bytes": sum(array.nbytes for array in momenta.values()),
    }
    kept = weights | momenta
    sides = {OURS: _our_checkpoint(model, every), KERAS: _keras_checkpoint(model, kept)}
    expected = {OURS: every, KERAS: kept, TORCH: kept, LIMIT: kept}
    if importlib.util.find_spec("torch"):
        sides[TORCH] = _torch_checkpoint(kept)
    sides[LIMIT] = _plain_file(kept)
    print(f"Weights and momenta, {sum(array.nbytes for array in kept.values()) / 1e6:.1f} MB")
    figures["checkpoint"] = _take_turns(sides, expected, repeats, folder)
    share = figures["checkpoint"][OURS]["write_seconds"]["median"] / (60 * TrainConfig().checkpoint_minutes)
    figures["share_of_training"] = share
    print(
        f"a checkpoint takes {100 * share:.2f} % of the time of a training, at the default interval of "
        f"{TrainConfig().checkpoint_minutes:g} minutes"
    )
    print(f"Weights alone, {figures['weight_bytes'] / 1e6:.1f} MB")
    sides = {
        OURS: _our_model_file(model, weights),
        KERAS: _keras_model_file(model, weights),
        LIMIT: _plain_file(weights),
    }
    figures["model_file"] = _take_turns(sides, dict.fromkeys(sides, weights), repeats, folder)
    return figures


def _model(network: str):
    """The network, compiled as for a training, with random numbers in all of its weights and momenta."""
    with cli.quiet_framework_start():
        from keras_alexnet.compute import PORTABLE
        from keras_alexnet.training.build import build_model, build_network
        from keras_alexnet.training.checkpoint import assign, variable_arrays
        from keras_alexnet.training.devices.choice import choose_devices
    with choose_devices("none") as devices:
        config = TrainConfig(preset=network)
        # In the form that is saved.
        model = build_network(build_model(config, _NUM_CLASSES), config, 1, devices, PORTABLE)
    rng = np.random.default_rng(0)
    for arrays in _weights_and_momenta(variable_arrays(model)):
        assign(model, {name: rng.standard_normal(array.shape, np.float32) for name, array in arrays.items()})
    return model


def _weights_and_momenta(arrays: Arrays) -> tuple[Arrays, Arrays]:
    """Without the few numbers of the seeds, the metrics, the step and the learning rate."""
    tensors = {name: array for name, array in arrays.items() if array.ndim and array.dtype == np.float32}
    weights, momenta = (
        {name: array for name, array in tensors.items() if name.startswith(kind)} for kind in ("model/", "optimizer/")
    )
    shapes = [sorted(array.shape for array in part.values()) for part in (weights, momenta)]
    if not weights or shapes[0] != shapes[1]:
        raise AssertionError(f"weights and momenta have other shapes: {shapes}")
    return weights, momenta


def _take_turns(sides: dict[str, Side], expected: dict[str, Arrays], repeats: int, folder: Path) -> dict[str, dict]:
    """Has the sides write and read in turns; prints their seconds and ratios and returns them by side."""
    files: dict[str, int] = {}
    turns = {}
    for name, side in sides.items():
        turn = _turn(name, side, expected[name], folder, files)
        turns[name, "write"] = functools.partial(next, turn)
        turns[name, "read"] = functools.partial(next, turn)
    seconds = common.take_turns(turns, repeats)
    for kind in ("write", "read"):
        print(kind)
        common.print_sides({f"  {name}": seconds[name, kind] for name in sides}, "s")
        ours = statistics.median(seconds[OURS, kind])
        for name in sides:
            if name != OURS:
                ratio = ours / statistics.median(seconds[name, kind])
                print(f"  {OURS} takes {ratio:.2f} of the time of {name}")
    print("files: " + ", ".join(f"{name} {size:,} bytes" for name, size in files.items()))
    return {
        name: {
            "file_bytes": files[name],
            "write_seconds": common.spread(seconds[name, "write"]),
            "read_seconds": common.spread(seconds[name, "read"]),
        }
        for name in sides
    }


def _turn(name: str, side: Side, expected: Arrays, folder: Path, files: dict[str, int]) -> Iterator[float]:
    """Writes, reads, writes, reads …, each when it is asked for the next seconds; notes the size of the file."""
    while True:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            os.sync()
            start = time.perf_counter()
            path = side.write(Path(place))
            yield time.perf_counter() - start
            files[name] = path.stat().st_size
            side.clear()
            start = time.perf_counter()
            side.read(path)
            seconds = time.perf_counter() - start
            _check_same(name, side.held(), expected)
        yield seconds


def _check_same(name: str, arrays: Arrays, expected: Arrays) -> None:
    for key, array in expected.items():
        read = arrays.get(key)
        if read is None or (read.dtype, read.shape) != (array.dtype, array.shape) or _bytes_differ(read, array):
            raise UserError(
                f"{name} reads back something else than it wrote, in {key}: its figures would mean nothing."
            )


def _bytes_differ(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether any bit differs: 0 and -0 do."""
    return not np.array_equal(*(np.ravel(array).view(np.uint8) for array in (a, b)))


def _flush(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _in_model(model, write: Callable[[Path], Path], read: Callable[[Path], None], kept: Arrays) -> Side:
    """A side that keeps those variables of the model which `kept` names."""
    from keras_alexnet.training.checkpoint import assign, variable_arrays

    zeros = {name: np.zeros_like(array) for name, array in kept.items()}
    return Side(write, read, lambda: assign(model, zeros), lambda: variable_arrays(model))


def _our_checkpoint(model, every: Arrays) -> Side:
    from keras_alexnet.training.checkpoint import Progress, restore, save_checkpoint, variable_arrays
    from keras_alexnet.training.devices.choice import choose_devices
    from keras_alexnet.training.run_files import CHECKPOINT_FOLDER
    from keras_alexnet.training.run_folder import find_checkpoint

    def write(folder: Path) -> Path:
        return save_checkpoint(folder / CHECKPOINT_FOLDER, variable_arrays(model), Progress(1, [], {}, cpu_count()))

    def read(path: Path) -> None:
        with choose_devices("none") as devices:
            restore(model, find_checkpoint(path.parent.parent, {}, devices))

    return _in_model(model, write, read, every)


def _keras_checkpoint(model, kept: Arrays) -> Side:
    def write(folder: Path) -> Path:
        path = folder / "model.keras"
        model.save(path)
        _flush(path)
        return path

    return _in_model(model, write, model.load_weights, kept)


def _torch_checkpoint(arrays: Arrays) -> Side:
    import torch

    tensors = {name: torch.tensor(array) for name, array in arrays.items()}

    def write(folder: Path) -> Path:
        path = folder / "checkpoint.pt"
        torch.save(tensors, path)
        _flush(path)
        return path

    def read(path: Path) -> None:
        for name, tensor in torch.load(path, weights_only=True).items():
            tensors[name].copy_(tensor)

    def clear() -> None:
        for tensor in tensors.values():
            tensor.zero_()

    return Side(write, read, clear, lambda: {name: tensor.numpy() for name, tensor in tensors.items()})


def _plain_file(arrays: Arrays) -> Side:
    held = {name: array.copy() for name, array in arrays.items()}

    def write(folder: Path) -> Path:
        path = folder / "numbers"
        with open(path, "wb", buffering=0) as file:
            for array in held.values():
                # A call may write less than it is given.
                rest = memoryview(array).cast("B")
                while rest:
                    rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        return path

    def read(path: Path) -> None:
        with open(path, "rb") as file:
            for array in held.values():
                file.readinto(memoryview(array).cast("B"))

    def clear() -> None:
        for array in held.values():
            array.fill(0)

    return Side(write, read, clear, lambda: held)


def _our_model_file(model, weights: Arrays) -> Side:
    from keras_alexnet.model_file import save_model

    def write(folder: Path) -> Path:
        path = folder / "model.keras"
        save_model(model, path)
        return path

    return _model_file(model, write, weights)


def _keras_model_file(model, weights: Arrays) -> Side:
    import keras

    def write(folder: Path) -> Path:
        path = folder / "model.keras"
        # One that was never compiled, so that the file has no optimizer.
        keras.Model(model.input, model.output, name=model.name).save(path)
        _flush(path)
        return path

    return _model_file(model, write, weights)


def _model_file(model, write: Callable[[Path], Path], weights: Arrays) -> Side:
    from keras_alexnet.model_file import load_model

    def read(path: Path) -> None:
        model.set_weights(load_model(str(path)).get_weights())

    return _in_model(model, write, read, weights)
