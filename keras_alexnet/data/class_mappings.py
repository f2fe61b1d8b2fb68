"""The classes of a data set: classmappings.txt has their labels, classnames.txt names for people.

Standard library only.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from keras_alexnet.data.tab_separated import WRITE_AGAIN, clip, open_for_reading
from keras_alexnet.errors import UserError, raise_if_any
from keras_alexnet.system.atomic import write_text
from keras_alexnet.system.file_names import from_utf8, to_utf8
from keras_alexnet.system.text_file import decode

CLASS_MAPPINGS = "classmappings.txt"
CLASS_NAMES = "classnames.txt"


def read_class_mappings(path: str | os.PathLike) -> list[str]:
    """Reads `classmappings.txt`; returns the class ids in label order.

    The lines may be in any order, and the label may come first, as in CNTK's. Where both columns could be the labels,
    the second one is.

    Raises:
        UserError: a line of another form, or labels that are not 0, 1, … each once.
    """
    with open_for_reading(path, "the class list written by python -m keras_alexnet.prepare") as file:
        lines = decode(file.read(), path).rstrip("\n").split("\n")
    if lines == [""]:
        raise UserError(f"{path} is empty: expected a line of <class id> TAB <label> for each class; {WRITE_AGAIN}.")
    label_last = [(line.rpartition("\t")[0], _label(line.rpartition("\t")[2])) for line in lines]
    label_first = [(line.partition("\t")[2], _label(line.partition("\t")[0])) for line in lines]
    rows, problems = label_last, _misplaced(label_last)
    if problems:
        otherwise = _misplaced(label_first)
        # Numbers as class ids look like labels in front; then a label given twice shows as an id that is double.
        if not otherwise and len(dict(label_first)) == len(lines):
            rows, problems = label_first, []
        elif 0 < len(otherwise) < len(problems):
            problems = otherwise
    raise_if_any(
        [f"line {number + 1}: {clip(lines[number])!r}" for number in problems],
        f"{path}: expected lines of <class id> TAB <label>, each label from 0 to {len(lines) - 1:,} once; "
        f"{WRITE_AGAIN}",
    )
    return [from_utf8(class_id) for class_id, _ in sorted(rows, key=lambda row: row[1])]


def write_class_mappings(path: str | os.PathLike, classes: Sequence[str]) -> None:
    """Writes `<class id>\\t<label>` lines in label order, atomically."""
    write_text(path, "".join(class_lines(classes)))


def read_class_names(path: str | os.PathLike, classes: Sequence[str]) -> list[str] | None:
    """Reads `classnames.txt`; returns a name per class, or None if there is no such file, or it lacks one of them.

    A name belongs to its class id: the labels of the file do not matter.
    """
    try:
        with open(path, "rb") as file:
            text = decode(file.read(), path)
    except OSError:
        return None
    lines = re.findall(r"^(.*?)\t\d+\t(.*)$", text, re.MULTILINE)
    names = {from_utf8(class_id): name for class_id, name in lines}
    return [names[class_id] for class_id in classes] if names.keys() >= set(classes) else None


def write_class_names(path: str | os.PathLike, classes: Sequence[str], class_names: Sequence[str]) -> None:
    """Writes `<class id>\\t<label>\\t<name>` lines in label order, atomically."""
    write_text(path, "".join(name_lines(classes, class_names)))


def class_lines(classes: Iterable[str]) -> Iterator[str]:
    """The lines of a classmappings.txt."""
    return (f"{to_utf8(class_id)}\t{label}\n" for label, class_id in enumerate(classes))


def name_lines(classes: Iterable[str], class_names: Iterable[str]) -> Iterator[str]:
    """The lines of a classnames.txt."""
    pairs = zip(classes, class_names, strict=True)
    return (f"{to_utf8(class_id)}\t{label}\t{name}\n" for label, (class_id, name) in enumerate(pairs))


def _label(text: str) -> int | None:
    """The label that `text` is the usual notation of."""
    # int() refuses thousands of digits.
    if len(text) < 10 and text.isdecimal() and text == str(int(text)):
        return int(text)
    return None


def _misplaced(rows: Sequence[tuple[str, int | None]]) -> list[int]:
    """The numbers of the rows without an id or with a label that is none of 0, 1, … each once."""
    times = Counter(label for _, label in rows)
    return [
        number
        for number, (class_id, label) in enumerate(rows)
        # Of rows with the same label the one that stands in its place is taken for the right one.
        if not class_id or label is None or label >= len(rows) or (times[label] > 1 and label != number)
    ]
