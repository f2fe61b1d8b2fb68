"""Traces of steps: those that were asked for, whole, and with no influence on the training."""

import dataclasses
import os
import re
import signal
from pathlib import Path

import pytest
from training_process import assert_identical, traced_steps, xspace

from keras_alexnet.errors import UserError
from keras_alexnet.training import loop, outputs
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


def traced_steps_of(config: TrainConfig, name: str) -> list[int]:
    return traced_steps(trace_folder(config, name))


def test_a_trace_has_the_steps_asked_for_and_no_others(traced):
    assert trace_folders(traced) == ["steps-2-4", "steps-4-7"]
    assert traced_steps_of(traced, "steps-2-4") == [2, 3]
    assert traced_steps_of(traced, "steps-4-7") == [4, 5, 6]
    planes = xspace(trace_folder(traced, "steps-4-7")).planes
    names = " ".join(metadata.name for plane in planes for metadata in plane.event_metadata.values())
    assert "test_step" not in names  # of the validation between the two
    for name in ("conv1", "fc8", "gradient_tape/", "sgd_with_l2", "Iterator::"):
        assert name in names


def test_tracing_changes_no_bit_of_the_training(plain, traced):
    assert_identical(Path(traced.output_dir), Path(plain.output_dir))
    assert not Path(plain.output_dir, "profile").exists()


def test_an_interrupted_trace_continues_with_the_run(plain, tmp_path, monkeypatch):
    config = dataclasses.replace(plain, output_dir=str(tmp_path), epochs=1, profile_steps=(1, 4))
    save = outputs.save_checkpoint

    def save_and_interrupt(folder, arrays, progress):
        save(folder, arrays, progress)
        if progress.steps == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(outputs, "save_checkpoint", save_and_interrupt)
    with pytest.raises(SystemExit):
        loop.train(config)
    monkeypatch.undo()
    # The step that was being computed is done.
    assert traced_steps_of(config, "steps-1-3") == [1, 2]
    before = {path: path.read_bytes() for path in files(config)}

    loop.train(config)
    assert traced_steps_of(config, "steps-3-4") == [3]
    assert {path: path.read_bytes() for path in before} == before
    assert trace_folders(config) == ["steps-1-3", "steps-3-4"]


def test_a_training_that_fails_leaves_no_trace_and_no_profiler(plain, tmp_path, monkeypatch, capfd):
    config = dataclasses.replace(plain, output_dir=str(tmp_path), epochs=1, profile_steps=(0, 4))

    def fail(folder, arrays, progress):
        raise ZeroDivisionError("killed")

    monkeypatch.setattr(outputs, "save_checkpoint", fail)
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
    assert traced_steps_of(config, "steps-0-4") == [0, 1, 2, 3]
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
