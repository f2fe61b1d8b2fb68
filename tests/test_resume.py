"""Runs that are interrupted anywhere, and resume as if they had not been."""

import dataclasses
import json
import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from training_process import assert_close, assert_identical, newest_checkpoint, small_preset

from keras_alexnet.compute import PORTABLE, Forms
from keras_alexnet.errors import UserError
from keras_alexnet.model_file import load_model
from keras_alexnet.training import build, loop, outputs, run_folder
from keras_alexnet.training.config import TrainConfig
from keras_alexnet.training.messages import stop_message


@pytest.fixture(scope="module")
def whole(data_dir, tmp_path_factory):
    """The settings of a run that was never interrupted; a checkpoint is due at each step."""
    with small_preset():
        config = TrainConfig(
            data_dir=str(data_dir),
            output_dir=str(tmp_path_factory.mktemp("whole") / "run"),
            preset="small",
            epochs=2,
            steps_per_epoch=3,
            batch_size=3,
            learning_rate=0.001,
            lr_drop_epochs=(1,),
            seed=3,
            checkpoint_minutes=1e-9,
        )
        loop.train(config)
        yield config


def killed():
    raise ZeroDivisionError("killed")


def sigint():
    os.kill(os.getpid(), signal.SIGINT)


def sigterm():
    os.kill(os.getpid(), signal.SIGTERM)


def sigterm_twice():
    sigterm()
    sigterm()


def sighup_twice():
    """A closed terminal sends one to the shell's jobs, and the shell another; neither ends the process at once."""
    os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGHUP)


def copy_of(whole: TrainConfig, folder: Path) -> TrainConfig:
    return dataclasses.replace(whole, output_dir=str(shutil.copytree(whole.output_dir, folder / "run")))


def assert_same_results(config: TrainConfig, whole: TrainConfig) -> None:
    """History but for its times, the last checkpoint, and both models."""
    assert_identical(Path(config.output_dir), Path(whole.output_dir))
    for name in ("model", "best"):
        ours, expected = (load_model(f"{run.output_dir}/{name}.keras").get_weights() for run in (config, whole))
        for weights, whole_weights in zip(ours, expected, strict=True):
            np.testing.assert_array_equal(weights, whole_weights, err_msg=name)


class Saves:
    """Lets something happen after a save of a checkpoint, and notes (steps, finished epochs) of all of them."""

    def __init__(self, monkeypatch):
        self.seen = []
        self._then = None
        save = outputs.save_checkpoint

        def saved(folder, arrays, progress):
            save(folder, arrays, progress)
            self.seen.append((progress.steps, progress.epochs))
            if self._then and len(self.seen) == self._then[0]:
                self._then[1]()

        monkeypatch.setattr(outputs, "save_checkpoint", saved)

    def then(self, number, action):
        self.seen = []
        self._then = (number, action)


def test_a_checkpoint_is_written_when_it_is_due(whole, tmp_path, monkeypatch):
    saves = Saves(monkeypatch)
    run = dataclasses.replace(whole, output_dir=str(tmp_path), epochs=1, checkpoint_minutes=10)
    loop.train(run)
    assert saves.seen == [(3, 1)]


def test_interrupted_anywhere_it_resumes_bit_identically(whole, tmp_path, monkeypatch, capsys):
    """A first signal saves within the step; a second one does not wait."""
    saves = Saves(monkeypatch)
    run = dataclasses.replace(whole, output_dir=str(tmp_path / "run"))
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    positions = []
    for saves_before, interruption, expected, position in [
        (1, sigterm_twice, SystemExit, (1, 0)),
        (2, sigint, KeyboardInterrupt, (3, 0)),  # in the validation
        (1, sigterm, SystemExit, (3, 1)),  # at the end of an epoch
        (1, sighup_twice, SystemExit, (5, 1)),  # in the middle
        (1, killed, ZeroDivisionError, (6, 1)),
        (1, killed, ZeroDivisionError, (6, 2)),
    ]:
        saves.then(saves_before, interruption)
        with pytest.raises(expected) as raised:
            loop.train(run)
        assert saves.seen[-1] == position
        positions.append(position)
        assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers
        if expected is SystemExit:
            assert raised.value.code == (129 if interruption is sighup_twice else 143)
        was_reported = f"Stopped and saved after step {position[0]}, in epoch" in capsys.readouterr().out
        assert was_reported == (interruption in (sigint, sigterm, sighup_twice))
    saves.then(0, None)
    assert len(loop.train(run)) == 2
    assert saves.seen == []
    assert_same_results(run, whole)
    starts = json.loads((tmp_path / "run/run.json").read_text())["starts"]
    assert [start["step"] for start in starts] == [0] + [step for step, _ in positions]


