"""Where the time of a training step goes, layer by layer, and how near each layer is to the machine's limits.

The limits are measured in the same run: the rate of large square matrix products on all cores, and the memory's
bandwidth in passes over arrays far above the caches, each by TensorFlow and, where it is installed, by PyTorch, and the
latter by NumPy in threads too; the best counts. They, the steps by the clock, and the steps under TensorFlow's profiler
take turns.

The times are those of `fit --synthetic_data` under TensorFlow on the CPU. Where operations run at the same time on
different cores, the time is divided evenly among them, so the rows add up to the time of the step. TensorFlow computes
the ReLU of a layer together with its product, so conv1 to fc7 are with their ReLU. A conversion between precisions
belongs to the layer that it feeds. What belongs to no layer is in two rows: "other" operations, and "none" running.

GFLOP counts the products of convolutions and dense layers, 2 a multiply-add. MB is the least that has to move between
memory and processor if each array passes once forward and once backward: activations and their gradients at the size of
the precision, pixels of one byte, and float32 weights, their gradients and velocities. A ReLU moves nothing forward;
backward a layer reads its input again. The limit of a row is the longer of GFLOP at the machine's rate in the precision
that the layer computes in (float32 for fc8) and MB at its bandwidth. A layer whose arrays stay in the caches may beat
it.
"""

import argparse
import functools
import glob
import os
import re
import statistics
import tempfile
import time
from collections.abc import Iterator

from benchmarks import common
from benchmarks.attribution import OTHER, Attribution, divide
from benchmarks.layer_costs import Cost, costs
from benchmarks.limits import memory_sides, product_sides
from keras_alexnet import cli
from keras_alexnet.errors import UserError
from keras_alexnet.presets import PRESETS

NONE = "none"
QUICK = {
    "network": "tiny",
    "batch_size": 8,
    "steps": 3,
    "repeats": 1,
    "matrix_sizes": [1024],
    "array_mb": 128,
}

