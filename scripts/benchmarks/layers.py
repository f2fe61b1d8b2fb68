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
import importlib.util
import math
import os
import re
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from benchmarks import common
from keras_alexnet import cli
from keras_alexnet.errors import UserError
from keras_alexnet.presets import PRESETS
from keras_alexnet.workers import cpu_count

LOSS, OPTIMIZER = "loss and metrics", "optimizer"
OTHER, NONE = "other", "none"
QUICK = {
    "network": "tiny",
    "batch_size": 8,
    "steps": 3,
    "repeats": 1,
    "matrix_sizes": [1024],
    "array_mb": 128,
}

_NUM_CLASSES = 1000
# A turn of a limit takes at least so long, and its fastest call counts.
_LIMIT_SECONDS = 0.2


@dataclass
class Cost:
    """What a row of the table costs at least in a training step; `dtype` is that of its matrix products."""

    forward_flop: int = 0
    backward_flop: int = 0
    forward_bytes: int = 0
    backward_bytes: int = 0
    dtype: str = "float32"

    @property
    def flop(self) -> int:
        """Forward and backward."""
        return self.forward_flop + self.backward_flop

    @property
    def bytes(self) -> int:
        """Forward and backward."""
        return self.forward_bytes + self.backward_bytes


def row_of(layer: str) -> str:
    """The row that a layer of the network is in: a ReLU is in that of its product, padding in that of what it pads."""
    if match := re.fullmatch(r"relu(\d)", layer):
        return f"{'conv' if int(match[1]) <= 5 else 'fc'}{match[1]}"
    return "fc6" if layer == "flatten" else layer.removesuffix("_pad")


def costs(model, batch_size: int) -> dict[str, Cost]:
    """Counts the operations of products, and the bytes that have to move, as this module's docstring says.

    Args:
        model: of `build_alexnet`, its precision set.
        batch_size: images a step.

    Returns:
        By row, in the network's order, what a step costs; the loss and the optimizer last.
    """
    rows: dict[str, Cost] = defaultdict(Cost)
    bytes_a_number = 2 if model.get_layer("conv1").compute_dtype == "bfloat16" else 4
    # Gradients flow back as far as to the first layer with weights.
    weights_before = False
    for layer in model.layers:
        kind = type(layer).__name__
        if kind in ("InputLayer", "ZeroPadding2D", "Flatten"):
            continue
        inputs = layer.input[0] if isinstance(layer.input, list) else layer.input
        x, y = (batch_size * bytes_a_number * math.prod(tensor.shape[1:]) for tensor in (inputs, layer.output))
        row = rows[row_of(layer.name)]
        if kind == "Rescaling":
            row.forward_bytes += x // bytes_a_number + y
        elif kind == "ReLU":
            row.backward_bytes += y
        elif kind in ("Conv2D", "Dense"):
            product = 2 * batch_size * math.prod(layer.output.shape[1:]) * math.prod(layer.kernel.shape[:-1])
            weights = 4 * layer.count_params()
            row.dtype = layer.compute_dtype
            row.forward_flop += product
            row.forward_bytes += x + weights + y
            # From x and the gradient of y that of the weights; from the weights and the gradient of y that of x.
            row.backward_flop += 2 * product if weights_before else product
            row.backward_bytes += x + y + weights + (weights + x if weights_before else 0)
            weights_before = True
        else:
            row.forward_bytes += x + y
            row.backward_bytes += x + y + x
    logits = 4 * batch_size * math.prod(model.output.shape[1:])
    rows[LOSS] = Cost(forward_bytes=logits, backward_bytes=2 * logits)
    # Weights, gradients and velocities are read, weights and velocities written.
    rows[OPTIMIZER] = Cost(backward_bytes=5 * 4 * sum(math.prod(v.shape) for v in model.trainable_variables))
    return dict(rows)


def divide(events: Iterable[tuple[int, int, Hashable]]) -> dict[Hashable, float]:
    """Divides time among what runs.

    Args:
        events: (start, end, name) each; at least one.

    Returns:
        By name its part of the time from the first start to the last end, which is what the parts add up to: a moment
        in which several run counts evenly for each. None has the moments in which none runs.
    """
    changes = [(moment, step, name) for start, end, name in events for moment, step in ((start, 1), (end, -1))]
    changes.sort(key=lambda change: change[0])
    parts: dict[Hashable, float] = defaultdict(float)
    running: Counter = Counter()
    before = changes[0][0]
    for moment, step, name in changes:
        for other, times in running.items():
            parts[other] += (moment - before) * times / running.total()
        if not running and moment > before:
            parts[None] += moment - before
        running[name] += step
        if not running[name]:
            del running[name]
        before = moment
    return dict(parts)


