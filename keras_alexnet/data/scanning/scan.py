"""Finds the images of ILSVRC2012, or of any class-per-folder tree, and their labels.

Needs NumPy only where there are archives.
"""

import os
import re
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

from keras_alexnet.data import maps
from keras_alexnet.data.archives import files
from keras_alexnet.data.archives.rows import ImageRows
from keras_alexnet.data.archives.scan import Mapper, Progress
from keras_alexnet.data.scanning.ilsvrc2012 import CLASS_IDS
from keras_alexnet.data.scanning.shards import by_name, classes_of, find_shards, read_shards, with_classes
from keras_alexnet.data.scanning.split import split
from keras_alexnet.data.scanning.trees import Tree, breaking_lines, open_tree
from keras_alexnet.data.scanning.val_labels import validation_labels
from keras_alexnet.errors import UserError, raise_if_any
from keras_alexnet.system.file_names import from_utf8

SYNSET_MAPPING = "LOC_synset_mapping.txt"


@dataclass(frozen=True)
class ImageFolders:
    """What a scan found.

    Attributes:
        classes: the class ids, in label order.
        class_names: a readable name per class, or None if there is no `LOC_synset_mapping.txt`.
        train: the training images, by class and then by path; none, if only validation images were looked for.
        val: the validation images, by path, or like `train` if folders tell their classes.
    """

    classes: Sequence[str]
    class_names: Sequence[str] | None
    train: maps.ImageMap
    val: maps.ImageMap


def scan(
    train_dir: str | None,
    val_dir: str | None,
    val_labels: str | None,
    synset_mapping: str | None = None,
    progress: Progress | None = None,
    *,
    classes: Sequence[str] | None = None,
    val_fraction: float | None = None,
    split_seed: int = 0,
    pass_links: bool = False,
    mapper: Mapper = map,
) -> ImageFolders:
    """Finds images and their labels.

    Args:
        train_dir: the training images: one folder per class, as for `scan_training`, or shards, as for `find_shards`.
            None for validation images alone. This and `val_dir` may be archives.
        val_dir: the validation images: shards, or as for `scan_validation`; None with `val_fraction`.
        val_labels: a file or folder with the classes of the validation images, as for `scan_validation`. If it is empty
            or None, `val_dir` has a folder of images per class, as for `scan_validation_tree`, or shards.
        synset_mapping: ILSVRC's `LOC_synset_mapping.txt`, if there is one.
        progress: called with (done, total, what is counted).
        classes: the class ids in label order, for shards, or for validation images alone. If it is None, those in the
            shards, as `classes_of` finds them, or the 1,000 of ILSVRC2012.
        val_fraction: take this part of the training images as validation images instead, as `split` does.
        split_seed: another seed gives another split.
        pass_links, mapper: as for `trees.open_tree`.

    Raises:
        UserError: names all that is wrong in any of them (the first ten, and how many).
    """
    problems: list[str] = []
    train_shards, val_shards = _shards(train_dir, "train"), _shards(val_dir, "val")
    if train_shards and val_shards and (both := sorted({*train_shards} & {*val_shards})):
        raise UserError(
            f"{both[0]} would be taken for training and for validation, as its name does not say which: give patterns "
            "of names with --train_dir and --val_dir, or --train_dir with --val_fraction."
        )
    if val_shards and val_labels:
        raise UserError(f"the shards in {val_dir} have their labels with them: leave out --val_labels.")
    found = None
    if train_shards:
        found = read_shards(train_shards, problems, mapper=mapper)
        classes = classes or classes_of(found, problems)
        train = with_classes(found, classes, problems)
    elif train_dir is not None:
        if classes is not None:
            raise UserError("--classmappings is for shards and for validation images alone: leave it out.")
        classes, train = scan_training(train_dir, problems, progress, pass_links, mapper)
    else:
        train = maps.ImageMap([], array("i"))
    if val_fraction is not None:
        train, val = split(train, classes, val_fraction, split_seed, problems)
    elif val_shards:
        val_found = read_shards(val_shards, problems, found.first_label if found else None, classes, mapper)
        classes = classes or classes_of(val_found, problems)
        val = by_name(with_classes(val_found, classes, problems))
    else:
        classes = CLASS_IDS if classes is None else classes
        if val_labels:
            val = scan_validation(val_dir, val_labels, classes, problems, progress, pass_links, mapper)
        else:
            val = scan_validation_tree(val_dir, classes, problems, progress, pass_links, mapper)
    class_names = read_class_names(synset_mapping, classes, problems) if synset_mapping else None
    raise_if_any(problems, "the images cannot be used as they are, nothing was written")
    return ImageFolders(classes, class_names, train, val)


