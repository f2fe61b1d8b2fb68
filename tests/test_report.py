"""Reports of evaluate --report_dir and fit --report, from real images to files and a page in a browser."""

import csv
import dataclasses
import errno
import html
import os
import shutil
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import write_images
from map_files import write_map

from keras_alexnet import cli, evaluate, fit
from keras_alexnet.data.data_dir import write_data_dir
from keras_alexnet.data.image_map import ImageMap
from keras_alexnet.data.map_file import VAL_MAP, read_map
from keras_alexnet.errors import UserError
from keras_alexnet.inference.evaluation import predict_map
from keras_alexnet.inference.predictions import Predictions
from keras_alexnet.model_file import load_model
from keras_alexnet.report.check import check_report
from keras_alexnet.report.content import sha256_of
from keras_alexnet.report.train import train
from keras_alexnet.report.write import write_report
from keras_alexnet.training.config import TrainConfig

IDS = ["<i>n01</i>", "caf\udce9", "n03"]
NAMES = ["<script>alert(1)</script>", "a & b, c", ""]
FILES = ["confusion.npz", "per_class.csv", "predictions.csv", "report.html"]


def run(
    command: str, *arguments, without: str | None = None, cwd: Path | None = None, **environment
) -> subprocess.CompletedProcess:
    """Runs a command, in a Python that lacks the package `without`."""
    program = f"import runpy, sys; sys.modules[{without!r}] = None; runpy.run_module('keras_alexnet.{command}', "
    program += "run_name='__main__', alter_sys=True)"
    start = ["-c", program] if without else ["-m", f"keras_alexnet.{command}"]
    return subprocess.run(
        [sys.executable, *start, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, **environment},
    )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    """Images of three classes with odd names; one path is not UTF-8. Read only."""
    folder = tmp_path_factory.mktemp("data")
    train_rows = write_images(folder / "train", 24, seed=1)
    val_rows = write_images(folder / "val", 7, seed=2)
    odd = f"{folder}/val/caf\udce9.JPEG"
    os.rename(val_rows[0][0], odd)
    val_rows[0] = (odd, val_rows[0][1])
    maps = (ImageMap(*map(list, zip(*rows, strict=True))) for rows in (train_rows, val_rows))
    write_data_dir(folder, *maps, IDS, NAMES)
    return folder


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """A run that ends with a report, and what it printed. Read only."""
    folder = tmp_path_factory.mktemp("run")
    result = run(
        "fit", "--preset=tiny", "--batch_size=8", "--learning_rate=0.001", "--lr_drop_epochs=1", "--epochs=2",
        "--report", f"--data_dir={data_dir}", f"--output_dir={folder}",
    )  # fmt: skip
    assert (result.returncode, [line for line in result.stderr.splitlines() if "epoch" not in line]) == (0, [])
    return folder, result


def rows_of(path: Path) -> list[dict]:
    return list(csv.DictReader(path.read_text(errors="surrogateescape").splitlines()))


def test_fit_ends_with_a_report_and_prints_its_path(trained):
    folder, result = trained
    assert result.stdout.splitlines()[-1] == f"The report is {folder}/report/report.html"
    assert sorted(os.listdir(folder / "report")) == [".report.lock", *FILES]
    assert sorted(path.name for path in folder.glob("*.txt")) == [
        "best.classes.txt",
        "best.classnames.txt",
        "flags.txt",
        "model.classes.txt",
        "model.classnames.txt",
    ]


