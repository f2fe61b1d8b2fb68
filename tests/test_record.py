import csv
import dataclasses
import json
import shutil
import subprocess

import pytest

from keras_alexnet.errors import UserError
from keras_alexnet.system import machine
from keras_alexnet.training import loop
from keras_alexnet.training.config import TrainConfig
from keras_alexnet.training.record import TensorBoard, write_history


@pytest.fixture(scope="module")
def folder(data_dir, tmp_path_factory):
    """That of a finished run of two starts, which kept every record."""
    folder = tmp_path_factory.mktemp("run")
    config = TrainConfig(
        data_dir=str(data_dir),
        output_dir=str(folder),
        preset="tiny",
        epochs=1,
        batch_size=8,
        learning_rate=0.001,
        lr_drop_epochs=(1,),
        log_every=2,
        tensorboard=True,
    )
    loop.train(config)
    shutil.copy(folder / "run.json", folder / "first-run.json")
    loop.train(dataclasses.replace(config, epochs=2))
    return folder


def history_of(folder) -> list[dict[str, str]]:
    with open(folder / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def points(folder) -> dict[str, list[tuple[int, float]]]:
    import tensorflow as tf

    curves = {}
    for path in sorted((folder / "tensorboard").iterdir()):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                curves.setdefault(value.tag, []).append((event.step, value.simple_value))
    return curves


def test_tensorboard_has_epochs_and_logged_steps(folder):
    curves = points(folder)
    for curve, column in (
        ("epoch/loss", "loss"),
        ("epoch/learning_rate", "learning_rate"),
        ("validation/top1_error", "val_top1_error"),
        ("validation/top1_accuracy", "val_top1_accuracy"),
    ):
        assert curves[curve] == [(int(row["steps"]), pytest.approx(float(row[column]))) for row in history_of(folder)]
    assert [step for step, _ in curves["training/loss"]] == [2, 5]  # the second step of each epoch
    assert [step for step, _ in curves["speed/images_per_second"]] == [2, 3, 5, 6]
    assert all(0 <= share <= 1 for _, share in curves["speed/data_wait"])


def test_run_file_tells_what_ran_where(folder):
    facts = json.loads((folder / "run.json").read_text())
    assert [start["step"] for start in facts["starts"]] == [0, 3]
    start = facts["starts"][0]
    assert (start["versions"], start["devices"], start["cores"]) == (machine.versions(), "CPU", machine.cpu_count())
    assert (facts["seed"], facts["backend"], facts["epochs"]) == (0, "tensorflow", 2)
    assert facts["steps"] == facts["model_steps"] == 6
    assert facts["identity"]["training images"].startswith("24 (SHA-256")
    assert facts["wall_seconds"] > json.loads((folder / "first-run.json").read_text())["wall_seconds"] > 0
    last = history_of(folder)[-1]
    assert facts["last"]["val_top1_error"] == float(last["val_top1_error"])
    assert facts["best"]["val_top1_error"] <= facts["last"]["val_top1_error"]


def test_a_folder_that_cannot_be_written_to_is_explained(tmp_path):
    (tmp_path / "tensorboard").write_text("")
    with pytest.raises(UserError, match=r"cannot write to .*tensorboard is not a folder"):
        TensorBoard(tmp_path)


def test_history_of_an_older_version_goes_on(tmp_path):
    write_history(tmp_path / "history.csv", [{"epoch": 1, "loss": 2.5}, {"epoch": 2, "loss": 2.0, "data_wait": 0.25}])
    assert (tmp_path / "history.csv").read_text() == "epoch,loss,data_wait\n1,2.5,\n2,2.0,0.25\n"


def test_commit_is_that_of_the_checkout():
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode == 0:
        assert machine.commit().removesuffix("+") == head.stdout.strip()
