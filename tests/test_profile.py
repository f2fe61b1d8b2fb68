"""Traces of steps: those that were asked for, whole, and with no influence on the training."""

import dataclasses
import gzip
import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from training_process import arrays_of, finish, history_of, installed, start_training

from keras_alexnet.errors import UserError
from keras_alexnet.training import loop
from keras_alexnet.training.config import TrainConfig
from keras_alexnet.training.dry_run import dry_run
from keras_alexnet.training.run_folder import discard_run


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


def files(config: TrainConfig) -> list[Path]:
    return sorted(path for path in Path(config.output_dir, "profile").rglob("*") if path.is_file())


def trace_folders(config: TrainConfig) -> list[str]:
    return sorted(path.name for path in Path(config.output_dir, "profile", "plugins", "profile").iterdir())


def trace_folder(config: TrainConfig, name: str) -> Path:
    return Path(config.output_dir, "profile", "plugins", "profile", name)


def xspace(config: TrainConfig, name: str):
    """What xprof reads: TensorFlow has its schema."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    (path,) = trace_folder(config, name).glob("*.xplane.pb")
    return xplane_pb2.XSpace.FromString(path.read_bytes())


def traced_steps(config: TrainConfig, name: str) -> list[int]:
    (host,) = (plane for plane in xspace(config, name).planes if plane.name == "/host:CPU")
    return sorted(
        stat.int64_value
        for line in host.lines
        for event in line.events
        if host.event_metadata[event.metadata_id].name == "train"
        for stat in event.stats
        if host.stat_metadata[stat.metadata_id].name == "step_num"
    )


def names_in(config: TrainConfig, name: str) -> str:
    return " ".join(
        metadata.name for plane in xspace(config, name).planes for metadata in plane.event_metadata.values()
    )


def assert_same_training(folder: Path, expected: Path) -> None:
    assert history_of(folder) == history_of(expected)
    arrays, expected_arrays = arrays_of(folder), arrays_of(expected)
    assert arrays.keys() == expected_arrays.keys()
    for name, array in expected_arrays.items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)


def test_a_trace_has_the_steps_asked_for_and_no_others(traced):
    assert trace_folders(traced) == ["steps-2-4", "steps-4-7"]
    assert traced_steps(traced, "steps-2-4") == [2, 3]
    assert traced_steps(traced, "steps-4-7") == [4, 5, 6]
    names = names_in(traced, "steps-4-7")
    assert "test_step" not in names  # of the validation between the two
    for name in ("conv1", "fc8", "gradient_tape/", "sgd_with_l2", "Iterator::"):
        assert name in names


def test_tracing_changes_no_bit_of_the_training(plain, traced):
    assert_same_training(Path(traced.output_dir), Path(plain.output_dir))
    assert not Path(plain.output_dir, "profile").exists()


def test_an_interrupted_trace_continues_with_the_run(plain, tmp_path, monkeypatch):
    config = dataclasses.replace(plain, output_dir=str(tmp_path), epochs=1, profile_steps=(1, 4))
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
    assert traced_steps(config, "steps-1-3") == [1, 2]
    before = {path: path.read_bytes() for path in files(config)}

    loop.train(config)
    assert traced_steps(config, "steps-3-4") == [3]
    assert {path: path.read_bytes() for path in before} == before
    assert trace_folders(config) == ["steps-1-3", "steps-3-4"]


def test_a_training_that_fails_leaves_no_trace_and_no_profiler(plain, tmp_path, monkeypatch, capfd):
    config = dataclasses.replace(plain, output_dir=str(tmp_path), epochs=1, profile_steps=(0, 4))

    def fail(folder, arrays, progress):
        raise ZeroDivisionError("killed")

    monkeypatch.setattr(loop, "save_checkpoint", fail)
    with pytest.raises(ZeroDivisionError):
        loop.train(config)
    monkeypatch.undo()
    assert not (tmp_path / "profile").exists()

    # TensorFlow would refuse to start its profiler a second time. What an older trace left is replaced.
    trace = trace_folder(config, "steps-0-4")
    trace.mkdir(parents=True)
    (trace / "older.cached_tools.json").write_text("computed by TensorBoard")
    loop.train(config)
    assert [path.suffix for path in trace.iterdir()] == [".pb"]
    assert traced_steps(config, "steps-0-4") == [0, 1, 2, 3]
    printed = capfd.readouterr()
    assert f"Steps 0 to 4 are traced: TensorBoard with xprof opens {tmp_path}/profile\n" in printed.out
    assert "rofiler" not in printed.err


def test_restart_removes_traces_and_nothing_else(tmp_path):
    trace = tmp_path / "profile" / "plugins" / "profile" / "steps-1-2"
    trace.mkdir(parents=True)
    for path in (trace / "host.xplane.pb", trace / ".cached_tools.json", tmp_path / "profile" / "mine.txt"):
        path.write_text("")
    discard_run(tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["mine.txt"]


def test_a_range_that_the_run_never_reaches_is_an_error(plain, tmp_path):
    config = dataclasses.replace(plain, output_dir=str(tmp_path / "run"), profile_steps=(8, 10))
    for start in (loop.train, dry_run):
        with pytest.raises(UserError, match=r"profile_steps is 8:10, but the run has 8 steps"):
            start(config)
    assert not (tmp_path / "run").exists()


def test_an_error_of_the_profiler_does_not_stop_the_training(plain, tmp_path, capfd):
    (tmp_path / "profile").write_text("")
    config = dataclasses.replace(plain, output_dir=str(tmp_path), epochs=1, profile_steps=(0, 1))
    (row,) = loop.train(config)
    assert row["steps"] == 4
    printed = capfd.readouterr().out
    assert re.search(r"The steps are not traced, and the training continues: cannot write .*profile", printed)


# What Perfetto's file names; TensorFlow writes none.
OPERATIONS = {
    "jax": ("train", "PjitFunction(train_step)", "dot"),
    "torch": ("train 1", "aten::convolution", "ConvolutionBackward0"),
}


@pytest.mark.slow
@pytest.mark.parametrize("backend", installed("jax", "torch"))
def test_other_backends_trace_and_train_as_without(backend, plain, tmp_path):
    config = dataclasses.asdict(plain) | {"epochs": 1, "checkpoint_minutes": 10}
    processes = [
        start_training(backend, config | {"output_dir": str(tmp_path / name), "profile_steps": steps})
        for name, steps in (("plain", None), ("traced", (1, 3)))
    ]
    finish(processes[0])
    stdout, stderr = processes[1].communicate(timeout=300)
    assert processes[1].returncode == 0, stderr
    folder = tmp_path / "traced" / "profile" / "plugins" / "profile" / "steps-1-3"
    path = folder / "perfetto_trace.json.gz"
    assert f"Steps 1 to 3 are traced: https://ui.perfetto.dev opens {path}" in stdout
    assert [line for line in stderr.splitlines() if not line.startswith("epoch ")] == []
    with gzip.open(path) as file:
        names = {event.get("name", "") for event in json.load(file)["traceEvents"]}
    for operation in OPERATIONS[backend]:
        assert any(operation in name for name in names), operation
    if backend == "jax":
        run = dataclasses.replace(plain, output_dir=str(tmp_path / "traced"))
        assert traced_steps(run, "steps-1-3") == [1, 2]
    assert_same_training(tmp_path / "traced", tmp_path / "plain")