_NUM_CLASSES = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this benchmark."""
    parser.add_argument("--network", choices=list(PRESETS), default="cntk", help="sizes of the layers (%(default)s)")
    parser.add_argument("--batch_size", type=common.at_least_1, default=32, help="images a step (%(default)s)")
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=list(common.PRECISIONS),
        default=list(common.PRECISIONS),
        help="one or several (%(default)s)",
    )
    parser.add_argument("--steps", type=common.at_least_1, default=4, help="steps a turn (%(default)s)")
    parser.add_argument(
        "--matrix_sizes",
        nargs="+",
        type=common.at_least_1,
        default=[1024, 2048, 4096],
        help="rows of the square matrices whose product is a limit (%(default)s)",
    )
    parser.add_argument(
        "--array_mb",
        type=common.at_least_1,
        default=256,
        help="size of the arrays for the memory's bandwidth, to be far above the caches' (%(default)s)",
    )


def run(options: argparse.Namespace) -> dict:
    """Prints a table for each precision; returns their rows and the limits."""
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        raise UserError(f"KERAS_BACKEND is {os.environ['KERAS_BACKEND']}; layers measures TensorFlow's step: unset it.")
    with cli.quiet_framework_start():
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")
        steps = {precision: _Step(precision, options.network, options.batch_size) for precision in options.precision}
    print(f"network {options.network}, batches of {options.batch_size}, {options.steps} steps a turn, on the CPU")

    # fc8 computes in float32 in any case.
    dtypes = [dtype for dtype in common.PRECISIONS if dtype == "float32" or dtype in options.precision]
    limit_sides = product_sides(dtypes, options.matrix_sizes) | memory_sides(options.array_mb)
    step_sides = {}
    for precision, step in steps.items():
        step_sides[f"{precision} step"] = functools.partial(step.milliseconds, options.steps)
        step_sides[f"{precision} step, profiled"] = functools.partial(step.profile, options.steps)
    measured = common.take_turns(limit_sides | step_sides, options.repeats)

    limits = {}
    for limit, unit in [*((f"{dtype} products", "GFLOP/s") for dtype in dtypes), ("memory", "GB/s")]:
        sides = {name: measured[name] for name in limit_sides if name.startswith(f"{limit}, ")}
        common.print_sides(sides, unit)
        limits[limit] = max(map(statistics.median, sides.values()))

    figures = {
        "network": options.network,
        "batch_size": options.batch_size,
        "steps": options.steps,
        "repeats": options.repeats,
        "matrix_sizes": options.matrix_sizes,
        "array_mb": options.array_mb,
        "limits": {
            **{f"{dtype}_gflop_per_second": limits[f"{dtype} products"] for dtype in dtypes},
            "memory_gb_per_second": limits["memory"],
        },
        "limit_sides": {name: common.spread(measured[name]) for name in limit_sides},
        "precisions": {},
    }
    for precision, step in steps.items():
        counted = costs(step.model, options.batch_size)
        rows = _rows(counted, step.profiles[-options.repeats :], limits)
        clock, profiled = (measured[f"{precision} step{suffix}"] for suffix in ("", ", profiled"))
        least = sum(row["least_milliseconds"] for row in rows)
        figures["precisions"][precision] = {
            "layers": rows,
            "milliseconds": common.spread(clock),
            "profiled_milliseconds": common.spread(profiled),
            "least_milliseconds": least,
            "share_of_limit": least / statistics.median(clock),
        }
        print(f"\n{precision}")
        _print_rows(rows)
        common.print_sides({"step by the clock": clock, "step under the profiler": profiled}, "ms")
        print(
            f"at the limits a step takes {least:,.1f} ms, {least / statistics.median(clock):.2f} of that by the clock"
        )
    return figures


def _rows(counted: dict[str, Cost], profiles: list[dict], limits: dict[str, float]) -> list[dict]:
    """The rows of the table, as JSON has them."""
    rows = []
    for layer in [*counted, OTHER, NONE]:
        cost = counted.get(layer, Cost())
        forward, backward = ([profile.get((layer, back), 0.0) for profile in profiles] for back in (False, True))
        both = [sum(pair) for pair in zip(forward, backward, strict=True)]
        products, memory = cost.flop / limits[f"{cost.dtype} products"] / 1e6, cost.bytes / limits["memory"] / 1e6
        rows.append(
            {
                "layer": layer,
                "gflop": cost.flop / 1e9,
                "mb": cost.bytes / 1e6,
                "forward_milliseconds": common.spread(forward),
                "backward_milliseconds": common.spread(backward),
                "milliseconds": common.spread(both),
                "least_milliseconds": max(products, memory),
                "limit": None if layer not in counted else "products" if products > memory else "memory",
            }
        )
    total = sum(row["milliseconds"]["median"] for row in rows)
    for row in rows:
        milliseconds = row["milliseconds"]["median"]
        row["share_of_step"] = milliseconds / total
        known = row["limit"] is not None and milliseconds > 0
        row["gflop_per_second"] = 1e3 * row["gflop"] / milliseconds if known else None
        row["gb_per_second"] = row["mb"] / milliseconds if known else None
        row["share_of_limit"] = row["least_milliseconds"] / milliseconds if known else None
    return rows


def _print_rows(rows: list[dict]) -> None:
    titles = ("GFLOP", "MB", "forward ms", "backward ms", "share", "GFLOP/s", "GB/s", "of the limit")
    print(f"{'layer':16}" + "".join(f"{title:>13}" for title in titles))
    for row in rows:
        forward, backward = (row[f"{direction}_milliseconds"]["median"] for direction in ("forward", "backward"))
        cells = [
            f"{row['gflop']:.2f}" if row["gflop"] else "",
            f"{row['mb']:.1f}" if row["mb"] else "",
            f"{forward:.2f}" if forward else "",
            f"{backward:.2f}" if backward else "",
            f"{100 * row['share_of_step']:.1f} %",
            f"{row['gflop_per_second']:.0f}" if row["gflop_per_second"] else "",
            f"{row['gb_per_second']:.1f}" if row["gb_per_second"] else "",
            f"{row['share_of_limit']:.2f}" if row["share_of_limit"] else "",
        ]
        print(f"{row['layer']:16}" + "".join(f"{cell:>13}" for cell in cells) + f"  {row['limit'] or ''}".rstrip())
    milliseconds = sum(row["milliseconds"]["median"] for row in rows)
    gflop, mb = (sum(row[key] for row in rows) for key in ("gflop", "mb"))
    print(f"{'sum':16}{gflop:13.2f}{mb:13.1f}{'':13}{milliseconds:13.2f}", flush=True)


class _Step:
    """The training step of a precision."""

    def __init__(self, precision: str, network: str, batch_size: int):
        from keras_alexnet.data.synthetic import synthetic_training_batches
        from keras_alexnet.training.build import build_model, build_network
        from keras_alexnet.training.config import TrainConfig
        from keras_alexnet.training.devices.choice import choose_devices

        config = TrainConfig(preset=network, precision=common.PRECISIONS[precision])
        with choose_devices("none") as devices:
            self.model = build_network(build_model(config, _NUM_CLASSES), config, 1, devices)
        self._batches = synthetic_training_batches(batch_size, _NUM_CLASSES, image_size=PRESETS[network].image_size)
        self._attribution = Attribution(
            self._graph(), [layer.name for layer in self.model.layers], self.model.optimizer.name
        )
        # One a turn: by (row, whether backward) milliseconds a step.
        self.profiles: list[dict[tuple[str, bool], float]] = []

    def milliseconds(self, steps: int) -> float:
        """Does steps; returns what one takes by the clock."""
        start = time.perf_counter()
        self._fit(steps)
        return 1e3 * (time.perf_counter() - start) / steps

    def profile(self, steps: int) -> float:
        """Does steps under the profiler, adds to `profiles`; returns what one takes, by the profiler."""
        import tensorflow as tf
        from tensorflow.tsl.profiler.protobuf import xplane_pb2

        with tempfile.TemporaryDirectory() as folder:
            levels = tf.profiler.experimental.ProfilerOptions(host_tracer_level=2, python_tracer_level=0)
            with tf.profiler.experimental.Profile(folder, levels):
                self._fit(steps)
            trace = xplane_pb2.XSpace.FromString(_read_only_file(f"{folder}/**/*.xplane.pb"))
        parts = divide(self._events(trace))
        self.profiles.append({key or (NONE, False): picoseconds / 1e9 / steps for key, picoseconds in parts.items()})
        return sum(self.profiles[-1].values())

    def _events(self, trace) -> Iterator[tuple[int, int, tuple[str, bool]]]:
        """(start, end, (row, whether backward)) of each operation, in picoseconds."""
        for plane in trace.planes:
            for line in plane.lines:
                for event in line.events:
                    # "scope/operation:Type"; what is no operation bears other names, such as "Iterator::Prefetch".
                    match = re.fullmatch(r"([\w./-]+):(\w+)", plane.event_metadata[event.metadata_id].name)
                    if match:
                        start = 1000 * line.timestamp_ns + event.offset_ps
                        yield start, start + event.duration_ps, self._attribution.row(match[1])

    def _graph(self) -> dict[str, list[str]]:
        """Does a step; returns its operations, as TensorFlow optimized them, with their inputs."""
        import tensorflow as tf

        with tempfile.TemporaryDirectory() as folder:
            tf.summary.trace_on(graph=True, profiler=False)
            self._fit(1)
            with tf.summary.create_file_writer(folder).as_default():
                tf.summary.trace_export("step", step=0)
            records = tf.data.TFRecordDataset(glob.glob(f"{folder}/*")).as_numpy_iterator()
            events = [tf.compat.v1.Event.FromString(record) for record in records]
        metadata = next(value.tensor.string_val[0] for event in events for value in event.summary.value)
        graphs = tf.compat.v1.RunMetadata.FromString(metadata).function_graphs
        # The others are those of the input's small functions.
        nodes = max((graph.post_optimization_graph.node for graph in graphs), key=len)
        return {node.name: [re.sub(r"^\^|:\d+$", "", name) for name in node.input] for node in nodes}

    def _fit(self, steps: int) -> None:
        self.model.fit(self._batches, steps_per_epoch=steps, shuffle=False, verbose=0)


def _read_only_file(pattern: str) -> bytes:
    (path,) = glob.glob(pattern, recursive=True)
    with open(path, "rb") as file:
        return file.read()
