"""Finds images and labels in shards: the tars of WebDataset, and TFRecord files."""

import glob
import os
import re
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from keras_alexnet.data.archives.directory import Mapper
from keras_alexnet.data.archives.entries import Samples, opened, read_range
from keras_alexnet.data.archives.small_files import read_file
from keras_alexnet.data.archives.tar import is_tar
from keras_alexnet.data.archives.tfrecord import FROM_ONE, is_tfrecord, read_tfrecord
from keras_alexnet.data.archives.webdataset import is_webdataset, read_webdataset
from keras_alexnet.data.class_ids import escaped
from keras_alexnet.data.image_map import ImageMap
from keras_alexnet.data.image_rows import ImageRows
from keras_alexnet.data.scanning.archive_tree import add_entries
from keras_alexnet.data.scanning.ilsvrc2012_classes import CLASS_IDS
from keras_alexnet.errors import UserError, raise_if_any
from keras_alexnet.system.text_file import decode

# TensorFlow Datasets lists the classes in a file of this name next to the shards.
_CLASS_LIST = "label.labels.txt"
_NUMBERED = re.compile(r"(.*)-(\d{5})-of-(\d{5})((?:\.\w+)?)")
_WORDNET_ID = re.compile(rb"(?:.*/)?(n\d{8})[_/]")
_PARTS = {part: re.compile(rf"(?:^|[^a-z]){part}", re.IGNORECASE) for part in ("train", "val")}


@dataclass(frozen=True)
class LabeledImages:
    """The images of some shards.

    Attributes:
        images: by label, and then by name; labels count from 0.
        ids: the class id of each label, as far as the shards have them.
        first_label: what the first label is in the shards: 0 or 1.
        shards: the files.
    """

    images: ImageMap
    ids: dict[int, str]
    first_label: int
    shards: Sequence[str]


def find_shards(path: str | os.PathLike, part: str) -> list[str] | None:
    """Finds shards; of a folder that has several parts of a data set, those of one.

    Args:
        path: a folder with shards, one shard, or a pattern such as `/data/imagenet1k-train-*.tar`.
        part: "train" or "val". Where names of the files in a folder say one or the other, those that say this one.

    Returns:
        The files, sorted; None if `path` has no shards, and none if it has only those of the other part.

    Raises:
        UserError: a folder has not all of `-00000-of-01024`, or a file is damaged.
    """
    path = os.path.abspath(path)
    if not os.path.isdir(path):
        files = [path] if os.path.isfile(path) else sorted(glob.glob(path))
        return files if files and _is_shard(files[0]) else None
    try:
        names = sorted(name for name in os.listdir(path) if _may_be_shard(path, name))
    except OSError:
        return None  # Who lists it as a tree of images says why.
    by_part = {name: [file for file in names if pattern.search(file)] for name, pattern in _PARTS.items()}
    chosen = by_part[part] if any(by_part.values()) else names
    if not names or not _is_shard(os.path.join(path, (chosen or names)[0])):
        return None
    _raise_if_incomplete(path, chosen)
    return [os.path.join(path, name) for name in chosen]


def read_shards(
    shards: Sequence[str],
    problems: list[str],
    first_label: int | None = None,
    classes: Sequence[str] | None = None,
    mapper: Mapper = map,
) -> LabeledImages:
    """Finds the images of shards and their labels.

    Args:
        shards: the files.
        problems: as in `image_folders`.
        first_label: what the first label is in the shards. If it is None, it is 1 where labels are in the feature that
            scripts for TPUs count from 1, and none is 0; else 0.
        classes: the class ids in label order, if they are known.
        mapper: computes a function of each shard.

    Raises:
        UserError: a shard is of another kind, truncated or damaged, or has images without labels; or it is unclear
            whether labels count from 0 or from 1.
    """
    all_samples: list[Samples] = list(mapper(_read_shard, shards))
    rows, labels, ids = ImageRows(), array("i"), []
    for samples in all_samples:
        order = list(range(len(samples)))
        add_entries(samples, order, samples.archive.path, "shard", rows, problems)
        for position in order:
            named = _WORDNET_ID.match(samples.names[position])
            labels.append(samples.labels[position])
            ids.append(samples.class_ids[position] or (named[1] if named else b""))
    raise_if_any(problems, "the shards cannot be used as they are, nothing was written")
    if first_label is None:
        from_one = all(samples.label_feature == FROM_ONE for samples in all_samples)
        first_label = 1 if from_one and min(labels) > 0 else 0
        if first_label and classes is not None:
            first_label = _first_label(shards, labels, ids, classes)
    if min(labels) < first_label:
        raise UserError(f"the shards {shards[0]}, … have label {min(labels)}, but the first is {first_label}.")
    labels = array("i", (label - first_label for label in labels))
    by_class = sorted(range(len(rows)), key=lambda row: (labels[row], os.path.basename(rows.paths[row])))
    images = rows.image_map(labels, os.path.dirname(shards[0])).take(by_class)
    return LabeledImages(images, _ids_of_labels(labels, ids, rows.paths, problems), first_label, shards)


def _first_label(shards: Sequence[str], labels: Sequence[int], ids: Sequence[bytes], classes: Sequence[str]) -> int:
    """What labels above 0 of known classes count from, in a feature that some scripts count from 1."""
    for label, class_id in zip(labels, ids, strict=True):
        for first in (0, 1):
            if class_id and label - first < len(classes) and os.fsencode(classes[label - first]) == class_id:
                return first
    if max(labels) >= len(classes):
        return 1
    raise UserError(
        f"the shards {shards[0]}, … have labels from {min(labels):,} to {max(labels):,}, which may count from 0 or "
        "from 1: pass the shards of the training images too, as --train_dir."
    )


