"""What the page and the tables tell, against NumPy on predictions that are known."""

import csv
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from keras_alexnet.data.class_names import Classes
from keras_alexnet.data.image_map import ImageMap
from keras_alexnet.inference.predictions import Predictions, predictions_of
from keras_alexnet.report import tables
from keras_alexnet.report.content import build_page, sha256_of
from keras_alexnet.report.page import Page
from keras_alexnet.report.run_record import run_of
from keras_alexnet.report.statistics import calibration, class_results, confusion_matrix, mean_interval, wilson_interval

IDS = ["n01440764", "n01530575", "n02085620", "n02101006", "n02123045", "n02124075", "n03100240", "n03445777"]
NAMES = [f"name {class_id}" for class_id in IDS]
NUM_IMAGES = 400
RUN = {
    "epochs": 2,
    "steps": 20,
    "model_steps": 20,
    "wall_seconds": 65.4,
    "best": {"epoch": 1},
    "starts": [{"devices": "CPU", "versions": {"keras": "3.15.1"}}],
}


def known(num_classes: int) -> tuple[np.ndarray, np.ndarray, Predictions]:
    """Logits that are mostly right, of classes of which some are taken for others."""
    rng = np.random.default_rng(2)
    labels = rng.integers(0, num_classes, NUM_IMAGES).astype(np.int32)
    logits = rng.normal(0, 1, (NUM_IMAGES, num_classes)).astype(np.float32)
    logits[np.arange(NUM_IMAGES), labels] += 1.5
    logits[labels == 1, 0] += 2
    return logits, labels, predictions_of(logits, labels)


