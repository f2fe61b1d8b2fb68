"""Predictions as people and as programs read them. Standard library only."""

import csv
import io
import json
import math
from collections.abc import Callable, Sequence

from keras_alexnet.data.class_names import Classes
from keras_alexnet.progress import cut

FORMATS = ("table", "json", "csv")

# The label and the probability of each of the best classes, best first.
Best = Sequence[tuple[int, float]]
_CSV_COLUMNS = ("path", "rank", "label", "class", "name", "probability")
_BAR = 20
_EIGHTHS = " ▏▎▍▌▋▊▉"
_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"


def header(kind: str) -> str:
    """What comes before the first image, for a kind of `FORMATS`."""
    return _csv_lines([_CSV_COLUMNS]) if kind == "csv" else ""


def entry_writer(
    kind: str, classes: Classes | None, *, color: bool = False, blocks: bool = True, width: int | None = None
) -> Callable[[str, Best], str]:
    """Makes a function that writes what is known of an image: (path, its best classes) → lines.

    Args:
        kind: of `FORMATS`: "table" for people, "json" for an object a line, "csv" for a row a class.
        classes: tells the classes of the labels; None if they are not known.
        color: make the path bold, in a table.
        blocks: draw bars with block elements; else with #.
        width: columns of the terminal, at which the lines of a table end.
    """
    if kind == "json":
        return lambda path, best: json.dumps({"path": path, "predictions": _objects(best, classes)}) + "\n"
    if kind == "csv":
        return lambda path, best: _csv_lines(
            (path, rank, *item.values()) for rank, item in enumerate(_objects(best, classes), 1)
        )

    def table_entry(path: str, best: Best) -> str:
        lines = [f"{_BOLD}{path}{_PLAIN}" if color else path]
        for label, probability in best:
            name = classes.describe(label) if classes else f"label {label}"
            line = f"  {100 * probability:5.1f} %  {_bar(probability, blocks)}  {name}"
            lines.append(line if width is None else cut(line, width))
        return "\n".join([*lines, "", ""])

    return table_entry


def _objects(best: Best, classes: Classes | None) -> list[dict]:
    return [
        {
            "label": label,
            "class": classes.ids[label] if classes else "",
            "name": classes.names[label] if classes else "",
            # Seven digits are those of a float32.
            "probability": float(f"{probability:.7g}"),
        }
        for label, probability in best
    ]


def _bar(probability: float, blocks: bool) -> str:
    if not blocks:
        return ("#" * round(_BAR * probability)).ljust(_BAR)
    full, eighths = divmod(math.floor(8 * _BAR * probability + 0.5), 8)
    return ("█" * full + _EIGHTHS[eighths].strip()).ljust(_BAR)


def _csv_lines(rows) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
