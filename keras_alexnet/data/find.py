"""Finds the image files that somebody names: files, folders, patterns, or a list."""

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from keras_alexnet.data.archives.paths import split_archive
from keras_alexnet.data.archives.small_files import entries_of
from keras_alexnet.data.image_search import LeftOut, images_below, images_inside
from keras_alexnet.errors import UserError
from keras_alexnet.system.text_file import strip_mark


def find_images(
    arguments: str | os.PathLike | Sequence[str | os.PathLike],
    listed: BinaryIO | None = None,
    left_out: LeftOut | None = None,
) -> tuple[list[str], list[tuple[str, str]]]:
    """Finds images by the names of files, folders and patterns.

    Args:
        arguments: one or several. A file is taken whatever its suffix is. Of a folder, and of those in it and linked to
            it, all images are taken, in the order of their names; but not hidden ones. An image is known by its suffix,
            or by its first bytes where the suffix says nothing. Where there is no file of that name, it may be a
            pattern, in which `*`, `?` and `[…]` stand for parts of names and `**` for folders, and a leading `~` for
            the home folder. `<archive>@/<path>` is an image inside an archive, or a folder of images. "-" stands for
            the paths of files and folders in `listed`.
        listed: paths, one a line, or each ended by a zero byte, as `find -print0` writes them. Standard input, if it is
            None.
        left_out: the other files in folders are added here.

    Returns:
        The paths, and (path or argument, what is wrong with it) for those that give no image. A file of several
        arguments comes once; files in `listed` come as often as they are listed.

    Raises:
        UserError: standard input is closed, or an archive is damaged.
    """
    left_out = LeftOut() if left_out is None else left_out
    paths: list[str] = []
    known: set[str] = set()
    problems: list[tuple[str, str]] = []
    for argument, is_pattern in _arguments(arguments, listed):
        if not os.path.lexists(argument) and (archived := split_archive(argument)):
            inside = _images_inside(*archived, left_out)
            once = is_pattern or list(inside) != ["@/".join(archived)]
            paths += [path for path, problem in inside.items() if not (problem or (once and path in known))]
            known.update(inside)
            problems += [(path, problem) for path, problem in inside.items() if problem]
            if not inside:
                problems.append((argument, "the archive has no such image or folder of images"))
            continue
        before = len(problems)
        found_below = os.path.isdir(argument)
        if found_below:
            found = _images_below(argument, problems, left_out)
            problem = "the folder has no images"
        elif is_pattern and glob.has_magic(argument) and not os.path.lexists(argument):
            # A link to a folder above itself would be followed again and again.
            matches = {os.path.realpath(match): match for match in sorted(glob.glob(argument, recursive=True))[::-1]}
            found = []
            for match in sorted(matches.values()):
                found += _images_below(match, problems, left_out) if os.path.isdir(match) else [match]
            problem = "no image has a name like that"
        else:
            found = [argument] if os.path.lexists(argument) else []
            problem = "there is no such file or folder"
        if not found and len(problems) == before:
            problems.append((argument, problem))
        for path in found:
            if os.path.isfile(path):
                absolute = os.path.abspath(path)
                if absolute not in known or not (is_pattern or found_below):
                    paths.append(path)
                known.add(absolute)
            else:
                # To read from a pipe could take for ever.
                problems.append((path, "it is not a regular file" if os.path.exists(path) else "it leads to no file"))
    return paths, problems


def _arguments(
    arguments: str | os.PathLike | Sequence[str | os.PathLike], listed: BinaryIO | None
) -> Iterator[tuple[str, bool]]:
    """Each argument, and whether it may be a pattern."""
    if isinstance(arguments, str | os.PathLike):
        arguments = [arguments]
    for argument in (os.fspath(argument) for argument in arguments):
        if argument != "-":
            # The shell does not expand it in patterns in quotes.
            yield argument if os.path.lexists(argument) else os.path.expanduser(argument), True
            continue
        if listed is None and sys.stdin is None:
            raise UserError(
                "standard input is closed, and - stands for a list of paths there. Pipe one path per line into the "
                "command."
            )
        content = strip_mark((listed or sys.stdin.buffer).read(), "the list of paths in standard input", has_zeros=True)
        lines = content.split(b"\0") if b"\0" in content else content.replace(b"\r\n", b"\n").split(b"\n")
        for line in filter(None, lines):
            yield os.fsdecode(line), False


def _images_inside(archive: str, inside: str, left_out: LeftOut) -> dict[str, str | None]:
    """The path of an entry of an archive, or those of the images in a folder inside it, and why one cannot be read."""
    entries = entries_of(archive)
    entry = os.fsencode(inside)
    start = entry + b"/" if entry else b""
    if entry in entries.names:
        names = [entry]
    else:
        names = sorted(entries.names[position] for position in images_inside(entries, start, left_out))
    return {f"{archive}@/{os.fsdecode(name)}": entries.unusable.get(name) for name in names}


def _images_below(folder: str, problems: list[tuple[str, str]], left_out: LeftOut) -> list[str]:
    def unreadable(error: OSError) -> None:
        problems.append((str(error.filename), f"cannot look into the folder: {error.strerror}"))

    return [entry.path for _, entries in images_below(folder, left_out, unreadable) for entry in entries]