def test_a_full_disk_and_a_damaged_checkpoint_cost_only_what_came_after_the_one_before(
    whole, tmp_path, monkeypatch, capsys
):
    """The run resumes with other settings of those that change no result."""
    run = dataclasses.replace(whole, output_dir=str(tmp_path / "run"))
    saves = Saves(monkeypatch)
    savez = np.savez

    def full_disk(path, **arrays):
        savez(path, **dict(list(arrays.items())[:2]))
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        saves.then(2, lambda: patch.setattr(np, "savez", full_disk))
        with pytest.raises(UserError, match=r"cannot write .*step-000000003\.npz: No space left on device"):
            loop.train(run)
    before, newest = sorted((tmp_path / "run/checkpoint").iterdir())
    assert (before.name, newest.name) == ("step-000000001.npz", "step-000000002.npz")

    newest.write_bytes(newest.read_bytes()[:-1000])
    saves.then(1, killed)
    with pytest.raises(ZeroDivisionError):
        loop.train(run)
    assert f"The checkpoint {newest} is corrupted" in capsys.readouterr().out
    assert saves.seen == [(2, 0)]
    assert sorted((tmp_path / "run/checkpoint").iterdir()) == [before, newest]

    saves.then(0, None)
    monkeypatch.setattr(run_folder, "cpu_count", lambda: 64)
    others = {"strategy": "none", "checkpoint_minutes": 5, "log_every": 1, "tensorboard": True, "cache": "off"}
    loop.train(dataclasses.replace(run, **others))
    printed = capsys.readouterr().out
    assert "resuming after epoch" in printed
    assert "CPU cores and resumes with 64" in printed
    assert "Decoded images" not in printed
    assert_same_results(run, whole)


def test_weights_of_a_loss_that_is_not_finite_are_not_saved(whole, tmp_path, monkeypatch):
    saves = Saves(monkeypatch)
    diverging = dataclasses.replace(whole, output_dir=str(tmp_path), learning_rate=1e6, steps_per_epoch=6)
    with pytest.raises(UserError, match=r"since a step between (\d) and \1 ") as raised:
        loop.train(diverging)
    step = int(re.search(r"between (\d)", str(raised.value))[1])
    assert step < 6
    assert saves.seen[-1] == (step - 1, 0)


def test_a_run_may_be_stopped_before_it_has_anything_to_save():
    assert stop_message(0, 0, True, False).startswith("Stopped before the first step. Run the same command again")
    assert stop_message(3, 0, True, False).startswith("Stopped and saved after step 3, in epoch 1")


def test_a_run_with_other_settings_or_on_another_backend_is_refused(whole, tmp_path):
    run = dataclasses.replace(copy_of(whole, tmp_path), epochs=3)
    for settings, expected_text in (
        ({"jit_compile": "on"}, "jit_compile: auto then, on now"),
        ({"weight_decay": 0.25}, r"weight_decay: \S+ then, 0\.25 now"),
    ):
        with pytest.raises(UserError, match=expected_text):
            loop.train(dataclasses.replace(run, **settings))
    path = newest_checkpoint(tmp_path / "run")
    with np.load(path) as file:
        arrays = dict(file)
    state = arrays["state.json"].tobytes().replace(b'"backend": "tensorflow"', b'"backend": "jax"')
    np.savez(path, **arrays | {"state.json": np.frombuffer(state, np.uint8)})
    with pytest.raises(UserError, match="backend: jax then, tensorflow now"):
        loop.train(run)


@pytest.mark.slow
def test_the_form_of_the_network_may_change_on_the_way(whole, tmp_path, monkeypatch):
    """As of a run that starts on a GPU and resumes on a CPU."""
    run = dataclasses.replace(whole, output_dir=str(tmp_path / "run"))
    with monkeypatch.context() as machine:
        machine.setattr(build, "choose_forms", lambda *_, **__: Forms("blocks", "slices", "slices"))
        Saves(machine).then(2, killed)
        with pytest.raises(ZeroDivisionError):
            loop.train(run)
    monkeypatch.setattr(build, "choose_forms", lambda *_, **__: PORTABLE)
    loop.train(run)
    assert_close(Path(run.output_dir), Path(whole.output_dir))
    model = load_model(f"{run.output_dir}/model.keras")
    assert {type(layer).__module__.split(".")[0] for layer in model.layers} == {"keras"}


def test_fewer_epochs_than_are_done(whole, tmp_path):
    run = copy_of(whole, tmp_path)
    (tmp_path / "run/model.keras").unlink()
    newest_checkpoint(tmp_path / "run").unlink()
    with pytest.raises(UserError, match=r"reached step 5, in epoch 2\. Pass --epochs=2 or more"):
        loop.train(dataclasses.replace(run, epochs=1))


def test_a_restart_that_was_interrupted_never_mixes_two_runs(whole, tmp_path, monkeypatch):
    """Its first step is to remove the checkpoints, so what is left is refused, or is a new run's."""
    run = dataclasses.replace(whole, output_dir=str(tmp_path / "run"))
    unlink = Path.unlink
    for files_removed in (1, 4):
        shutil.copytree(whole.output_dir, run.output_dir, dirs_exist_ok=True)
        left = [files_removed]

        def removed(path, missing_ok=False, left=left):
            if "checkpoint" not in path.parts and not path.name.startswith("."):
                if not left[0]:
                    raise KeyboardInterrupt
                left[0] -= 1
            unlink(path, missing_ok=missing_ok)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", removed)
            with pytest.raises(KeyboardInterrupt):
                loop.train(run, restart=True)
        with pytest.raises(UserError, match="but no checkpoint to resume from"):
            loop.train(run)
