import csv
import dataclasses
import json
import os
import subprocess

import pytest

from keras_alexnet.errors import UserError
from keras_alexnet.system import machine
from keras_alexnet.training import loop
from keras_alexnet.training.config import TrainConfig
from keras_alexnet.training.record import TensorBoard, write_history


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    """The settings of a finished run that kept every record, and its folder."""
    folder = tmp_path_factory.mktemp("run")
    config = TrainConfig(
        data_dir=str(data_dir),
        output_dir=str(folder),
        preset="tiny",
        epochs=2,
        batch_size=8,
        learning_rate=0.001,
        lr_drop_epochs=(1,),
        log_every=2,
        tensorboard=True,
    )
    loop.train(config)
    return config, folder


def points(folder) -> dict[str, list[tuple[int, float]]]:
    import tensorflow as tf

    curves = {}
    for path in sorted((folder / "tensorboard").iterdir()):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                curves.setdefault(value.tag, []).append((event.step, value.simple_value))
    return curves


def test_tensorboard_has_epochs_and_logged_steps(run):
    _, folder = run
    curves = points(folder)
    with open(folder / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for curve, column in (
        ("epoch/loss", "loss"),
        ("epoch/top1_error", "top1_error"),
        ("epoch/learning_rate", "learning_rate"),
        ("validation/top1_error", "val_top1_error"),
        ("validation/top1_accuracy", "val_top1_accuracy"),
        ("validation/loss", "val_loss"),
    ):
        assert curves[curve] == [(int(row["steps"]), pytest.approx(float(row[column]))) for row in rows]
    assert [step for step, _ in curves["training/loss"]] == [2, 5]  # the second step of each epoch
    assert [step for step, _ in curves["speed/images_per_second"]] == [2, 3, 5, 6]
    assert all(0 <= share <= 1 for _, share in curves["speed/data_wait"])


def test_run_file_tells_what_ran_where(run):
    config, folder = run
    facts = json.loads((folder / "run.json").read_text())
    (start,) = facts["starts"]
    assert start["versions"] == machine.versions()
    assert {"keras", "tensorflow", "numpy", "Python"} <= set(start["versions"])
    assert (start["step"], start["devices"], start["cores"]) == (0, "CPU", machine.cpu_count())
    assert (facts["seed"], facts["backend"], facts["epochs"], facts["steps"]) == (config.seed, "tensorflow", 2, 6)
    assert facts["model_steps"] == 6
    assert facts["identity"]["training images"].startswith("24 (SHA-256")
    assert facts["wall_seconds"] > 0
    with open(folder / "history.csv", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert facts["last"]["val_top1_error"] == float(last["val_top1_error"])
    assert facts["last"]["val_top1_accuracy"] == float(last["val_top1_accuracy"])
    assert facts["best"]["val_top1_error"] <= facts["last"]["val_top1_error"]


def test_wall_time_and_starts_add_up(run):
    config, folder = run
    before = json.loads((folder / "run.json").read_text())
    loop.train(dataclasses.replace(config, epochs=3))
    after = json.loads((folder / "run.json").read_text())
    assert after["wall_seconds"] > before["wall_seconds"]
    assert [start["step"] for start in after["starts"]] == [0, 6]


def test_a_full_disk_is_told(tmp_path):
    (tmp_path / "tensorboard").write_text("")
    with pytest.raises(UserError, match=r"cannot write to .*tensorboard is not a folder"):
        TensorBoard(tmp_path)


def test_tensorboards_folder_heeds_the_umask(tmp_path):
    before = os.umask(0o002)
    try:
        TensorBoard(tmp_path)
    finally:
        os.umask(before)
    assert (tmp_path / "tensorboard").stat().st_mode & 0o777 == 0o775


def test_history_of_an_older_version_goes_on(tmp_path):
    write_history(tmp_path / "history.csv", [{"epoch": 1, "loss": 2.5}, {"epoch": 2, "loss": 2.0, "data_wait": 0.25}])
    assert (tmp_path / "history.csv").read_text() == "epoch,loss,data_wait\n1,2.5,\n2,2.0,0.25\n"


def test_history_without_epochs_is_no_file(tmp_path):
    write_history(tmp_path / "history.csv", [])
    assert not (tmp_path / "history.csv").exists()


def test_commit_is_that_of_the_checkout():
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode == 0:
        assert machine.commit().removesuffix("+") == head.stdout.strip()
