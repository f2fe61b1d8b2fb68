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
from keras_alexnet.model import build_alexnet
from keras_alexnet.report import tables
from keras_alexnet.report.content import _architecture, build_page, sha256_of
from keras_alexnet.report.page import Page
from keras_alexnet.report.run_record import run_of
from keras_alexnet.report.statistics import calibration, class_results, confusion_matrix, wilson_interval

IDS = ["n01440764", "n01530575", "n02085620", "n02101006", "n02123045", "n02124075", "n03100240", "n03445777"]
CLASSES = Classes(IDS, [f"name {class_id}" for class_id in IDS], "classmappings.txt")
NUM_IMAGES = 400
RUN = {
    "epochs": 2,
    "steps": 20,
    "model_steps": 20,
    "wall_seconds": 65.4,
    "backend": "tensorflow",
    "best": {"epoch": 1},
    "starts": [{"devices": "CPU", "processor": "a processor", "versions": {"keras": "3.15.1"}, "commit": "abc"}],
}


def known(num_classes: int) -> tuple[np.ndarray, np.ndarray, Predictions]:
    """Logits that are mostly right, of classes of which some are taken for others."""
    rng = np.random.default_rng(2)
    labels = rng.integers(0, num_classes, NUM_IMAGES).astype(np.int32)
    logits = rng.normal(0, 1, (NUM_IMAGES, num_classes)).astype(np.float32)
    logits[np.arange(NUM_IMAGES), labels] += 1.5
    logits[labels == 1, 0] += 2
    return logits, labels, predictions_of(logits, labels)


def page_of(num_classes: int, folder: Path, model_name: str = "model.keras") -> Page:
    _, labels, predictions = known(num_classes)
    Image.new("RGB", (40, 30), "red").save(folder / "0.png")
    paths = [str(folder / "0.png")] + [f"/gone/{number}" for number in range(1, NUM_IMAGES)]
    inputs = keras.Input((227, 227, 3))
    x = keras.layers.Conv2D(5, 11, strides=60, name="conv1")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(num_classes)(keras.layers.Flatten()(x)))
    (folder / model_name).write_bytes(b"weights")
    confusion = confusion_matrix(predictions, num_classes)
    return build_page(
        model,
        predictions,
        ImageMap(paths, labels, "f1f1", "/data/val_map.txt"),
        confusion=confusion,
        results=class_results(predictions, confusion),
        classes=Classes(IDS[:num_classes], CLASSES.names[:num_classes], ""),
        model_path=folder / model_name,
        settings={"crops": 10},
    )


def test_the_architecture_of_an_alexnet():
    model = build_alexnet(3, preset="paper", filters=(4, 4, 4, 4, 4), dense_units=(9, 8), dropout=(0.3, 0.6))
    facts = _architecture(model)
    assert "9 and 8 dense units" in facts["architecture"]
    assert "alpha 0.0005, beta 0.75, k 2" in facts["architecture"]
    assert (facts["preset"], facts["dropout"]) == ("", "0.3 after fc6, 0.6 after fc7")
    assert _architecture(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])) == {}


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Page:
    return page_of(8, tmp_path_factory.mktemp("page"))


def test_headlines(page):
    logits, labels, _ = known(8)
    ranks = (logits > logits[np.arange(NUM_IMAGES), labels][:, None]).sum(1)
    shown = {headline.name: headline for headline in page.headlines}
    for name, k in (("top-1 error", 1), ("top-5 error", 5)):
        error = np.mean(ranks >= k)
        assert 0 < error < 1
        assert (shown[name].value, shown[name].accuracy) == (f"{100 * error:.1f}%", f"{100 - 100 * error:.1f}%")
        low, high = wilson_interval(error, NUM_IMAGES)
        assert shown[name].interval == f"{100 * low:.1f}% to {100 * high:.1f}%"
    losses = -np.log(np.exp(logits)[np.arange(NUM_IMAGES), labels] / np.exp(logits).sum(1))
    assert shown["loss"].value == f"{losses.mean():.4f}"
    low, _, high = shown["loss"].interval.split()
    assert float(low) < losses.mean() < float(high)
    assert (shown["images"].value, shown["images"].interval) == ("400", "")


