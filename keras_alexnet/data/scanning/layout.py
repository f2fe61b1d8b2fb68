"""Finds out in which of its usual forms ILSVRC2012 is in a folder. Standard library only."""

import contextlib
import os
from dataclasses import dataclass

from keras_alexnet.data.archives.small_files import exists
from keras_alexnet.data.file_kinds import is_image_name
from keras_alexnet.data.scanning.official_archives import TRAIN_TAR, VAL_TAR
from keras_alexnet.data.scanning.shards import find_shards
from keras_alexnet.data.scanning.val_labels import DEVKIT, GROUND_TRUTH, SOLUTION, val_annotations
from keras_alexnet.errors import UserError

KAGGLE_ZIP = "imagenet-object-localization-challenge.zip"

_IMAGES = "Data/CLS-LOC"
_ANNOTATIONS = "Annotations/CLS-LOC/val"


@dataclass(frozen=True)
class Layout:
    """Where the parts of ILSVRC2012 are.

    Attributes:
        description: what was found, for people.
        train, val: a folder, an archive, or a folder in an archive; None if there is none.
        val_labels: as for `val_labels.validation_labels`; empty where the validation images have their labels with
            them, in shards or folders of a class each; None if there are none.
    """

    description: str
    train: str | None
    val: str | None
    val_labels: str | None


def find_layout(folder: str) -> Layout:
    """Finds ILSVRC2012 in a folder: Kaggle's tree or zip, the official archives, unpacked or not, or shards.

    Args:
        folder: Kaggle's `ILSVRC`, or the folder above it, or one that holds Kaggle's zip (or that zip itself), or
            `ILSVRC2012_img_train.tar`, `ILSVRC2012_img_val.tar` and `ILSVRC2012_devkit_t12.tar.gz`; in place of the
            tars also folders `train` and `val`, of Tiny ImageNet too; or shards of WebDataset or TFRecord.

    Raises:
        UserError: there is nothing of this in it, or a file of it is damaged.
    """
    if not os.path.exists(folder):
        raise UserError(f"{folder} does not exist: pass the folder that contains ILSVRC2012 as --imagenet_dir.")
    zip_path = folder if os.path.isfile(folder) else os.path.join(folder, KAGGLE_ZIP)
    for root in (folder, os.path.join(folder, "ILSVRC")):
        train, val = (os.path.join(root, _IMAGES, part) for part in ("train", "val"))
        if os.path.isdir(train) or os.path.isdir(val):
            labels = [os.path.join(place, SOLUTION) for place in (root, os.path.dirname(os.path.abspath(root)))]
            return Layout(
                f"Kaggle's tree in {root}",
                train if os.path.isdir(train) else None,
                val if os.path.isdir(val) else None,
                _labels(val, [*labels, *_devkits(root), os.path.join(root, _ANNOTATIONS)]),
            )
    if os.path.isfile(zip_path):
        inside = f"{zip_path}@/ILSVRC/{_IMAGES}"
        place = os.path.dirname(os.path.abspath(zip_path))
        labels = [os.path.join(place, SOLUTION), *_devkits(place)]
        labels += [f"{zip_path}@/{SOLUTION}", f"{zip_path}@/ILSVRC/{_ANNOTATIONS}"]
        return Layout(f"Kaggle's archive {zip_path}", f"{inside}/train", f"{inside}/val", _first(labels))
    train = _first([os.path.join(folder, name) for name in (TRAIN_TAR, "ILSVRC2012_img_train", "train")])
    val = _first([os.path.join(folder, name) for name in (VAL_TAR, "ILSVRC2012_img_val", "val", "validation")])
    if train or val:
        labels = _labels(val, [os.path.join(folder, SOLUTION), *_devkits(folder)])
        return Layout(" and ".join(filter(None, (train, val))), train, val, labels)
    train, val = (folder if find_shards(folder, part) else None for part in ("train", "val"))
    if train or val:
        return Layout(f"shards in {folder}", train, val, "")
    raise UserError(
        f"there is no ILSVRC2012 in {folder}: expected {_IMAGES}/train, or {KAGGLE_ZIP}, or {TRAIN_TAR} and {VAL_TAR}, "
        "or shards. Pass the folder that has one of them as --imagenet_dir, or --train_dir and --val_dir."
    )


def _labels(val: str | None, candidates: list[str]) -> str | None:
    """Empty if the validation images are in shards or in folders alone, else the first candidate that exists."""
    if val and find_shards(val, "val"):
        return ""
    if val and os.path.isdir(val):
        if listed := val_annotations(val):
            return listed
        with contextlib.suppress(OSError), os.scandir(val) as entries:  # Who lists the images says why.
            kinds = {entry.is_dir() for entry in entries if entry.is_dir() or is_image_name(entry.name)}
            if kinds == {True}:
                return ""
    return _first(candidates)


def _devkits(folder: str) -> list[str]:
    return [os.path.join(folder, name) for name in (DEVKIT, f"{DEVKIT}.tar.gz", f"{DEVKIT}.tar", GROUND_TRUTH)]


def _first(paths: list[str]) -> str | None:
    return next(filter(exists, paths), None)
