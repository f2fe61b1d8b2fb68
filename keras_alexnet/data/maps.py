"""The map files: which image has which label, and which class each label is.

Importing it needs the standard library alone; `read_map` uses NumPy.
"""

import contextlib
import hashlib
import io
import os
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, BinaryIO

from keras_alexnet.data.archives.paths import split_archive
from keras_alexnet.errors import UserError, raise_if_any
from keras_alexnet.system.atomic import atomic_path
from keras_alexnet.system.file_names import from_utf8, to_utf8

if TYPE_CHECKING:
    from keras_alexnet.data.archives.locations import ArchivedImage, Locations

TRAIN_MAP = "train_map.txt"
VAL_MAP = "val_map.txt"
CLASS_MAPPINGS = "classmappings.txt"
CLASS_NAMES = "classnames.txt"

# File names are bytes, and pass through a map unharmed: see `file_names`.
_TEXT = {"encoding": "utf-8", "errors": "surrogateescape"}

_ANEW = "write it anew with python -m keras_alexnet.prepare"

# A path that may be that of an image inside an archive, and where its archive would end.
_ARCHIVED = re.compile(rb"(.*?[^/])(@[/\\].*)", re.DOTALL)

_PIECE = 2**22  # bytes of a map that are read at a time


class PathList(Sequence[str]):
    """The paths of a map file, taken from the file's bytes when they are asked for.

    A million strings would need several times the memory of the file, and every process that is forked would copy them.

    Args:
        text: the bytes of the file.
        starts: where each path begins in `text`; it ends at the next TAB.
        folder: the map's folder, absolute: what relative paths are relative to.
        common: what all paths begin with, left out of `text`.
    """

    def __init__(self, text: bytes, starts: Sequence[int], folder: str, common: bytes = b"") -> None:
        self._text = text
        self._starts = starts
        self._folder = os.fsencode(folder)
        self._common = common

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, item):
        rows = range(len(self))[item]
        if isinstance(rows, range):
            return [os.fsdecode(path) for path in self.encoded(rows)]
        return os.fsdecode(self._encoded(rows))

    def __eq__(self, other) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(str.__eq__, self, other))

    def inside(self, archive: bytes) -> "PathList":
        """The same paths as those of images inside `archive`."""
        return PathList(self._text, self._starts, os.fsdecode(self._folder), archive + b"@/" + self._common)

    def is_relative(self, row: int) -> bool:
        """Whether the path of a row is relative to the map's folder."""
        return not os.path.isabs(self._written(row))

    @property
    def may_be_archived(self) -> bool:
        """Whether any path looks like `<archive>@/<entry>`."""
        return any(mark in text for text in (self._common, self._text) for mark in (b"@/", b"@\\"))

    def encoded(self, rows: Iterable[int]) -> list[bytes]:
        """The paths of `rows`, counted from 0, as the file system's bytes."""
        return [self._encoded(row) for row in rows]

    def _written(self, row: int) -> bytes:
        start = self._starts[row]
        return self._common + self._text[start : self._text.index(b"\t", start)]

    def _encoded(self, row: int) -> bytes:
        path = self._written(row)
        if os.path.isabs(path):
            return path
        # CNTK writes '...' for the map's folder. '..' is taken off as text, as relpath() put it there; but not from the
        # name of an entry in an archive.
        path = path[4:] if path.startswith(b".../") else path
        archived = _ARCHIVED.match(path)
        file, rest = archived.groups() if archived else (path, b"")
        return os.path.normpath(os.path.join(self._folder, file)) + rest


