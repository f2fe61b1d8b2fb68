"""Formats predictions as a table, JSON lines or CSV. Standard library only."""

import io
import json
import math
from collections.abc import Callable, Sequence

from keras_alexnet.data.class_names import Classes
from keras_alexnet.system.csv_file import csv_writer
from keras_alexnet.system.progress import printable, truncate

FORMATS = ("table", "json", "csv")

# The label and the probability of each of the best classes, best first.
Best = Sequence[tuple[int, float]]
_CSV_COLUMNS = ("path", "rank", "label", "class", "name", "probability")
# Columns of a bar, and of the rest of its line on a narrow terminal.
_BAR, _REST = 20, 40
_EIGHTHS = " ▏▎▍▌▋▊▉"
_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"


def header(kind: str) -> str:
    """The text before the first image, for a format of `FORMATS`."""
    return _csv_lines([_CSV_COLUMNS]) if kind == "csv" else ""


def entry_writer(
    kind: str, classes: Classes | None, *, color: bool = False, blocks: bool = True, width: int | None = None
) -> Callable[[str, Best], str]:
    """Returns a function that formats an image: (path, its best classes) → lines.

    Args:
        kind: of `FORMATS`: "table" for people, "json" for one object per line, "csv" for one row per class.
        classes: the classes of the labels; None if they are unknown.
        color: make the path bold, in a table.
        blocks: draw bars with block elements; else with #.
        width: columns of the terminal; longer lines of a table are truncated.
    """
    if kind == "json":
        return lambda path, best: json.dumps({"path": path, "predictions": _objects(best, classes)}) + "\n"
    if kind == "csv":
        return lambda path, best: _csv_lines(
            (path, rank, *item.values()) for rank, item in enumerate(_objects(best, classes), 1)
        )

    bar = _BAR if width is None else min(_BAR, max(0, (width - _REST) // 3))

    def table_entry(path: str, best: Best) -> str:
        path = printable(path)
        lines = [f"{_BOLD}{path}{_PLAIN}" if color else path]
        for label, probability in best:
            name = printable(classes.describe(label)) if classes else f"label {label}"
            line = "  ".join(["", f"{100 * probability:5.1f}%", *filter(None, [_bar(probability, bar, blocks)]), name])
            lines.append(line if width is None else truncate(line, width))
        return "\n".join([*lines, "", ""])

    return table_entry


def _objects(best: Best, classes: Classes | None) -> list[dict]:
    return [
        {
            "label": label,
            "class": classes.ids[label] if classes else "",
            "name": classes.names[label] if classes else "",
            # Nine digits identify each float32.
            "probability": float(f"{probability:.9g}"),
        }
        for label, probability in best
    ]


def _bar(probability: float, length: int, blocks: bool) -> str:
    if not blocks:
        return ("#" * round(length * probability)).ljust(length)
    full, eighths = divmod(math.floor(8 * length * probability + 0.5), 8)
    return ("█" * full + _EIGHTHS[eighths].strip()).ljust(length)


def _csv_lines(rows) -> str:
    text = io.StringIO()
    csv_writer(text).writerows(rows)
    return text.getvalue()
