"""Reads the files of the run next to its model. Standard library only."""

import csv
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from keras_alexnet.errors import UserError
from keras_alexnet.system.file_names import to_utf8
from keras_alexnet.system.flagfile import read_flagfile
from keras_alexnet.system.progress import duration
from keras_alexnet.training.run_files import BEST_MODEL_FILE, FLAGS_FILE, HISTORY_FILE, MODEL_FILE, RUN_FILE

_RATES = ("loss", "top1_error", "top1_accuracy", "top5_error", "top5_accuracy")
_CURVES = ("epoch", "learning_rate", *_RATES, *(f"val_{name}" for name in _RATES))
# Larger ones come from corrupted files, and no axis has room for them.
_LARGEST = 1e30


@dataclass(frozen=True)
class Run:
    """The run of a model; empty where its files are missing or corrupted.

    Attributes:
        history: the finished epochs, as in history.csv; NaN for what a row lacks.
        history_note: why there are none.
        settings: the flags of fit, by name.
        facts: of run.json, by names for people.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    history_note: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)


def run_of(model_path: Path) -> Run:
    """Reads the files next to `model_path`; only models with the names that fit gives them belong to the run there."""
    if model_path.name not in (MODEL_FILE, BEST_MODEL_FILE):
        note = f"Training curves are shown for {MODEL_FILE} and {BEST_MODEL_FILE} in the output directory of a run."
        return Run(history_note=note)
    folder = model_path.parent
    history, note = _history(folder / HISTORY_FILE)
    return Run(history, note, _settings(folder / FLAGS_FILE), _facts(folder / RUN_FILE, model_path.name))


def _history(path: Path) -> tuple[list[dict[str, float]], str]:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = [{name: _number(row.get(name)) for name in _CURVES} for row in csv.DictReader(file)]
    except FileNotFoundError:
        return [], f"There are no training curves: {path.name} is not next to the model."
    except (OSError, TypeError, ValueError, csv.Error):
        return [], f"There are no training curves: {path.name} next to the model is corrupted."
    if not rows:
        return [], f"There are no training curves yet: {path.name} next to the model has no finished epochs."
    return rows, ""


def _number(text: str | None) -> float:
    value = float(text) if text else math.nan
    return value if abs(value) < _LARGEST else math.nan


def _settings(path: Path) -> dict[str, str]:
    try:
        flags = read_flagfile(path)
    except UserError:
        return {}
    pairs = (flag.removeprefix("--").partition("=") for flag in flags)
    return {name: to_utf8(value) for name, _, value in pairs}


def _facts(path: Path, model_name: str) -> dict[str, str]:
    try:
        run = _mapping(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return {}
    starts = run.get("starts")
    last_start = _mapping(starts[-1]) if isinstance(starts, list) and starts else {}
    seconds = run.get("wall_seconds")
    found = {
        "epochs": run.get("epochs"),
        "steps": run.get("steps"),
        "steps of this model": run.get("model_steps") if model_name == MODEL_FILE else None,
        "epoch of this model": _mapping(run.get("best")).get("epoch") if model_name == BEST_MODEL_FILE else None,
        "time": duration(seconds) if isinstance(seconds, int | float) and math.isfinite(seconds) else None,
        "starts": len(starts) if last_start else None,
        "backend": run.get("backend"),
        "devices": last_start.get("devices"),
        "processor": last_start.get("processor"),
        "versions": ", ".join(f"{name} {version}" for name, version in _mapping(last_start.get("versions")).items()),
        "commit": last_start.get("commit"),
    }
    return {name: str(value) for name, value in found.items() if isinstance(value, int | str) and value != ""}


def _mapping(value: object) -> dict:
    return value if isinstance(value, dict) else {}
