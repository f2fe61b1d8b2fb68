"""Whole runs, in this process, of a small network on a few real JPEGs."""

import csv
import dataclasses
import gc
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from training_process import history_of, small_preset

from keras_alexnet.data.class_file import read_classes
from keras_alexnet.data.class_mappings import read_class_mappings
from keras_alexnet.data.source import read_training_data
from keras_alexnet.errors import UserError
from keras_alexnet.inference.evaluation import evaluate_model
from keras_alexnet.model import build_alexnet
from keras_alexnet.model_file import load_model
from keras_alexnet.system import progress
from keras_alexnet.system.lock import exclusive
from keras_alexnet.training import loop, outputs
from keras_alexnet.training.build import build_model, build_network
from keras_alexnet.training.config import TrainConfig
from keras_alexnet.training.devices.base import Devices

EPOCHS = 2


@pytest.fixture(scope="module")
def base(data_dir, tmp_path_factory):
    with small_preset():
        yield TrainConfig(
            data_dir=str(data_dir),
            output_dir=str(tmp_path_factory.mktemp("base") / "run"),
            preset="small",
            epochs=EPOCHS,
            batch_size=8,
            learning_rate=0.001,
            lr_drop_epochs=(),
            seed=3,
        )


@pytest.fixture(scope="module")
def base_run(base):
    """History and final weights of the settings that the other runs vary."""
    history = loop.train(base)
    return history, final_weights(base)


@pytest.fixture(scope="module")
def one_epoch(base, tmp_path_factory) -> TrainConfig:
    """The settings of a finished run of one epoch."""
    config = dataclasses.replace(base, output_dir=str(tmp_path_factory.mktemp("one") / "run"), epochs=1)
    loop.train(config)
    return config


def copied(config: TrainConfig, folder: Path) -> TrainConfig:
    """A copy of a finished run, for a test that changes it."""
    return dataclasses.replace(config, output_dir=str(shutil.copytree(config.output_dir, folder / "run")))


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def final_weights(config: TrainConfig) -> list[np.ndarray]:
    return load_model(f"{config.output_dir}/model.keras").get_weights()


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_where_epochs_end_changes_no_step(base, base_run, tmp_path):
    """24 images in batches of 8: two epochs of three steps, or three of two."""
    finer = dataclasses.replace(base, output_dir=str(tmp_path / "run"), steps_per_epoch=2, epochs=3)
    loop.train(finer)
    assert same(final_weights(finer), base_run[1])