def test_few_classes_have_no_top5_error(tmp_path):
    page = page_of(5, tmp_path)
    assert [headline.name for headline in page.headlines] == ["top-1 error", "loss", "images"]
    assert {row.top5_recall for row in page.classes} == {None}


def test_classes_and_matrix(page):
    logits, labels, _ = known(8)
    best = logits.argmax(1)
    confusion = np.array([[np.sum((labels == row) & (best == column)) for column in range(8)] for row in range(8)])
    cells = np.zeros((8, 8), int)
    for row, column, count in page.confusion:
        assert count > 0
        cells[row, column] = count
    np.testing.assert_array_equal(cells, confusion)
    assert not np.array_equal(confusion, confusion.T)
    in_top5 = (logits > logits[np.arange(NUM_IMAGES), labels][:, None]).sum(1) < 5
    for label, row in enumerate(page.classes):
        assert (row.label, row.class_id, row.name) == (label, IDS[label], f"name {IDS[label]}")
        assert row.images == confusion[label].sum()
        assert row.recall == pytest.approx(confusion[label, label] / confusion[label].sum())
        assert row.precision == pytest.approx(confusion[label, label] / confusion[:, label].sum())
        assert row.top5_recall == pytest.approx(in_top5[labels == label].mean())
        others = np.where(np.arange(8) == label, 0, confusion[label])
        assert (row.confused_with, row.confused_count) == (others.argmax(), others.max())
    truth, predicted, count, share = page.most_confused[0]
    assert (truth, predicted, count) == (1, 0, confusion[1, 0])
    assert share == pytest.approx(confusion[1, 0] / confusion[1].sum())


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


def test_calibration_and_filters(page):
    assert page.calibration_error == f"{100 * calibration(known(8)[2]).error:.1f}%"
    assert page.filters.startswith("data:image/png;base64,")
    assert page.filters_note == "conv1: 5 filters of 11×11×3"


