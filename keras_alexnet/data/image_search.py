"""Searches folders and archives for images, and keeps count of what it leaves out.

No file is opened whose suffix says what it is, and nothing is asked of the disk per file, except where it is a link.
"""

import os
import zlib
from collections.abc import Callable, Collection, Iterator

from keras_alexnet.data.archives.entries import Entries
from keras_alexnet.data.archives.locations import ArchivedImage
from keras_alexnet.data.file_kinds import (
    HEADER_BYTES,
    is_hidden,
    is_image_file,
    is_image_head,
    is_image_name,
    suffix_of,
)

_MAX_KINDS = 8


class LeftOut:
    """Files that a search finds and leaves out, by kind.

    Args:
        used: files, and folders of files, that are not counted, as they are read for another purpose.
    """

    def __init__(self, used: Collection[str] = ()) -> None:
        self._used = tuple(os.path.join(path, "") for path in used)
        self._counts: dict[tuple[str, str], int] = {}  # by the kind in singular and plural
        self._examples: dict[tuple[str, str], str] = {}

    def __bool__(self) -> bool:
        return bool(self._counts)

    def add(self, path: str) -> None:
        """Adds a file, by its suffix."""
        if f"{path}{os.sep}".startswith(self._used):
            return
        suffix = suffix_of(path)
        kind = (f"{suffix} file", f"{suffix} files") if suffix else ("file without a suffix", "files without a suffix")
        self._add(kind, 1, path)

    def add_stray(self, path: str) -> None:
        """Adds an image that is in no class folder."""
        self._add(("image outside the class folders", "images outside the class folders"), 1, path)

    def update(self, other: "LeftOut") -> None:
        """Adds the files of another."""
        for kind, count in other._counts.items():
            self._add(kind, count, other._examples[kind])

    def describe(self) -> str:
        """How many files there are of which kind, with an example of each, in a line."""
        kinds = sorted(self._counts, key=lambda kind: (-self._counts[kind], kind))
        parts = []
        for kind in kinds[:_MAX_KINDS]:
            count = self._counts[kind]
            remedy = "; not supported: convert to JPEG" if kind[0].startswith((".heic", ".heif")) else ""
            parts.append(f"{count:,} {kind[count > 1]} (such as {self._examples[kind]}{remedy})")
        if rest := kinds[_MAX_KINDS:]:
            parts.append(f"{sum(self._counts[kind] for kind in rest):,} of other kinds")
        return ", ".join(parts)

    def _add(self, kind: tuple[str, str], count: int, path: str) -> None:
        self._counts[kind] = self._counts.get(kind, 0) + count
        self._examples[kind] = min(path, self._examples.get(kind, path))  # A disk lists files in any order.


def images_below(
    folder: str, left_out: LeftOut, unreadable: Callable[[OSError], None], seen: set[str] | None = None
) -> Iterator[tuple[str, list[os.DirEntry]]]:
    """Finds the images in a folder and in those below it; follows links, and does not look at hidden ones.

    Args:
        folder: where to search.
        left_out: other files are added here.
        unreadable: called with the error of a folder that cannot be listed.
        seen: the real paths of the folders in which the search has been, to which links may lead back.

    Yields:
        Each folder, by name, and its entries that are images by their suffix, or by their first bytes where the suffix
        says nothing, in the order of their names. A link, or what has the name of an image, need not be a file.
    """
    seen = set() if seen is None else seen
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    images, folders = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_hidden(entry.name):
                    continue
                is_image = is_image_name(entry.name)
                if is_image and entry.is_symlink():
                    images.append(entry)
                elif _is(entry.is_dir):
                    folders.append(entry.path)
                elif is_image or (is_image is None and _is(entry.is_file) and is_image_file(entry.path)):
                    images.append(entry)
                else:
                    left_out.add(entry.path)
    except OSError as error:
        unreadable(error)
        return
    yield folder, sorted(images, key=lambda entry: entry.name)
    for path in sorted(folders):
        yield from images_below(path, left_out, unreadable, seen)


def images_inside(entries: Entries, start: bytes, left_out: LeftOut) -> list[int]:
    """The positions of the images whose names begin with `start`; other files are added to `left_out`, hidden ones not.

    As for files, only where the suffix says nothing are the first bytes read.
    """
    chosen = []
    for position, name in enumerate(entries.names):
        if not name.startswith(start) or is_hidden(path := os.fsdecode(name[len(start) :])):
            continue
        is_image = is_image_name(path)
        if is_image or (is_image is None and _has_image_head(entries, position)):
            chosen.append(position)
        else:
            left_out.add(entries.path(position))
    return chosen


def _has_image_head(entries: Entries, position: int) -> bool:
    try:
        return is_image_head(ArchivedImage.of(entries, position).head(HEADER_BYTES))
    except (OSError, zlib.error):
        return False


def _is(kind: Callable[[], bool]) -> bool:
    """Whether an entry is of a kind; False for a link that leads to itself."""
    try:
        return kind()
    except OSError:
        return False