@dataclass(frozen=True)
class ImageMap:
    """The rows of a map file, in its order.

    Attributes:
        paths: the image files (a `PathList` of absolute paths, if they were read from a file).
        labels: an integer label per path, 0 or above (an `array` of type "i").
        fingerprint: SHA-256, in hex, of the labels and of the paths below the folder that all images share: that of
            the same images in another place is the same.
        source: the file that was read, for messages.
        locations: where the images are that are inside archives; None if none is.
    """

    paths: Sequence[str]
    labels: Sequence[int]
    fingerprint: str = ""
    source: str = "the map"
    locations: "Locations | None" = field(default=None, compare=False)

    def __len__(self) -> int:
        return len(self.paths)

    def is_archived(self, row: int) -> bool:
        """Whether the image of a row is inside an archive, rather than a file of its own."""
        return self.locations is not None and bool(self.locations.archive[row] >= 0)

    def read(self, row: int) -> bytes:
        """The bytes of the image file of a row; raises `OSError` if it cannot be read."""
        if self.is_archived(row):
            return self.locations.read(row)
        with open(self.encoded_paths([row])[0], "rb") as file:
            return file.read()

    def read_many(self, rows: Sequence[int]) -> list[bytes]:
        """As `read`, for several rows: at the same time where reading takes long."""
        return self.locations.reader(self.read, rows) if self.locations else [self.read(row) for row in rows]

    def size(self, row: int) -> int:
        """The bytes that the image of a row takes; raises `OSError` if it is missing."""
        if self.is_archived(row):
            return int(self.locations.size[row])
        return os.stat(self.encoded_paths([row])[0]).st_size

    def image(self, row: int) -> "str | ArchivedImage":
        """The image of a row, as another process can be given it: its path, or where it is in an archive."""
        path = self.paths[row]
        return self.locations.image(row, path) if self.is_archived(row) else path

    def images(self) -> "list[str | ArchivedImage]":
        """All images, as `image` gives them."""
        return list(self.paths) if self.locations is None else [self.image(row) for row in range(len(self))]

    def take(self, rows: Sequence[int]) -> "ImageMap":
        """A map of some rows."""
        return replace(
            self,
            paths=[self.paths[row] for row in rows],
            labels=array("i", (self.labels[row] for row in rows)),
            fingerprint="",
            locations=self.locations and self.locations.take(rows),
        )

    def encoded_paths(self, rows: Iterable[int]) -> list[bytes]:
        """The paths of `rows`, counted from 0, as the file system's bytes."""
        if isinstance(self.paths, PathList):
            return self.paths.encoded(rows)
        return [os.fsencode(self.paths[row]) for row in rows]


def read_map(path: str | os.PathLike, num_classes: int | None = None) -> ImageMap:
    """Reads a map file of `<path>\\t<integer label>` lines, UTF-8, with LF or CRLF; blank lines are passed over.

    A relative path is relative to the map's folder. CNTK's maps are read as they are: `.../` at the start of a path is
    the map's folder, and a column in front of the path (a sequence id) is passed over. `<archive>@/<entry>` is an image
    inside a zip or a tar, if there is such a file. Relative paths of a `train_map.txt` that do not exist are those of
    images inside the `train.zip` next to it, if there is one: so Swin Transformer has them.

    Args:
        path: the file.
        num_classes: if given, labels have to be below it.

    Raises:
        UserError: the file is missing or empty, or has lines of another form, or images that are not in their archives;
            the first ten are shown.
    """
    with _open_for_reading(path, "a map file, as written by python -m keras_alexnet.prepare") as file:
        common, text = _read_lines(file)
    limit = num_classes if num_classes is not None else 2**31
    folder = os.path.dirname(os.path.abspath(path))
    if rows := _plain_rows(text, limit):
        starts, labels = rows
        paths = PathList(text, starts, folder, common)
    else:
        text = (b"\n" + text[:-1]).replace(b"\n", b"\n" + common)[1:] + b"\n"
        starts, labels = _checked_rows(text, limit, path)
        if not starts:
            raise UserError(f"{path} has no images: expected lines of <path> TAB <integer label>; {_ANEW}.")
        paths = PathList(text, starts, folder)
        # As prepare writes them.
        plain = (b"%s\t%d\n" % row for row in zip(paths.encoded(range(len(paths))), labels, strict=True))
        _, text = _read_lines(io.BytesIO(b"".join(plain)))
    if archive := _zip_next_to(path, paths):
        paths = paths.inside(archive)
    fingerprint = hashlib.sha256(text).hexdigest()
    return ImageMap(paths, labels, fingerprint, str(path), _locations(paths, fingerprint, path))


def _locations(paths: PathList, fingerprint: str, path: str | os.PathLike) -> "Locations | None":
    """Where the images are that are inside archives."""
    if not paths.may_be_archived:
        return None
    from keras_alexnet.data.archives import index

    encoded = _Encoded(paths)
    found = index.read_index(index_file(path), fingerprint, encoded)
    return found or index.locate(encoded, str(path))


