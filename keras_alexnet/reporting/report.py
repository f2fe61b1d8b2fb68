"""The report on a model's evaluation: a page to read, and tables for programs."""

import base64
import datetime
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np

from keras_alexnet import machine
from keras_alexnet.atomic import write_text
from keras_alexnet.data.class_names import Classes
from keras_alexnet.data.maps import ImageMap
from keras_alexnet.inference.predictions import Predictions
from keras_alexnet.progress import duration
from keras_alexnet.reporting import statistics, tables
from keras_alexnet.reporting.check import check_report
from keras_alexnet.reporting.files import REPORT_FILE, TABLES
from keras_alexnet.reporting.filters import filters_png
from keras_alexnet.reporting.groups import grouped_order
from keras_alexnet.reporting.run import Run, run_of
from keras_alexnet.reporting.thumbnails import thumbnail
from keras_alexnet.training.model_file import model_sizes

_WORST, _BEST, _CONFUSED = 36, 18, 20


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
        folder: where to; files of these names are replaced, each whole or not at all, the page last.
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
    """
    check_report(folder)
    from keras_alexnet.reporting import page, plots

    folder, model_path = Path(folder), Path(model_path)
    image_size, num_classes = model_sizes(model)
    if classes is None:
        classes = Classes([f"label {label}" for label in range(num_classes)], [""] * num_classes, "")
    confusion = statistics.confusion_matrix(predictions, num_classes)
    results = statistics.class_results(predictions, confusion)
    calibration = statistics.calibration(predictions)
    run = run_of(model_path)
    order, groups = grouped_order(classes.ids)

    tables.write_per_class(folder, results, classes)
    tables.write_confusion(folder, confusion, classes)
    tables.write_predictions(folder, predictions, image_map)
    html = page.render(
        page.Page(
            title=f"{_shown(model_path.name)} on {_shown(os.path.basename(image_map.source))}",
            subtitle=f"{len(predictions):,} images, {num_classes:,} classes, {_today()}",
            headlines=_headlines(page.Headline, predictions, calibration),
            curves=plots.curves_svg(run.history) if run.history else None,
            curves_note=_shown(run.history_note),
            classes=[
                page.ClassRow(
                    label=label,
                    class_id=_shown(classes.ids[label]),
                    name=_shown(classes.names[label]),
                    images=int(results.images[label]),
                    precision=_number(results.precision[label]),
                    recall=_number(results.recall[label]),
                    top5_recall=_number(results.top5_recall[label]),
                    confused_with=None if results.confused_with[label] < 0 else int(results.confused_with[label]),
                    confused_count=int(results.confused_count[label]),
                )
                for label in range(num_classes)
            ],
            confusion=[(int(row), int(column), int(confusion[row, column])) for row, column in np.argwhere(confusion)],
            order=order,
            groups=groups,
            most_confused=statistics.most_confused(confusion, _CONFUSED),
            worst=_examples(page.Example, predictions, image_map, right=False, count=_WORST),
            best=_examples(page.Example, predictions, image_map, right=True, count=_BEST),
            calibration=plots.calibration_svg(
                calibration.edges, calibration.counts, calibration.confidence, calibration.accuracy
            ),
            calibration_error=f"{100 * calibration.error:.1f} %",
            **_filters(model),
            facts=_facts(model, model_path, image_map, image_size, run, settings or {}),
            files=TABLES,
        )
    )
    write_text(folder / REPORT_FILE, html)
    return folder / REPORT_FILE


def _headlines(headline: type, predictions: Predictions, calibration: statistics.Calibration) -> list:
    rates, total = predictions.error_rates(), len(predictions)
    shown = []
    for name in ("top1_error", "top5_error"):
        low, high = statistics.wilson_interval(rates[name], total)
        title = name.replace("_", " ").replace("top", "top-")
        shown.append(headline(title, f"{100 * rates[name]:.3f} %", f"{100 * low:.2f} to {100 * high:.2f} %"))
    low, high = statistics.mean_interval(predictions.losses)
    shown.append(headline("loss", f"{rates['loss']:.4f}", f"{low:.4f} to {high:.4f}"))
    shown.append(headline("images", f"{total:,}", ""))
    return shown


def _examples(example: type, predictions: Predictions, image_map: ImageMap, *, right: bool, count: int) -> list:
    return [
        example(
            picture=thumbnail(image_map.paths[row]),
            path=_shown(image_map.paths[row]),
            truth=int(predictions.labels[row]),
            best=tuple(
                zip(predictions.top_labels[row].tolist(), predictions.top_probabilities[row].tolist(), strict=True)
            ),
            truth_probability=float(predictions.probabilities[row]),
        )
        for row in map(int, statistics.most_confident(predictions, right, count))
    ]


def _facts(
    model: keras.Model,
    model_path: Path,
    image_map: ImageMap,
    image_size: int,
    run: Run,
    settings: Mapping[str, object],
) -> list[tuple[str, list[tuple[str, str]]]]:
    evaluation = {
        "map": os.path.abspath(image_map.source),
        "SHA-256 of the map": image_map.fingerprint,
        **settings,
        "backend": keras.backend.backend(),
        "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    network = {
        "file": os.path.abspath(model_path),
        "SHA-256 of the file": _sha256(model_path),
        "parameters": f"{model.count_params():,}",
        "images": f"{image_size}×{image_size}, RGB",
    }
    sections = {
        "Evaluation": evaluation,
        "Model": network,
        "Training": _training(run),
        "Settings of the training": run.settings,
        "This machine": {"processor": machine.processor(), "commit": machine.commit(), **machine.versions()},
    }
    return [
        (title, [(name, _shown(str(value))) for name, value in pairs.items() if value not in (None, "")])
        for title, pairs in sections.items()
        if pairs
    ]


def _training(run: Run) -> dict[str, object]:
    facts = run.facts
    if not facts:
        return {}
    starts = facts.get("starts") or [{}]
    seconds = facts.get("wall_seconds")
    return {
        "epochs": facts.get("epochs"),
        "steps": facts.get("steps"),
        "time": duration(seconds) if seconds else None,
        "starts": len(starts),
        "backend": facts.get("backend"),
        "devices": starts[-1].get("devices"),
        "processor": starts[-1].get("processor"),
        "versions": ", ".join(f"{name} {version}" for name, version in (starts[-1].get("versions") or {}).items()),
        "commit": starts[-1].get("commit"),
    }


def _filters(model: keras.Model) -> dict[str, str | None]:
    """The picture of the first convolution's filters, and what it is; none if the model begins otherwise."""
    layer = next((layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)), None)
    if layer is None or layer.kernel.shape[2] != 3:
        return {"filters": None, "filters_note": "The model has no convolution of RGB images."}
    picture = base64.b64encode(filters_png(keras.ops.convert_to_numpy(layer.kernel))).decode()
    note = "{name}: {3} filters of {0}×{1}×{2}".format(*layer.kernel.shape, name=layer.name)
    return {"filters": f"data:image/png;base64,{picture}", "filters_note": _shown(note)}


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _number(rate: float) -> float | None:
    return None if np.isnan(rate) else float(rate)


def _shown(text: str) -> str:
    """Text for the page, where names of files may have bytes that are not UTF-8."""
    return os.fspath(text).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _today() -> str:
    return datetime.date.today().isoformat()
