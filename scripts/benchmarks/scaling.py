"""How the cost of a training grows with devices and processes.

Measured are the images per second of `fit --synthetic_data` in the second of two epochs, with the same global batch and
the same steps, on one device, on 2 and 4 logical CPU devices of one process (`--strategy=mirrored`), and in 2 and 4
processes on this machine (scripts/launch_local.sh), in turns. All of them share the machine's cores, so perfect scaling
would leave the rate as it is: what a step takes beyond that of one device is the cost of the copies of the network and
of adding up their gradients. Dropout is off, and the learning rate is small, as a network that learns the one batch by
heart soon makes much of any rounding.

Beside it stands the least that this could take: the passes over the variables that every further copy and the sum of
the gradients have to make, at the memory's bandwidth, and for processes the bytes that they have to send each other, at
the rate of a TCP connection within this machine. Both rates are measured.

The images of one process are the same on any number of its devices, so the losses have to agree. Each of several
processes draws images of its own, as many in all. Memory is the most that was resident in the largest process. Four
processes of the full network take about 6 GB together.
"""

import argparse
import importlib.util
import os
import re
import socket
import statistics
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from benchmarks import common
from benchmarks.fit import Training, train
from benchmarks.limits import memory_sides
from keras_alexnet import cli, fit
from keras_alexnet.errors import UserError
from keras_alexnet.presets import PRESETS

BACKENDS = ("tensorflow", "jax")
QUICK = {"backends": ["tensorflow"], "network": "tiny", "copies": [2], "repeats": 1}
LEARNING_RATE = 1e-4
# Of the losses on several devices, from that on one.
LARGEST_DIFFERENCE = 1e-5

_LAUNCHER = Path(__file__).parent.parent / "launch_local.sh"
_RATE_BYTES = 1 << 28  # as much as the gradients of the full network, and more than caches hold


