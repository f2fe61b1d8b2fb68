"""Whole runs, in this process, of the tiny network on a few real JPEGs."""

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
from training_process import TIMES

from keras_alexnet.data.class_file import read_classes, write_classes
from keras_alexnet.data.class_mappings import read_class_mappings, write_class_mappings
from keras_alexnet.data.map_file import read_map
from keras_alexnet.data.source import read_training_data
from keras_alexnet.errors import UserError
from keras_alexnet.inference.evaluation import evaluate_model
from keras_alexnet.model import build_alexnet
from keras_alexnet.model_file import load_model
from keras_alexnet.system import progress
from keras_alexnet.system.lock import exclusive
from keras_alexnet.training import loop, outputs
from keras_alexnet.training.checkpoint import Progress
from keras_alexnet.training.config import TrainConfig
from keras_alexnet.training.messages import start_message

EPOCHS = 2


@pytest.fixture(scope="module")
def base(data_dir, tmp_path_factory) -> TrainConfig:
    return TrainConfig(
        data_dir=str(data_dir),
        output_dir=str(tmp_path_factory.mktemp("base") / "run"),
        preset="tiny",
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


def final_weights(config: TrainConfig) -> list[np.ndarray]:
    return load_model(f"{config.output_dir}/model.keras").get_weights()


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_what_a_run_leaves_behind(base, base_run, tmp_path):
    history, _ = base_run
    folder = tmp_path.parent.joinpath(base.output_dir)
    assert sorted(path.name for path in folder.iterdir()) == [
        ".lock",
        "best.classes.txt",
        "best.keras",
        "checkpoint",
        "flags.txt",
        "history.csv",
        "model.classes.txt",
        "model.keras",
        "run.json",
    ]
    for model in ("best.keras", "model.keras"):
        assert read_classes(folder / model) == read_class_mappings(f"{base.data_dir}/classmappings.txt")
    assert [path.name for path in sorted((folder / "checkpoint").iterdir())] == [
        "step-000000003.npz",
        "step-000000006.npz",
    ]
    assert (folder / "flags.txt").read_text() == base.flagfile()
    with open(folder / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "epoch",
        "steps",
        "learning_rate",
        "top1_error",
        "top1_accuracy",
        "top5_error",
        "top5_accuracy",
        "loss",
        "val_top1_error",
        "val_top1_accuracy",
        "val_top5_error",
        "val_top5_accuracy",
        "val_loss",
        "images_per_second",
        "data_wait",
        "seconds",
    ]
    assert [{name: float(value) for name, value in row.items()} for row in rows] == history
    assert [(row["epoch"], row["steps"]) for row in history] == [(1, 3), (2, 6)]
    assert all(0 < row["data_wait"] < 1 for row in history)
    assert all(0 < row["loss"] < 10 and row["top5_error"] == 0 for row in history)  # three classes: top-3 is all
    assert all(row["val_top1_accuracy"] == pytest.approx(1 - row["val_top1_error"]) for row in history)


def test_validation_errors_are_those_of_the_saved_model(base, base_run):
    history, _ = base_run
    model = load_model(f"{base.output_dir}/model.keras")
    data = read_training_data(base.data_dir)
    for batch_size in (1, 3, 256):
        results = evaluate_model(model, data.validation, batch_size)
        assert results["examples"] == 7
        assert results["top1_error"] == pytest.approx(history[-1]["val_top1_error"], abs=1e-6)
        assert results["loss"] == pytest.approx(history[-1]["val_loss"], rel=1e-4)


def test_the_same_settings_give_the_same_weights(base, base_run, one_epoch):
    folders = [Path(config.output_dir) / "checkpoint/step-000000003.npz" for config in (base, one_epoch)]
    with np.load(folders[0]) as ours, np.load(folders[1]) as theirs:
        assert ours.files == theirs.files
        for name in set(ours.files) - {"state.json"}:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0.002),
        ("precision", "mixed_bfloat16"),
        *(
            pytest.param(*setting, marks=pytest.mark.slow)
            for setting in (("momentum", 0.5), ("weight_decay", 0.1), ("dropout", 0.0), ("seed", 4), ("batch_size", 6))
        ),
    ],
)
def test_each_setting_changes_the_weights(one_epoch, tmp_path, name, value):
    varied = dataclasses.replace(one_epoch, output_dir=str(tmp_path), **{name: value})
    (row,) = loop.train(varied)
    assert not same(final_weights(varied), final_weights(one_epoch))
    assert row["steps"] == (4 if name == "batch_size" else 3)
    assert row["learning_rate"] == (0.002 if name == "learning_rate" else 0.001)
    model = load_model(f"{varied.output_dir}/model.keras")
    assert {layer.compute_dtype for layer in model.layers if hasattr(layer, "compute_dtype")} == {"float32"}


