"""Trees of images: a folder per class, or one folder of images, on the disk or inside an archive.

Links are followed and written as they are.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from keras_alexnet.data.archives.directory import Mapper, Progress
from keras_alexnet.data.image_rows import ImageRows
from keras_alexnet.data.image_search import LeftOut


class ScanOptions(NamedTuple):
    """How trees are searched.

    Attributes:
        progress: called with (done, total, what is counted), often.
        pass_links: take symbolic links for images without looking where they lead, since `checking.check` will.
        mapper: computes a function of each archive.
        used: files and folders that are not left out, as they are read for another purpose.
    """

    progress: Progress | None = None
    pass_links: bool = False
    mapper: Mapper = map
    used: Collection[str] = ()


class Tree(ABC):
    """Images by folder. What is wrong is appended to `problems`, for `errors.raise_if_any`.

    Attributes:
        source: the folder, or the archive.
        root: the folder that holds the images of a tree that has no class folders.
        left_out: what was found that is not taken.
    """

    source: str
    root: str

    def __init__(self, options: ScanOptions) -> None:
        self.left_out = LeftOut(options.used)
        self._nested: dict[str, int] = {}  # how many images are in which folders below those that were asked for

    @abstractmethod
    def class_folders(self, what: str, flag: str, problems: list[str]) -> dict[str, str]:
        """The path of each folder in it by its name, in the order of the names' bytes."""

    @abstractmethod
    def add_images(self, folder: str, what: str, rows: ImageRows, problems: list[str]) -> list[str]:
        """Adds the images in one of the class folders, or the root, to `rows`; returns their paths, sorted.

        Those in folders below it are among them. Messages call it `what`.
        """

    def notes(self) -> Iterator[str]:
        """What a user should know once the images have been added."""
        if self._nested:
            yield f"{sum(self._nested.values()):,} images come from subfolders, such as {next(iter(self._nested))}"
        if self.left_out:
            yield f"Left out of {self.source}: {self.left_out.describe()}"

    def _check_places(
        self, what: str, folder: str, counts: Mapping[str, int], left_out: LeftOut, problems: list[str]
    ) -> None:
        """Takes note of where a folder has its images: `counts` of them in each folder that has some."""
        if not counts:
            problems.append(
                f"{what} {folder} has no images{what_else(left_out)}: expected JPEG, PNG or other images; put some "
                "there, or remove or replace the folder"
            )
        elif folder not in counts and len(counts) > 1:
            problems.append(
                f"{what} {folder} has no images itself, but {len(counts):,} folders below it have, such as "
                f"{next(iter(counts))}: expected images directly in it, or in one folder below it; pass the folder "
                "whose subfolders are the classes, or move the images"
            )
        self._nested |= {parent: count for parent, count in counts.items() if parent != folder}


def what_else(left_out: LeftOut) -> str:
    """For messages: what there is in place of images."""
    return f", but {left_out.describe()}" if left_out else ""


def breaking_lines(paths: Sequence[str], start: int = 0) -> Iterator[str]:
    """The paths that from position `start` have a TAB or a line break, which are what divides a map file."""
    concatenated = "".join(paths)
    if any(mark in concatenated for mark in "\t\n\r"):
        for path in paths:
            if any(mark in path[start:] for mark in "\t\n\r"):
                yield f"{path!r} has a TAB or a line break in its name, which a map file cannot hold: rename it"
