"""Traces of steps: those that were asked for, whole, and with no influence on the training."""

import dataclasses
import os
import signal
from pathlib import Path

import pytest
from training_process import assert_identical, traced_steps, xspace

from keras_alexnet.errors import UserError
from keras_alexnet.training import loop, outputs
from keras_alexnet.training.config import TrainConfig
from keras_alexnet.training.run_folder import discard_run


@pytest.fixture
def config(data_dir, tmp_path) -> TrainConfig:
    """The settings of a run of two epochs of two steps."""
    return TrainConfig(
        data_dir=str(data_dir),
        output_dir=str(tmp_path / "run"),
        preset="tiny",
        epochs=2,
        steps_per_epoch=2,
        batch_size=3,
        learning_rate=0.001,
        lr_drop_epochs=(),
        checkpoint_minutes=1e-9,
    )


def traces(config: TrainConfig) -> Path:
    return Path(config.output_dir, "profile", "plugins", "profile")


def test_an_interrupted_trace_continues_with_the_run_and_changes_no_bit_of_it(config, tmp_path, monkeypatch):
    loop.train(config)
    assert not (tmp_path / "run" / "profile").exists()
    traced = dataclasses.replace(config, output_dir=str(tmp_path / "traced"), profile_steps=(1, 4))
    save = outputs.save_checkpoint

    def save_and_interrupt(folder, arrays, progress):
        save(folder, arrays, progress)
        if progress.steps == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as interrupting, pytest.raises(SystemExit):
        interrupting.setattr(outputs, "save_checkpoint", save_and_interrupt)
        loop.train(traced)
    first = {path.name: traced_steps(path) for path in traces(traced).iterdir()}
    loop.train(traced)
    found = {path.name: traced_steps(path) for path in traces(traced).iterdir()}
    assert [step for name in sorted(found) for step in found[name]] == [1, 2, 3]
    assert first.items() < found.items()
    assert_identical(tmp_path / "traced", tmp_path / "run")

    (path,) = (traces(traced) / name for name in found.keys() - first.keys())
    names = " ".join(event.name for plane in xspace(path).planes for event in plane.event_metadata.values())
    assert "test_step" not in names  # of the validation
    for name in ("conv1", "fc8", "gradient_tape/", "sgd_with_l2", "Iterator::"):
        assert name in names


def test_a_training_that_fails_leaves_no_trace_and_no_profiler(config, monkeypatch, capfd):
    config = dataclasses.replace(config, epochs=1, profile_steps=(0, 2))

    def fail(folder, arrays, progress):
        raise ZeroDivisionError("killed")

    with monkeypatch.context() as failing, pytest.raises(ZeroDivisionError):
        failing.setattr(outputs, "save_checkpoint", fail)
        loop.train(config)
    assert not traces(config).exists()

    # TensorFlow would refuse to start its profiler a second time. What an older trace left is replaced.
    trace = traces(config) / "steps-0-2"
    trace.mkdir(parents=True)
    (trace / "older.cached_tools.json").write_text("computed by TensorBoard")
    loop.train(config)
    assert [path.suffix for path in trace.iterdir()] == [".pb"]
    assert traced_steps(trace) == [0, 1]
    printed = capfd.readouterr()
    assert f"Steps 0 to 2 are traced: TensorBoard with xprof opens {config.output_dir}/profile\n" in printed.out
    assert "rofiler" not in printed.err

    (trace.parent / "mine.txt").write_text("")
    discard_run(Path(config.output_dir))
    assert [path.name for path in traces(config).rglob("*") if path.is_file()] == ["mine.txt"]


def test_a_range_that_the_run_never_reaches_is_an_error(config):
    with pytest.raises(UserError, match=r"profile_steps is 4:10, but the run has 4 steps"):
        loop.train(dataclasses.replace(config, profile_steps=(4, 10)))
    assert not Path(config.output_dir).exists()


def test_an_error_of_the_profiler_does_not_stop_the_training(config, tmp_path, capfd):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "profile").write_text("")
    (row,) = loop.train(dataclasses.replace(config, epochs=1, profile_steps=(0, 1)))
    assert row["steps"] == 2
    assert "The steps are not traced, and the training continues: cannot write " in capfd.readouterr().out