class Attribution:
    """Tells the rows of a step's operations.

    Most bear the name of their layer, as in "alexnet/conv2/convolution" and "gradient_tape/alexnet/conv2/…". Those that
    the network has outside of layers, conversions and the terms of local response normalization, belong to the layer
    that they lead to; a gradient's operations, to the layer whose gradient led to them.

    Args:
        graph: by the operation's name the names of its inputs.
        layers: names of the model's layers.
        optimizer: name of the optimizer.
    """

    def __init__(self, graph: Mapping[str, list[str]], layers: Iterable[str], optimizer: str):
        self._inputs = graph
        self._layers = frozenset(layers)
        self._optimizer = optimizer
        self._consumers: dict[str, list[str]] = defaultdict(list)
        for name, inputs in graph.items():
            for source in inputs:
                self._consumers[source].append(name)
        self._found: dict[str, tuple[str, bool]] = {}

    def row(self, operation: str) -> tuple[str, bool]:
        """The row of an operation, and whether it is of the backward pass."""
        if operation not in self._found:
            self._found[operation] = self._find(operation)
        return self._found[operation]

    def _find(self, operation: str) -> tuple[str, bool]:
        name = operation.removeprefix(_STEP)
        if name == operation:
            return OTHER, False
        if name.startswith(self._optimizer):
            return OPTIMIZER, True
        if "compile_loss/" in name:
            return LOSS, "gradient_tape/" in name
        backward, forward = _is_gradient(operation), _is_forward(operation)
        layer = self._layer(operation)
        if not layer and backward:
            layer = self._nearest(operation, self._inputs, _is_gradient)
        elif not layer and forward:
            layer = self._nearest(operation, self._consumers, _is_forward)
        if layer:
            return row_of(layer), backward
        # The metrics have no scope.
        return (OTHER if backward or forward else LOSS), backward

    def _layer(self, operation: str) -> str | None:
        match = re.search(r"(?:^|/)alexnet(?:_\d+)?/(\w+?)(?:_\d+)?/", operation)
        return match[1] if match and match[1] in self._layers else None

    def _nearest(self, operation: str, neighbours: Mapping[str, list[str]], fits: Callable[[str], bool]) -> str | None:
        """The first layer that is met on the way along `neighbours`, through operations that fit."""
        seen, edge = {operation}, [operation]
        while edge:
            edge = [name for before in edge for name in neighbours.get(before, ()) if fits(name) and name not in seen]
            seen.update(edge)
            for name in edge:
                if layer := self._layer(name):
                    return layer
        return None


# How TensorFlow names the operations of the function that is the step.
_STEP = "StatefulPartitionedCall/"


def _is_gradient(operation: str) -> bool:
    """Sums of gradients, which have no scope of their own, too."""
    return operation.startswith((f"{_STEP}gradient_tape/alexnet", f"{_STEP}AddN"))


def _is_forward(operation: str) -> bool:
    return operation.startswith(f"{_STEP}alexnet")


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
    limit_sides = _product_sides(dtypes, options.matrix_sizes) | _memory_sides(options.array_mb)
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


def _product_sides(dtypes: list[str], sizes: list[int]) -> dict[str, Callable[[], float]]:
    """Sides that return the GFLOP/s of the best of square matrix products."""
    import tensorflow as tf

    product = tf.function(tf.linalg.matmul)
    rng = np.random.default_rng(0)
    matrices = [rng.standard_normal((2, size, size), np.float32) for size in sizes]

    def side(calls: list[Callable[[], object]]) -> Callable[[], float]:
        return lambda: max(2e-9 * size**3 / _best_seconds(call) for size, call in zip(sizes, calls, strict=True))

    sides = {}
    for dtype in dtypes:
        pairs = [tf.unstack(tf.cast(pair, dtype)) for pair in matrices]
        sides[f"{dtype} products, TensorFlow"] = side([functools.partial(product, *pair) for pair in pairs])
        if importlib.util.find_spec("torch"):
            import torch

            pairs = [torch.from_numpy(pair).to(getattr(torch, dtype)) for pair in matrices]
            sides[f"{dtype} products, PyTorch"] = side([functools.partial(torch.mm, *pair) for pair in pairs])
    return sides


def _memory_sides(mb: int) -> dict[str, Callable[[], float]]:
    """Sides that return the GB/s of reading and writing float32 arrays of `mb` MB each, a += b and a = b."""
    import tensorflow as tf

    a, b = np.ones((2, mb * 1_000_000 // 4), np.float32)
    threads = cpu_count()
    pool = ThreadPoolExecutor(threads)
    parts = [slice(len(a) * n // threads, len(a) * (n + 1) // threads) for n in range(threads)]
    variable, addend = tf.Variable(a), tf.constant(b)
    calls = {
        "a += b, NumPy in threads": lambda: list(pool.map(lambda part: np.add(a[part], b[part], out=a[part]), parts)),
        "a = b, NumPy in threads": lambda: list(pool.map(lambda part: np.copyto(a[part], b[part]), parts)),
        "a += b, TensorFlow": lambda: variable.assign_add(addend, read_value=False),
    }
    if importlib.util.find_spec("torch"):
        import torch

        calls["a += b, PyTorch"] = functools.partial(torch.from_numpy(a).add_, torch.from_numpy(b))
        calls["a = b, PyTorch"] = functools.partial(torch.from_numpy(a).copy_, torch.from_numpy(b))

    def side(name: str, call: Callable[[], object]) -> Callable[[], float]:
        passes = 3 if name.startswith("a +=") else 2
        return lambda: 1e-9 * passes * a.nbytes / _best_seconds(call)

    return {f"memory, {name}": side(name, call) for name, call in calls.items()}


def _best_seconds(call: Callable[[], object]) -> float:
    """The least that a call takes; it is called at least once, and until `_LIMIT_SECONDS` are over."""
    seconds, begin = [], time.perf_counter()
    while not seconds or time.perf_counter() - begin < _LIMIT_SECONDS:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


class _Step:
    """The training step of a precision."""

    def __init__(self, precision: str, network: str, batch_size: int):
        from keras_alexnet.data.synthetic import synthetic_training_batches
        from keras_alexnet.training.config import TrainConfig
        from keras_alexnet.training.distribution import choose_devices
        from keras_alexnet.training.loop import build_model

        config = TrainConfig(preset=network, precision=common.PRECISIONS[precision])
        with choose_devices("none") as devices:
            self.model = build_model(config, _NUM_CLASSES, 1, devices)
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
