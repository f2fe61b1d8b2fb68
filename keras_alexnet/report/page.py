"""The page of an evaluation report: one HTML file without anything outside it.

It needs jinja2 and plotly, of the extra `report`; whoever imports this has made sure of them.
"""

import base64
import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from keras_alexnet.report.plots import axis_names, confusion_figure

# More examples than this are folded away: the sections below them should stay in reach.
_EXAMPLES_SHOWN = 16
# Rows of the table of classes that are laid out at a time. All 21,841 of ImageNet-21k would take a browser 7 s for each
# sort.
_ROWS_SHOWN = 2000
_MEASURES = (("loss", "loss"), ("top-1 error", "top1_error"), ("top-5 error", "top5_error"))
_HISTORY_COLUMNS = (
    ("Epoch", "epoch"),
    ("Learning rate", "learning_rate"),
    *((f"Training {name}", column) for name, column in _MEASURES),
    *((f"Validation {name}", f"val_{column}") for name, column in _MEASURES),
    *((f"Validation top-{k} accuracy", f"val_top{k}_accuracy") for k in (1, 5)),
)
# Characters that turn the direction of what follows, up to a counterpart that a name may lack.
_TURNS = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)])


@dataclass(frozen=True)
class Headline:
    """One large figure.

    Attributes:
        name: what it is, as in "top-1 error".
        value: the figure, as in "40.106%".
        interval: its 95% confidence interval, as in "39.68% to 40.54%"; "" if it has none.
        accuracy: of an error, the accuracy, as in "59.894%"; "" for other figures.
    """

    name: str
    value: str
    interval: str
    accuracy: str = ""


@dataclass(frozen=True)
class ClassRow:
    """How the images of one class, and the predictions of it, fared.

    Attributes:
        label: the class's number.
        class_id: its id, as in classmappings.txt.
        name: its name for people, or "". Where several have the same, the page shows the id as well.
        images: how many images are of it.
        precision: correct predictions of it, as a fraction of all predictions of it; None if there are none.
        recall: the fraction of its images predicted as such; None if it has no images.
        top5_recall: the fraction of its images that have it among the best five; None if it has no images. The column
            is left out if all are None.
        confused_with: the label most often given to its images instead, or None.
        confused_count: how often.
    """

    label: int
    class_id: str
    name: str
    images: int
    precision: float | None
    recall: float | None
    top5_recall: float | None
    confused_with: int | None
    confused_count: int


@dataclass(frozen=True)
class Example:
    """An image with its truth and its prediction.

    Attributes:
        picture: a data URI of it, or None.
        path: its file, displayable.
        truth: its label.
        best: (label, probability) of one to five predictions, best first.
        truth_probability: the probability given to the truth.
    """

    picture: str | None
    path: str
    truth: int
    best: tuple[tuple[int, float], ...]
    truth_probability: float


@dataclass(frozen=True)
class Page:
    """All that the page shows. Strings are plain text.

    Attributes:
        title: what was evaluated on what.
        subtitle: a line below it.
        headlines: the large figures.
        history: the finished epochs of the training, as in history.csv; may be empty.
        curves: figures of `plots` of them, in plotly.js's form.
        curves_note: why there are none.
        classes: a row for each class, in label order.
        confusion: (truth, predicted, count) of the cells that are not zero, the diagonal included.
        most_confused: (truth, predicted, count, fraction of the truth's images).
        worst: the most confident mistakes; may be empty.
        best: the most confident correct predictions; may be empty.
        calibration: a figure of `plots`.
        calibration_error: the expected calibration error, as in "3.1%".
        filters: a data URI of a PNG with the filters of the first layer, or None.
        filters_note: what they are, or why there are none.
        facts: (section, [(name, value)]) of how all this came about.
        files: (relative link, what it is) of the other files of the report.
    """

    title: str
    subtitle: str
    headlines: Sequence[Headline]
    history: Sequence[Mapping[str, float]]
    curves: Sequence[dict]
    curves_note: str
    classes: Sequence[ClassRow]
    confusion: Sequence[tuple[int, int, int]]
    most_confused: Sequence[tuple[int, int, int, float]]
    worst: Sequence[Example]
    best: Sequence[Example]
    calibration: dict
    calibration_error: str
    filters: str | None
    filters_note: str
    facts: Sequence[tuple[str, Sequence[tuple[str, str]]]]
    files: Sequence[tuple[str, str]]


def render(page: Page) -> str:
    """The HTML of a page.

    Its content security policy lets nothing be loaded and no script run but its own, whatever the names of classes
    and files are.
    """
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "fraction": _fraction, "number": _number}
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    names = _names(page.classes)
    scripts = [_template("report.js"), get_plotlyjs(), _template("charts.js")]
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    return environment.get_template("report.html.jinja").render(
        page=page,
        names=names,
        named=any(row.name for row in page.classes),
        top5=any(row.top5_recall is not None for row in page.classes),
        examples_shown=_EXAMPLES_SHOWN,
        rows_shown=_ROWS_SHOWN,
        history_columns=_HISTORY_COLUMNS,
        charts=_charts(page, names),
        policy=(
            "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; style-src 'unsafe-inline'; "
            "script-src " + " ".join(f"'sha256-{digest}'" for digest in digests)
        ),
        style=Markup(_template("report.css")),
        scripts=list(map(Markup, scripts)),
    )


def _template(name: str) -> str:
    return (resources.files(__package__) / "templates" / name).read_text(encoding="utf-8")


def _names(classes: Sequence[ClassRow]) -> list[str]:
    """What the page calls each class: by its name, behind which the id stands where others have the same, or by its id.

    The page isolates names, so that one that is written from right to left does not turn what is around it.
    """
    names = [row.name.translate(_TURNS) or row.class_id.translate(_TURNS) for row in classes]
    times = Counter(names)
    return [
        f"{name} ({row.class_id.translate(_TURNS)})" if row.name and times[name] > 1 else name
        for name, row in zip(names, classes, strict=True)
    ]


def _charts(page: Page, names: Sequence[str]) -> dict:
    """What charts.js draws, in plain types: NumPy's are not for JSON."""
    return {
        "curves": page.curves,
        "calibration": page.calibration,
        "confusion": confusion_figure(len(names)),
        "names": axis_names(names),
        "cells": [int(number) for cell in page.confusion for number in cell],
    }


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _fraction(value: float | None) -> str:
    """A fraction for sorting by; "" if there is none."""
    value = _finite(value)
    return "" if value is None else f"{value:.6f}"


def _percent(value: float | None) -> str:
    """As in charts.js. Only what is all or nothing is 100% or 0%."""
    value = _finite(value)
    if value is None:
        return "–"
    text = f"{100 * value:.1f}"
    if text == "0.0":
        return "< 0.1%" if value > 0 else "0%"
    if text == "100.0":
        return "> 99.9%" if value < 1 else "100%"
    return f"{text}%"


def _number(value: float | None) -> str:
    value = _finite(value)
    return "–" if value is None else f"{value:.4g}"