def _zip_next_to(path: str | os.PathLike, paths: PathList) -> bytes | None:
    """The name of the archive that has the images of a map of Swin Transformer; None for any other map."""
    stem, is_map, _ = os.fspath(path).rpartition("_map.txt")
    if is_map and os.path.isfile(f"{stem}.zip") and paths.is_relative(0):
        first = paths.encoded([0])[0]
        if not _is_missing(first) or split_archive(os.fsdecode(first)):
            return None
        return os.fsencode(f"{os.path.basename(stem)}.zip")
    return None


def _write_index(path: str, images: ImageMap) -> None:
    """Writes the index of the archives of a map that has been written, or removes that of an older one."""
    if images.locations is None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(index_file(path))
        return
    from keras_alexnet.data.archives import index

    index.write_index(index_file(path), _fingerprint_of(path), images.locations)


def _fingerprint_of(path: str) -> str:
    """The fingerprint of a map as it is written here."""
    with open(path, "rb") as file:
        return hashlib.sha256(_read_lines(file)[1]).hexdigest()


class _Encoded(Sequence[bytes]):
    """The paths of a map as the file system's bytes, made when they are asked for."""

    def __init__(self, paths: PathList) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, row: int) -> bytes:
        return self._paths.encoded([row])[0]


def index_file(map_path: str | os.PathLike) -> str:
    """Where the images of a map are in their archives: `train_map.index.npz` for `train_map.txt`."""
    return f"{os.path.splitext(map_path)[0]}.index.npz"


def raise_if_missing(image_map: ImageMap) -> None:
    """Finds out cheaply whether the images are where the map has them.

    Looks at up to 100 images, evenly spread; a few missing ones are left to the reading of them, which names the file.

    Raises:
        UserError: none of these images exists.
    """
    rows = sample_rows(len(image_map), 100)
    if any(map(image_map.is_archived, rows)):
        return  # Their archives have been looked into.
    sampled = image_map.encoded_paths(rows)
    if not all(map(_is_missing, sampled)):
        return
    shown = [f"  {os.fsdecode(path)}" for path in sampled[:3]]
    if len(sampled) > len(shown):
        shown.append("  …")
    archived = _ARCHIVED.match(sampled[0])
    raise UserError(
        f"the images of {image_map.source} are missing: none of {len(sampled):,} that were looked for, evenly spread, "
        "exists:\n"
        + "\n".join(shown)
        + (f"\nThe archive {os.fsdecode(archived[1])} does not exist." if archived else "")
        + "\nIs their disk mounted? If they have been moved, run python -m keras_alexnet.prepare again; with "
        "--relative_paths it writes maps that can be moved together with their images."
    )


def sample_rows(total: int, count: int) -> list[int]:
    """Up to `count` of the rows 0 to `total` - 1, evenly spread."""
    count = min(total, count)
    return [row * total // count for row in range(count)]


def write_map(path: str | os.PathLike, rows: Iterable[tuple[str, int]]) -> None:
    """Writes `<path>\\t<label>` lines, whole or not at all."""
    with atomic_path(path) as partial:
        _write_lines(partial, _map_lines(rows))


def read_class_mappings(path: str | os.PathLike) -> list[str]:
    """Reads `classmappings.txt`; returns the class ids in label order.

    The lines may be in any order, and the label may come first, as in CNTK's. Where both columns could be the labels,
    the second one is.

    Raises:
        UserError: a line of another form, or labels that are not 0, 1, … each once.
    """
    with _open_for_reading(path, "the class list written by python -m keras_alexnet.prepare") as file:
        lines = file.read().decode(**_TEXT).replace("\r\n", "\n").removesuffix("\n").split("\n")
    if lines == [""]:
        raise UserError(f"{path} is empty: expected a line of <class id> TAB <label> for each class; {_ANEW}.")
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
        [f"line {number + 1}: {_clip(lines[number])!r}" for number in problems],
        f"{path}: expected lines of <class id> TAB <label>, each label from 0 to {len(lines) - 1:,} once; {_ANEW}",
    )
    return [from_utf8(class_id) for class_id, _ in sorted(rows, key=lambda row: row[1])]