def classes_of(found: LabeledImages, problems: list[str]) -> list[str]:
    """The class ids of training images, in label order.

    They are those that the shards have; if these have only some, with the labels of ILSVRC2012, all of its classes.
    Where shards have nothing but labels, the classes are those of a list next to them, those of ILSVRC2012 if the
    shards are named after ImageNet and have 1,000 labels, or else the labels themselves.
    """
    count = max(found.images.labels) + 1
    if len(found.ids) == count:
        return [found.ids[label] for label in range(count)]
    if found.ids and all(label < len(CLASS_IDS) and CLASS_IDS[label] == found.ids[label] for label in found.ids):
        return list(CLASS_IDS)
    if listed := _listed_classes(found):
        return listed
    if count == len(CLASS_IDS) and "imagenet" in os.path.basename(found.shards[0]).lower():
        return list(CLASS_IDS)
    absent = set(range(count)) - set(found.images.labels)
    if absent:
        problems.append(
            f"the shards have labels from {found.first_label} to {count - 1 + found.first_label}, but no image of "
            f"label {min(absent) + found.first_label}: pass the list of the classes as --classmappings"
        )
    return [str(label + found.first_label) for label in range(count)]


def with_classes(found: LabeledImages, classes: Sequence[str], problems: list[str]) -> ImageMap:
    """The images, whose classes are compared with those known from elsewhere; raises `UserError` for further labels."""
    most = max(found.images.labels)
    if most >= len(classes):
        raise UserError(
            f"the shards {found.shards[0]}, … have label {most + found.first_label:,}, but there are "
            f"{len(classes):,} classes: use the shards and the class list of the same data set."
        )
    listed = _listed_classes(found)
    named = found.ids | (dict(enumerate(listed)) if listed and set(listed) == set(classes) else {})
    problems.extend(
        f"the shards {found.shards[0]}, … have class {escaped(class_id)} at label {label + found.first_label:,}, "
        f"which is {escaped(classes[label])} in the class list: use the shards and the class list of the "
        "same data set"
        for label, class_id in named.items()
        if classes[label] != class_id
    )
    return found.images


def _listed_classes(found: LabeledImages) -> list[str] | None:
    """The classes of the list that TensorFlow Datasets writes next to its shards, in label order; None without one."""
    path = os.path.join(os.path.dirname(found.shards[0]), _CLASS_LIST)
    if not os.path.isfile(path):
        return None
    try:
        return decode(read_file(path), path).removesuffix("\n").split("\n")
    except OSError as error:
        raise UserError(f"cannot read {path}, the list of the classes: {error.strerror}.") from None


def _read_shard(path: str) -> Samples:
    """Finds the images of one shard; raises `UserError` where an image has no label."""
    if _head_is(path, is_tfrecord):
        samples = read_tfrecord(path)
    elif _head_is(path, is_tar):
        samples = read_webdataset(path)
    else:
        raise UserError(f"{path} is not a shard: expected a tar of WebDataset or a TFRecord file, not compressed.")
    for name, label in zip(samples.names, samples.labels, strict=True):
        if label is None or not 0 <= label < 2**31:
            raise UserError(f"{path}: the image {os.fsdecode(name)} has no label: expected one integer, found {label}.")
    samples.refuse_duplicates()
    return samples


def _may_be_shard(folder: str, name: str) -> bool:
    if name.startswith(".") or not (name.endswith(".tar") or ".tfrecord" in name or _NUMBERED.fullmatch(name)):
        return False
    path = os.path.join(folder, name)
    if os.path.islink(path) and not os.path.exists(path):
        raise UserError(f"{path} is a broken link: expected a shard; fix or remove the link.")
    return os.path.isfile(path)


def _is_shard(path: str) -> bool:
    return _head_is(path, is_tfrecord) or (_head_is(path, is_tar) and is_webdataset(path))


def _head_is(path: str, kind) -> bool:
    with opened(path) as file:
        return kind(read_range(file, 0, 512))


def _raise_if_incomplete(folder: str, names: Sequence[str]) -> None:
    groups: dict[tuple[str, str, str], set[int]] = {}
    for match in filter(None, map(_NUMBERED.fullmatch, names)):
        groups.setdefault((match[1], match[3], match[4]), set()).add(int(match[2]))
    for (stem, total, suffix), numbers in groups.items():
        missing = sorted(set(range(int(total))) - numbers)
        if missing:
            raise UserError(
                f"{len(missing):,} of the {int(total):,} shards {stem} in {folder} are missing, the first is "
                f"{stem}-{missing[0]:05}-of-{total}{suffix}. Copy or download them; or, to do without them, pass a "
                f"pattern such as '{os.path.join(folder, stem)}-*' in place of the folder."
            )


def _ids_of_labels(
    labels: Iterable[int], ids: Iterable[bytes], paths: Sequence[str], problems: list[str]
) -> dict[int, str]:
    found: dict[int, tuple[bytes, int]] = {}
    for row, (label, class_id) in enumerate(zip(labels, ids, strict=True)):
        if class_id:
            known, first = found.setdefault(label, (class_id, row))
            if known != class_id:
                problems.append(
                    f"{paths[row]} is of class {class_id.decode(errors='replace')}, but {paths[first]} of the same "
                    f"label is of class {known.decode(errors='replace')}: correct the labels, or remove one of them"
                )
    return {label: os.fsdecode(class_id) for label, (class_id, _) in found.items()}
