"""Finds images and their labels in trees: a folder per class, or one folder of images and their labels elsewhere.

What is wrong is appended to `problems`, for `errors.raise_if_any`, and what a user should know to `notes`. Needs NumPy,
and no framework.
"""

import os
import re
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from keras_alexnet.data.archives.directory import Progress
from keras_alexnet.data.archives.paths import split_archive
from keras_alexnet.data.archives.small_files import exists
from keras_alexnet.data.class_ids import alike_pairs, difference, escaped, similar
from keras_alexnet.data.image_map import ImageMap
from keras_alexnet.data.image_rows import ImageRows
from keras_alexnet.data.scanning.archive_tree import ArchiveTree
from keras_alexnet.data.scanning.folder_tree import FolderTree
from keras_alexnet.data.scanning.trees import ScanOptions, Tree, breaking_lines
from keras_alexnet.data.scanning.val_labels import VAL_ANNOTATIONS, validation_labels

_DEFAULT = ScanOptions()
_NUMBERS = re.compile(r"(\d{1,9})")


def scan_training(
    train_dir: str, problems: list[str], notes: list[str], options: ScanOptions = _DEFAULT
) -> tuple[list[str], ImageMap]:
    """Finds the images of a tree with one folder per class, which holds its images directly or in folders.

    Returns:
        The class ids, which are the folder names in the order of their code points, and the images with absolute paths
        by class and then by path. A label is a position in the class ids.
    """
    tree = _open_tree(train_dir, options)
    folders = tree.class_folders("training folder", "--train_dir", problems)
    problems.extend(_alike(folders))
    classes = list(folders)
    label_of = {class_id: label for label, class_id in enumerate(classes)}
    images = _images_of_classes(tree, folders, label_of, problems, options.progress)
    notes.extend(tree.notes())
    for label, (as_text, as_number) in enumerate(zip(classes, _natural_order(classes), strict=True)):
        if as_text != as_number:
            notes.append(f"Note: class names are sorted as text, so label {label} is class {as_text}, not {as_number}")
            break
    return classes, images


def scan_validation_tree(
    val_dir: str, classes: Sequence[str], problems: list[str], notes: list[str], options: ScanOptions = _DEFAULT
) -> ImageMap:
    """As `scan_training`, for the validation images of some or all of the classes, whose ids are in label order."""
    tree = _open_tree(val_dir, options)
    folders = tree.class_folders("validation folder", "--val_dir", problems)
    label_of = {class_id: label for label, class_id in enumerate(classes)}
    unknown = {class_id: folder for class_id, folder in folders.items() if classes and class_id not in label_of}
    listed = os.path.join(val_dir, VAL_ANNOTATIONS)
    if unknown and os.path.isfile(listed):
        problems.append(f"{listed} lists the classes of the validation images: pass it as --val_labels")
    else:
        problems.extend(
            f"validation folder {folder} is not one of the {len(classes):,} classes{similar(class_id, classes)}: "
            "rename or remove it, or, without training images, pass the list of the classes as --classmappings"
            for class_id, folder in unknown.items()
        )
    known = {class_id: folder for class_id, folder in folders.items() if class_id in label_of}
    images = _images_of_classes(tree, known, label_of, problems, options.progress)
    notes.extend(tree.notes())
    return images


def scan_validation(
    val_dir: str,
    val_labels: str,
    classes: Sequence[str],
    problems: list[str],
    notes: list[str],
    options: ScanOptions = _DEFAULT,
) -> ImageMap:
    """Finds the images of one folder, sorted by path, and their labels, as `val_labels.validation_labels` does."""
    tree = _open_tree(val_dir, options._replace(used={os.path.abspath(val_labels)}))
    problems.extend(breaking_lines([tree.source]))
    rows = ImageRows()
    images = tree.add_images(tree.root, "validation folder", rows, problems)
    notes.extend(tree.notes())
    has_labels = exists(val_labels)
    if not has_labels:
        problems.append(
            f"{val_labels} does not exist: pass the file or folder that has the classes of the validation images "
            "with --val_labels"
        )
    unlabeled = rows.image_map(array("i", [0] * len(rows)), tree.source)
    if not classes or not has_labels:
        return unlabeled
    chosen, labels = validation_labels(os.path.abspath(val_labels), images, classes, problems, options.progress)
    return replace(unlabeled.take(chosen), labels=labels)


def _open_tree(path: str | os.PathLike, options: ScanOptions) -> Tree:
    """The tree of a folder, of an archive, or of a folder inside an archive (`<archive>@/<folder>`)."""
    archived = (os.path.abspath(path), "") if os.path.isfile(path) else split_archive(path)
    return ArchiveTree(*archived, options) if archived else FolderTree(os.path.abspath(path), options)


def _images_of_classes(
    tree: Tree,
    folders: Mapping[str, str],
    label_of: Mapping[str, int],
    problems: list[str],
    progress: Progress | None,
) -> ImageMap:
    # Only the names of ILSVRC's files contain the class: 3_12.png may well be a 7, and cat_and_dog.jpg a dog.
    wordnet_ids = {class_id for class_id in label_of if re.fullmatch(r"n\d{8}", class_id)}
    rows = ImageRows()
    labels = array("i")
    for done, (class_id, folder) in enumerate(folders.items(), 1):
        found = tree.add_images(folder, "class folder", rows, problems)
        problems.extend(_wrong_folder(found, class_id, wordnet_ids))
        labels.extend([label_of[class_id]] * len(found))
        if progress:
            progress(done, len(folders), "class folders")
    return rows.image_map(labels, tree.source)


def _alike(folders: Mapping[str, str]) -> Iterator[str]:
    """Class folders such as `Cat` and `cat`, which on many disks cannot be side by side."""
    for first, second in alike_pairs(folders):
        yield (
            f"class folders {escaped(folders[first])} and {escaped(folders[second])} differ only in "
            f"{difference(first, second)}, so many disks cannot hold both: expected different names; move the images "
            "into one of them, or rename it"
        )


def _natural_order(names: Iterable[str]) -> list[str]:
    """Names in the order of the numbers in them."""
    return sorted(names, key=lambda name: [int(part) if part.isdecimal() else part for part in _NUMBERS.split(name)])


def _wrong_folder(paths: Sequence[str], class_id: str, wordnet_ids: Collection[str]) -> Iterator[str]:
    """Images named `<another class>_…`, so that one copied to a second class folder is found."""
    own, start = f"{class_id}_", len(os.path.dirname(paths[0])) + 1 if paths else 0
    for path in paths:
        if path.startswith(own, start) or (name := os.path.basename(path)).startswith(own):
            continue
        marks = [at for at, letter in enumerate(name) if letter == "_"]
        other = next((name[:at] for at in marks if name[:at] in wordnet_ids), None)
        if other:
            yield (
                f"{path} is named as an image of class {other} but is in the folder of {class_id}: move it to "
                f"{other}, or remove or rename it"
            )
