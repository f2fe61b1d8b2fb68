"""The labels of ILSVRC2012's validation images, from any of the files that have them. Standard library only."""

import csv
import io
import os
import tarfile
import unicodedata
from array import array
from collections.abc import Sequence

from keras_alexnet.data.archives.directory import Progress
from keras_alexnet.data.archives.paths import split_archive
from keras_alexnet.data.archives.small_files import exists, read_file, reader
from keras_alexnet.data.class_ids import escaped, similar
from keras_alexnet.data.file_kinds import FORMAT_OF_SUFFIX
from keras_alexnet.data.scanning.annotations import annotated_label
from keras_alexnet.data.scanning.ilsvrc2012_classes import CLASS_IDS_BY_ILSVRC2012_ID
from keras_alexnet.errors import UserError
from keras_alexnet.system.file_names import from_utf8
from keras_alexnet.system.text_file import decode

GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
DEVKIT = "ILSVRC2012_devkit_t12"
SOLUTION = "LOC_val_solution.csv"
VAL_ANNOTATIONS = "val_annotations.txt"  # of Tiny ImageNet


def val_annotations(val_dir: str) -> str | None:
    """Tiny ImageNet's list of labels in a folder or archive, unless the images are in class folders since."""
    listed = os.path.join(val_dir, VAL_ANNOTATIONS)
    if not exists(listed):
        return None
    names = os.listdir(val_dir) if os.path.isdir(val_dir) else []
    folders = [name for name in names if os.path.isdir(os.path.join(val_dir, name))]
    return listed if len(folders) < 2 else None


def validation_labels(
    labels_path: str,
    images: Sequence[str],
    classes: Sequence[str],
    problems: list[str],
    progress: Progress | None = None,
) -> tuple[list[int], array]:
    """Finds the labels of validation images.

    Args:
        labels_path: a folder of XML annotations; `LOC_val_solution.csv` of Kaggle, in which the first token of a row's
            prediction is the class; or the devkit, packed or unpacked, or its `ILSVRC2012_validation_ground_truth.txt`,
            whose lines are ILSVRC2012_IDs in the order of the images' names; or a text of `<image>` TAB `<class id>`
            lines, such as Tiny ImageNet's `val_annotations.txt`. May be inside an archive (`<archive>@/…`).
        images: the paths of the images, sorted.
        classes: the class ids, in label order.
        problems: as in `image_folders`.
        progress: called with (done, total, what is counted).

    Returns:
        The positions of the images that have a label, and their labels.
    """
    label_of = {class_id: label for label, class_id in enumerate(classes)}
    ground_truth = labels_path if _is_file(labels_path) else _ground_truth_below(labels_path)
    try:
        if ground_truth is None:
            found = _annotated_labels(labels_path, images, label_of, problems, progress)
        else:
            found = _listed_labels(labels_path, ground_truth, images, label_of, problems)
    except OSError as error:
        problems.append(f"cannot read {labels_path}: {error.strerror or error}; choose another --val_labels")
        found = {}
    return list(found), array("i", found.values())


def _annotated_labels(
    folder: str, images: Sequence[str], label_of: dict[str, int], problems: list[str], progress: Progress | None
) -> dict[int, int]:
    """The labels by position that a folder of XML annotations has."""
    read = reader(folder)
    by_stem = _unambiguous(images, problems)
    found: dict[int, int] = {}
    for number, (stem, position) in enumerate(by_stem.items(), 1):
        label = annotated_label(
            f"{folder}/{stem}.xml", images[position], label_of, problems, lambda path: read(os.path.basename(path))
        )
        if label is not None:
            found[position] = label
        if progress:
            progress(number, len(by_stem), "annotations")
    return found


def _listed_labels(
    labels_path: str, file: str, images: Sequence[str], label_of: dict[str, int], problems: list[str]
) -> dict[int, int]:
    """The labels by position that a file has for all images."""
    class_of = _class_of_images(file)
    if class_of is None:
        named = _ground_truth(file, images, problems) or []
    else:
        named = [class_of.get(_composed(_stem(image))) for image in images]
    found: dict[int, int] = {}
    for position, class_id in enumerate(named):
        if class_id in label_of:
            found[position] = label_of[class_id]
        elif class_id is None:
            problems.append(f"{images[position]} has no row in {labels_path}: add it, or remove the image")
        else:
            problems.append(
                f"{labels_path} names class {escaped(class_id)} for {images[position]}, which is not one of the "
                f"{len(label_of):,} classes{similar(class_id, label_of)}: correct it, or remove the image"
            )
    return found