def _shards(path: str | None, part: str) -> list[str] | None:
    shards = None if path is None else find_shards(path, part)
    if shards == []:
        raise UserError(f"none of the shards in {path} has {part!r} in its name: give a folder that has some.")
    return shards


def scan_training(
    train_dir: str,
    problems: list[str],
    progress: Progress | None = None,
    pass_links: bool = False,
    mapper: Mapper = map,
) -> tuple[list[str], maps.ImageMap]:
    """Finds the images of a tree with one folder per class.

    Args:
        train_dir: holds the class folders, each of which holds its images directly.
        problems: what is wrong is appended here, for `errors.raise_if_any`.
        progress: called with (done, total, what is counted).
        pass_links, mapper: as for `trees.open_tree`.

    Returns:
        The class ids, which are the folder names in the order of their code points, and the images with absolute paths
        by class and then by path. A label is a position in the class ids.
    """
    tree = open_tree(train_dir, pass_links, mapper, progress)
    folders = tree.class_folders("training folder", "--train_dir", problems)
    problems.extend(_alike(folders))
    classes = list(folders)
    label_of = {class_id: label for label, class_id in enumerate(classes)}
    return classes, _images_of_classes(tree, folders, label_of, problems, progress)


def scan_validation_tree(
    val_dir: str,
    classes: Sequence[str],
    problems: list[str],
    progress: Progress | None = None,
    pass_links: bool = False,
    mapper: Mapper = map,
) -> maps.ImageMap:
    """Finds the validation images of a tree with one folder per class, as `scan_training` does.

    Args:
        val_dir: holds the class folders, some or all of `classes`.
        classes: the class ids, in label order.
        problems: what is wrong is appended here, for `errors.raise_if_any`.
        progress: called with (done, total, what is counted).
        pass_links, mapper: as for `trees.open_tree`.
    """
    tree = open_tree(val_dir, pass_links, mapper, progress)
    folders = tree.class_folders("validation folder", "--val_dir", problems)
    label_of = {class_id: label for label, class_id in enumerate(classes)}
    if classes:
        problems.extend(
            f"validation folder {folder} is none of the {len(classes):,} classes: expected the name of one; rename or "
            "remove it, or, without training images, give the list of the classes with --classmappings"
            for class_id, folder in folders.items()
            if class_id not in label_of
        )
    known = {class_id: folder for class_id, folder in folders.items() if class_id in label_of}
    return _images_of_classes(tree, known, label_of, problems, progress)