def write_class_mappings(path: str | os.PathLike, classes: Sequence[str]) -> None:
    """Writes `<class id>\\t<label>` lines in label order, whole or not at all."""
    with atomic_path(path) as partial:
        _write_lines(partial, _class_lines(classes))


def read_class_names(path: str | os.PathLike, classes: Sequence[str]) -> list[str] | None:
    """Reads `classnames.txt`; returns a name per class, or None if there is no such file, or it lacks one of them.

    A name belongs to its class id: the labels of the file do not matter.
    """
    try:
        with open(path, "rb") as file:
            text = file.read().decode(**_TEXT).replace("\r\n", "\n")
    except OSError:
        return None
    lines = re.findall(r"^(.*?)\t\d+\t(.*)$", text, re.MULTILINE)
    names = {from_utf8(class_id): name for class_id, name in lines}
    return [names[class_id] for class_id in classes] if names.keys() >= set(classes) else None


def write_class_names(path: str | os.PathLike, classes: Sequence[str], class_names: Sequence[str]) -> None:
    """Writes `<class id>\\t<label>\\t<name>` lines in label order, whole or not at all."""
    with atomic_path(path) as partial:
        _write_lines(partial, _name_lines(classes, class_names))


def write_data_dir(
    output_dir: str | os.PathLike,
    train: ImageMap,
    val: ImageMap,
    classes: Sequence[str],
    class_names: Sequence[str] | None = None,
    relative_paths: bool = False,
) -> list[str]:
    """Writes both maps, the class list and, if names are given, `classnames.txt`; returns the paths of the files.

    All are on the disk before the first takes its name, so a full disk leaves older files as they were. An older
    `classnames.txt` is removed if no names are given, since it may belong to other classes. Without training images no
    map of them is written. With `relative_paths` the paths of the images are written relative to `output_dir`, links
    unresolved.

    Raises:
        UserError: the folder cannot be made or written, or the disk is full.
    """
    images = {TRAIN_MAP: train, VAL_MAP: val} if len(train) else {VAL_MAP: val}
    contents = {
        name: _map_lines(
            zip(_relative(found, output_dir) if relative_paths else found.paths, found.labels, strict=True)
        )
        for name, found in images.items()
    } | {
        CLASS_MAPPINGS: _class_lines(classes),
    }
    named = os.path.join(output_dir, CLASS_NAMES)
    if class_names is not None:
        contents[CLASS_NAMES] = _name_lines(classes, class_names)
    finals = [os.path.join(output_dir, name) for name in contents]
    with contextlib.ExitStack() as stack:
        # All are on the disk, under partial names, before the first one takes its final name.
        for final, lines in zip(finals, contents.values(), strict=True):
            _write_lines(stack.enter_context(atomic_path(final)), lines)
    for name, found in images.items():
        _write_index(os.path.join(output_dir, name), found)
    if class_names is None and os.path.lexists(named):
        try:
            os.unlink(named)
        except OSError as error:
            raise UserError(f"{named} may belong to other classes: remove it ({error.strerror}).") from None
    return finals


def _read_lines(file: BinaryIO) -> tuple[bytes, bytes]:
    """Reads the lines of a map, with LF; returns the folder that all of them begin with, and the lines without it.

    It reads in pieces, since a copy of the whole would double the memory needed.
    """
    pieces: list[bytes] = []
    folder = None
    while piece := file.read(_PIECE):
        piece = (piece + file.readline()).replace(b"\r\n", b"\n")
        piece = b"\n" + piece.removesuffix(b"\n")
        if folder is None:
            first = piece[1:].split(b"\t", 1)[0]
            folder = first[: first.rfind(b"/") + 1]
        count, longest = piece.count(b"\n"), folder
        while folder and piece.count(b"\n" + folder) < count:
            folder = folder[: folder[:-1].rfind(b"/") + 1]
        if added := longest[len(folder) :]:
            pieces = [before.replace(b"\n", b"\n" + added) for before in pieces]
        pieces.append(piece.replace(b"\n" + folder, b"\n"))
    if folder is None:
        return b"", b""
    pieces[0] = pieces[0][1:]
    pieces.append(b"\n")
    return folder, b"".join(pieces)


