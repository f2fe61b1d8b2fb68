"""Map files: which image has which label. Needs NumPy, and no framework."""

import contextlib
import hashlib
import io
import ntpath
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

import numpy as np

from keras_alexnet.data.archives import index
from keras_alexnet.data.archives.paths import split_archive
from keras_alexnet.data.image_map import ImageMap, PathList, is_missing
from keras_alexnet.data.tab_separated import TEXT, WRITE_AGAIN, clip, open_for_reading
from keras_alexnet.errors import UserError, raise_if_any
from keras_alexnet.system.file_names import to_utf8
from keras_alexnet.system.text_file import with_lf

TRAIN_MAP = "train_map.txt"
VAL_MAP = "val_map.txt"

_WINDOWS_ROOT = re.compile(r'"?(?:[A-Za-z]:[\\/]|\\\\)')
_PIECE = 2**22  # bytes of a map that are read at a time


def read_map(path: str | os.PathLike, num_classes: int | None = None) -> ImageMap:
    """Reads a map file of `<path>\\t<integer label>` lines, UTF-8; blank lines are passed over.

    A relative path is relative to the map's folder. CNTK's maps are read as they are: `.../` at the start of a path is
    the map's folder, a column in front of the path (a sequence id) is passed over, and relative paths may have
    backslashes, as on Windows. `<archive>@/<entry>` is an image inside a zip or a tar, if there is such a file.
    Relative paths of a `train_map.txt` that do not exist are those of images inside the `train.zip` next to it, if
    there is one: so Swin Transformer has them.

    Args:
        path: the file.
        num_classes: if given, labels have to be below it.

    Raises:
        UserError: the file is missing or empty, or has lines of another form, or images that are not in their archives;
            the first ten are shown.
    """
    with open_for_reading(path, "a map file, as written by python -m keras_alexnet.prepare") as file:
        common, text = _read_lines(file)
    limit = num_classes if num_classes is not None else 2**31
    folder = os.path.dirname(os.path.abspath(path))
    if _is_from_windows(common, text, folder, path):
        common, text = _read_lines(io.BytesIO(_whole(common, text).replace(b"\\", b"/")))
    if rows := _plain_rows(text, limit):
        starts, labels = rows
        paths = PathList(text, starts, folder, common)
    else:
        text = _whole(common, text)
        starts, labels = _checked_rows(text, limit, path)
        if not starts:
            raise UserError(f"{path} has no images: expected lines of <path> TAB <integer label>; {WRITE_AGAIN}.")
        paths = PathList(text, starts, folder)
        # As prepare writes them.
        plain = (b"%s\t%d\n" % row for row in zip(paths.encoded(range(len(paths))), labels, strict=True))
        _, text = _read_lines(io.BytesIO(b"".join(plain)))
    if archive := _zip_next_to(path, paths):
        paths = paths.inside(archive)
    fingerprint = hashlib.sha256(text).hexdigest()
    locations = None
    if paths.may_be_archived:
        locations = index.read_index(index_file(path), fingerprint, paths) or index.locate(paths, str(path))
    return ImageMap(paths, labels, fingerprint, str(path), locations)


def map_lines(rows: Iterable[tuple[str, int]]) -> Iterator[str]:
    """The lines of a map."""
    return (f"{to_utf8(name)}\t{label}\n" for name, label in rows)


def index_file(map_path: str | os.PathLike) -> str:
    """Where the images of a map are in their archives: `train_map.index.npz` for `train_map.txt`."""
    return f"{os.path.splitext(map_path)[0]}.index.npz"


def write_index(path: str, images: ImageMap) -> None:
    """Writes the index of the archives of a map that has been written, or removes that of an older one."""
    if images.locations is None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(index_file(path))
        return
    with open(path, "rb") as file:
        fingerprint = hashlib.sha256(_read_lines(file)[1]).hexdigest()
    index.write_index(index_file(path), fingerprint, images.locations)