@dataclass(frozen=True)
class Layout:
    """Where the copies of the network are: one on each device, or one in each process."""

    devices: int = 1
    processes: int = 1

    @property
    def copies(self) -> int:
        """Of the network."""
        return self.devices * self.processes

    def __str__(self) -> str:
        return (
            f"{self.processes} processes" if self.processes > 1 else f"{self.devices} device{'s'[: self.devices - 1]}"
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the own options."""
    parser.set_defaults(repeats=2)
    parser.add_argument(
        "--backends", nargs="+", choices=BACKENDS, help="one or both; by default those that are installed"
    )
    parser.add_argument(
        "--copies",
        nargs="+",
        type=common.at_least_1,
        default=[2, 4],
        help="numbers of devices and of processes, beside one device (%(default)s)",
    )
    parser.add_argument("--network", choices=list(PRESETS), default="cntk", help="the network's sizes (%(default)s)")
    parser.add_argument("--batch_size", type=common.at_least_1, default=32, help="images a step in all (%(default)s)")
    parser.add_argument("--steps", type=common.at_least_1, default=3, help="steps of an epoch (%(default)s)")


def run(options: argparse.Namespace) -> dict:
    """Prints and returns for each layout its rate, what a step takes beyond one device's, and the least of that."""
    installed = [backend for backend in BACKENDS if importlib.util.find_spec(backend)]
    backends = options.backends or installed
    for backend in backends:
        if backend not in installed:
            raise UserError(f"{backend} of --backends is not installed: pip install -e '.[{backend}]'")
    copies = sorted(set(options.copies) - {1})
    for count in copies:
        if options.batch_size % count:
            raise UserError(
                f"--batch_size is {options.batch_size}, expected one that divides by each of --copies: {copies}."
            )
    layouts = [Layout(), *(Layout(devices=count) for count in copies), *(Layout(processes=count) for count in copies)]
    with cli.quiet_framework_start():
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")
        memory = 1e9 * max(side() for side in memory_sides(_RATE_BYTES // 1_000_000).values())
    loopback = loopback_rate()
    print(f"memory is read and written at {memory / 1e9:.1f} GB/s, TCP sends {loopback / 1e9:.1f} GB/s")
    figures = {}
    for backend in backends:
        trainings: dict[Layout, list[Training]] = {layout: [] for layout in layouts}
        for _ in range(options.repeats):
            for layout, of_layout in trainings.items():
                of_layout.append(_train(backend, layout, options))
        _check(trainings)
        figures[backend] = _figures(backend, trainings, options, memory, loopback)
    return {
        **{name: getattr(options, name) for name in ("network", "batch_size", "steps", "repeats")},
        "memory_bytes_per_second": memory,
        "loopback_bytes_per_second": loopback,
        "backends": figures,
    }


def _train(backend: str, layout: Layout, options: argparse.Namespace) -> Training:
    environment = {"KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    arguments = [
        *("--synthetic_data", "--dropout=0", f"--learning_rate={LEARNING_RATE}", f"--preset={options.network}"),
        *("--epochs=2", f"--steps_per_epoch={options.steps}", f"--batch_size={options.batch_size}"),
    ]
    if layout.processes > 1:
        # It looks for a virtual environment in its own folder first, and else for python3.
        environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return train([str(_LAUNCHER), str(layout.processes), *arguments], environment)
    environment |= common.scripts_on_path()
    strategy = "none" if layout.devices == 1 else "mirrored"
    command = [sys.executable, "-m", "benchmarks.scaling", str(layout.devices), *arguments, f"--strategy={strategy}"]
    return train(command, environment)


def _check(trainings: dict[Layout, list[Training]]) -> None:
    """Raises `UserError` unless all trainings were of the same size, and all of one process of the same losses."""
    (one, *_) = trainings[Layout()]
    for layout, of_layout in trainings.items():
        for training in of_layout:
            found = (copies_in(training.devices), training.images, training.parameters)
            expected = (layout.copies, one.images, one.parameters)
            if found != expected:
                raise UserError(f"{layout}: {found} copies, images and parameters, expected {expected}.")
            difference = _largest_difference(training, one)
            if layout.processes == 1 and not difference <= LARGEST_DIFFERENCE:
                raise UserError(
                    f"{layout}: the losses are {difference:.1e} of them apart from those of one device, expected at "
                    f"most {LARGEST_DIFFERENCE:.0e}."
                )


def copies_in(devices: str) -> int:
    """How many copies of the network a training has, by what it says of its devices."""
    match = re.match(r"(\d+) (?:×|workers with 1 )", devices)
    return int(match[1]) if match else 1


def losses_of(training: Training) -> list[float]:
    """Those of the images that were trained on and of the validation, an epoch after the other."""
    return [row[name] for row in training.history for name in ("loss", "val_loss")]


def _largest_difference(training: Training, expected: Training) -> float:
    """Of the losses, relative to the expected ones."""
    return max(abs(a / b - 1) for a, b in zip(losses_of(training), losses_of(expected), strict=True))


def _figures(
    backend: str,
    trainings: dict[Layout, list[Training]],
    options: argparse.Namespace,
    memory: float,
    loopback: float,
) -> dict:
    """Prints and returns the figures of a backend's layouts."""
    (one, *_) = trainings[Layout()]
    variable_bytes = 4 * one.parameters
    print(
        f"{backend}: {one.parameters:,} parameters ({variable_bytes / 1e6:.1f} MB), {one.images} images an epoch in "
        f"batches of {options.batch_size}"
    )
    rates = {
        layout: [training.history[1]["images_per_second"] for training in of_layout]
        for layout, of_layout in trainings.items()
    }
    common.print_sides({f"  {layout}": values for layout, values in rates.items()}, "img/s")
    figures = {}
    for layout, of_layout in trainings.items():
        figures[str(layout)] = figure = {
            "images_per_second": common.spread(rates[layout]),
            "images": of_layout[0].images,
            "losses": losses_of(of_layout[0]),
            "peak_mb": common.spread([training.peak_mb for training in of_layout]),
        }
        if layout.copies == 1:
            continue
        beyond = [
            options.batch_size * (1 / rate - 1 / of_one)
            for rate, of_one in zip(rates[layout], rates[Layout()], strict=True)
        ]
        by_memory, by_tcp = least_seconds(layout, variable_bytes, memory, loopback)
        figure["beyond_one_seconds"] = common.spread(beyond)
        figure["beyond_one_ns_per_byte"] = 1e9 * statistics.median(beyond) / variable_bytes
        figure["least_seconds"] = by_memory + by_tcp
        print(
            f"  {layout}: {common.spread_text([1000 * seconds for seconds in beyond])} ms a step beyond one device, "
            f"{figure['beyond_one_ns_per_byte']:.2f} ns a byte of the variables; at least {1000 * by_memory:.0f} ms "
            f"for memory{f' and {1000 * by_tcp:.0f} ms for TCP' if by_tcp else ''}"
        )
    peaks = ", ".join(f"{layout} {figures[str(layout)]['peak_mb']['max']:,.0f} MB" for layout in trainings)
    print(f"  most memory of a process: {peaks}")
    apart = max(
        _largest_difference(training, one) for name in trainings if name.processes == 1 for training in trainings[name]
    )
    print(f"  on several devices the losses are at most {apart:.0e} of them apart from those on one", flush=True)
    return {"parameters": one.parameters, "largest_difference": apart, "layouts": figures}


def least_seconds(layout: Layout, variable_bytes: int, memory_rate: float, loopback_rate: float) -> tuple[float, float]:
    """What several copies of a network, larger than caches are, need beyond one: for memory, and for TCP.

    Each further copy reads the weights forward and backward, writes their gradients, and updates: gradients, weights
    and momenta are read, weights and momenta written. That is 8 passes over the variables. To add up the gradients,
    those of each copy are read, and the sum is written, once or in each process. What n processes have to send is
    2 (n - 1) times the variables in all, by a ring as by any other way.
    """
    further = layout.copies - 1
    passes = 8 * further + layout.copies + layout.processes
    sent = 2 * (layout.processes - 1) * variable_bytes
    return passes * variable_bytes / memory_rate, sent / loopback_rate


def loopback_rate(tries: int = 3) -> float:
    """The bytes a second that a TCP connection within this machine carries."""
    chunk = bytes(1 << 20)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as sender,
        server.accept()[0] as receiver,
    ):
        buffer = bytearray(len(chunk))

        def send() -> None:
            for _ in range(_RATE_BYTES // len(chunk)):
                sender.sendall(chunk)

        def transfer() -> None:
            thread = threading.Thread(target=send)
            thread.start()
            received = 0
            while received < _RATE_BYTES:
                received += receiver.recv_into(buffer)
            thread.join()

        return _RATE_BYTES / min(common.seconds_of(transfer)() for _ in range(tries))


def _fit(devices: int, arguments: list[str]) -> None:
    """What `python -m keras_alexnet.fit` does, on so many logical devices of the CPU."""
    # Read when JAX starts.
    os.environ["XLA_FLAGS"] = f"{os.getenv('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    if os.environ["KERAS_BACKEND"] == "tensorflow":
        with cli.quiet_framework_start():
            import tensorflow as tf
        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
    sys.argv[1:] = arguments
    cli.run(fit.main, fit.define_flags, fit.__doc__)


if __name__ == "__main__":
    _fit(int(sys.argv[1]), sys.argv[2:])