def test_a_finished_run_gets_its_report_once(trained, data_dir, tmp_path, capsys):
    shutil.copytree(trained[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run/report")
    page = tmp_path / "run/report/report.html"
    config = fit.config_from(
        cli.parse(fit.define_flags, [f"--flagfile={trained[0]}/flags.txt", f"--output_dir={tmp_path}/run"])[0]
    )
    times = []
    for _ in range(2):
        train(config)
        assert capsys.readouterr().out.splitlines()[-1] == f"The report is {page}"
        times.append(page.stat().st_mtime_ns)
    assert times[0] == times[1]
    # A page about another model is none about this one.
    page.write_text(page.read_text().replace(sha256_of(tmp_path / "run/model.keras"), 64 * "0"))
    train(config)
    assert sha256_of(tmp_path / "run/model.keras") in page.read_text()
    # It is of the run, and goes with it.
    (tmp_path / "run/report/mine.txt").touch()
    train(dataclasses.replace(config, epochs=1, report=False), restart=True)
    assert sorted(os.listdir(tmp_path / "run/report")) == [".report.lock", "mine.txt"]


def evaluate_here(*arguments) -> None:
    evaluate.main(*cli.parse(evaluate.define_flags, list(map(str, arguments))))


@pytest.fixture(scope="module")
def evaluated(trained, data_dir, tmp_path_factory) -> Path:
    """The folder of a report that evaluate wrote. Read only."""
    folder = tmp_path_factory.mktemp("report") / "new" / "one"
    evaluate_here(f"--model={trained[0]}/best.keras", f"--data_dir={data_dir}", f"--report_dir={folder}", "--crops=10")
    return folder


def test_the_tables_are_of_the_predictions(evaluated, trained, data_dir):
    assert sorted(os.listdir(evaluated)) == [".report.lock", *FILES]
    image_map = read_map(data_dir / VAL_MAP)
    predictions = predict_map(load_model(str(trained[0] / "best.keras")), image_map, crops=10)
    rows = rows_of(evaluated / "predictions.csv")
    assert [row["path"] for row in rows] == list(image_map.paths)
    assert [int(row["label"]) for row in rows] == list(image_map.labels)
    for name, wanted in (
        ("loss", predictions.losses),
        ("probability", predictions.probabilities),
        ("label_1", predictions.top_labels[:, 0]),
        ("label_3", predictions.top_labels[:, 2]),
        ("probability_2", predictions.top_probabilities[:, 1]),
    ):
        assert [float(row[name]) for row in rows] == pytest.approx(wanted.tolist(), rel=1e-4)
    assert "label_4" not in rows[0]

    with np.load(evaluated / "confusion.npz") as archive:
        confusion = archive["confusion"]
        assert archive["classes"].tolist() == IDS
        assert archive["names"].tolist() == NAMES
    assert confusion.sum() == 7
    assert confusion.trace() == predictions.correct.sum()
    assert confusion.sum(axis=1).tolist() == [3, 2, 2]

    rows = rows_of(evaluated / "per_class.csv")
    assert [(row["label"], row["class"], row["name"]) for row in rows] == [
        (str(label), IDS[label], NAMES[label]) for label in range(3)
    ]
    for label, row in enumerate(rows):
        assert float(row["recall"]) == pytest.approx(confusion[label, label] / confusion[label].sum())
        assert int(row["images"]) == confusion[label].sum()
        assert int(row["predicted"]) == confusion[:, label].sum()
        assert (row["precision"] == "") == (confusion[:, label].sum() == 0)
        assert float(row["top5_recall"]) == 1


def test_the_page_is_about_them(evaluated):
    page = html.unescape((evaluated / "report.html").read_text())
    for text in (
        "best.keras on val_map.txt",
        "top-1 error",
        "a & b, c",
        "caf\\udce9",
        "learning_rate",
        "crops",
        "SHA-256",
    ):
        assert text in page
    assert "conv1: 24 filters of 11×11×3" in page
    assert page.count('<img src="data:image/jpeg') == 7


def test_a_model_without_run_and_classes(trained, data_dir, tmp_path, capsys):
    shutil.copy(trained[0] / "model.keras", tmp_path / "alone.keras")
    write_map(tmp_path / "map.txt", zip(read_map(data_dir / VAL_MAP).paths, [0] * 7, strict=True))
    evaluate_here(f"--model={tmp_path}/alone.keras", f"--map_file={tmp_path}/map.txt", f"--report_dir={tmp_path}/r")
    assert capsys.readouterr().out.splitlines()[-1] == f"report      {tmp_path}/r/report.html"
    assert [row["class"] for row in rows_of(tmp_path / "r/per_class.csv")] == ["label 0", "label 1", "label 2"]
    page = (tmp_path / "r/report.html").read_text()
    assert "Training curves are shown for model.keras and best.keras" in page


@pytest.mark.parametrize(
    "content",
    [None, b"", b"epoch,loss\n", b"epoch,loss\n1,x\n", b"\xff\xff", b"\0" * 200_000],
)
def test_a_history_that_cannot_be_used(trained, data_dir, tmp_path, content):
    shutil.copy(trained[0] / "model.keras", tmp_path)
    if content is not None:
        (tmp_path / "history.csv").write_bytes(content)
        (tmp_path / "run.json").write_bytes(content)
        (tmp_path / "flags.txt").write_bytes(content)
    model, image_map = load_model(str(tmp_path / "model.keras")), read_map(data_dir / VAL_MAP)
    page = write_report(
        tmp_path / "r", model, predict_map(model, image_map), image_map, model_path=tmp_path / "model.keras"
    )
    assert "history.csv" in page.read_text()


def test_images_that_are_gone_are_left_out(trained, data_dir, tmp_path):
    model = load_model(str(trained[0] / "model.keras"))
    shutil.copytree(data_dir / "val", tmp_path / "val")
    paths = sorted(str(path) for path in (tmp_path / "val").iterdir())
    write_map(tmp_path / "map.txt", [(path, 0) for path in paths])
    image_map = read_map(tmp_path / "map.txt")
    predictions = predict_map(model, image_map)
    shutil.rmtree(tmp_path / "val")
    page = write_report(tmp_path / "r", model, predictions, image_map, model_path=trained[0] / "model.keras")
    assert "data:image/jpeg" not in page.read_text()
    assert len(rows_of(tmp_path / "r/predictions.csv")) == 7


def test_very_many_classes_take_no_memory_for_all_pairs_of_them(tmp_path, monkeypatch):
    """All cells of the confusion matrix of ImageNet-21k's classes are 3.8 GB."""
    num_classes, num_images = 21_841, 300
    inputs = keras.Input((227, 227, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(2, 11, strides=60, name="conv1")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(num_classes)(x))
    (tmp_path / "model.keras").write_bytes(b"weights")
    rng = np.random.default_rng(6)
    labels = rng.integers(0, num_classes, num_images).astype(np.int32)
    best = rng.integers(0, num_classes, (num_images, 5)).astype(np.int32)
    best[::3, 0] = labels[::3]
    right = best[:, 0] == labels
    predictions = Predictions(
        labels=labels,
        losses=rng.random(num_images),
        ranks=np.where(right, 0, 7).astype(np.int32),
        top_labels=best,
        top_probabilities=np.sort(rng.random((num_images, 5)).astype(np.float32))[:, ::-1],
    )
    image_map = ImageMap([f"/gone/{number}" for number in range(num_images)], labels, source="/data/val_map.txt")
    # The page is left out, since tracing makes it take 20 s. What it is made of is built.
    monkeypatch.setattr("keras_alexnet.report.page.render", lambda page: str(page.files))
    tracemalloc.start()
    try:
        write_report(tmp_path / "r", model, predictions, image_map, model_path=tmp_path / "model.keras")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50e6
    assert "nonzero cells" in (tmp_path / "r/report.html").read_text()
    with np.load(tmp_path / "r/confusion.npz") as archive:
        assert archive["shape"].tolist() == [num_classes, num_classes]
        assert len(archive["classes"]) == num_classes
        cells = zip(*(archive[name].tolist() for name in ("row", "col", "data")), strict=True)
        found = {(truth, predicted): count for truth, predicted, count in cells}
    assert found == Counter(zip(labels.tolist(), best[:, 0].tolist(), strict=True))
    rows = rows_of(tmp_path / "r/per_class.csv")
    assert [row["label"] for row in rows] == list(map(str, range(num_classes)))
    assert sum(int(row["images"]) for row in rows) == num_images
    assert sum(float(row["recall"]) * int(row["images"]) for row in rows if row["recall"]) == pytest.approx(right.sum())


@pytest.mark.parametrize(
    ("package", "command"),
    [
        ("plotly", ("fit", "--report", "--output_dir=run")),
        ("jinja2", ("evaluate", "--model=gone", "--report_dir=r")),
    ],
)
def test_packages_that_are_missing_are_told_before_long_work(data_dir, tmp_path, package, command):
    result = run(*command, f"--data_dir={data_dir}", without=package, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.endswith(
        f"a report needs {package}, not installed here: pip install 'keras_alexnet[report]'\n"
    )
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_written_to_is_told_before_long_work(tmp_path, data_dir):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below", "/proc/report"):
        with pytest.raises(UserError, match=r"cannot write to .*Choose another folder"):
            check_report(folder)
    with pytest.raises(UserError, match="cannot write to"):
        evaluate_here("--model=gone", f"--data_dir={data_dir}", f"--report_dir={tmp_path}/file")
    (tmp_path / "run" / "report").mkdir(parents=True)
    (tmp_path / "run" / "report" / "per_class.csv").mkdir()
    with pytest.raises(UserError, match=r"per_class\.csv: it is not a regular file"):
        train(TrainConfig(data_dir=str(data_dir), output_dir=str(tmp_path / "run"), report=True))
    assert os.listdir(tmp_path / "run") == ["report"]


@pytest.fixture
def older(evaluated, tmp_path) -> Path:
    """A copy of a report, which is to be replaced."""
    return shutil.copytree(evaluated, tmp_path / "older")


@pytest.fixture(scope="module")
def write_other(trained, data_dir):
    """Writes a report on other predictions to a folder."""
    model, image_map = load_model(str(trained[0] / "model.keras")), read_map(data_dir / VAL_MAP)
    predictions = predict_map(model, image_map)

    def write(folder: Path, **changes) -> None:
        changed = dataclasses.replace(image_map, **changes)
        write_report(folder, model, predictions, changed, model_path=trained[0] / "model.keras")

    return write


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_older_report_stays_whole_where_a_new_one_fails(older, write_other, monkeypatch):
    before = contents(older)
    with pytest.raises(ValueError, match=r"predictions of 7 images .* for 3 images"):
        write_other(older, paths=["a", "b", "c"], labels=[0, 0, 0])
    assert contents(older) == before

    def fail(*_):
        raise KeyboardInterrupt

    # The last to be written.
    with monkeypatch.context() as patched:
        patched.setattr("keras_alexnet.report.tables.write_predictions", fail)
        with pytest.raises(KeyboardInterrupt):
            write_other(older)
    assert contents(older) == before

    # A disk may say that it is full as late as here, for any of the files.
    flushed = []

    def full(descriptor):
        flushed.append(descriptor)
        if len(flushed) == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write the report in .*No space left"):
        write_other(older)
    assert contents(older) == before


@pytest.mark.parametrize("finished", [1, 3])
def test_a_page_never_refers_to_the_tables_of_another_report(older, write_other, monkeypatch, finished):
    """Whenever the process is killed while files take their names."""
    before, replace, renamed = contents(older), os.replace, []

    def killed(source, target):
        if len(renamed) == finished:
            raise KeyboardInterrupt
        renamed.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_other(older)
    after = contents(older)
    assert [name for name in before if name not in after] == ["report.html"]
    assert sum(after[name] != before[name] for name in after) <= finished
    # What a kill leaves behind does not disturb the next report.
    monkeypatch.undo()
    (older / ".partial-report").mkdir()
    (older / ".partial-report/report.html").touch()
    write_other(older)
    assert sorted(contents(older)) == [".report.lock", *FILES]


def test_synthetic_data_have_no_report(tmp_path):
    with pytest.raises(UserError, match="report is on, but a run on synthetic data"):
        train(TrainConfig(output_dir=str(tmp_path / "run"), synthetic_data=True, report=True))
    assert os.listdir(tmp_path) == []
