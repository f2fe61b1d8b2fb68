"""The report on a model's evaluation: a page to read, and tables for programs."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import keras

from keras_alexnet.data.class_names import Classes
from keras_alexnet.data.image_map import ImageMap
from keras_alexnet.inference.predictions import Predictions
from keras_alexnet.model_file import model_sizes
from keras_alexnet.report import tables
from keras_alexnet.report.check import check_report
from keras_alexnet.report.statistics import class_results, confusion_matrix
from keras_alexnet.system.atomic import atomic_path
from keras_alexnet.system.lock import exclusive
from keras_alexnet.training.run_files import CONFUSION_FILE, PER_CLASS_FILE, PREDICTIONS_FILE, REPORT_FILE


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
        folder: where to. Files of these names are replaced, and none of them before all are written.
        model: the model.
        predictions: what `inference.evaluation.predict_map` gave for it and `image_map`.
        image_map: the images. Those that the page shows are read once more.
        model_path: its file; history.csv, run.json and flags.txt beside it tell of its training.
        classes: those of the model; without them, labels are told.
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
    with contextlib.ExitStack() as stack:
        stack.enter_context(exclusive(folder, ".report.lock", wait=True))
        # All are on the disk, under partial names, before the first one takes its final name; the page does so last.
        html, per_class, npz, each = (
            stack.enter_context(atomic_path(folder / name))
            for name in (REPORT_FILE, PER_CLASS_FILE, CONFUSION_FILE, PREDICTIONS_FILE)
        )
        html.write_text(render(page), encoding="utf-8", newline="\n")
        tables.write_per_class(per_class, results, classes)
        tables.write_confusion(npz, confusion, classes)
        tables.write_predictions(each, predictions, image_map)
    return folder / REPORT_FILE