def test_the_learning_rate_drops_after_an_epoch(base, base_run, tmp_path):
    varied = dataclasses.replace(base, output_dir=str(tmp_path), lr_drop_epochs=(1,), lr_drop_factor=0.5)
    history = loop.train(varied)
    assert [row["learning_rate"] for row in history] == [0.001, 0.0005]
    assert history[0]["loss"] == base_run[0][0]["loss"]
    assert not same(final_weights(varied), base_run[1])


def test_fine_tuning_starts_from_a_model_and_leaves_frozen_layers_alone(base, base_run, tmp_path):
    """Whatever the preset says; a resumed run trains the same layers."""
    tuned = dataclasses.replace(
        base,
        output_dir=str(tmp_path),
        preset="cntk",
        epochs=1,
        initial_model=f"{base.output_dir}/model.keras",
        freeze_through="fc7",
    )
    loop.train(tuned)
    loop.train(dataclasses.replace(tuned, epochs=2))
    weights, initial = final_weights(tuned), base_run[1]
    assert same(weights[:-2], initial[:-2])
    assert not same(weights[-2:], initial[-2:])
    model = load_model(f"{tuned.output_dir}/model.keras")
    assert len(model.trainable_weights) == 16


def test_images_are_as_large_as_the_network_takes_them(base, tmp_path):
    """Those of torchvision's have a side of 224."""
    build_alexnet(3, preset="torchvision", filters=(4, 6, 5, 7, 8), dense_units=9).save(tmp_path / "initial.keras")
    run = dataclasses.replace(base, output_dir=str(tmp_path / "run"), initial_model=str(tmp_path / "initial.keras"))
    history = loop.train(dataclasses.replace(run, epochs=1))
    model = load_model(f"{run.output_dir}/model.keras")
    assert model.input_shape == (None, 224, 224, 3)
    results = evaluate_model(model, read_training_data(run.data_dir).validation)
    assert results["loss"] == pytest.approx(history[-1]["val_loss"], rel=1e-4)


@pytest.mark.slow
def test_synthetic_images_are_as_large_as_the_network_takes_them(base, tmp_path):
    build_alexnet(1000, preset="torchvision", filters=(4, 6, 5, 7, 8), dense_units=9).save(tmp_path / "initial.keras")
    run = dataclasses.replace(
        base,
        output_dir=str(tmp_path / "run"),
        initial_model=str(tmp_path / "initial.keras"),
        synthetic_data=True,
        steps_per_epoch=1,
        epochs=1,
    )
    assert len(loop.train(run)) == 1
    assert not list(tmp_path.glob("run/*.classes.txt"))


def test_restart_leaves_no_class_file_of_the_run_before(one_epoch, own_data_dir, tmp_path):
    run = dataclasses.replace(copied(one_epoch, tmp_path), data_dir=str(own_data_dir))
    write_class_mappings(own_data_dir / "classmappings.txt", ["a", "b", "c"])
    with pytest.raises(UserError, match="diverged"):
        loop.train(dataclasses.replace(run, learning_rate=1e6), restart=True)
    folder = Path(run.output_dir)
    assert sorted(path.name for path in folder.rglob("*.*")) == [".lock", "flags.txt", "run.json"]  # of the new run
    loop.train(run, restart=True)
    assert read_classes(folder / "model.keras") == read_classes(folder / "best.keras") == ["a", "b", "c"]


