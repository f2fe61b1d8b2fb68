"""Traces of steps: those that were asked for, whole, and with no influence on the training."""

import dataclasses
import gzip
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from training_process import arrays_of, finish, history_of, installed, start_training

from keras_alexnet.errors import UserError
from keras_alexnet.training import loop
from keras_alexnet.training.chrome_trace import write_chrome_trace
from keras_alexnet.training.config import TrainConfig
from keras_alexnet.training.dry_run import dry_run


@pytest.fixture(scope="module")
def plain(data_dir, tmp_path_factory) -> TrainConfig:
    """The settings of a run of two epochs of four steps, which nobody traced."""
    config = TrainConfig(
        data_dir=str(data_dir),
        output_dir=str(tmp_path_factory.mktemp("plain") / "run"),
        preset="tiny",
        epochs=2,
        steps_per_epoch=4,
        batch_size=3,
        learning_rate=0.001,
        lr_drop_epochs=(),
        checkpoint_minutes=1e-9,
    )
    loop.train(config)
    return config


@pytest.fixture(scope="module")
def traced(plain, tmp_path_factory) -> TrainConfig:
    """The same with a trace, from the middle of the first epoch to that of the second."""
    folder = tmp_path_factory.mktemp("traced") / "run"
    config = dataclasses.replace(plain, output_dir=str(folder), profile_steps=(2, 7))
    loop.train(config)
    return config


def traces(config: TrainConfig) -> list[str]:
    return sorted(str(path.relative_to(f"{config.output_dir}/profile")) for path in files(config))


def files(config: TrainConfig) -> list[Path]:
    return [path for path in Path(config.output_dir, "profile").rglob("*") if path.is_file()]


def events(config: TrainConfig, name: str) -> list[dict]:
    """The events of a trace with a begin and a duration."""
    with gzip.open(f"{config.output_dir}/profile/{name}.trace.json.gz") as file:
        return [event for event in json.load(file)["traceEvents"] if event["ph"] == "X"]


def steps(found: list[dict]) -> list[str]:
    return [event["name"] for event in found if event["name"].startswith("train ")]


def computed(found: list[dict]) -> set[str]:
    """The operations of TensorFlow."""
    return {event["args"]["op"].removeprefix("_Mkl") for event in found if "op" in event["args"]}


def assert_same_training(folder: Path, expected: Path) -> None:
    assert history_of(folder) == history_of(expected)
    arrays, expected_arrays = arrays_of(folder), arrays_of(expected)
    assert arrays.keys() == expected_arrays.keys()
    for name, array in expected_arrays.items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)


def test_a_trace_has_the_steps_asked_for_and_no_others(traced):
    assert steps(events(traced, "steps-2-4")) == ["train 2", "train 3"]
    assert steps(events(traced, "steps-4-7")) == ["train 4", "train 5", "train 6"]
    for name, count in (("steps-2-4", 2), ("steps-4-7", 3)):
        found = events(traced, name)
        # Keras's function of a training step; that of the validation between the two would be another.
        assert len([event for event in found if event["name"] == "one_step_on_data"]) == count
        assert not [event for event in found if "test_step" in event["name"]]


def test_a_trace_tells_what_each_layer_computes(traced):
    found = events(traced, "steps-4-7")
    names = {event["name"] for event in found}
    for layer in ("conv1", "conv5", "fc6", "fc8"):
        assert any(layer in name and "gradient_tape" not in name for name in names), layer
        assert any(layer in name and "gradient_tape" in name for name in names), layer
    assert any("sgd_with_l2" in name for name in names)
    operations = " ".join(computed(found))
    for operation in ("Conv2D", "MatMul", "Conv2DBackpropFilter"):
        assert operation in operations
    assert any(name.startswith("Iterator::") for name in names)  # the input


def test_the_events_of_a_thread_nest(traced):
    """Viewers drop those that do not."""
    threads: dict[tuple, list] = {}
    for event in events(traced, "steps-4-7"):
        threads.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
    for spans in threads.values():
        around = []
        for begin, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            while around and around[-1] <= begin + 1e-3:
                around.pop()
            assert not around or end <= around[-1] + 1e-3
            around.append(end)