def _is_file(path: str) -> bool:
    """Whether `path` is a file rather than a folder, by its suffix where it is inside an archive."""
    return bool(os.path.splitext(path)[1]) if split_archive(path) else os.path.isfile(path)


def _stem(path: str) -> str:
    stem, suffix = os.path.splitext(os.path.basename(path))
    # A decoded copy keeps the name of its original in front of its own suffix: x.JPEG.ppm.
    original, original_suffix = os.path.splitext(stem)
    return original if suffix == ".ppm" and original_suffix.lower() in FORMAT_OF_SUFFIX else stem


def _unambiguous(images: Sequence[str], problems: list[str]) -> dict[str, int]:
    by_stem: dict[str, int] = {}
    for position, image in enumerate(images):
        stem = _stem(image)
        first = by_stem.setdefault(stem, position)
        if first != position:
            problems.append(
                f"{image} and {images[first]} share one annotation, {stem}.xml: expected one image of that "
                "name; remove or rename the other"
            )
    return by_stem


def _class_of_images(path: str) -> dict[str, str] | None:
    """The class id of each image of a list, by its `_composed` stem; None if it is not such a list."""
    if path.lower().endswith(".csv"):
        rows = list(csv.reader(io.StringIO(decode(read_file(path), path), newline="")))
        if not rows or rows[0][:2] != ["ImageId", "PredictionString"]:
            raise UserError(f"{path} is not a LOC_val_solution.csv: expected a header ImageId,PredictionString.")
        del rows[0]
    elif path.lower().endswith(".txt"):
        text = decode(read_file(path), path)
        if "\t" not in text:
            return None
        rows = [line.split("\t") for line in text.split("\n")]
    else:
        return None
    return {
        _composed(_stem(from_utf8(row[0]))): from_utf8(row[1].split()[0])
        for row in rows
        if len(row) > 1 and row[1].split()
    }


def _composed(name: str) -> str:
    """A file name with composed letters: macOS may write é as e and an accent where the list has one letter."""
    return unicodedata.normalize("NFC", name)


def _ground_truth_below(folder: str) -> str | None:
    """The ground truth in a folder of the devkit, or in the folder that holds that one."""
    paths = (os.path.join(folder, inside, GROUND_TRUTH) for inside in ("", "data", f"{DEVKIT}/data"))
    return next(filter(os.path.isfile, paths), None)


def _ground_truth(path: str, images: Sequence[str], problems: list[str]) -> list[str] | None:
    data = read_file(path)
    if not path.lower().endswith(".txt"):
        try:
            with tarfile.open(fileobj=io.BytesIO(data)) as devkit:
                member = next(name for name in devkit.getnames() if name.endswith(f"/{GROUND_TRUTH}"))
                data = devkit.extractfile(member).read()
        except (tarfile.TarError, EOFError, OSError, StopIteration):
            raise UserError(
                f"{path} gives no labels: expected a folder of XML annotations, {SOLUTION}, {DEVKIT}.tar.gz or its "
                f"{GROUND_TRUTH}. Pass one of these as --val_labels."
            ) from None
    numbers = decode(data, path).split()
    count = len(CLASS_IDS_BY_ILSVRC2012_ID)
    if not all(number.isdecimal() and len(number) < 5 and 0 < int(number) <= count for number in numbers):
        raise UserError(f"{path} is damaged: expected ILSVRC2012_IDs, from 1 to {count:,}, one per line.")
    if len(numbers) != len(images):
        problems.append(
            f"{path} has labels of {len(numbers):,} images, but there are {len(images):,}: they go by the order of the "
            "images, so that none may be missing; complete the images, or pass --val_labels with names, such as "
            f"{SOLUTION}"
        )
        return None
    class_of = dict(zip(sorted(images, key=os.path.basename), numbers, strict=True))
    return [CLASS_IDS_BY_ILSVRC2012_ID[int(class_of[image]) - 1] for image in images]
