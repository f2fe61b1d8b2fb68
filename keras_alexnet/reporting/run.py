"""What lies beside a model of the run that made it. Standard library only."""

import csv
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from keras_alexnet.training.run_files import BEST_MODEL_FILE, FLAGS_FILE, HISTORY_FILE, MODEL_FILE, RUN_FILE

_CURVES = ("epoch", "learning_rate", "loss", "top1_error", "top5_error", "val_loss", "val_top1_error", "val_top5_error")


@dataclass(frozen=True)
class Run:
    """The run of a model; empty where its files are not there.

    Attributes:
        history: the finished epochs, as in history.csv.
        history_note: why there are none.
        settings: the flags of fit, by name.
        facts: what run.json holds.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    history_note: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    facts: dict = field(default_factory=dict)


def run_of(model_path: Path) -> Run:
    """Reads what lies beside `model_path`; only models with the names that fit gives them belong to the run there."""
    folder = model_path.parent
    if model_path.name not in (MODEL_FILE, BEST_MODEL_FILE):
        return Run(history_note=f"{model_path.name} is no file of a training run, so that there are no curves of one.")
    history, note = _history(folder / HISTORY_FILE)
    return Run(history, note, _settings(folder / FLAGS_FILE), _facts(folder / RUN_FILE))


def _history(path: Path) -> tuple[list[dict[str, float]], str]:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = [{name: float(row[name]) for name in _CURVES} for row in csv.DictReader(file)]
    except FileNotFoundError:
        return [], f"There is no {path.name} beside the model, so that there are no curves of its training."
    except (OSError, KeyError, TypeError, ValueError):
        return [], f"{path.name} beside the model is damaged, so that there are no curves of its training."
    if not rows or not all(math.isfinite(value) for row in rows for value in row.values()):
        return [], f"{path.name} beside the model has no finished epochs."
    return rows, ""


def _settings(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return {}
    pairs = (line.removeprefix("--").partition("=") for line in lines if line.startswith("--"))
    return {name: value for name, _, value in pairs}


def _facts(path: Path) -> dict:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}
