"""Runs that are interrupted anywhere, and resume as if they had not been."""

import dataclasses
import io
import json
import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from archives import write_tar, write_zip
from map_files import write_map
from PIL import Image
from training_process import assert_close, assert_identical, newest_checkpoint

from keras_alexnet.compute import PORTABLE, Forms
from keras_alexnet.data import image_cache, map_file, ppm
from keras_alexnet.data.pixel_store import PixelStore
from keras_alexnet.errors import UserError
from keras_alexnet.model import build_alexnet
from keras_alexnet.model_file import load_model
from keras_alexnet.presets import LRN
from keras_alexnet.training import build, loop, outputs, run_folder
from keras_alexnet.training.config import TrainConfig


@pytest.fixture(scope="module")
def whole(data_dir, tmp_path_factory) -> TrainConfig:
    """The settings of a run that was never interrupted; a checkpoint is due at each step."""
    config = TrainConfig(
        data_dir=str(data_dir),
        output_dir=str(tmp_path_factory.mktemp("whole") / "run"),
        preset="tiny",
        epochs=2,
        steps_per_epoch=3,
        batch_size=3,
        learning_rate=0.001,
        lr_drop_epochs=(1,),
        seed=3,
        checkpoint_minutes=1e-9,
    )
    loop.train(config)
    return config


def killed():
    raise ZeroDivisionError("killed")


def weights_of(config: TrainConfig, name: str) -> list[np.ndarray]:
    return load_model(f"{config.output_dir}/{name}.keras").get_weights()


def assert_same_results(config: TrainConfig, whole: TrainConfig) -> None:
    """History but for its times, the last checkpoint, and both models."""
    assert_identical(Path(config.output_dir), Path(whole.output_dir))
    for name in ("model", "best"):
        for weights, whole_weights in zip(weights_of(config, name), weights_of(whole, name), strict=True):
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
    run = dataclasses.replace(whole, output_dir=str(tmp_path / "each"), epochs=1)
    loop.train(run)
    # Before the second and the third step, before the validation, and after it.
    assert saves.seen == [(1, 0), (2, 0), (3, 0), (3, 1)]
    saves.then(0, None)
    loop.train(dataclasses.replace(run, output_dir=str(tmp_path / "seldom"), checkpoint_minutes=10))
    assert saves.seen == [(3, 1)]


@pytest.mark.parametrize(
    ("precision", "saves_a_start", "expected"),
    [
        ("float32", 1, [(1, 0), (2, 0), (3, 0), (3, 1), (4, 1), (5, 1), (6, 1), (6, 2)]),
        pytest.param("mixed_bfloat16", 2, [(2, 0), (3, 1), (5, 1), (6, 2)], marks=pytest.mark.slow),
    ],
)
def test_killed_after_any_step_it_goes_on_bit_for_bit(whole, tmp_path, monkeypatch, precision, saves_a_start, expected):
    if precision != whole.precision:
        whole = dataclasses.replace(whole, precision=precision, output_dir=str(tmp_path / "whole"))
        loop.train(whole)
    saves = Saves(monkeypatch)
    run = dataclasses.replace(whole, output_dir=str(tmp_path / "run"))

    positions = []
    for _ in expected:
        saves.then(saves_a_start, killed)
        with pytest.raises(ZeroDivisionError):
            loop.train(run)
        positions.append(saves.seen[-1])
    assert positions == expected
    saves.then(0, None)
    assert len(loop.train(run)) == 2
    assert saves.seen == []
    assert_same_results(run, whole)
    starts = json.loads((tmp_path / "run/run.json").read_text())["starts"]
    assert [start["step"] for start in starts] == [0] + [step for step, _ in expected]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zip", "pixels"])
def test_images_inside_archives_are_as_good_as_files(whole, tmp_path, monkeypatch, kind):
    for part in ("train", "val"):
        images = map_file.read_map(Path(whole.data_dir) / f"{part}_map.txt")
        files = {f"{row:03}.jpg": images.read(row) for row in range(len(images))}
        if kind == "pixels":
            files = {f"{name}.ppm": ppm.encode(Image.open(io.BytesIO(data))) for name, data in files.items()}
        archive = tmp_path / (f"{part}.tar" if kind == "pixels" else f"{part}.zip")
        (write_tar if kind == "pixels" else write_zip)(archive, files)
        lines = zip([f"{archive.name}@/{name}" for name in files], images.labels, strict=True)
        write_map(tmp_path / f"{part}_map.txt", lines)
    shutil.copy(Path(whole.data_dir) / "classmappings.txt", tmp_path)
    run = dataclasses.replace(whole, data_dir=str(tmp_path), output_dir=str(tmp_path / "run"))
    saves = Saves(monkeypatch)
    saves.then(2, killed)
    with pytest.raises(ZeroDivisionError):
        loop.train(run)
    assert saves.seen[-1] == (2, 0)
    loop.train(run)
    assert_same_results(run, whole)
    assert (PixelStore.find(map_file.read_map(tmp_path / "train_map.txt")) is None) == (kind == "zip")