def test_a_model_is_never_there_without_its_classes(base, tmp_path, monkeypatch):
    """An interruption may come between the two files."""
    monkeypatch.setattr(outputs, "save_model", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        loop.train(dataclasses.replace(base, output_dir=str(tmp_path), epochs=1))
    assert read_classes(tmp_path / "best.keras") == ["n01", "n02", "n03"]
    assert not (tmp_path / "best.keras").exists()


@pytest.mark.parametrize(
    ("classes", "noted"),
    [(["n01", "n02", "n03"], False), (["n01", "n03", "n02"], True), (["a", "b", "c", "d"], False)],
)
def test_fine_tuning_notes_where_fc8_is_of_other_classes(base, tmp_path, classes, noted):
    initial = tmp_path / "initial.keras"
    model = build_alexnet(len(classes), filters=(4, 6, 5, 7, 8), dense_units=9)
    model.save(initial)
    write_classes(initial, classes)
    run = dataclasses.replace(base, initial_model=str(initial))
    data = read_training_data(base.data_dir)
    note = f"Note: fc8 is initialized from {initial}, which was trained on other classes"
    for steps in (0, 3):  # Only at the start.
        message = start_message(run, data, model, "CPU", 3, Progress(steps, [], {}, 2))
        assert (note in message.splitlines()) == (noted and not steps)


def test_best_model_is_that_of_the_lowest_validation_error(base, base_run):
    history, _ = base_run
    best = min(history, key=lambda row: row["val_top1_error"])
    results = evaluate_model(load_model(f"{base.output_dir}/best.keras"), read_training_data(base.data_dir).validation)
    assert results["top1_error"] == pytest.approx(best["val_top1_error"])
    assert results["loss"] == pytest.approx(best["val_loss"], rel=1e-4)


def test_progress_lines_and_those_of_log_every(base, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_PLAIN_INTERVAL", 0.0)
    loop.train(dataclasses.replace(base, output_dir=str(tmp_path), epochs=1, log_every=2))
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert len(lines) == 2
    for step, line in zip((1, 2), lines, strict=True):
        assert re.fullmatch(
            rf"epoch 1/1  {step}/3  loss 1\.\d{{3}}  error \d+\.\d%  [\d,]+ images/s  data wait \d+%  ETA [\d:]+",
            line,
        ), line
    lines = [line for line in printed.out.splitlines() if line.startswith("epoch ")]
    assert lines[0].startswith("epoch 1/1  2/3  loss ")
    assert re.fullmatch(
        r"epoch 1/1  loss 1\.\d{3}  error \d+\.\d%  validation: loss 1\.\d{3}  error \d+\.\d%  "
        r"accuracy \d+\.\d%  [\d,]+ images/s  data wait \d+%  0:\d\d",
        lines[1],
    )
    validation = read_training_data(base.data_dir).validation
    evaluate_model(build_alexnet(3, preset="tiny"), validation, 3)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"{number} of 7 images evaluated" for number in (3, 6, 7)]


@pytest.mark.slow
def test_steps_per_epoch_changes_only_the_reports(base, base_run, tmp_path):
    finer = dataclasses.replace(base, output_dir=str(tmp_path), steps_per_epoch=2, epochs=3)
    history = loop.train(finer)
    assert [row["steps"] for row in history] == [2, 4, 6]
    assert same(final_weights(finer), base_run[1])


def test_more_epochs_resume_as_if_never_stopped(one_epoch, base_run, tmp_path, capsys):
    first = copied(one_epoch, tmp_path)
    folder = Path(first.output_dir)
    model = (folder / "model.keras").read_bytes()
    assert len(loop.train(first)) == 1
    assert "complete after 1 epochs" in capsys.readouterr().out
    assert (folder / "model.keras").read_bytes() == model

    history = loop.train(dataclasses.replace(first, epochs=EPOCHS))
    assert "resuming after epoch 1" in capsys.readouterr().out
    assert same(final_weights(first), base_run[1])
    for ours, whole in zip(history, base_run[0], strict=True):
        assert {k: v for k, v in ours.items() if k not in TIMES} == {k: v for k, v in whole.items() if k not in TIMES}
    assert len((folder / "history.csv").read_text().splitlines()) == 1 + EPOCHS


def test_other_settings_or_data_are_refused(one_epoch, own_data_dir, tmp_path):
    run = dataclasses.replace(copied(one_epoch, tmp_path), data_dir=str(own_data_dir))
    flags = (tmp_path / "run/flags.txt").read_text()
    with pytest.raises(UserError, match=r"another run:\n  momentum: 0\.9 then, 0\.5 now\n.*--restart"):
        loop.train(dataclasses.replace(run, momentum=0.5))
    train_map = own_data_dir / "train_map.txt"
    train_map.write_text("".join(sorted(train_map.read_text().splitlines(keepends=True), reverse=True)))
    with pytest.raises(UserError, match=r"training images: 24 .* then, 24 .* now"):
        loop.train(run)
    assert (tmp_path / "run/flags.txt").read_text() == flags


def test_a_run_resumes_with_its_data_in_another_place(one_epoch, own_data_dir, tmp_path):
    run = dataclasses.replace(copied(one_epoch, tmp_path), data_dir=str(own_data_dir), epochs=2)
    assert len(loop.train(run)) == 2
    # Copies of another size have the same names.
    for path in (own_data_dir / "train").iterdir():
        with Image.open(path) as image:
            image.resize((30, 30)).save(path)
    with pytest.raises(UserError, match=r"training images: 24 .* then, 24 .* now"):
        loop.train(dataclasses.replace(run, epochs=3))


def test_a_run_leaves_no_network_in_memory(base, tmp_path):
    def networks() -> set[int]:
        # isinstance would ask each object for its __class__, and torch has one that warns of being asked.
        return {id(item) for item in gc.get_objects() if issubclass(type(item), keras.Model)}

    gc.collect()
    before = networks()
    loop.train(dataclasses.replace(base, output_dir=str(tmp_path), epochs=1))
    assert not networks() - before


def test_a_model_without_its_checkpoint_is_not_overwritten(base, tmp_path):
    (tmp_path / "model.keras").write_text("precious")
    with pytest.raises(UserError, match="no checkpoint to resume from"):
        loop.train(dataclasses.replace(base, output_dir=str(tmp_path)))
    assert (tmp_path / "model.keras").read_text() == "precious"


def test_a_loss_that_is_not_finite_stops_the_run(base, tmp_path):
    with pytest.raises(UserError, match=r"the loss is (nan|inf), since a step between 1 and 3 .*--learning_rate"):
        loop.train(dataclasses.replace(base, output_dir=str(tmp_path), learning_rate=1e6))
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".lock", "flags.txt", "run.json"]


