"""Finds the images of ILSVRC2012, or of any class-per-folder tree, and their labels. Standard library only.

The scan lists folders and opens no image: a kind of file is known by its suffix, and nothing is asked of the disk per
file, except where it is a link. Links are followed and written as they are.
"""

import os
import re
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from keras_alexnet.data import maps
from keras_alexnet.data.annotations import annotated_label
from keras_alexnet.errors import raise_if_any

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
        val: the validation images, by path.
    """

    classes: Sequence[str]
    class_names: Sequence[str] | None
    train: maps.ImageMap
    val: maps.ImageMap


def scan(
    train_dir: str,
    val_dir: str,
    annotations_dir: str,
    synset_mapping: str | None = None,
    progress: Progress | None = None,
) -> ImageFolders:
    """Finds the images and labels of a training tree and a validation folder.

    Args:
        train_dir: one folder of images per class, as for `scan_training`.
        val_dir: the validation images, as for `scan_validation`.
        annotations_dir: an XML file per validation image.
        synset_mapping: ILSVRC's `LOC_synset_mapping.txt`, if there is one.
        progress: called with (done, total, what is counted).

    Raises:
        UserError: names all that is wrong in any of them (the first ten, and how many).
    """
    problems: list[str] = []
    classes, train = scan_training(train_dir, problems, progress)
    val = scan_validation(val_dir, annotations_dir, classes, problems, progress)
    class_names = read_class_names(synset_mapping, classes, problems) if synset_mapping else None
    raise_if_any(problems, "the images cannot be used as they are, nothing was written")
    return ImageFolders(classes, class_names, train, val)


def scan_training(
    train_dir: str, problems: list[str], progress: Progress | None = None
) -> tuple[list[str], maps.ImageMap]:
    """Finds the images of a tree with one folder per class.

    Args:
        train_dir: holds the class folders, each of which holds its images directly.
        problems: what is wrong is appended here, for `errors.raise_if_any`.
        progress: called with (done, total, what is counted).

    Returns:
        The class ids, which are the folder names in the order of their code points, and the images with absolute paths
        by class and then by path. A label is a position in the class ids.
    """
    train_dir = os.path.abspath(train_dir)
    problems.extend(_breaking_lines([train_dir]))
    folders = sorted(_class_folders(train_dir, problems))
    problems.extend(_breaking_lines(folders, len(os.path.join(train_dir, ""))))
    classes = [os.path.basename(folder) for folder in folders]
    # Of ILSVRC's files alone the name tells the class: 3_12.png may well be a 7, and cat_and_dog.jpg a dog.
    telling = {class_id for class_id in classes if re.fullmatch(r"n\d{8}", class_id)}
    paths: list[str] = []
    labels = array("i")
    for label, (class_id, folder) in enumerate(zip(classes, folders, strict=True)):
        found = _images(folder, "class folder", problems)
        problems.extend(_wrong_folder(found, class_id, telling))
        paths += found
        labels.extend([label] * len(found))
        if progress:
            progress(label + 1, len(classes), "class folders")
    return classes, maps.ImageMap(paths, labels, source=train_dir)


def scan_validation(
    val_dir: str, annotations_dir: str, classes: Sequence[str], problems: list[str], progress: Progress | None = None
) -> maps.ImageMap:
    """Finds validation images and reads their labels from the annotations.

    Args:
        val_dir: holds the images directly.
        annotations_dir: holds `<image name without suffix>.xml`, whose `object/name` elements name one class.
        classes: the class ids, in label order.
        problems: what is wrong is appended here, for `errors.raise_if_any`.
        progress: called with (done, total, what is counted).

    Returns:
        The images with absolute paths, sorted by path.
    """
    val_dir, annotations_dir = os.path.abspath(val_dir), os.path.abspath(annotations_dir)
    problems.extend(_breaking_lines([val_dir]))
    images = _images(val_dir, "validation folder", problems)
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
                    names[class_id] = " ".join(rest[0].split())
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


def _class_folders(train_dir: str, problems: list[str]) -> list[str]:
    folders: list[str] = []
    try:
        with os.scandir(train_dir) as entries:
            folders += [entry.path for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    except OSError as error:
        problems.append(_unreadable("training folder", train_dir, error))
    else:
        if not folders:
            problems.append(
                f"training folder {train_dir} has no class folders: expected one folder of images per "
                "class in it; unpack the images so, or give another --train_dir"
            )
    return folders


def _images(folder: str, what: str, problems: list[str]) -> list[str]:
    """The sorted paths of the images that lie directly in `folder`."""
    paths: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if not name.lower().endswith(SUFFIXES) or name.startswith("."):
                    continue
                if entry.is_file():
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
