"""Writes the files of a data set: both maps, and the classes."""

import contextlib
import functools
import os
from collections.abc import Iterable, Iterator, Sequence

from keras_alexnet.data.class_mappings import CLASS_MAPPINGS, CLASS_NAMES, class_lines, name_lines
from keras_alexnet.data.image_map import ImageMap
from keras_alexnet.data.map_file import TRAIN_MAP, VAL_MAP, map_lines, write_index
from keras_alexnet.data.tab_separated import write_lines
from keras_alexnet.errors import UserError
from keras_alexnet.system.atomic import atomic_path


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
    contents: dict[str, Iterable[str]] = {}
    for name, found in images.items():
        paths = _relative(found, output_dir) if relative_paths else found.paths
        contents[name] = map_lines(zip(paths, found.labels, strict=True))
    contents[CLASS_MAPPINGS] = class_lines(classes)
    if class_names is not None:
        contents[CLASS_NAMES] = name_lines(classes, class_names)
    finals = [os.path.join(output_dir, name) for name in contents]
    with contextlib.ExitStack() as stack:
        # All are on the disk, under partial names, before the first one takes its final name.
        for final, lines in zip(finals, contents.values(), strict=True):
            write_lines(stack.enter_context(atomic_path(final)), lines)
    for name, found in images.items():
        write_index(os.path.join(output_dir, name), found)
    if class_names is None and os.path.lexists(named := os.path.join(output_dir, CLASS_NAMES)):
        try:
            os.unlink(named)
        except OSError as error:
            raise UserError(f"{named} may belong to other classes: remove it ({error.strerror}).") from None
    return finals


def _relative(images: ImageMap, folder: str | os.PathLike) -> Iterator[str]:
    # relpath() is slow, and images share their folders.
    relative = functools.cache(lambda path: os.path.relpath(path, folder))
    for row, path in enumerate(images.paths):
        if images.is_archived(row):
            archive = images.locations.archives[images.locations.archive[row]].path
            yield relative(archive) + path[len(archive) :]
        else:
            parent, name = os.path.split(path)
            yield os.path.join(relative(parent), name)