def test_damage_of_the_very_last_step_is_found_before_it_is_saved(base, tmp_path):
    """Its own loss is finite; that of the validation is not."""
    with pytest.raises(UserError, match="the validation loss is nan after epoch 1: the training diverged"):
        loop.train(dataclasses.replace(base, output_dir=str(tmp_path), learning_rate=1e30, steps_per_epoch=1, epochs=1))
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".lock", "flags.txt", "run.json"]


def test_evaluation_refuses_logits_that_are_not_finite(data_dir):
    model = build_alexnet(3, preset="tiny")
    model.get_layer("fc8").bias.assign([0.0, np.nan, 0.0])
    with pytest.raises(UserError, match="the model produced NaN or Inf outputs"):
        evaluate_model(model, read_training_data(data_dir).validation)


def test_a_result_that_could_not_be_saved_is_saved_by_the_next_call(one_epoch, base_run, tmp_path, monkeypatch):
    first = copied(one_epoch, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(outputs, "save_model", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            loop.train(dataclasses.replace(first, epochs=EPOCHS))
    assert not same(final_weights(first), base_run[1])  # the model of the first stage is still there
    loop.train(dataclasses.replace(first, epochs=EPOCHS))
    assert same(final_weights(first), base_run[1])


@pytest.mark.parametrize("name", ["train_map.txt", "val_map.txt"])
def test_images_that_have_moved_are_told_before_the_work(base, base_run, tmp_path, name):
    for other in ("train_map.txt", "val_map.txt", "classmappings.txt"):
        (tmp_path / other).write_bytes((Path(base.data_dir) / other).read_bytes())
    moved = tmp_path / name
    moved.write_text("".join(f"/nowhere{line}\n" for line in moved.read_text().splitlines()))
    told = pytest.raises(UserError, match=rf"images of .*{name} are missing: .*\n  /nowhere")
    with told:
        loop.train(dataclasses.replace(base, data_dir=str(tmp_path), output_dir=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()
    with told:
        evaluate_model(load_model(f"{base.output_dir}/model.keras"), read_map(moved))


def test_a_folder_is_one_runs_at_a_time(base, tmp_path):
    with exclusive(tmp_path), pytest.raises(UserError, match="another process is writing to"):
        loop.train(dataclasses.replace(base, output_dir=str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize(("split", "content"), [("train", None), ("val", b"no image")])
def test_an_unreadable_image_is_named(base, own_data_dir, tmp_path, split, content):
    spoiled = own_data_dir / split / "5.JPEG"
    spoiled.unlink() if content is None else spoiled.write_bytes(content)
    reason = "the file is missing" if content is None else "it is not an image"
    config = dataclasses.replace(base, data_dir=str(own_data_dir), output_dir=str(tmp_path / "run"))
    with pytest.raises(UserError, match=rf"{split}/5\.JPEG \(line 6 of .*{split}_map\.txt\): .*{reason}"):
        loop.train(config)
    if split == "val":
        validation = read_training_data(own_data_dir).validation
        with pytest.raises(UserError, match=rf"5\.JPEG .*{reason}"):
            evaluate_model(build_alexnet(3, preset="tiny"), validation, 2)


def test_fewer_images_than_a_batch(base, tmp_path):
    with pytest.raises(UserError, match="batch_size is 25, but there are only 24 training images"):
        loop.train(dataclasses.replace(base, output_dir=str(tmp_path), batch_size=25))


def test_maps_that_do_not_fit_the_classes(own_data_dir):
    (own_data_dir / "classmappings.txt").write_text("a\t0\n")
    with pytest.raises(UserError, match=r"train_map\.txt.*\n  line 2: label 1 is outside the 1 classes"):
        read_training_data(own_data_dir)


def test_labels_beyond_the_models_classes(data_dir):
    with pytest.raises(UserError, match=r"labels up to 2, but the model has 2 classes"):
        evaluate_model(build_alexnet(2, preset="tiny"), read_training_data(data_dir).validation)


def test_models_of_another_kind_are_refused(data_dir):
    inputs = keras.Input((5,))
    model = keras.Model(inputs, keras.layers.Dense(3)(inputs))
    with pytest.raises(UserError, match=r"shape \(None, 5\) and gives \(None, 3\); expected square RGB"):
        evaluate_model(model, read_training_data(data_dir).validation)


def test_evaluation_leaves_the_models_compilation_alone(data_dir):
    model = build_alexnet(3, preset="tiny")
    optimizer = keras.optimizers.Adam()
    model.compile(optimizer, "mse")
    evaluate_model(model, read_training_data(data_dir).validation)
    assert model.optimizer is optimizer


@pytest.mark.parametrize("steps_per_epoch", [None, 1])
def test_restart_with_a_mistake_in_it_discards_nothing(one_epoch, tmp_path, steps_per_epoch):
    run = copied(one_epoch, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="only 24 training images"):
        loop.train(dataclasses.replace(run, batch_size=100, steps_per_epoch=steps_per_epoch), restart=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_saved_model_is_stock_and_has_no_optimizer(base, base_run):
    model = keras.models.load_model(f"{base.output_dir}/model.keras")
    assert not model.compiled
    assert model.get_config()["name"] == "alexnet"
    # A single tensor, as users call it, with no complaint about its structure.
    assert model(np.zeros((1, 227, 227, 3), np.uint8)).shape == (1, 3)
