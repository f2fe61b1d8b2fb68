"""Reports of evaluate --report_dir and fit --report, from real images to files."""

import contextlib
import csv
import errno
import io
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import write_images

from keras_alexnet import cli, evaluate, fit
from keras_alexnet.data.data_dir import write_data_dir
from keras_alexnet.data.image_map import ImageMap
from keras_alexnet.data.map_file import VAL_MAP, read_map
from keras_alexnet.errors import UserError
from keras_alexnet.inference.evaluation import predict_map
from keras_alexnet.model_file import load_model
from keras_alexnet.report.check import check_report
from keras_alexnet.report.content import sha256_of
from keras_alexnet.report.write import _replaced_together
from keras_alexnet.training.run_files import REPORT_FILES

IDS = ["<i>n01</i>", "caf\udce9", "n03"]
NAMES = ["<script>alert(1)</script>", "a & b, c", ""]
FILES = [".report.lock", *sorted(REPORT_FILES)]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    """Images of three classes with odd names; one path is not UTF-8. Read only."""
    folder = tmp_path_factory.mktemp("data")
    train_rows = write_images(folder / "train", 8, seed=1)
    val_rows = write_images(folder / "val", 7, seed=2)
    odd = f"{folder}/val/caf\udce9.JPEG"
    os.rename(val_rows[0][0], odd)
    val_rows[0] = (odd, val_rows[0][1])
    maps = (ImageMap(*map(list, zip(*rows, strict=True))) for rows in (train_rows, val_rows))
    write_data_dir(folder, *maps, IDS, NAMES)
    return folder


def run_fit(output_dir: Path, *arguments: str) -> str:
    """Trains as `fit --report` does, and returns the last line that it prints."""
    flags = ["--preset=tiny", "--batch_size=8", "--lr_drop_epochs=", "--epochs=1", "--report"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        fit.main(*cli.parse(fit.define_flags, [*flags, f"--output_dir={output_dir}", *arguments]))
    return printed.getvalue().splitlines()[-1]


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory) -> Path:
    """The folder of a finished run with a report. Read only."""
    folder = tmp_path_factory.mktemp("run")
    assert run_fit(folder, f"--data_dir={data_dir}") == f"The report is {folder}/report/report.html"
    assert sorted(os.listdir(folder / "report")) == FILES
    return folder


def test_a_finished_run_gets_its_report_once(run, data_dir, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    page, digest = tmp_path / "run/report/report.html", sha256_of(run / "model.keras")
    before = page.stat().st_mtime_ns
    assert run_fit(tmp_path / "run", f"--data_dir={data_dir}") == f"The report is {page}"
    assert page.stat().st_mtime_ns == before
    # A page about another model does not count.
    page.write_text(page.read_text().replace(digest, 64 * "0"))
    run_fit(tmp_path / "run", f"--data_dir={data_dir}")
    assert digest in page.read_text()
    # It is of the run, and is deleted with it.
    (tmp_path / "run/report/mine.txt").touch()
    run_fit(tmp_path / "run", f"--data_dir={data_dir}", "--restart", "--noreport")
    assert sorted(os.listdir(tmp_path / "run/report")) == [".report.lock", "mine.txt"]


def evaluate_here(*arguments: str) -> None:
    evaluate.main(*cli.parse(evaluate.define_flags, list(arguments)))


def test_evaluate_writes_a_report_on_its_predictions(run, data_dir, tmp_path):
    folder = tmp_path / "new" / "one"
    evaluate_here(f"--model={run}/model.keras", f"--data_dir={data_dir}", f"--report_dir={folder}", "--crops=10")
    assert sorted(os.listdir(folder)) == FILES
    image_map = read_map(data_dir / VAL_MAP)
    predictions = predict_map(load_model(f"{run}/model.keras"), image_map, crops=10)
    rows = list(csv.DictReader((folder / "predictions.csv").read_text(errors="surrogateescape").splitlines()))
    assert [row["path"] for row in rows] == list(image_map.paths)
    for name, wanted in (
        ("loss", predictions.losses),
        ("probability", predictions.probabilities),
        ("label_3", predictions.top_labels[:, 2]),
        ("probability_2", predictions.top_probabilities[:, 1]),
    ):
        assert [float(row[name]) for row in rows] == pytest.approx(wanted.tolist(), rel=1e-4)
    with np.load(folder / "confusion.npz") as archive:
        assert archive["confusion"].sum(axis=1).tolist() == [3, 2, 2]
        assert archive["confusion"].trace() == predictions.correct.sum()
        assert (archive["classes"].tolist(), archive["names"].tolist()) == (IDS, NAMES)
    page = (folder / "report.html").read_text()
    assert "model.keras on val_map.txt" in page
    assert "conv1: 24 filters of 11×11×3" in page
    assert page.count('<img src="data:image/jpeg') == 7


def test_what_a_report_lacks_is_reported_before_long_work(tmp_path, data_dir, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write to .*Choose another folder"):
        evaluate_here("--model=gone", f"--data_dir={data_dir}", f"--report_dir={tmp_path}/file")
    (tmp_path / "run/report/per_class.csv").mkdir(parents=True)
    with pytest.raises(UserError, match=r"per_class\.csv: it is not a regular file"):
        run_fit(tmp_path / "run", f"--data_dir={data_dir}")
    with pytest.raises(UserError, match="report is on, but a run on synthetic data"):
        run_fit(tmp_path / "run", "--synthetic_data")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(UserError, match=r"a report needs jinja2, .*pip install 'keras_alexnet\[report\]'"):
        check_report(tmp_path / "new")
    assert os.listdir(tmp_path / "run") == ["report"]
    assert not (tmp_path / "new").exists()


@pytest.fixture
def older(tmp_path) -> Path:
    """A report of which each file says that it is old."""
    for name in REPORT_FILES:
        (tmp_path / name).write_text("old")
    return tmp_path


def write_new(folder: Path) -> None:
    page, *tables = REPORT_FILES
    with _replaced_together(folder, tables, page) as partial:
        for name in REPORT_FILES:
            (partial / name).write_text("new")


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_an_older_report_stays_whole_where_a_new_one_fails(older, monkeypatch):
    # A disk may say that it is full as late as here, for any of the files.
    flushed = []

    def full(descriptor):
        flushed.append(descriptor)
        if len(flushed) == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write the report in .*No space left"):
        write_new(older)
    assert contents(older) == dict.fromkeys(REPORT_FILES, "old")


def test_a_page_never_refers_to_the_tables_of_another_report(older, monkeypatch):
    """When the process is killed while files take their names."""
    replace, renamed = os.replace, []

    def killed(source, target):
        if len(renamed) == 2:
            raise KeyboardInterrupt
        renamed.append(target)
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_new(older)
    assert contents(older) == {"per_class.csv": "new", "confusion.npz": "new", "predictions.csv": "old"}
    # What a kill leaves behind does not disturb the next report.
    (older / ".partial-report").mkdir()
    (older / ".partial-report/report.html").touch()
    write_new(older)
    assert contents(older) == dict.fromkeys(REPORT_FILES, "new")