def page_of(num_classes: int, folder: Path) -> Page:
    _, labels, predictions = known(num_classes)
    Image.new("RGB", (40, 30), "red").save(folder / "0.png")
    paths = [str(folder / "0.png")] + [f"/gone/{number}" for number in range(1, NUM_IMAGES)]
    inputs = keras.Input((227, 227, 3))
    x = keras.layers.Conv2D(5, 11, strides=60, name="conv1")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(num_classes)(keras.layers.Flatten()(x)))
    (folder / "model.keras").write_bytes(b"weights")
    confusion = confusion_matrix(predictions, num_classes)
    return build_page(
        model,
        predictions,
        ImageMap(paths, labels, "f1f1", "/data/val_map.txt"),
        confusion=confusion,
        results=class_results(predictions, confusion),
        classes=Classes(IDS[:num_classes], NAMES[:num_classes], ""),
        model_path=folder / "model.keras",
        settings={"crops": 10},
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Page:
    return page_of(8, tmp_path_factory.mktemp("page"))


def test_headlines(page):
    logits, labels, predictions = known(8)
    ranks = (logits > logits[np.arange(NUM_IMAGES), labels][:, None]).sum(1)
    shown = {headline.name: headline for headline in page.headlines}
    for name, k in (("top-1 error", 1), ("top-5 error", 5)):
        error = np.mean(ranks >= k)
        assert (shown[name].value, shown[name].accuracy) == (f"{100 * error:.1f}%", f"{100 - 100 * error:.1f}%")
        low, high = wilson_interval(error, NUM_IMAGES)
        assert shown[name].interval == f"{100 * low:.1f}% to {100 * high:.1f}%"
    losses = -np.log(np.exp(logits)[np.arange(NUM_IMAGES), labels] / np.exp(logits).sum(1))
    low, high = mean_interval(losses)
    assert (shown["loss"].value, shown["loss"].interval) == (f"{losses.mean():.4f}", f"{low:.4f} to {high:.4f}")
    assert page.calibration_error == f"{100 * calibration(predictions).error:.1f}%"


def test_classes_and_matrix(page):
    logits, labels, _ = known(8)
    best = logits.argmax(1)
    confusion = np.array([[np.sum((labels == row) & (best == column)) for column in range(8)] for row in range(8)])
    cells = np.zeros((8, 8), int)
    for row, column, count in page.confusion:
        cells[row, column] = count
    np.testing.assert_array_equal(cells, confusion)
    in_top5 = (logits > logits[np.arange(NUM_IMAGES), labels][:, None]).sum(1) < 5
    for label, row in enumerate(page.classes):
        assert (row.label, row.class_id, row.name) == (label, IDS[label], NAMES[label])
        assert row.images == confusion[label].sum()
        assert row.recall == pytest.approx(confusion[label, label] / confusion[label].sum())
        assert row.precision == pytest.approx(confusion[label, label] / confusion[:, label].sum())
        assert row.top5_recall == pytest.approx(in_top5[labels == label].mean())
        others = np.where(np.arange(8) == label, 0, confusion[label])
        assert (row.confused_with, row.confused_count) == (others.argmax(), others.max())
    share = pytest.approx(confusion[1, 0] / confusion[1].sum())
    assert page.most_confused[0] == (1, 0, confusion[1, 0], share)


def test_examples(page):
    logits, labels, _ = known(8)
    exponentials = np.exp(logits.astype(float))
    probabilities = exponentials / exponentials.sum(1, keepdims=True)
    for examples, right in ((page.worst, False), (page.best, True)):
        rows = [row for row in np.argsort(-probabilities.max(1)) if (logits[row].argmax() == labels[row]) == right]
        for example, row in zip(examples, rows, strict=False):
            assert example.truth == labels[row]
            assert example.truth_probability == pytest.approx(probabilities[row, labels[row]])
            assert [label for label, _ in example.best] == np.argsort(-probabilities[row])[:5].tolist()
            assert [value for _, value in example.best] == pytest.approx(np.sort(probabilities[row])[::-1][:5].tolist())
            assert example.path.endswith(f"/{row}" if row else "/0.png")
            assert (example.picture is None) == (row != 0)
    assert (len(page.worst), len(page.best)) == (36, 18)


def test_facts(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    (tmp_path / "flags.txt").write_text("--learning_rate=0.01\n--odd=a=b\n")
    sections = {title: dict(pairs) for title, pairs in page_of(8, tmp_path).facts}
    assert sections["Evaluation"]["crops"] == "10"
    assert sections["Evaluation"]["SHA-256 of names and labels"] == "f1f1"
    assert sections["Model"]["SHA-256 of the file"] == sha256_of(tmp_path / "model.keras")
    assert sections["Settings of the run"] == {"learning_rate": "0.01", "odd": "a=b"}
    expected = {
        "epochs": "2",
        "steps": "20",
        "time": "1:05",
        "starts": "1",
        "devices": "CPU",
        "versions": "keras 3.15.1",
    }
    assert sections["The run that trained it"] == expected | {"steps of this model": "20"}
    assert run_of(tmp_path / "best.keras").facts == expected | {"epoch of this model": "1"}


def test_a_run_file_of_another_shape_tells_what_it_can(tmp_path):
    odd = {"wall_seconds": float("nan"), "starts": ["x", None], "best": 3, "epochs": [2]}
    (tmp_path / "run.json").write_text(json.dumps(RUN | odd))
    assert run_of(tmp_path / "model.keras").facts == {"steps": "20", "steps of this model": "20"}


@pytest.mark.parametrize("content", [b"epoch,loss\n1,x\n", b"\xff\xff", b"\0" * 200_000, b"[" * 100_000])
def test_files_of_a_run_that_are_corrupted_are_left_out(tmp_path, content):
    for name in ("history.csv", "run.json", "flags.txt"):
        (tmp_path / name).write_bytes(content)
    run = run_of(tmp_path / "model.keras")
    assert (run.history, run.facts) == ([], {})
    assert "There are no training curves" in run.history_note


def test_rows_of_a_history_that_lack_something_leave_a_gap(tmp_path):
    (tmp_path / "history.csv").write_text("epoch,loss,val_loss\n1,2.5,1.5\n2,nan,\n3,1e300,1\n")
    history = run_of(tmp_path / "model.keras").history
    np.testing.assert_array_equal([row["loss"] for row in history], [2.5, np.nan, np.nan])
    np.testing.assert_array_equal([row["val_loss"] for row in history], [1.5, np.nan, 1])


def test_beyond_a_number_of_classes_the_matrix_is_sparse(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_DENSE_CLASSES", 7)
    confusion = confusion_matrix(known(8)[2], 8)
    path = tmp_path / "confusion.npz"
    tables.write_confusion(path, confusion, Classes(IDS, NAMES, ""))
    assert dict(tables.described_tables(8))["confusion.npz"].startswith("the nonzero cells")
    with np.load(path) as archive:
        assert (archive["classes"].tolist(), archive["names"].tolist()) == (IDS, NAMES)
        matrix = np.zeros(archive["shape"], int)
        matrix[archive["row"], archive["col"]] = archive["data"]
    np.testing.assert_array_equal(matrix, confusion.dense())
    sparse = pytest.importorskip("scipy.sparse", reason="scipy is not installed")
    np.testing.assert_array_equal(sparse.load_npz(path).toarray(), matrix)


def test_odd_names_in_tables_come_back(tmp_path):
    paths = ["a\rb.jpg", 'c"d,e.jpg', "f\udce9.jpg"]
    classes = Classes(["Icon\r", "b,c"], ["", 'x "y"'], "")
    predictions = predictions_of(np.float32([[1, 0], [1, 0], [0, 1]]), np.int32([0, 1, 1]))
    tables.write_predictions(tmp_path / "predictions.csv", predictions, ImageMap(paths, [0, 1, 1]))
    results = class_results(predictions, confusion_matrix(predictions, 2))
    tables.write_per_class(tmp_path / "per_class.csv", results, classes)
    rows = {}
    for name in ("predictions", "per_class"):
        with open(tmp_path / f"{name}.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows[name] = list(csv.reader(file))
    assert [row[:3] for row in rows["predictions"][1:]] == [
        [paths[0], "0", "1"],
        [paths[1], "1", "2"],
        [paths[2], "1", "1"],
    ]
    assert rows["per_class"][1:] == [
        ["0", "Icon\r", "", "1", "2", "0.5", "1", "1", "", "", "0"],
        ["1", "b,c", 'x "y"', "2", "1", "1", "0.5", "1", "0", "Icon\r", "1"],
    ]
