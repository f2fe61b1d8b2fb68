"""The report on a model's evaluation: a page to read, and tables for programs."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import keras

from keras_alexnet.data.class_names import Classes
from keras_alexnet.data.image_map import ImageMap
from keras_alexnet.errors import UserError
from keras_alexnet.inference.predictions import Predictions
from keras_alexnet.model_file import model_sizes
from keras_alexnet.report import tables
from keras_alexnet.report.check import check_report
from keras_alexnet.report.statistics import class_results, confusion_matrix
from keras_alexnet.system.atomic import make_folder, sync_folder
from keras_alexnet.system.lock import exclusive
from keras_alexnet.training.run_files import (
    CONFUSION_FILE,
    PER_CLASS_FILE,
    PREDICTIONS_FILE,
    REPORT_FILE,
    REPORT_FILES,
)

_PARTIAL_FOLDER = ".partial-report"
_TABLES = REPORT_FILES[1:]


def write_report(
    folder: str | os.PathLike,
    model: keras.Model,
    predictions: Predictions,
    image_map: ImageMap,
    *,
    model_path: str | os.PathLike,
    classes: Classes | None = None,
    settings: Mapping[str, object] | None = None,
) -> Path:
    """Writes `report.html`, which needs no other file, `per_class.csv`, `confusion.npz` and `predictions.csv`.

    Args:
        folder: where to. Files of these names are replaced, and none of them before all are on the disk.
        model: the model.
        predictions: what `inference.evaluation.predict_map` gave for it and `image_map`.
        image_map: the images. Those that the page shows are read once more.
        model_path: its file; history.csv, run.json and flags.txt next to it describe its training.
        classes: those of the model; None to show labels.
        settings: how it was evaluated, by names for people.

    Returns:
        The path of the page.

    Raises:
        UserError: packages are missing, or a file cannot be written.
        ValueError: the predictions are of another number of images, or the classes are not as many as the model's.
    """
    check_report(folder)
    from keras_alexnet.report.content import build_page
    from keras_alexnet.report.page import render

    _, num_classes = model_sizes(model)
    if classes is None:
        classes = Classes([f"label {label}" for label in range(num_classes)], [""] * num_classes, "")
    if (len(predictions), len(classes)) != (len(image_map), num_classes):
        raise ValueError(
            f"there are predictions of {len(predictions):,} images and names of {len(classes):,} classes, for "
            f"{len(image_map):,} images and {num_classes:,} classes."
        )
    folder = Path(folder)
    confusion = confusion_matrix(predictions, num_classes)
    results = class_results(predictions, confusion)
    page = build_page(
        model,
        predictions,
        image_map,
        confusion=confusion,
        results=results,
        classes=classes,
        model_path=Path(model_path),
        settings=settings or {},
    )
    with exclusive(folder, ".report.lock", wait=True), _replaced_together(folder, _TABLES, REPORT_FILE) as partial:
        (partial / REPORT_FILE).write_text(render(page), encoding="utf-8", newline="\n")
        tables.write_per_class(partial / PER_CLASS_FILE, results, classes)
        tables.write_confusion(partial / CONFUSION_FILE, confusion, classes)
        tables.write_predictions(partial / PREDICTIONS_FILE, predictions, image_map)
    return folder / REPORT_FILE


@contextlib.contextmanager
def _replaced_together(folder: Path, tables: Sequence[str], page: str) -> Iterator[Path]:
    """Gives a folder to write files to, which take their names in `folder` once all are on the disk.

    The old page goes first and the new one comes last, so that a page never refers to the tables of another report. On
    an exception before that, the older files stay as they were. What a killed process leaves behind is hidden, and the
    next report replaces it. The caller holds a lock on `folder`.

    Raises:
        UserError: a file cannot be written, or the disk is full.
    """
    partial = folder / _PARTIAL_FOLDER
    shutil.rmtree(partial, ignore_errors=True)
    make_folder(partial)
    try:
        yield partial
        for name in (*tables, page):
            with open(partial / name, "rb+") as file:
                os.fsync(file.fileno())
        (folder / page).unlink(missing_ok=True)
        for name in (*tables, page):
            os.replace(partial / name, folder / name)
        sync_folder(folder)
    except OSError as error:
        raise UserError(
            f"cannot write the report in {folder}: {error.strerror or error}. Free some space, or make it writable, or "
            "choose another folder."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