@pytest.mark.slow
def test_cached_images_change_nothing(whole, tmp_path, monkeypatch, capsys):
    run = dataclasses.replace(whole, output_dir=str(tmp_path / "off"), cache="off")
    loop.train(run)
    assert "Decoded images" not in capsys.readouterr().out
    assert_same_results(run, whole)
    saves = Saves(monkeypatch)
    saves.then(2, killed)
    run = dataclasses.replace(whole, output_dir=str(tmp_path / "auto"))
    with pytest.raises(ZeroDivisionError):
        loop.train(run)
    monkeypatch.setattr(image_cache, "_CHECK_EVERY", 1)
    monkeypatch.setattr(image_cache, "_MIN_FREE_SHARE", 2)  # More than there is must be free.
    loop.train(run)
    assert_same_results(run, whole)
    out = capsys.readouterr().out
    assert out.count("Decoded images stay in memory from the first epoch on") == 2
    assert out.count("Note: memory is low") == 1


@pytest.mark.parametrize(
    ("saves_before", "position", "number", "expected"),
    [
        (2, (3, 0), signal.SIGTERM, SystemExit),  # in the first epoch
        (3, (3, 0), signal.SIGINT, KeyboardInterrupt),  # in its validation, of three batches
        (4, (3, 1), signal.SIGTERM, SystemExit),  # at its end
        pytest.param(5, (5, 1), signal.SIGTERM, SystemExit, marks=pytest.mark.slow),  # in the second epoch
    ],
)
def test_a_signal_saves_within_the_step_and_ends_the_run(
    whole, tmp_path, monkeypatch, capsys, saves_before, position, number, expected
):
    saves = Saves(monkeypatch)
    run = dataclasses.replace(whole, output_dir=str(tmp_path / "run"))
    saves.then(saves_before, lambda: os.kill(os.getpid(), number))
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(expected) as raised:
        loop.train(run)
    if expected is SystemExit:
        assert raised.value.code == 143
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert saves.seen[-1] == position
    assert f"Stopped and saved after step {position[0]}, in epoch" in capsys.readouterr().out
    loop.train(run)
    assert "resuming after epoch" in capsys.readouterr().out
    assert_same_results(run, whole)


def test_a_second_signal_does_not_wait(whole, tmp_path, monkeypatch):
    saves = Saves(monkeypatch)

    def twice():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    saves.then(1, twice)
    with pytest.raises(SystemExit):
        loop.train(dataclasses.replace(whole, output_dir=str(tmp_path / "run")))
    assert saves.seen == [(1, 0)]


def test_a_damaged_newest_checkpoint_costs_what_came_after_the_one_before(whole, tmp_path, monkeypatch, capsys):
    saves = Saves(monkeypatch)
    run = dataclasses.replace(whole, output_dir=str(tmp_path / "run"))
    saves.then(5, killed)
    with pytest.raises(ZeroDivisionError):
        loop.train(run)
    newest = sorted((tmp_path / "run/checkpoint").iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:-1000])
    saves.then(1, killed)
    with pytest.raises(ZeroDivisionError):
        loop.train(run)
    # The same step came again, beside the whole one before.
    assert [path.name for path in sorted((tmp_path / "run/checkpoint").iterdir())] == [
        "step-000000003.npz",
        "step-000000004.npz",
    ]
    saves.then(0, None)
    loop.train(run)
    assert f"The checkpoint {newest} is corrupted" in capsys.readouterr().out
    assert_same_results(run, whole)


def test_a_full_disk_stops_the_run_and_leaves_the_checkpoint_before(whole, tmp_path, monkeypatch):
    run = dataclasses.replace(whole, output_dir=str(tmp_path / "run"))
    saves = Saves(monkeypatch)
    real = np.savez
    with monkeypatch.context() as patch:
        saves.then(2, lambda: patch.setattr(np, "savez", full_disk(real)))
        with pytest.raises(UserError, match=r"cannot write .*step-000000003\.npz: No space left on device\. Free some space"):
            loop.train(run)
    assert [path.name for path in sorted((tmp_path / "run/checkpoint").iterdir())] == [
        "step-000000001.npz",
        "step-000000002.npz",
    ]
    loop.train(run)
    assert_same_results(run, whole)


def full_disk(savez):
    def write(path, **arrays):
        savez(path, **dict(list(arrays.items())[:2]))
        raise OSError(28, "No space left on device")

    return write


def test_weights_of_a_loss_that_is_not_finite_are_not_saved(whole, tmp_path, monkeypatch):
    saves = Saves(monkeypatch)
    diverging = dataclasses.replace(whole, output_dir=str(tmp_path), learning_rate=1e6, steps_per_epoch=6)
    with pytest.raises(UserError, match=r"since a step between (\d) and \1 ") as raised:
        loop.train(diverging)
    step = int(re.search(r"between (\d)", str(raised.value))[1])
    assert step < 6
    assert saves.seen[-1] == (step - 1, 0)


