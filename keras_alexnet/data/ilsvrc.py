"""Finds the images of ILSVRC2012, or of any class-per-folder tree, and their labels. Standard library only.

The scan lists folders and opens no image: a kind of file is known by its suffix, and nothing is asked of the disk per
file, except where it is a link. Links are followed and written as they are.
"""

import os
import re
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from keras_alexnet.data import maps
from keras_alexnet.data.annotations import annotated_label
from keras_alexnet.data.split import split
from keras_alexnet.errors import raise_if_any
from keras_alexnet.file_names import from_utf8

SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".gif", ".webp")
SYNSET_MAPPING = "LOC_synset_mapping.txt"

# Called with (done, total, what is counted), often.
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class ImageFolders:
    """What a scan found.

    Attributes:
        classes: the class ids, in label order.
        class_names: a readable name per class, or None if there is no `LOC_synset_mapping.txt`.
        train: the training images, by class and then by path.
        val: the validation images, by path, or like `train` if folders tell their classes.
    """

    classes: Sequence[str]
    class_names: Sequence[str] | None
    train: maps.ImageMap
    val: maps.ImageMap


def scan(
    train_dir: str,
    val_dir: str | None,
    annotations_dir: str | None,
    synset_mapping: str | None = None,
    progress: Progress | None = None,
    *,
    val_fraction: float | None = None,
    split_seed: int = 0,
    pass_links: bool = False,
) -> ImageFolders:
    """Finds the images and labels of a training tree and a validation folder.

    Args:
        train_dir: one folder of images per class, as for `scan_training`.
        val_dir: the validation images, as for `scan_validation`; None with `val_fraction`.
        annotations_dir: an XML file per validation image. If it is empty or None, `val_dir` has a folder of images per
            class, as for `scan_validation_tree`.
        synset_mapping: ILSVRC's `LOC_synset_mapping.txt`, if there is one.
        progress: called with (done, total, what is counted).
        val_fraction: take this part of the training images as validation images instead, as `split` does.
        split_seed: another seed gives another split.
        pass_links: take symbolic links for images without looking where they lead, since `images.check` will.

    Raises:
        UserError: names all that is wrong in any of them (the first ten, and how many).
    """
    problems: list[str] = []
    classes, train = scan_training(train_dir, problems, progress, pass_links)
    if val_fraction is not None:
        train, val = split(train, classes, val_fraction, split_seed, problems)
    elif annotations_dir:
        val = scan_validation(val_dir, annotations_dir, classes, problems, progress, pass_links)
    else:
        val = scan_validation_tree(val_dir, classes, problems, progress, pass_links)
    class_names = read_class_names(synset_mapping, classes, problems) if synset_mapping else None
    raise_if_any(problems, "the images cannot be used as they are, nothing was written")
    return ImageFolders(classes, class_names, train, val)


def scan_training(
    train_dir: str, problems: list[str], progress: Progress | None = None, pass_links: bool = False
) -> tuple[list[str], maps.ImageMap]:
    """Finds the images of a tree with one folder per class.

    Args:
        train_dir: holds the class folders, each of which holds its images directly.
        problems: what is wrong is appended here, for `errors.raise_if_any`.
        progress: called with (done, total, what is counted).
        pass_links: as for `scan`.

    Returns:
        The class ids, which are the folder names in the order of their code points, and the images with absolute paths
        by class and then by path. A label is a position in the class ids.
    """
    train_dir = os.path.abspath(train_dir)
    folders = _class_folders(train_dir, "training folder", "--train_dir", problems)
    problems.extend(_alike(folders))
    classes = list(folders)
    label_of = {class_id: label for label, class_id in enumerate(classes)}
    return classes, _images_of_classes(train_dir, folders, label_of, problems, progress, pass_links)


def scan_validation_tree(
    val_dir: str,
    classes: Sequence[str],
    problems: list[str],
    progress: Progress | None = None,
    pass_links: bool = False,
) -> maps.ImageMap:
    """Finds the validation images of a tree with one folder per class, as `scan_training` does.

    Args:
        val_dir: holds the class folders, some or all of `classes`.
        classes: the class ids, in label order.
        problems: what is wrong is appended here, for `errors.raise_if_any`.
        progress: called with (done, total, what is counted).
        pass_links: as for `scan`.
    """
    val_dir = os.path.abspath(val_dir)
    folders = _class_folders(val_dir, "validation folder", "--val_dir", problems)
    label_of = {class_id: label for label, class_id in enumerate(classes)}
    if classes:
        problems.extend(
            f"validation folder {folder} is none of the {len(classes):,} training classes: expected a folder of the "
            "same name among the training images; rename or remove it"
            for class_id, folder in folders.items()
            if class_id not in label_of
        )
    known = {class_id: folder for class_id, folder in folders.items() if class_id in label_of}
    return _images_of_classes(val_dir, known, label_of, problems, progress, pass_links)