def test_what_a_run_leaves_behind(base, base_run):
    history, _ = base_run
    folder = Path(base.output_dir)
    assert {str(path.relative_to(folder)) for path in files(folder)} == {
        *(".lock", "flags.txt", "history.csv", "run.json"),
        *("best.keras", "best.classes.txt", "model.keras", "model.classes.txt"),
        *("checkpoint/step-000000003.npz", "checkpoint/step-000000006.npz"),
    }
    for model in ("best.keras", "model.keras"):
        assert read_classes(folder / model) == read_class_mappings(f"{base.data_dir}/classmappings.txt")
    assert (folder / "flags.txt").read_text() == base.flagfile()
    with open(folder / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    rates = ("top1_error", "top1_accuracy", "top5_error", "top5_accuracy", "loss")
    assert list(rows[0]) == [
        *("epoch", "steps", "learning_rate", *rates),
        *(f"val_{rate}" for rate in rates),
        *("images_per_second", "data_wait", "seconds"),
    ]
    assert [{name: float(value) for name, value in row.items()} for row in rows] == history
    assert [(row["epoch"], row["steps"]) for row in history] == [(1, 3), (2, 6)]
    assert all(0 < row["data_wait"] < 1 for row in history)
    assert all(0 < row["loss"] < 10 and row["top5_error"] == 0 for row in history)  # three classes: top-3 is all
    assert all(row["val_top1_accuracy"] == pytest.approx(1 - row["val_top1_error"]) for row in history)


def test_validation_errors_are_those_of_the_saved_models(base, base_run):
    history, _ = base_run
    validation = read_training_data(base.data_dir).validation
    best = min(history, key=lambda row: row["val_top1_error"])
    for name, row in (("model", history[-1]), ("best", best)):
        model = keras.models.load_model(f"{base.output_dir}/{name}.keras")
        assert not model.compiled
        for batch_size in (3, 256):
            results = evaluate_model(model, validation, batch_size)
            assert results["examples"] == 7
            assert results["top1_error"] == pytest.approx(row["val_top1_error"], abs=1e-6)
            assert results["loss"] == pytest.approx(row["val_loss"], rel=1e-4)


def test_settings_reach_the_network(base):
    def built(**settings) -> keras.Model:
        config = dataclasses.replace(base, **settings)
        return build_network(build_model(config, 3), config, 4, Devices("CPU"))

    network = built(
        learning_rate=0.5, lr_drop_epochs=(1,), lr_drop_factor=0.5, momentum=0.25, weight_decay=0.125, dropout=0.375
    )
    optimizer = network.optimizer
    assert (float(optimizer.learning_rate), optimizer.momentum, optimizer.l2) == (0.5, 0.25, 0.125)
    optimizer.iterations.assign(4)
    assert float(optimizer.learning_rate) == 0.25
    assert [network.get_layer(name).rate for name in ("drop6", "drop7")] == [0.375, 0.375]
    assert built(precision="mixed_bfloat16").get_layer("conv2").compute_dtype == "bfloat16"
    assert not same(built(seed=4).get_weights(), network.get_weights())


def test_fine_tuning_starts_from_a_model_and_leaves_frozen_layers_alone(base, base_run, tmp_path, capsys):
    """Whatever the preset says."""
    tuned = dataclasses.replace(
        base,
        output_dir=str(tmp_path / "run"),
        preset="bvlc",
        epochs=1,
        initial_model=f"{base.output_dir}/model.keras",
        freeze_through="fc7",
    )
    (row,) = loop.train(tuned)
    assert "Note: the network is that of" in capsys.readouterr().out
    weights, initial = final_weights(tuned), base_run[1]
    assert same(weights[:-2], initial[:-2])
    assert not same(weights[-2:], initial[-2:])
    model = load_model(f"{tuned.output_dir}/model.keras")
    assert len(model.trainable_weights) == 16
    results = evaluate_model(model, read_training_data(base.data_dir).validation)
    assert results["loss"] == pytest.approx(row["val_loss"], rel=1e-4)
    # From the same weights, another seed has only other images and dropout.
    other = dataclasses.replace(tuned, output_dir=str(tmp_path / "other"), seed=4)
    loop.train(other)
    assert not same(final_weights(other)[-2:], weights[-2:])


def test_progress_lines_and_those_of_log_every(base, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_PLAIN_INTERVAL", 0.0)
    loop.train(dataclasses.replace(base, output_dir=str(tmp_path), epochs=1, log_every=2))
    printed = capsys.readouterr()
    loss, error, speed = r"loss 1\.\d{3}", r"error \d+\.\d%", r"[\d,]+ images/s  data wait \d+%"
    lines = printed.err.splitlines()
    assert len(lines) == 2
    for step, line in zip((1, 2), lines, strict=True):
        assert re.fullmatch(rf"epoch 1/1  {step}/3  {loss}  {error}  {speed}  ETA [\d:]+", line), line
    lines = [line for line in printed.out.splitlines() if line.startswith("epoch ")]
    assert lines[0].startswith("epoch 1/1  2/3  loss ")
    validation = rf"validation: {loss}  {error}  accuracy \d+\.\d%"
    assert re.fullmatch(rf"epoch 1/1  {loss}  {error}  {validation}  {speed}  0:\d\d", lines[1])


def test_more_epochs_resume_as_if_never_stopped_with_the_data_in_another_place(
    base, base_run, one_epoch, own_data_dir, tmp_path, capsys
):
    run = dataclasses.replace(copied(one_epoch, tmp_path), data_dir=str(own_data_dir))
    model = Path(run.output_dir, "model.keras").read_bytes()
    assert len(loop.train(run)) == 1
    assert "complete after 1 epochs" in capsys.readouterr().out
    assert Path(run.output_dir, "model.keras").read_bytes() == model

    loop.train(dataclasses.replace(run, epochs=EPOCHS))
    assert "resuming after epoch 1" in capsys.readouterr().out
    assert same(final_weights(run), base_run[1])
    assert history_of(Path(run.output_dir)) == history_of(Path(base.output_dir))


def test_other_settings_or_data_are_refused(one_epoch, own_data_dir, tmp_path):
    run = dataclasses.replace(copied(one_epoch, tmp_path), data_dir=str(own_data_dir))
    before = files(Path(run.output_dir))
    with pytest.raises(UserError, match=r"another run:\n  momentum: 0\.9 then, 0\.5 now\n.*--restart"):
        loop.train(dataclasses.replace(run, momentum=0.5))
    train_map = own_data_dir / "train_map.txt"
    text = train_map.read_text()
    train_map.write_text("".join(sorted(text.splitlines(keepends=True), reverse=True)))
    with pytest.raises(UserError, match=r"training images: 24 .* then, 24 .* now"):
        loop.train(run)
    train_map.write_text(text)
    # Copies of another size have the same names.
    for path in (own_data_dir / "train").iterdir():
        with Image.open(path) as image:
            image.resize((30, 30)).save(path)
    with pytest.raises(UserError, match=r"training images: 24 .* then, 24 .* now"):
        loop.train(run)
    assert files(Path(run.output_dir)) == before


def test_restart_with_a_mistake_in_it_discards_nothing(one_epoch, tmp_path):
    run = copied(one_epoch, tmp_path)
    before = files(tmp_path)
    with pytest.raises(UserError, match="batch_size is 100, but there are only 24 training images"):
        loop.train(dataclasses.replace(run, batch_size=100, steps_per_epoch=1), restart=True)
    assert files(tmp_path) == before


def test_a_restart_whose_loss_is_not_finite_leaves_nothing_of_either_run(one_epoch, tmp_path):
    run = copied(one_epoch, tmp_path)
    with pytest.raises(UserError, match=r"the loss is (nan|inf), since a step between 1 and 3 .*--learning_rate"):
        loop.train(dataclasses.replace(run, learning_rate=1e6), restart=True)
    assert sorted(path.name for path in files(tmp_path)) == [".lock", "flags.txt", "run.json"]


def test_damage_of_the_very_last_step_is_found_before_it_is_saved(base, tmp_path):
    """Its own loss is finite; that of the validation is not."""
    run = dataclasses.replace(base, output_dir=str(tmp_path), learning_rate=1e30, steps_per_epoch=1)
    with pytest.raises(UserError, match="the validation loss is nan after epoch 1: the training diverged"):
        loop.train(run)
    assert sorted(path.name for path in files(tmp_path)) == [".lock", "flags.txt", "run.json"]


def test_a_result_that_could_not_be_saved_is_saved_by_the_next_call(one_epoch, base_run, tmp_path, monkeypatch):
    run = dataclasses.replace(copied(one_epoch, tmp_path), epochs=EPOCHS)
    classes = Path(run.output_dir, "model.classes.txt")
    classes.unlink()
    save_model = outputs.save_model

    def save(model, path, precision):
        if path.name == "model.keras":
            raise KeyboardInterrupt
        save_model(model, path, precision)

    with monkeypatch.context() as patch:
        patch.setattr(outputs, "save_model", save)
        with pytest.raises(KeyboardInterrupt):
            loop.train(run)
    assert same(final_weights(run), final_weights(one_epoch))  # the model of the first epoch is still there
    assert classes.exists()  # No model is saved before its classes.
    loop.train(run)
    assert same(final_weights(run), base_run[1])


def test_a_run_leaves_no_network_in_memory(base, tmp_path):
    def networks() -> set[int]:
        # isinstance would ask each object for its __class__, and torch has one that warns of being asked.
        return {id(item) for item in gc.get_objects() if issubclass(type(item), keras.Model)}

    gc.collect()
    before = networks()
    loop.train(dataclasses.replace(base, output_dir=str(tmp_path), epochs=1, steps_per_epoch=1))
    assert not networks() - before


def test_a_folder_is_one_runs_at_a_time(base, tmp_path):
    with exclusive(tmp_path), pytest.raises(UserError, match="another process is writing to"):
        loop.train(dataclasses.replace(base, output_dir=str(tmp_path)))
    assert list(files(tmp_path)) == [tmp_path / ".lock"]


def test_images_that_have_moved_are_reported_before_the_work(base, own_data_dir, tmp_path):
    moved = own_data_dir / "val_map.txt"
    moved.write_text("".join(f"/nowhere{line}\n" for line in moved.read_text().splitlines()))
    with pytest.raises(UserError, match=r"images of .*val_map\.txt are missing: .*\n  /nowhere"):
        loop.train(dataclasses.replace(base, data_dir=str(own_data_dir), output_dir=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_an_unreadable_image_is_named(base, own_data_dir, tmp_path):
    def reported(split: str, reason: str):
        return pytest.raises(UserError, match=rf"{split}/5\.JPEG \(line 6 of .*{split}_map\.txt\): .*{reason}")

    run = dataclasses.replace(base, data_dir=str(own_data_dir), output_dir=str(tmp_path / "run"), steps_per_epoch=1)
    (own_data_dir / "val/5.JPEG").write_bytes(b"no image")
    with reported("val", "it is not an image"):
        loop.train(run)
    with reported("val", "it is not an image"):
        evaluate_model(build_alexnet(3, preset="small"), read_training_data(own_data_dir).validation, 2)
    (own_data_dir / "train/5.JPEG").unlink()
    with reported("train", r"the file is missing\. Restore it"):
        loop.train(dataclasses.replace(run, batch_size=24), restart=True)


def test_models_that_cannot_be_evaluated_are_refused(base):
    diverged = build_alexnet(3, preset="small")
    diverged.get_layer("fc8").bias.assign([0.0, np.nan, 0.0])
    validation = read_training_data(base.data_dir).validation
    with pytest.raises(UserError, match="the model produced NaN or Inf outputs"):
        evaluate_model(diverged, validation)
    with pytest.raises(UserError, match="labels up to 2, but the model has 2 classes"):
        evaluate_model(build_alexnet(2, preset="small"), validation)
