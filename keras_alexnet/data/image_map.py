"""Images and their labels, as the maps of a data set have them. Needs NumPy, and no framework."""

import os
import re
import reprlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from keras_alexnet.data.archives.locations import ArchivedImage, Locations
from keras_alexnet.errors import UserError

# A path that may be that of an image inside an archive, and where its archive would end.
_ARCHIVED = re.compile(rb"(.*?[^/])(@[/\\].*)", re.DOTALL)


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
    locations: Locations | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if len(self.paths) != len(self.labels):
            raise UserError(
                f"{self.source} has {len(self.paths):,} paths and {len(self.labels):,} labels; expected one each."
            )

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

    def image(self, row: int) -> str | ArchivedImage:
        """The image of a row, as another process can be given it: its path, or where it is in an archive."""
        path = self.paths[row]
        return self.locations.image(row, path) if self.is_archived(row) else path

    def images(self) -> list[str | ArchivedImage]:
        """All images, as `image` gives them."""
        return list(self.paths) if self.locations is None else [self.image(row) for row in range(len(self))]

    def take(self, rows: Sequence[int]) -> "ImageMap":
        """A map of some rows: their numbers, or a NumPy array of a bool per row."""
        if isinstance(rows, np.ndarray) and rows.dtype.kind == "b":
            if rows.shape != (len(self),):
                raise UserError(
                    f"the mask has the shape {rows.shape}; expected one bool for each of {len(self):,} rows."
                )
            rows = np.flatnonzero(rows).tolist()
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


def check_map(images: object) -> None:
    """Raises `UserError` for anything but a map, such as the path of one."""
    if not isinstance(images, ImageMap):
        raise UserError(f"the images are {reprlib.repr(images)}; expected a map, such as read_map returns.")


def sample_rows(total: int, count: int) -> list[int]:
    """Up to `count` of the rows 0 to `total` - 1, evenly spread."""
    count = min(total, count)
    return [row * total // count for row in range(count)]


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
    if not all(map(is_missing, sampled)):
        return
    examples = [f"  {os.fsdecode(path)}" for path in sampled[:3]] + ["  …"] * (len(sampled) > 3)
    archived = _ARCHIVED.match(sampled[0])
    raise UserError(
        f"the images of {image_map.source} are missing: none of {len(sampled):,} evenly sampled paths exists:\n"
        + "\n".join(examples)
        + (f"\nThe archive {os.fsdecode(archived[1])} does not exist." if archived else "")
        + f"\nOf the first path, only {_deepest_folder(os.fsdecode(sampled[0]))} exists."
        + ("\nThe paths have quotation marks around them. Remove those." if sampled[0].endswith(b'"') else "")
        + "\nIs their disk mounted? If they have been moved, run python -m keras_alexnet.prepare again; with "
        "--relative_paths it writes maps that can be moved together with their images."
    )


def _deepest_folder(path: str) -> str:
    """The part of a path that exists."""
    while not os.path.exists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path


def is_missing(path: bytes) -> bool:
    """Whether there is no file of this name, as far as can be seen."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        pass  # The file may exist but be out of reach: reading it shows why.
    return False
