"""Trees of images: a folder per class, or one folder of images, on the disk or inside an archive.

Standard library only. Links are followed and written as they are.
"""

import os
from collections.abc import Iterator
from typing import Protocol

from keras_alexnet.data.archives.directory import Mapper, Progress
from keras_alexnet.data.archives.paths import split_archive
from keras_alexnet.data.image_rows import ImageRows
from keras_alexnet.data.image_search import LeftOut
from keras_alexnet.data.scanning.archive_tree import ArchiveTree
from keras_alexnet.data.scanning.folder_tree import FolderTree


class Tree(Protocol):
    """Images by folder. What is wrong is appended to `problems`, for `errors.raise_if_any`.

    Attributes:
        source: the folder, or the archive.
        left_out: what was found that is not taken.
        nested: how many images were found in which folders below those that were asked for.
    """

    source: str
    left_out: LeftOut
    nested: dict[str, int]

    def class_folders(self, what: str, flag: str, problems: list[str]) -> dict[str, str]:
        """The path of each folder in it by its name, in the order of the names' bytes."""

    def add_images(self, folder: str, what: str, rows: ImageRows, problems: list[str]) -> list[str]:
        """Adds the images in a folder and in those below it, sorted, to `rows`; returns their paths.

        Args:
            folder: one of `class_folders`, or the `root`.
            what: what the folder is, for messages.
            rows: where they are added.
            problems: see above.
        """

    @property
    def root(self) -> str:
        """The folder that holds the images of a tree that has no class folders."""


def open_tree(
    path: str | os.PathLike, pass_links: bool = False, mapper: Mapper = map, progress: Progress | None = None
) -> Tree:
    """The tree of a folder, of an archive, or of a folder inside an archive (`<archive>@/<folder>`).

    Args:
        path: where it is.
        pass_links: take symbolic links for images without looking where they lead, since `checking.check` will.
        mapper, progress: as for `read_archive`.

    Raises:
        UserError: the archive is truncated or damaged.
    """
    archived = (os.path.abspath(path), "") if os.path.isfile(path) else split_archive(path)
    if archived:
        return ArchiveTree(*archived, mapper, progress)
    return FolderTree(os.path.abspath(path), pass_links, mapper)


def notes_of(tree: Tree) -> Iterator[str]:
    """What a user should know about a tree whose images have been added."""
    if tree.nested:
        yield f"{sum(tree.nested.values()):,} images come from subfolders, such as {next(iter(tree.nested))}"
    if tree.left_out:
        yield f"Left out of {tree.source}: {tree.left_out.describe()}"