def scan_validation(
    val_dir: str,
    annotations_dir: str,
    classes: Sequence[str],
    problems: list[str],
    progress: Progress | None = None,
    pass_links: bool = False,
) -> maps.ImageMap:
    """Finds validation images and reads their labels from the annotations.

    Args:
        val_dir: holds the images directly.
        annotations_dir: holds `<image name without suffix>.xml`, whose `object/name` elements name one class.
        classes: the class ids, in label order.
        problems: what is wrong is appended here, for `errors.raise_if_any`.
        progress: called with (done, total, what is counted).
        pass_links: as for `scan`.

    Returns:
        The images with absolute paths, sorted by path.
    """
    val_dir, annotations_dir = os.path.abspath(val_dir), os.path.abspath(annotations_dir)
    problems.extend(_breaking_lines([val_dir]))
    images = _images(val_dir, "validation folder", problems, pass_links)
    paths: list[str] = []
    labels = array("i")
    if not os.path.isdir(annotations_dir):
        problems.append(
            f"annotations folder {annotations_dir} does not exist or is no folder: give the one that holds "
            "an XML file per validation image, with --val_annotations_dir"
        )
    elif classes:
        label_of = {class_id: label for label, class_id in enumerate(classes)}
        image_of: dict[str, str] = {}
        start = len(os.path.join(val_dir, ""))
        for number, path in enumerate(images, 1):
            stem = path[start:].rpartition(".")[0]
            first = image_of.setdefault(stem, path)
            if first is not path:
                problems.append(
                    f"{path} and {first} share one annotation, {stem}.xml: expected one image of that "
                    "name; remove or rename the other"
                )
            else:
                label = annotated_label(f"{annotations_dir}/{stem}.xml", path, label_of, problems)
                if label is not None:
                    paths.append(path)
                    labels.append(label)
            if progress:
                progress(number, len(images), "annotations")
    return maps.ImageMap(paths, labels, source=val_dir)


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
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            for line in file:
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


def _class_folders(tree_dir: str, what: str, flag: str, problems: list[str]) -> dict[str, str]:
    """The path of each folder in `tree_dir` by its name, in the order of the names' bytes."""
    problems.extend(_breaking_lines([tree_dir]))
    folders: dict[str, str] = {}
    try:
        with os.scandir(tree_dir) as entries:
            names = [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
            names.sort(key=os.fsencode)  # The same order under every locale.
            folders = {name: os.path.join(tree_dir, name) for name in names}
    except OSError as error:
        problems.append(_unreadable(what, tree_dir, error))
    else:
        if not folders:
            problems.append(
                f"{what} {tree_dir} has no class folders: expected one folder of images per "
                f"class in it; unpack the images so, or give another {flag}"
            )
    problems.extend(_breaking_lines(list(folders.values()), len(os.path.join(tree_dir, ""))))
    return folders


def _images_of_classes(
    tree_dir: str,
    folders: Mapping[str, str],
    label_of: Mapping[str, int],
    problems: list[str],
    progress: Progress | None,
    pass_links: bool,
) -> maps.ImageMap:
    # Of ILSVRC's files alone the name tells the class: 3_12.png may well be a 7, and cat_and_dog.jpg a dog.
    telling = {class_id for class_id in label_of if re.fullmatch(r"n\d{8}", class_id)}
    paths: list[str] = []
    labels = array("i")
    for done, (class_id, folder) in enumerate(folders.items(), 1):
        found = _images(folder, "class folder", problems, pass_links)
        problems.extend(_wrong_folder(found, class_id, telling))
        paths += found
        labels.extend([label_of[class_id]] * len(found))
        if progress:
            progress(done, len(folders), "class folders")
    return maps.ImageMap(paths, labels, source=tree_dir)


def _alike(folders: Mapping[str, str]) -> Iterator[str]:
    """Class folders such as `Cat` and `cat`, which on many disks cannot be side by side."""
    for _, alike in groupby(sorted(folders, key=str.lower), str.lower):
        for first, second in pairwise(alike):
            yield (
                f"class folders {folders[first]} and {folders[second]} differ only in case, so many disks cannot hold "
                "both: expected different names; move the images into one of them, or rename it"
            )


def _images(folder: str, what: str, problems: list[str], pass_links: bool) -> list[str]:
    """The sorted paths of the images that lie directly in `folder`."""
    paths: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if not name.lower().endswith(SUFFIXES) or name.startswith("."):
                    continue
                if (pass_links and entry.is_symlink()) or entry.is_file():
                    paths.append(entry.path)
                elif entry.is_symlink() and not entry.is_dir():
                    problems.append(f"{entry.path} is a broken link: expected an image; mend or remove the link")
    except OSError as error:
        problems.append(_unreadable(what, folder, error))
        return []
    if not paths:
        problems.append(
            f"{what} {folder} has no images: expected {' '.join(SUFFIXES)} files directly in it; put them "
            "there, or remove or replace the folder"
        )
    paths.sort()
    problems.extend(_breaking_lines(paths, len(os.path.join(folder, ""))))
    return paths


def _unreadable(what: str, folder: str, error: OSError) -> str:
    return (
        f"{what} {error.filename or folder}: {error.strerror}; expected a folder of images that can be read; "
        "correct the path or its permissions"
    )


def _breaking_lines(paths: Sequence[str], start: int = 0) -> Iterator[str]:
    """The paths that from position `start` have a TAB or a line break, which are what divides a map file."""
    joined = "".join(paths)
    if any(mark in joined for mark in "\t\n\r"):
        for path in paths:
            if any(mark in path[start:] for mark in "\t\n\r"):
                yield f"{path!r} has a TAB or a line break in its name, which a map file cannot hold: rename it"


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
