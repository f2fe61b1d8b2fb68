"""Collects what a report's page shows, from the predictions and from the files next to the model."""

import base64
import datetime
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np

from keras_alexnet.data.class_names import Classes
from keras_alexnet.data.image_map import ImageMap
from keras_alexnet.inference.predictions import Predictions
from keras_alexnet.model import read_preset
from keras_alexnet.model_file import model_sizes
from keras_alexnet.presets import describe, preset_name
from keras_alexnet.report import plots, statistics
from keras_alexnet.report.filters import filters_png
from keras_alexnet.report.page import ClassRow, Example, Headline, Page
from keras_alexnet.report.run_record import Run, run_of
from keras_alexnet.report.tables import described_tables
from keras_alexnet.report.thumbnails import thumbnail
from keras_alexnet.system import machine
from keras_alexnet.system.file_names import to_utf8
from keras_alexnet.training.top_k import informative_ranks

_MAX_WORST, _MAX_BEST, _MAX_CONFUSED = 36, 18, 20
# Below this many images the interval of a mean would say more than is known.
_MIN_IMAGES = 30


def build_page(
    model: keras.Model,
    predictions: Predictions,
    image_map: ImageMap,
    *,
    confusion: statistics.ConfusionMatrix,
    results: statistics.ClassResults,
    classes: Classes,
    model_path: Path,
    settings: Mapping[str, object],
) -> Page:
    """Builds the content of the page from the arguments of `write_report` and what `statistics` made of them."""
    calibration = statistics.calibration(predictions)
    run = run_of(model_path)
    return Page(
        title=shown(to_utf8(f"{model_path.name} on {os.path.basename(image_map.source)}")),
        subtitle=f"{len(predictions):,} images, {len(classes):,} classes, {datetime.date.today().isoformat()}",
        headlines=_headlines(predictions, len(classes)),
        history=run.history,
        curves=plots.curves_figures(run.history) if run.history else [],
        curves_note=shown(run.history_note),
        classes=_class_rows(results, classes),
        confusion=list(
            zip(confusion.rows.tolist(), confusion.columns.tolist(), confusion.counts.tolist(), strict=True)
        ),
        most_confused=statistics.most_confused(confusion, _MAX_CONFUSED),
        worst=_examples(predictions, image_map, correct=False, count=_MAX_WORST),
        best=_examples(predictions, image_map, correct=True, count=_MAX_BEST),
        calibration=plots.calibration_figure(calibration),
        calibration_error=f"{100 * calibration.error:.1f}%",
        **_filters(model),
        facts=_facts(model, model_path, image_map, run, settings),
        files=described_tables(len(classes)),
    )


def shown(text: str) -> str:
    """Text for the page, where names of files may have bytes that are not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def sha256_of(path: Path) -> str:
    """The digest of a file in hex; "" if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _headlines(predictions: Predictions, num_classes: int) -> list[Headline]:
    rates, total = predictions.metrics(), len(predictions)
    # As many decimals as the number of images supports.
    decimals = 1 if total < 1000 else 2 if total < 10_000 else 3
    headlines = []
    for k in informative_ranks(num_classes):
        title, name = f"top-{k} error", f"top{k}_error"
        low, high = (f"{100 * bound:.{min(decimals, 2)}f}" for bound in statistics.wilson_interval(rates[name], total))
        error, accuracy = (f"{100 * rate:.{decimals}f}%" for rate in (rates[name], 1 - rates[name]))
        headlines.append(Headline(title, error, f"{low}% to {high}%", accuracy))
    interval = ""
    if total >= _MIN_IMAGES:
        interval = "{:.4f} to {:.4f}".format(*statistics.mean_interval(predictions.losses))
    return [*headlines, Headline("loss", f"{rates['loss']:.4f}", interval), Headline("images", f"{total:,}", "")]


def _class_rows(results: statistics.ClassResults, classes: Classes) -> list[ClassRow]:
    return [
        ClassRow(
            label=label,
            class_id=shown(to_utf8(classes.ids[label])),
            name=shown(classes.names[label]),
            images=int(results.images[label]),
            precision=_rate(results.precision[label]),
            recall=_rate(results.recall[label]),
            top5_recall=_rate(results.top5_recall[label]) if 5 in informative_ranks(len(classes)) else None,
            confused_with=int(other) if (other := results.confused_with[label]) >= 0 else None,
            confused_count=int(results.confused_count[label]),
        )
        for label in range(len(classes))
    ]


def _examples(predictions: Predictions, image_map: ImageMap, *, correct: bool, count: int) -> list[Example]:
    rows = statistics.most_confident(predictions, correct, count)
    return [
        Example(
            picture=thumbnail(image_map.image(row)),
            path=shown(to_utf8(image_map.paths[row])),
            truth=int(predictions.labels[row]),
            best=tuple(
                zip(predictions.top_labels[row].tolist(), predictions.top_probabilities[row].tolist(), strict=True)
            ),
            truth_probability=float(predictions.probabilities[row]),
        )
        for row in rows.tolist()
    ]


def _filters(model: keras.Model) -> dict[str, str | None]:
    """The picture of the first convolution's filters, and what it is; none if the model begins otherwise."""
    layer = next((layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)), None)
    if layer is None or layer.kernel.shape[2] != 3:
        return {"filters": None, "filters_note": "The model has no convolution of RGB images."}
    picture = base64.b64encode(filters_png(keras.ops.convert_to_numpy(layer.kernel))).decode()
    note = "{name}: {3} filters of {0}×{1}×{2}".format(*layer.kernel.shape, name=layer.name)
    return {"filters": f"data:image/png;base64,{picture}", "filters_note": shown(note)}


def _facts(
    model: keras.Model, model_path: Path, image_map: ImageMap, run: Run, settings: Mapping[str, object]
) -> list[tuple[str, list[tuple[str, str]]]]:
    image_size, _ = model_sizes(model)
    sections = {
        "Evaluation": {
            "map": to_utf8(os.path.abspath(image_map.source)),
            "SHA-256 of names and labels": image_map.fingerprint,
            **settings,
            "backend": keras.backend.backend(),
            "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        },
        "Model": {
            "file": to_utf8(os.path.abspath(model_path)),
            "SHA-256 of the file": sha256_of(model_path),
            **_architecture(model),
            "parameters": f"{model.count_params():,}",
            "images": f"{image_size}×{image_size}, RGB",
        },
        "The run that trained it": run.facts,
        "Settings of the run": run.settings,
        "Machine and versions of the evaluation": {
            "processor": machine.processor(),
            "commit": machine.commit(),
            **machine.versions(),
        },
    }
    return [
        (title, [(shown(name), shown(str(value))) for name, value in pairs.items() if value not in (None, "")])
        for title, pairs in sections.items()
        if pairs
    ]


def _architecture(model: keras.Model) -> dict[str, str]:
    """The preset, its parameters and the dropout rates; empty if the model is not an AlexNet."""
    try:
        preset = read_preset(model)
        rates = "{:g} after fc6, {:g} after fc7".format(*(model.get_layer(name).rate for name in ("drop6", "drop7")))
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}
    return {"preset": preset_name(preset) or "", "architecture": describe(preset), "dropout": rates}


def _rate(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
