"""Finds the images of a data set, such as ILSVRC2012, and their labels. Needs NumPy, and no framework."""

import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from keras_alexnet.data.archives.directory import Mapper, Progress
from keras_alexnet.data.image_map import ImageMap
from keras_alexnet.data.scanning.ilsvrc2012_classes import CLASS_IDS
from keras_alexnet.data.scanning.image_folders import scan_training, scan_validation, scan_validation_tree
from keras_alexnet.data.scanning.shards import classes_of, find_shards, read_shards, with_classes
from keras_alexnet.data.scanning.split import split
from keras_alexnet.data.scanning.synset_mapping import read_synset_names
from keras_alexnet.data.scanning.trees import ScanOptions
from keras_alexnet.errors import UserError, raise_if_any


@dataclass(frozen=True)
class DataSet:
    """What a scan found.

    Attributes:
        classes: the class ids, in label order.
        class_names: a readable name per class, or None if there is no `LOC_synset_mapping.txt`.
        train: the training images, by class and then by path; none, if only validation images were looked for.
        val: the validation images, by path, or like `train` if their folders are classes.
        notes: what a user should know, such as what was left out.
    """

    classes: Sequence[str]
    class_names: Sequence[str] | None
    train: ImageMap
    val: ImageMap
    notes: Sequence[str] = ()


def scan_image_folders(
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
) -> DataSet:
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
        pass_links, mapper: as for `trees.ScanOptions`.

    Raises:
        UserError: names all that is wrong in any of them (the first ten, and how many).
    """
    problems: list[str] = []
    notes: list[str] = []
    options = ScanOptions(progress, pass_links, mapper)
    train_shards, val_shards = _shards(train_dir, "train"), _shards(val_dir, "val")
    if train_shards and val_shards and (both := sorted({*train_shards} & {*val_shards})):
        raise UserError(
            f"{both[0]} would be taken for training and for validation, as its name does not say which: pass patterns "
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
        classes, train = scan_training(train_dir, problems, notes, options)
    else:
        train = ImageMap([], array("i"))
    if val_fraction is not None:
        train, val = split(train, classes, val_fraction, split_seed, problems)
    elif val_shards:
        val_found = read_shards(val_shards, problems, found.first_label if found else None, classes, mapper)
        classes = classes or classes_of(val_found, problems)
        val = with_classes(val_found, classes, problems)
        val = val.take(sorted(range(len(val)), key=lambda row: os.path.basename(val.paths[row])))
    else:
        classes = CLASS_IDS if classes is None else classes
        if val_labels:
            val = scan_validation(val_dir, val_labels, classes, problems, notes, options)
        else:
            val = scan_validation_tree(val_dir, classes, problems, notes, options)
    if train_dir and val_dir and not train_shards and os.path.realpath(train_dir) == os.path.realpath(val_dir):
        notes.append(f"Note: {val_dir} has the training images too, so validation says nothing about other images")
    class_names = read_synset_names(synset_mapping, classes, problems, notes) if synset_mapping else None
    raise_if_any(problems, "the images cannot be used as they are, nothing was written")
    return DataSet(classes, class_names, train, val, notes)


def _shards(path: str | None, part: str) -> list[str] | None:
    shards = None if path is None else find_shards(path, part)
    if shards == []:
        raise UserError(f"none of the shards in {path} has {part!r} in its name: choose a folder that has some.")
    return shards
