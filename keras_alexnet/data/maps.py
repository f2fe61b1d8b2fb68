"""The map files: which image has which label, and which class each label is. Standard library only."""

import contextlib
import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from keras_alexnet.atomic import atomic_path
from keras_alexnet.errors import UserError, raise_if_any

TRAIN_MAP = "train_map.txt"
VAL_MAP = "val_map.txt"
CLASS_MAPPINGS = "classmappings.txt"
CLASS_NAMES = "classnames.txt"

# File names are bytes; names that are not UTF-8 pass through a map unharmed.
_TEXT = {"encoding": "utf-8", "errors": "surrogateescape"}

_ANEW = "write it anew with python -m keras_alexnet.prepare"


@dataclass(frozen=True)
class ImageMap:
    """The rows of a map file, in its order.

    Attributes:
        paths: the image files.
        labels: an integer label per path, 0 or above (an `array` of type "i").
        fingerprint: SHA-256 of the file's bytes, in hex: the identity of a data set.
        source: the file that was read, for messages.
    """

    paths: Sequence[str]
    labels: Sequence[int]
    fingerprint: str = ""
    source: str = "the map"

    def __len__(self) -> int:
        return len(self.paths)


def read_map(path: str | os.PathLike, num_classes: int | None = None) -> ImageMap:
    """Reads a map file of `<path>\\t<integer label>` lines.

    Args:
        path: the file, UTF-8.
        num_classes: if given, labels have to be below it.

    Raises:
        UserError: the file is missing or empty, or has lines of another form; the first ten are shown.
    """
    paths: list[str] = []
    labels = array("i")
    problems: list[str] = []
    digest = hashlib.sha256()
    limit = num_classes if num_classes is not None else 2**31
    with _open_for_reading(path, "a map file, as written by python -m keras_alexnet.prepare") as file:
        for number, line in enumerate(file, 1):
            digest.update(line)
            text = line.decode(**_TEXT).rstrip("\r\n")
            name, tab, label = text.rpartition("\t")
            # isdigit() alone also takes digits such as '²', which int() refuses.
            if not (tab and name and label.isdecimal()):
                if tab and name:
                    problems.append(f"line {number}: label {label!r} is not an integer of 0 or above")
                elif text.strip():
                    problems.append(f"line {number}: no TAB between path and label: {_clip(text)!r}")
                continue
            # int() refuses thousands of digits.
            if len(label) > 18 or int(label) >= limit:
                problems.append(
                    f"line {number}: label {_clip(label)} is outside the {limit:,} classes (0 to {limit - 1:,})"
                )
                continue
            paths.append(name)
            labels.append(int(label))
    raise_if_any(problems, f"{path}: expected lines of <path> TAB <integer label>; correct it or {_ANEW}")
    if not paths:
        raise UserError(f"{path} has no images: expected lines of <path> TAB <integer label>; {_ANEW}.")
    return ImageMap(paths, labels, digest.hexdigest(), str(path))


def write_map(path: str | os.PathLike, rows: Iterable[tuple[str, int]]) -> None:
    """Writes `<path>\\t<label>` lines, whole or not at all."""
    with atomic_path(path) as partial:
        _write_lines(partial, _map_lines(rows))


def read_class_mappings(path: str | os.PathLike) -> list[str]:
    """Reads `classmappings.txt`; returns the class ids in label order.

    Raises:
        UserError: a line of another form, or labels that are not 0, 1, … in order.
    """
    with _open_for_reading(path, "the class list written by python -m keras_alexnet.prepare") as file:
        lines = file.read().decode(**_TEXT).replace("\r\n", "\n").removesuffix("\n").split("\n")
    if lines == [""]:
        raise UserError(f"{path} is empty: expected a line of <class id> TAB <label> for each class; {_ANEW}.")
    problems = [
        f"line {label + 1}: {_clip(line)!r}"
        for label, line in enumerate(lines)
        if line.rpartition("\t")[2] != str(label) or not line.rpartition("\t")[0]
    ]
    raise_if_any(problems, f"{path}: expected lines of <class id> TAB <label>, labels counting up from 0; {_ANEW}")
    return [line.rpartition("\t")[0] for line in lines]


def write_class_mappings(path: str | os.PathLike, classes: Sequence[str]) -> None:
    """Writes `<class id>\\t<label>` lines in label order, whole or not at all."""
    with atomic_path(path) as partial:
        _write_lines(partial, _class_lines(classes))


def write_data_dir(
    output_dir: str | os.PathLike,
    train: ImageMap,
    val: ImageMap,
    classes: Sequence[str],
    class_names: Sequence[str] | None = None,
) -> list[str]:
    """Writes both maps, the class list and, if names are given, `classnames.txt`; returns the paths of the files.

    All are on the disk before the first takes its name, so a full disk leaves older files as they were. An older
    `classnames.txt` is removed if no names are given, since it may belong to other classes.

    Raises:
        UserError: the folder cannot be made or written, or the disk is full.
    """
    contents = {
        TRAIN_MAP: _map_lines(zip(train.paths, train.labels, strict=True)),
        VAL_MAP: _map_lines(zip(val.paths, val.labels, strict=True)),
        CLASS_MAPPINGS: _class_lines(classes),
    }
    named = os.path.join(output_dir, CLASS_NAMES)
    if class_names is not None:
        pairs = zip(classes, class_names, strict=True)
        contents[CLASS_NAMES] = (f"{class_id}\t{label}\t{name}\n" for label, (class_id, name) in enumerate(pairs))
    finals = [os.path.join(output_dir, name) for name in contents]
    with contextlib.ExitStack() as stack:
        # All are on the disk, under partial names, before the first one takes its final name.
        for final, lines in zip(finals, contents.values(), strict=True):
            _write_lines(stack.enter_context(atomic_path(final)), lines)
    if class_names is None and os.path.lexists(named):
        try:
            os.unlink(named)
        except OSError as error:
            raise UserError(f"{named} may belong to other classes: remove it ({error.strerror}).") from None
    return finals


def _map_lines(rows: Iterable[tuple[str, int]]) -> Iterator[str]:
    return (f"{name}\t{label}\n" for name, label in rows)


def _class_lines(classes: Iterable[str]) -> Iterator[str]:
    return _map_lines((name, label) for label, name in enumerate(classes))


def _write_lines(path: str | os.PathLike, lines: Iterable[str]) -> None:
    with open(path, "w", newline="\n", **_TEXT) as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _open_for_reading(path: str | os.PathLike, what: str) -> Iterator:
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}. Expected {what}.") from None


def _clip(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "…"