def scan_validation(
    val_dir: str,
    val_labels: str,
    classes: Sequence[str],
    problems: list[str],
    progress: Progress | None = None,
    pass_links: bool = False,
    mapper: Mapper = map,
) -> maps.ImageMap:
    """Finds validation images and their labels.

    Args:
        val_dir: holds the images directly.
        val_labels: as for `val_labels.validation_labels`.
        classes: the class ids, in label order.
        problems: what is wrong is appended here, for `errors.raise_if_any`.
        progress: called with (done, total, what is counted).
        pass_links, mapper: as for `trees.open_tree`.

    Returns:
        The images with absolute paths, sorted by path.
    """
    tree = open_tree(val_dir, pass_links, mapper, progress)
    problems.extend(breaking_lines([tree.source]))
    rows = ImageRows()
    images = tree.add_images(tree.root, "validation folder", rows, problems)
    has_labels = files.exists(val_labels)
    if not has_labels:
        problems.append(
            f"{val_labels} does not exist: give the file or folder that has the classes of the validation images "
            "with --val_labels"
        )
    if not classes or not has_labels:
        return rows.image_map(array("i", [0] * len(rows)), tree.source)
    chosen, labels = validation_labels(os.path.abspath(val_labels), images, classes, problems, progress)
    return replace(rows.image_map(array("i", [0] * len(rows)), tree.source).take(chosen), labels=labels)


def read_class_names(path: str, classes: Sequence[str], problems: list[str]) -> list[str]:
    """Reads the readable class names from lines such as `n01440764 tench, Tinca tinca`.

    Args:
        path: ILSVRC's `LOC_synset_mapping.txt`; it may have more classes.
        classes: the class ids, in label order.
        problems: what is wrong is appended here, for `errors.raise_if_any`.

    Returns:
        A name per class, in the order of `classes`.
    """
    names: dict[str, str] = {}
    try:
        for line in files.read_file(path).decode("utf-8-sig", "surrogateescape").splitlines():
            class_id, *rest = line.split(maxsplit=1) or [""]
            if rest:
                names[from_utf8(class_id)] = " ".join(rest[0].split())
    except OSError as error:
        problems.append(
            f"cannot read {path}: {error.strerror}; expected lines of '<class id> <names>'; mend or remove it"
        )
        return []
    problems.extend(
        f"{path} has no name for class {class_id}: expected a line '{class_id} <names>'; add it, or move the file away "
        "to do without names"
        for class_id in classes
        if class_id not in names
    )
    return [names.get(class_id, "") for class_id in classes]


def _images_of_classes(
    tree: Tree,
    folders: Mapping[str, str],
    label_of: Mapping[str, int],
    problems: list[str],
    progress: Progress | None,
) -> maps.ImageMap:
    # Of ILSVRC's files alone the name tells the class: 3_12.png may well be a 7, and cat_and_dog.jpg a dog.
    telling = {class_id for class_id in label_of if re.fullmatch(r"n\d{8}", class_id)}
    rows = ImageRows()
    labels = array("i")
    for done, (class_id, folder) in enumerate(folders.items(), 1):
        found = tree.add_images(folder, "class folder", rows, problems)
        problems.extend(_wrong_folder(found, class_id, telling))
        labels.extend([label_of[class_id]] * len(found))
        if progress:
            progress(done, len(folders), "class folders")
    return rows.image_map(labels, tree.source)


def _alike(folders: Mapping[str, str]) -> Iterator[str]:
    """Class folders such as `Cat` and `cat`, which on many disks cannot be side by side."""
    for _, alike in groupby(sorted(folders, key=str.lower), str.lower):
        for first, second in pairwise(alike):
            yield (
                f"class folders {folders[first]} and {folders[second]} differ only in case, so many disks cannot hold "
                "both: expected different names; move the images into one of them, or rename it"
            )


def _wrong_folder(paths: Sequence[str], class_id: str, telling: Collection[str]) -> Iterator[str]:
    """Images named `<another class>_…`, so that one copied to a second class folder is found."""
    own, start = f"{class_id}_", len(os.path.dirname(paths[0])) + 1 if paths else 0
    for path in paths:
        if path.startswith(own, start):
            continue
        name = path[start:]
        marks = [at for at, letter in enumerate(name) if letter == "_"]
        other = next((name[:at] for at in marks if name[:at] in telling), None)
        if other:
            yield (
                f"{path} is named as an image of class {other} but lies in the folder of {class_id}: move it to "
                f"{other}, or remove or rename it"
            )