def _plain_rows(text: bytes, limit: int) -> tuple[Sequence[int], Sequence[int]] | None:
    """Where the paths begin and the labels, or None if any line is other than `prepare` writes it."""
    import numpy as np

    if not text:
        return None
    codes = np.frombuffer(text, np.uint8)
    position = np.uint32 if len(text) < 2**32 else np.int64
    # In pieces, since a mask of the whole file would double the memory needed.
    pieces = range(0, len(codes), _PIECE)
    marks = np.concatenate(
        [(at + np.flatnonzero(codes[at : at + _PIECE] <= ord("\r"))).astype(position) for at in pieces]
    )
    tabs, ends = marks[::2], marks[1::2]
    if len(tabs) != len(ends) or (codes[tabs] != ord("\t")).any() or (codes[ends] != ord("\n")).any():
        return None
    starts = np.concatenate([np.zeros(1, position), ends[:-1] + 1], dtype=position)
    widths = ends - tabs - 1
    if (tabs == starts).any() or widths.min() < 1 or widths.max() > 9:
        return None
    labels = np.zeros(len(tabs), np.int32)
    for place in range(widths.max()):
        inside = place < widths
        # What is below '0' wraps around to above 9.
        digits = codes[tabs[inside] + 1 + place] - np.uint8(ord("0"))
        if (digits > 9).any():
            return None
        labels[inside] = labels[inside] * 10 + digits
    if labels.max() >= limit:
        return None
    return array("I" if position is np.uint32 else "q", starts.tobytes()), array("i", labels.tobytes())


def _checked_rows(text: bytes, limit: int, path: str | os.PathLike) -> tuple[Sequence[int], Sequence[int]]:
    """As `_plain_rows`, line by line: reads what else is allowed, and tells what is not."""
    starts, labels = array("q"), array("i")
    problems: list[str] = []
    end = 0
    for number, line in enumerate(io.BytesIO(text), 1):
        start, end = end, end + len(line)
        columns, tab, label = line.decode(**_TEXT).rstrip("\r\n").rpartition("\t")
        name = columns.rpartition("\t")[2]
        # isdigit() alone also takes digits such as '²', which int() refuses.
        if not (name and label.isdecimal()):
            whole = columns + tab + label
            if name:
                problems.append(f"line {number}: label {label!r} is not an integer of 0 or above")
            elif whole.strip():
                problems.append(f"line {number}: no TAB between path and label: {_clip(whole)!r}")
        # int() refuses thousands of digits.
        elif len(label) > 18 or int(label) >= limit:
            problems.append(
                f"line {number}: label {_clip(label)} is outside the {limit:,} classes (0 to {limit - 1:,})"
            )
        else:
            before_label = line.rpartition(b"\t")[0]
            starts.append(start + before_label.rfind(b"\t") + 1)
            labels.append(int(label))
    raise_if_any(problems, f"{path}: expected lines of <path> TAB <integer label>; correct it or {_ANEW}")
    return starts, labels


def _is_missing(path: bytes) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        # There may be a file, which cannot be reached: reading it tells why.
        return False
    return False


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


def _relative(images: ImageMap, folder: str | os.PathLike) -> Iterator[str]:
    relatives: dict[str, str] = {}
    for row, path in enumerate(images.paths):
        if images.is_archived(row):
            parent = images.locations.archives[images.locations.archive[row]].path
            name = path[len(parent) :]
            if parent not in relatives:
                relatives[parent] = os.path.relpath(parent, folder)
            yield relatives[parent] + name
            continue
        parent, name = os.path.split(path)
        # relpath() is slow, and images share their folders.
        if parent not in relatives:
            relatives[parent] = os.path.relpath(parent, folder)
        yield os.path.join(relatives[parent], name)


def _map_lines(rows: Iterable[tuple[str, int]]) -> Iterator[str]:
    return (f"{to_utf8(name)}\t{label}\n" for name, label in rows)


def _class_lines(classes: Iterable[str]) -> Iterator[str]:
    return _map_lines((name, label) for label, name in enumerate(classes))


def _name_lines(classes: Iterable[str], class_names: Iterable[str]) -> Iterator[str]:
    pairs = zip(classes, class_names, strict=True)
    return (f"{to_utf8(class_id)}\t{label}\t{name}\n" for label, (class_id, name) in enumerate(pairs))


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