def test_facts(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    (tmp_path / "flags.txt").write_text("--learning_rate=0.01\n--odd=a=b\n")
    sections = {title: dict(pairs) for title, pairs in page_of(8, tmp_path).facts}
    assert sections["Evaluation"]["crops"] == "10"
    assert sections["Evaluation"]["SHA-256 of names and labels"] == "f1f1"
    assert sections["Model"]["SHA-256 of the file"] == sha256_of(tmp_path / "model.keras")
    assert sha256_of(tmp_path / "model.keras").startswith("9a129038d9a00aed")
    assert sections["Settings of the run"] == {"learning_rate": "0.01", "odd": "a=b"}
    assert sections["The run that trained it"] == {
        "epochs": "2",
        "steps": "20",
        "steps of this model": "20",
        "time": "1:05",
        "starts": "1",
        "backend": "tensorflow",
        "devices": "CPU",
        "processor": "a processor",
        "versions": "keras 3.15.1",
        "commit": "abc",
    }
    sections = {title: dict(pairs) for title, pairs in page_of(8, tmp_path, "best.keras").facts}
    assert sections["The run that trained it"]["epoch of this model"] == "1"
    assert "steps of this model" not in sections["The run that trained it"]


@pytest.mark.parametrize(
    "run",
    [
        [],
        1,
        {**RUN, "wall_seconds": "65"},
        {**RUN, "wall_seconds": float("nan")},
        {**RUN, "wall_seconds": [1]},
        {**RUN, "starts": {}},
        {**RUN, "starts": ["x", None]},
        {**RUN, "starts": [{"versions": ["keras"]}]},
        {**RUN, "best": 3, "epochs": [2], "backend": {}},
    ],
)
def test_a_run_file_of_another_shape_tells_what_it_can(tmp_path, run):
    (tmp_path / "run.json").write_text(json.dumps(run))
    facts = run_of(tmp_path / "model.keras").facts
    assert all(isinstance(value, str) for value in facts.values())
    assert facts.get("steps") == ("20" if isinstance(run, dict) else None)


def test_a_run_file_nested_too_deeply(tmp_path):
    (tmp_path / "run.json").write_text("[" * 100_000)
    assert run_of(tmp_path / "model.keras").facts == {}


def test_rows_of_a_history_that_lack_something_leave_a_gap(tmp_path):
    (tmp_path / "history.csv").write_text("epoch,loss,val_loss\n1,2.5,1.5\n2,nan,\n3,1e300,1\n")
    history = run_of(tmp_path / "model.keras").history
    assert [row["epoch"] for row in history] == [1, 2, 3]
    np.testing.assert_array_equal([row["loss"] for row in history], [2.5, np.nan, np.nan])
    np.testing.assert_array_equal([row["val_loss"] for row in history], [1.5, np.nan, 1])
    assert np.isnan(history[0]["top1_error"])


def test_beyond_a_number_of_classes_the_matrix_is_sparse(tmp_path, monkeypatch):
    assert tables.MAX_DENSE_CLASSES == 10_000
    monkeypatch.setattr(tables, "MAX_DENSE_CLASSES", 8)
    for num_classes in (8, 9):
        _, _, predictions = known(num_classes)
        confusion = confusion_matrix(predictions, num_classes)
        ids, names = [f"n{label}" for label in range(num_classes)], [f"name {label}" for label in range(num_classes)]
        tables.write_confusion(tmp_path / "confusion.npz", confusion, Classes(ids, names, ""))
        described = dict(tables.described_tables(num_classes))
        assert list(described) == ["per_class.csv", "confusion.npz", "predictions.csv"]
        with np.load(tmp_path / "confusion.npz") as archive:
            assert (archive["classes"].tolist(), archive["names"].tolist()) == (ids, names)
            if num_classes == 8:
                assert archive["confusion"].dtype == np.int64
                np.testing.assert_array_equal(archive["confusion"], confusion.dense())
                assert described["confusion.npz"].startswith("the confusion matrix")
                continue
            assert "confusion" not in archive
            matrix = np.zeros(archive["shape"], int)
            matrix[archive["row"], archive["col"]] = archive["data"]
        np.testing.assert_array_equal(matrix, confusion.dense())
        assert described["confusion.npz"].startswith("the nonzero cells")
        sparse = pytest.importorskip("scipy.sparse", reason="scipy is not installed")
        np.testing.assert_array_equal(sparse.load_npz(tmp_path / "confusion.npz").toarray(), matrix)


def test_odd_names_in_tables_come_back(tmp_path):
    paths = ["a\rb.jpg", 'c"d,e.jpg', "f\udce9.jpg"]
    classes = Classes(["Icon\r", "b,c"], ["", 'x "y"'], "")
    predictions = predictions_of(np.float32([[1, 0], [1, 0], [0, 1]]), np.int32([0, 1, 1]))
    tables.write_predictions(tmp_path / "predictions.csv", predictions, ImageMap(paths, [0, 1, 1]))
    confusion = confusion_matrix(predictions, 2)
    tables.write_per_class(tmp_path / "per_class.csv", class_results(predictions, confusion), classes)
    rows = {}
    for name in ("predictions", "per_class"):
        with open(tmp_path / f"{name}.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
            assert "\r\n" not in file.read()
            file.seek(0)
            rows[name] = list(csv.DictReader(file))
    assert [row["path"] for row in rows["predictions"]] == paths
    assert [row["rank"] for row in rows["predictions"]] == ["1", "2", "1"]
    assert [(row["class"], row["name"]) for row in rows["per_class"]] == [("Icon\r", ""), ("b,c", 'x "y"')]
    assert [(row["confused_with"], row["confused_with_class"], row["confused_count"]) for row in rows["per_class"]] == [
        ("", "", "0"),
        ("0", "Icon\r", "1"),
    ]
    assert [row["precision"] for row in rows["per_class"]] == ["0.5", "1"]
