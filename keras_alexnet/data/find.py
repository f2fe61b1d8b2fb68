"""Finds the image files that somebody names: files, folders, patterns, or a list. Standard library only."""

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

from keras_alexnet.data.ilsvrc import SUFFIXES


def find_images(
    arguments: Sequence[str | os.PathLike], listed: BinaryIO | None = None
) -> tuple[list[str], list[tuple[str, str]]]:
    """Finds images by the names of files, folders and patterns.

    Args:
        arguments: a file is taken whatever its suffix is. Of a folder, and of those in it, all files with the suffix of
            an image are taken, in the order of their names; but not hidden ones. Where there is no file of that name,
            it may be a pattern, in which `*`, `?` and `[…]` stand for parts of names and `**` for folders. "-" stands
            for the paths of files and folders in `listed`.
        listed: paths, one a line, or each ended by a zero byte, as `find -print0` writes them. Standard input, if it is
            None.

    Returns:
        The paths, each once, and (argument, what is wrong with it) for those that stand for no image.
    """
    paths: dict[str, None] = {}
    problems: list[tuple[str, str]] = []
    for argument, is_pattern in _arguments(arguments, listed):
        if os.path.isdir(argument):
            found = list(_images_below(argument))
            problem = f"the folder has no images ({', '.join(SUFFIXES)})"
        elif is_pattern and glob.has_magic(argument) and not os.path.lexists(argument):
            matches = sorted(glob.glob(argument, recursive=True))
            found = [path for match in matches for path in (_images_below(match) if os.path.isdir(match) else [match])]
            problem = "no image has a name like that"
        else:
            found = [argument] if os.path.exists(argument) else []
            problem = "there is no such file or folder"
        paths.update(dict.fromkeys(found))
        if not found:
            problems.append((argument, problem))
    return list(paths), problems


def _arguments(arguments: Iterable[str | os.PathLike], listed: BinaryIO | None) -> Iterator[tuple[str, bool]]:
    """Each argument, and whether it may be a pattern."""
    for argument in map(os.fspath, arguments):
        if argument != "-":
            yield argument, True
            continue
        content = (listed or sys.stdin.buffer).read()
        lines = content.split(b"\0") if b"\0" in content else content.splitlines()
        for line in filter(None, lines):
            yield os.fsdecode(line), False


def _images_below(folder: str) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield os.path.join(parent, name)