def _zip_next_to(path: str | os.PathLike, paths: PathList) -> bytes | None:
    """The name of the archive that has the images of a map of Swin Transformer; None for any other map."""
    stem, is_map, _ = os.fspath(path).rpartition("_map.txt")
    if not (is_map and os.path.isfile(f"{stem}.zip") and paths.is_relative(0)):
        return None
    first = paths.encoded([0])[0]
    is_found = not is_missing(first) or split_archive(os.fsdecode(first))
    return None if is_found else os.fsencode(f"{os.path.basename(stem)}.zip")


def _read_lines(file: BinaryIO) -> tuple[bytes, bytes]:
    """Reads the lines of a map, with LF; returns the folder that all of them begin with, and the lines without it.

    It reads in pieces, since a copy of the whole would double the memory needed.
    """
    pieces: list[bytes] = []
    folder = None
    while piece := file.read(_PIECE):
        piece = with_lf(piece + file.readline())
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


def _whole(common: bytes, text: bytes) -> bytes:
    """The lines of a map with the folder that all of them begin with."""
    return (b"\n" + text[:-1]).replace(b"\n", b"\n" + common)[1:] + b"\n" if common else text


def _is_from_windows(common: bytes, text: bytes, folder: str, path: str | os.PathLike) -> bool:
    """Whether backslashes in the paths of a map divide folders, which they do not on other systems.

    Raises:
        UserError: the paths begin with a drive or a server.
    """
    if os.name == "nt" or (b"\\" not in text and b":" not in text and b":" not in common):
        return False
    first, last = (os.fsdecode(_path(common, text, at)) for at in (0, len(text) - 2))
    if _WINDOWS_ROOT.match(first):
        shared = ntpath.dirname(first)
        with contextlib.suppress(ValueError):  # They are on different drives.
            shared = ntpath.commonpath([shared, ntpath.dirname(last)])
        raise UserError(
            f"{path} has Windows paths, such as {first}, which do not exist here. Replace {shared} with the folder "
            "that has these images on this machine, and backslashes with slashes, for example with\n"
            f"  sed -e 's|\\\\|/|g' -e 's|{shared.replace(chr(92), '/')}|/NEW/FOLDER|' OLD.txt > NEW.txt"
        )
    at = text.find(b"\\")
    if at < 0 or os.path.isabs(path_with_backslash := _path(common, text, at)):
        return False
    file = os.path.join(os.fsencode(folder), path_with_backslash)
    return is_missing(file) and not split_archive(os.fsdecode(file))


def _path(common: bytes, text: bytes, at: int) -> bytes:
    """The path in the line at a position of the lines of a map."""
    start = text.rfind(b"\n", 0, at) + 1
    return (common + text[start : text.find(b"\n", start)]).rpartition(b"\t")[0].rpartition(b"\t")[2]


def _plain_rows(text: bytes, limit: int) -> tuple[Sequence[int], Sequence[int]] | None:
    """Where the paths begin and the labels, or None if any line is other than `prepare` writes it."""
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
    """As `_plain_rows`, line by line: reads what else is allowed, and reports what is not."""
    starts, labels = array("q"), array("i")
    problems: list[str] = []
    end = 0
    for number, line in enumerate(io.BytesIO(text), 1):
        start, end = end, end + len(line)
        columns, tab, label = line.decode(**TEXT).rstrip("\n").rpartition("\t")
        name = columns.rpartition("\t")[2]
        # isdigit() alone also takes digits such as '²', which int() refuses.
        if not (name and label.isdecimal()):
            whole = columns + tab + label
            if name:
                problems.append(f"line {number}: label {label!r} is not an integer of 0 or above")
            elif whole.strip():
                problems.append(f"line {number}: no TAB between path and label: {clip(whole)!r}")
        # int() refuses thousands of digits.
        elif len(label) > 18 or int(label) >= limit:
            problems.append(f"line {number}: label {clip(label)} is outside the {limit:,} classes (0 to {limit - 1:,})")
        else:
            before_label = line.rpartition(b"\t")[0]
            starts.append(start + before_label.rfind(b"\t") + 1)
            labels.append(int(label))
    raise_if_any(problems, f"{path}: expected lines of <path> TAB <integer label>; correct it or {WRITE_AGAIN}")
    return starts, labels
