"""What TensorFlow's and JAX's profilers give, an XSpace protocol buffer, as a Chrome trace, which Perfetto opens."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

# What executors do for themselves, more than half of a CPU's events. Some overlap, which those of a thread must not do.
_NOISE = ("ThreadpoolListener::", "ExecutorState::", "end: ")


def write_chrome_trace(xspace: bytes, path: Path) -> list[str]:
    """Writes a trace as gzipped JSON in Chrome's Trace Event Format, times in microseconds.

    Operations have the names of their layers, steps their numbers, and `args` what else is known. Perfetto does not
    read XSpace, and JAX's own JSON, which TensorFlow does not write, names no layers.

    Args:
        xspace: serialized, https://github.com/openxla/xla/blob/main/third_party/tsl/tsl/profiler/protobuf/xplane.proto.
        path: file to write.

    Returns:
        What the profiler itself could not do, such as reading a GPU's counters.
    """
    # TensorFlow has the schema, and is there under any backend.
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace.FromString(xspace)
    layers = _layers_of_xla(space)
    events = [event for number, plane in enumerate(space.planes) for event in _events(plane, number, layers)]
    with gzip.open(path, "wt", encoding="utf-8", compresslevel=5) as file:
        # `dump` would take the slow encoder, in Python.
        file.write(json.dumps({"displayTimeUnit": "ms", "traceEvents": events}))
    return list(space.errors)


def _events(plane, number: int, layers: dict[tuple[int, str], str]) -> Iterator[dict]:
    """The events of a plane: the host or a device, a line for each of its threads or streams."""
    if plane.lines:
        yield {"ph": "M", "name": "process_name", "pid": number, "args": {"name": plane.name}}
    for thread, line in enumerate(plane.lines):
        where = {"pid": number, "tid": thread}
        yield {"ph": "M", "name": "thread_name", **where, "args": {"name": line.display_name or line.name}}
        yield {"ph": "M", "name": "thread_sort_index", **where, "args": {"sort_index": thread}}
        for event in line.events:
            metadata = plane.event_metadata[event.metadata_id]
            if metadata.name.startswith(_NOISE):
                continue
            args = {name: value for name, value in _stats(plane, event) if not name.startswith("_")}
            layer = layers.get((args.get("program_id"), args.get("hlo_op")))
            if metadata.display_name or layer:
                args["op"] = metadata.display_name or metadata.name
            name = layer or metadata.name.removeprefix("StatefulPartitionedCall/")
            if "step_num" in args:
                name += f" {args['step_num']}"
            yield {
                "ph": "X",
                "name": name,
                **where,
                "ts": (line.timestamp_ns * 1000 + event.offset_ps) / 1e6,
                "dur": event.duration_ps / 1e6,
                "args": args,
            }


def _stats(plane, item) -> Iterator[tuple[str, int | float | str]]:
    """Names and values of what an event or the metadata of one tells; bytes aside."""
    for stat in item.stats:
        kind = stat.WhichOneof("value")
        if kind == "ref_value":
            value = plane.stat_metadata[stat.ref_value].name
        elif kind in (None, "bytes_value"):
            continue
        else:
            value = getattr(stat, kind)
        yield plane.stat_metadata[stat.metadata_id].name, value


def _layers_of_xla(space) -> dict[tuple[int, str], str]:
    """The layers' names, such as `transpose(jvp(conv2))/conv_general_dilated`, of (XLA program, its operation)."""
    from tensorflow.compiler.xla.service import hlo_pb2

    layers = {}
    for plane in space.planes:
        if plane.name != "/host:metadata":
            continue
        for program in plane.event_metadata.values():
            number = dict(_stats(plane, program)).get("program_id")
            for stat in program.stats:
                if stat.WhichOneof("value") != "bytes_value":
                    continue
                module = hlo_pb2.HloProto.FromString(stat.bytes_value).hlo_module
                for computation in module.computations:
                    for operation in computation.instructions:
                        # Without the function, which is the same in all of them: `jit(train_step)/`.
                        layers[number, operation.name] = operation.metadata.op_name.partition("/")[2]
    return layers
