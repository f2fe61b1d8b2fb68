"""The tables of a report, for programs: results per class, the confusion matrix, and each prediction."""

from pathlib import Path

import numpy as np

from keras_alexnet.data.class_names import Classes
from keras_alexnet.data.image_map import ImageMap
from keras_alexnet.inference.predictions import Predictions
from keras_alexnet.report.statistics import ClassResults, ConfusionMatrix
from keras_alexnet.system.csv_file import csv_writer
from keras_alexnet.system.file_names import to_utf8
from keras_alexnet.training.run_files import CONFUSION_FILE, PER_CLASS_FILE, PREDICTIONS_FILE

# With more classes than this, confusion.npz holds only the nonzero cells: all of them would take over 800 MB to load.
MAX_DENSE_CLASSES = 10_000
_DENSE = "the confusion matrix, for numpy.load: confusion, classes, names"
_SPARSE = (
    "the nonzero cells of the confusion matrix, for scipy.sparse.load_npz or numpy.load: row, col, data, shape, "
    "classes, names"
)


def described_tables(num_classes: int) -> list[tuple[str, str]]:
    """The names of the tables, and what the page says of them."""
    return [
        (PER_CLASS_FILE, "precision, recall and the most common mistake of each class"),
        (CONFUSION_FILE, _DENSE if num_classes <= MAX_DENSE_CLASSES else _SPARSE),
        (PREDICTIONS_FILE, "each image with its label, rank, probability and loss, and the five best classes"),
    ]


def write_per_class(path: Path, results: ClassResults, classes: Classes) -> None:
    """Writes a row per class, in label order; rates are fractions, and empty where there is nothing to divide by."""
    columns = ("label", "class", "name", "images", "predicted", "precision", "recall", "top5_recall")
    confused = ("confused_with", "confused_with_class", "confused_count")
    ids = list(map(to_utf8, classes.ids))
    rows = []
    for label, (class_id, name) in enumerate(zip(ids, classes.names, strict=True)):
        other = int(results.confused_with[label])
        rates = (results.precision[label], results.recall[label], results.top5_recall[label])
        mistaken = ("", "", 0) if other < 0 else (other, ids[other], results.confused_count[label])
        counts = (results.images[label], results.predicted[label])
        rows.append((label, class_id, name, *counts, *map(_rate, rates), *mistaken))
    _write(path, (*columns, *confused), rows)


def write_confusion(path: Path, confusion: ConfusionMatrix, classes: Classes) -> None:
    """Writes the matrix (rows are the truth, columns what was predicted), `classes` (ids) and `names`.

    The matrix is the array `confusion`. With more than `MAX_DENSE_CLASSES` classes it is sparse instead, in SciPy's COO
    format: `data[i]` images in row `row[i]` and column `col[i]`, and `shape`.
    """
    if confusion.num_classes <= MAX_DENSE_CLASSES:
        matrix = {"confusion": confusion.dense()}
    else:
        shape = (confusion.num_classes, confusion.num_classes)
        matrix = {"format": b"coo", "shape": shape, "row": confusion.rows, "col": confusion.columns}
        matrix["data"] = confusion.counts
    ids = np.array(list(map(to_utf8, classes.ids)))
    with open(path, "wb") as file:
        np.savez_compressed(file, **matrix, classes=ids, names=np.array(classes.names))


def write_predictions(path: Path, predictions: Predictions, image_map: ImageMap) -> None:
    """Writes a row per image, in the order of the map.

    Columns: path, label, rank (1 if no class is better than the true one), probability of the true class, loss, and
    label and probability of each of the best classes.
    """
    numbers = range(1, predictions.top_labels.shape[1] + 1)
    best = [f"{what}_{number}" for number in numbers for what in ("label", "probability")]
    rows = (
        (
            to_utf8(name),
            label,
            rank + 1,
            *map("{:.6g}".format, (probability, loss)),
            *(item for pair in zip(labels, map("{:.6g}".format, probabilities), strict=True) for item in pair),
        )
        for name, label, rank, probability, loss, labels, probabilities in zip(
            image_map.paths,
            predictions.labels.tolist(),
            predictions.ranks.tolist(),
            predictions.probabilities.tolist(),
            predictions.losses.tolist(),
            predictions.top_labels.tolist(),
            predictions.top_probabilities.tolist(),
            strict=True,
        )
    )
    _write(path, ("path", "label", "rank", "probability", "loss", *best), rows)


def _rate(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.6g}"


def _write(path: Path, columns, rows) -> None:
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv_writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