def test_what_may_change_on_the_way_and_what_may_not(whole, tmp_path, monkeypatch):
    saves = Saves(monkeypatch)
    run = dataclasses.replace(whole, output_dir=str(tmp_path / "run"), epochs=1)
    saves.then(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit):
        loop.train(run)
    with pytest.raises(UserError, match="jit_compile: auto then, on now"):
        loop.train(dataclasses.replace(run, jit_compile="on"))
    with pytest.raises(UserError, match="freeze_through: None then, conv5 now"):
        loop.train(dataclasses.replace(run, freeze_through="conv5"))
    loop.train(dataclasses.replace(run, epochs=2, strategy="none", checkpoint_minutes=5, log_every=1, tensorboard=True))
    assert_same_results(run, whole)


@pytest.mark.slow
@pytest.mark.parametrize("first_on_gpu", [True, False])
def test_the_form_of_the_network_may_change_on_the_way(whole, tmp_path, monkeypatch, first_on_gpu):
    """As of a run that starts on a GPU and resumes on a CPU, or the other way round."""
    run = dataclasses.replace(whole, output_dir=str(tmp_path / "run"))
    for on_gpu in (first_on_gpu, not first_on_gpu):
        with monkeypatch.context() as machine:
            forms = Forms("blocks", "slices", "slices") if on_gpu else PORTABLE
            machine.setattr(build, "choose_forms", lambda *_, forms=forms, **__: forms)
            if on_gpu == first_on_gpu:
                saves = Saves(machine)
                saves.then(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
                with pytest.raises(SystemExit):
                    loop.train(run)
            else:
                loop.train(run)
    assert_close(Path(run.output_dir), Path(whole.output_dir))
    model = load_model(f"{run.output_dir}/model.keras")
    assert {type(layer).__module__.split(".")[0] for layer in model.layers} == {"keras"}


def test_a_checkpoint_of_another_backend_is_refused(whole, tmp_path):
    shutil.copytree(whole.output_dir, tmp_path / "run")
    path = newest_checkpoint(tmp_path / "run")
    with np.load(path) as file:
        arrays = dict(file)
    state = arrays["state.json"].tobytes().replace(b'"backend": "tensorflow"', b'"backend": "jax"')
    np.savez(path, **arrays | {"state.json": np.frombuffer(state, np.uint8)})
    with pytest.raises(UserError, match="backend: jax then, tensorflow now"):
        loop.train(dataclasses.replace(whole, output_dir=str(tmp_path / "run"), epochs=3))


def test_another_number_of_cores_is_told(whole, tmp_path, monkeypatch, capsys):
    saves = Saves(monkeypatch)
    run = dataclasses.replace(whole, output_dir=str(tmp_path / "run"), epochs=1)
    saves.then(1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit):
        loop.train(run)
    monkeypatch.setattr(run_folder, "cpu_count", lambda: 64)
    loop.train(run)
    assert "CPU cores and resumes with 64" in capsys.readouterr().out


def test_an_initial_model_with_other_constants_is_another_network(whole, tmp_path, monkeypatch):
    """The checkpoint has all weights, whatever the file is now; but not the constants of the normalization."""
    initial = tmp_path / "initial.keras"
    run = dataclasses.replace(whole, output_dir=str(tmp_path / "run"), initial_model=str(initial), epochs=1)
    settings = {"filters": (4, 6, 5, 7, 8), "dense_units": 9}
    build_alexnet(3, **settings).save(initial)
    Saves(monkeypatch).then(1, killed)
    with pytest.raises(ZeroDivisionError):
        loop.train(run)
    build_alexnet(3, **settings, lrn=LRN(k=2.0)).save(initial)
    with pytest.raises(UserError, match=r"is of another network:\n .* k 1\).* then,\n .* k 2\).* now"):
        loop.train(run)


@pytest.mark.parametrize(
    ("saves_before", "told"),
    [(4, "step 4, in epoch 2"), pytest.param(8, "step 6, in epoch 2", marks=pytest.mark.slow)],
)
def test_fewer_epochs_than_are_done(whole, tmp_path, monkeypatch, saves_before, told):
    saves = Saves(monkeypatch)
    run = dataclasses.replace(whole, output_dir=str(tmp_path / "run"))
    saves.then(saves_before, killed)
    with pytest.raises(ZeroDivisionError):
        loop.train(run)
    if saves_before == 4:
        saves.then(1, killed)
        with pytest.raises(ZeroDivisionError):
            loop.train(run)
    saves.then(0, None)
    with pytest.raises(UserError, match=rf"reached {told}\. Pass --epochs=2 or more"):
        loop.train(dataclasses.replace(run, epochs=1))
    loop.train(run)
    assert_same_results(run, whole)


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


def test_a_checkpoint_that_cannot_be_read_is_not_taken_for_damage(whole, tmp_path, monkeypatch):
    shutil.copytree(whole.output_dir, tmp_path / "run")

    def broken(*arguments, **settings):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(np, "load", broken)
    with pytest.raises(UserError, match=r"cannot read .*step-000000006\.npz: Permission denied\. Fix this"):
        loop.train(dataclasses.replace(whole, output_dir=str(tmp_path / "run"), epochs=3))