def test_tensorboard_finds_the_same_steps(traced):
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    folder = Path(traced.output_dir, "profile", "plugins", "profile")
    assert sorted(path.name for path in folder.iterdir()) == ["steps-2-4", "steps-4-7"]
    (path,) = (folder / "steps-2-4").iterdir()
    assert path.name.endswith(".xplane.pb")
    space = xplane_pb2.XSpace.FromString(path.read_bytes())
    (host,) = (plane for plane in space.planes if plane.name == "/host:CPU")
    numbers = [
        stat.int64_value
        for line in host.lines
        for event in line.events
        for stat in event.stats
        if host.stat_metadata[stat.metadata_id].name == "step_num"
    ]
    assert numbers == [2, 3]


def test_tracing_changes_no_bit_of_the_training(plain, traced):
    assert_same_training(Path(traced.output_dir), Path(plain.output_dir))
    assert not Path(plain.output_dir, "profile").exists()


def test_what_is_printed(plain, tmp_path, capfd):
    config = dataclasses.replace(plain, output_dir=str(tmp_path), epochs=1, profile_steps=(1, 2))
    loop.train(config)
    printed = capfd.readouterr()
    path = f"{tmp_path}/profile/steps-1-2.trace.json.gz"
    assert f"Steps 1 to 2 are traced: https://ui.perfetto.dev opens {path}, and TensorBoard" in printed.out
    assert "rofiler" not in printed.err


def test_an_interrupted_trace_goes_on_with_the_run(plain, traced, tmp_path, monkeypatch):
    config = dataclasses.replace(plain, output_dir=str(tmp_path), profile_steps=(1, 4))
    save = loop.save_checkpoint

    def save_and_interrupt(folder, arrays, progress):
        save(folder, arrays, progress)
        if progress.steps == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop, "save_checkpoint", save_and_interrupt)
    with pytest.raises(SystemExit):
        loop.train(config)
    monkeypatch.undo()
    # The step that was being computed is done.
    assert steps(events(config, "steps-1-3")) == ["train 1", "train 2"]
    before = {path: path.read_bytes() for path in files(config)}
    assert len(before) == 2

    loop.train(config)
    assert steps(events(config, "steps-3-4")) == ["train 3"]
    assert {path: path.read_bytes() for path in before} == before
    assert len(files(config)) == 4
    assert_same_training(tmp_path, Path(plain.output_dir))

    loop.train(dataclasses.replace(config, epochs=3))  # beyond the range
    assert {path: path.read_bytes() for path in before} == before
    assert len(files(config)) == 4


def test_a_training_that_fails_leaves_no_trace_and_no_profiler(plain, tmp_path, monkeypatch):
    config = dataclasses.replace(plain, output_dir=str(tmp_path), profile_steps=(0, 4))

    def fail(folder, arrays, progress):
        raise ZeroDivisionError("killed")

    monkeypatch.setattr(loop, "save_checkpoint", fail)
    with pytest.raises(ZeroDivisionError):
        loop.train(config)
    monkeypatch.undo()
    assert not (tmp_path / "profile").exists()
    # TensorFlow would refuse to start its profiler a second time.
    loop.train(dataclasses.replace(config, epochs=1))
    assert len(steps(events(config, "steps-0-4"))) == 4


def test_a_trace_is_replaced_and_thrown_away_with_all_that_belongs_to_it(plain, tmp_path):
    config = dataclasses.replace(plain, output_dir=str(tmp_path), epochs=1, profile_steps=(1, 2))
    loop.train(config)
    (xplane,) = tmp_path.glob("profile/plugins/profile/steps-1-2/*")
    for name in ("host.SSTABLE", ".cached_tools.json"):  # as TensorBoard leaves them there
        (xplane.parent / name).write_text("of the first trace")
    loop.train(config, restart=True)
    assert [path.name for path in xplane.parent.iterdir()] == [xplane.name]
    (tmp_path / "profile" / "mine.txt").write_text("mine")
    (xplane.parent / ".cached_tools.json").write_text("of the second trace")
    loop.train(dataclasses.replace(config, profile_steps=None), restart=True)
    assert traces(config) == ["mine.txt"]


def test_a_range_that_the_run_never_reaches_is_told(plain, tmp_path):
    config = dataclasses.replace(plain, output_dir=str(tmp_path / "run"), profile_steps=(8, 10))
    for start in (loop.train, dry_run):
        with pytest.raises(UserError, match=r"profile_steps is 8:10, but the run has 8 steps"):
            start(config)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_told(plain, tmp_path):
    (tmp_path / "profile").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*profile"):
        loop.train(dataclasses.replace(plain, output_dir=str(tmp_path), profile_steps=(0, 1)))


def test_events_of_a_device_have_the_names_of_layers(tmp_path):
    """A GPU under JAX, by hand: operations know their XLA program, and that knows the layers."""
    from tensorflow.compiler.xla.service import hlo_pb2
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace(errors=["no counters"])
    programs = space.planes.add(name="/host:metadata")
    programs.stat_metadata[1].name = "program_id"
    programs.stat_metadata[2].name = "hlo_proto"
    program = hlo_pb2.HloProto()
    operation = program.hlo_module.computations.add().instructions.add(name="fusion.3")
    operation.metadata.op_name = "jit(train_step)/jvp(conv2)/conv_general_dilated"
    program_metadata = programs.event_metadata[1]
    program_metadata.stats.add(metadata_id=1, uint64_value=7)
    program_metadata.stats.add(metadata_id=2, bytes_value=program.SerializeToString())

    device = space.planes.add(name="/device:GPU:0")
    for number, name in enumerate(("program_id", "hlo_op", "fusion.3", "step_num", "_r", "fusion.4")):
        device.stat_metadata[number].name = name
    for number, name in enumerate(("kernel", "train", "ThreadpoolListener::Record")):
        device.event_metadata[number].name = name
    line = device.lines.add(id=-5, name="Stream #1", timestamp_ns=1000)
    for operation in (2, 5):
        event = line.events.add(metadata_id=0, offset_ps=2_000_000, duration_ps=500_000)
        event.stats.add(metadata_id=0, uint64_value=7)
        event.stats.add(metadata_id=1, ref_value=operation)
    step = line.events.add(metadata_id=1, offset_ps=0, duration_ps=9_000_000)
    step.stats.add(metadata_id=3, int64_value=12)
    step.stats.add(metadata_id=4, int64_value=1)
    line.events.add(metadata_id=2)

    assert write_chrome_trace(space.SerializeToString(), tmp_path / "trace.json.gz") == ["no counters"]
    with gzip.open(tmp_path / "trace.json.gz") as file:
        found = json.load(file)["traceEvents"]
    where = {"pid": 1, "tid": 0}
    assert {"ph": "M", "name": "process_name", "pid": 1, "args": {"name": "/device:GPU:0"}} in found
    assert {"ph": "M", "name": "thread_name", **where, "args": {"name": "Stream #1"}} in found
    assert [event for event in found if event["ph"] == "X"] == [
        {
            "ph": "X",
            "name": "jvp(conv2)/conv_general_dilated",
            **where,
            "ts": 3.0,
            "dur": 0.5,
            "args": {"op": "kernel", "program_id": 7, "hlo_op": "fusion.3"},
        },
        {
            "ph": "X",
            "name": "kernel",
            **where,
            "ts": 3.0,
            "dur": 0.5,
            "args": {"program_id": 7, "hlo_op": "fusion.4"},
        },
        {"ph": "X", "name": "train 12", **where, "ts": 1.0, "dur": 9.0, "args": {"step_num": 12}},
    ]


OPERATIONS = {
    "tensorflow": ("Conv2DBackpropFilter", "conv2", "fc6"),
    "jax": (
        "jvp(layers)/conv2/conv_general_dilated",
        "transpose(jvp(layers))/conv5/",
        "transpose(jvp(layers))/fc6/dot_general",
    ),
    "torch": ("aten::convolution", "aten::mm", "ConvolutionBackward0"),
}


@pytest.mark.slow
@pytest.mark.parametrize("backend", installed("tensorflow", "jax", "torch"))
def test_every_backend_traces_and_trains_as_without(backend, plain, tmp_path):
    config = dataclasses.asdict(plain) | {"epochs": 1, "checkpoint_minutes": 10}
    finish(start_training(backend, config | {"output_dir": str(tmp_path / "plain")}))
    process = start_training(backend, config | {"output_dir": str(tmp_path / "traced"), "profile_steps": (1, 3)})
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert "Steps 1 to 3 are traced" in stdout
    assert [line for line in stderr.splitlines() if not line.startswith("epoch ")] == []
    run = dataclasses.replace(plain, output_dir=str(tmp_path / "traced"))
    found = events(run, "steps-1-3")
    assert steps(found) == ["train 1", "train 2"]
    names = {event["name"] for event in found}
    for operation in OPERATIONS[backend]:
        assert any(operation in name for name in names), operation
    assert len(files(run)) == (1 if backend == "torch" else 2)
    if backend == "jax":
        # Each ran to its end within the trace.
        runs = {event["args"]["run_id"] for event in found if event["args"].get("hlo_module") == "jit_train_step"}
        assert len(runs) == 2
    assert_same_training(tmp_path / "traced", tmp_path / "plain")
