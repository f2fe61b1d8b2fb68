"""Prepares a data set for training: finds images and labels, checks and resizes images, and writes the maps.

Needs NumPy and Pillow, and no framework.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from keras_alexnet.data import checking, findings
from keras_alexnet.data.archives.paths import split_archive
from keras_alexnet.data.archives.small_files import exists
from keras_alexnet.data.class_ids import alike_pairs, escaped
from keras_alexnet.data.class_mappings import read_class_mappings
from keras_alexnet.data.data_dir import write_data_dir
from keras_alexnet.data.file_kinds import is_hidden
from keras_alexnet.data.map_file import TRAIN_MAP
from keras_alexnet.data.resizing.copies import check_resized_dir, write_all_copies
from keras_alexnet.data.scanning.data_set import DataSet, scan_image_folders
from keras_alexnet.data.scanning.layout import find_layout
from keras_alexnet.data.scanning.official_archives import check_archives
from keras_alexnet.data.scanning.shards import find_shards
from keras_alexnet.data.scanning.synset_mapping import SYNSET_MAPPING, TINY_IMAGENET_NAMES
from keras_alexnet.data.scanning.val_labels import val_annotations
from keras_alexnet.errors import SettingError, UserError, raise_if_any
from keras_alexnet.system.atomic import make_folder
from keras_alexnet.system.lock import exclusive
from keras_alexnet.system.process_pool import cpu_count, map_in_processes
from keras_alexnet.system.progress import ScanProgress, WorkProgress, say

# Fewer are read faster than processes start.
_FEW_ARCHIVES = 16


@dataclass(frozen=True)
class PreparationConfig:
    """What to prepare, and how. All but `num_processes` are the flags of `python -m keras_alexnet.prepare`.

    Attributes:
        output_dir: the folder for the maps and the class list.
        imagenet_dir: a folder with ILSVRC2012, as for `find_layout`; it has what the next three do not name.
        train_dir, val_dir, val_labels: as for `scan_image_folders`.
        val_annotations_dir: another name of `val_labels`; empty if the validation images are in class folders.
        classmappings: a class list, for shards and for validation images alone.
        val_fraction, split_seed: as for `scan_image_folders`.
        relative_paths: whether maps have paths relative to `output_dir`.
        check_archives: compare the official archives with their published sums first.
        check_images: decode every image, and write what is the matter to bad_images.tsv.
        skip_bad_images: as `check_images`, and leave unusable images out instead of raising an error.
        resize_shorter_side, resized_dir, resized_format: write copies of this size there, for the maps to name.
        num_processes: how many check and resize images; None for one per CPU.
    """

    output_dir: str
    imagenet_dir: str | None = None
    train_dir: str | None = None
    val_dir: str | None = None
    val_labels: str | None = None
    val_annotations_dir: str | None = None
    classmappings: str | None = None
    val_fraction: float | None = None
    split_seed: int = 0
    relative_paths: bool = False
    check_archives: bool = False
    check_images: bool = False
    skip_bad_images: bool = False
    resize_shorter_side: int | None = None
    resized_dir: str | None = None
    resized_format: str = "files"
    num_processes: int | None = None


def prepare_data(config: PreparationConfig) -> tuple[DataSet, list[str]]:
    """Prepares a data set, and reports on stdout what it finds on the way.

    Returns:
        What the maps have, and the files written, as `write_data_dir` returns them.

    Raises:
        UserError: settings contradict each other, images or labels are missing or wrong, or files cannot be written.
            Maps are written only if there is none.
    """
    num_processes = config.num_processes or cpu_count()
    train_dir, val_dir, val_labels = _folders(config)
    older = os.path.join(config.output_dir, TRAIN_MAP)
    if train_dir is None and os.path.lexists(older):
        raise UserError(
            f"{older} may have other classes than these validation images. Choose another --output_dir, or remove it."
        )
    resized_dir = check_resized_dir(
        config.resized_dir, config.resize_shorter_side, config.resized_format, [train_dir, val_dir]
    )
    _reject_output_among_classes(config.output_dir, "train_dir", train_dir)
    if not val_labels:
        _reject_output_among_classes(config.output_dir, "val_dir", val_dir)
    reads_images = bool(config.check_images or config.skip_bad_images or resized_dir)
    if config.check_archives:
        with WorkProgress() as progress:
            checked = check_archives([path for path in (train_dir, val_dir, val_labels) if path], progress)
        say(f"As published: {', '.join(checked)}")
    synset_mapping = _synset_mapping(config, train_dir or val_dir)
    with ScanProgress() as progress:
        data_set = scan_image_folders(
            train_dir,
            val_dir,
            val_labels,
            synset_mapping,
            progress,
            classes=_classes_of(config.classmappings) if config.classmappings else None,
            val_fraction=config.val_fraction,
            split_seed=config.split_seed,
            pass_links=reads_images,
            mapper=functools.partial(_in_parallel, num_processes, progress),
        )
    for note in data_set.notes:
        say(note)
    if data_set.class_names is not None:
        say(f"Class names: {synset_mapping}")
    elif config.imagenet_dir and not synset_mapping:
        say(f"Class names: none, as there is no {SYNSET_MAPPING} in or next to {config.imagenet_dir}")
    with contextlib.ExitStack() as held:
        folders = [folder for folder in (config.output_dir, resized_dir) if folder]
        for folder in folders:
            make_folder(folder)
        # Both may be the same folder, and one that is held cannot be held once more.
        for folder in sorted(set(map(os.path.realpath, folders))):
            held.enter_context(exclusive(folder))
        if reads_images:
            data_set = _read_images(config, data_set, resized_dir, num_processes)
        images = data_set.train, data_set.val
        files = write_data_dir(
            config.output_dir, *images, data_set.classes, data_set.class_names, config.relative_paths
        )
    return data_set, files


def _reject_output_among_classes(output_dir: str, name: str, tree: str | None) -> None:
    """Refuses a folder that the next run would treat as a class."""
    if not tree or find_shards(tree, name.removesuffix("_dir")) is not None:
        return
    inside = os.path.relpath(os.path.realpath(output_dir), os.path.realpath(tree))
    if inside.split(os.sep)[0] not in (os.curdir, os.pardir) and not is_hidden(inside):
        raise UserError(
            f"--output_dir is {output_dir}, inside --{name}, where the next run would treat it as a class. Choose "
            "another folder."
        )


def _read_images(config: PreparationConfig, data_set: DataSet, resized_dir: str | None, num_processes: int) -> DataSet:
    """Checks the images, and writes their copies if there is a folder for them; returns what the maps are to name."""
    count = len(data_set.train) + len(data_set.val)
    with WorkProgress() as progress:
        if resized_dir:
            try:
                found, copies = write_all_copies(
                    data_set, resized_dir, config.resize_shorter_side, config.resized_format, num_processes, progress
                )
            except KeyboardInterrupt:
                progress.clear()
                say("Stopped. Run the same command again to continue with the copies that are missing.")
                raise
        else:
            sources = [*data_set.train.images(), *data_set.val.images()]
            found = checking.check(sources, num_processes, functools.partial(progress, what="images checked"))
    table = os.path.join(config.output_dir, findings.BAD_IMAGES)
    findings.write_findings(table, found)
    say(f"{findings.summary(found, count)}\nDetails: {table}")
    if not config.skip_bad_images:
        findings.raise_if_unusable(found, count, table)
    usable = findings.without_unusable(data_set, found)
    if not resized_dir:
        return usable
    say(f"Copies: {resized_dir}")
    return copies


def _folders(config: PreparationConfig) -> list[str | None]:
    """Where the training images, the validation images and these' labels are.

    The first is None if only validation images are to be prepared; the others are None with --val_fraction. The labels
    are empty where the validation images have them in their folders or shards.
    """
    if config.val_fraction is not None:
        return [_folder_to_split(config), None, None]
    if config.val_labels is not None and config.val_annotations_dir is not None:
        raise UserError("--val_labels and --val_annotations_dir are both given: leave out the one or the other.")
    given = {
        "train_dir": config.train_dir,
        "val_dir": config.val_dir,
        "val_labels": config.val_annotations_dir if config.val_labels is None else config.val_labels,
    }
    if given["val_dir"] and find_shards(given["val_dir"], "val"):
        given["val_labels"] = given["val_labels"] or ""
    elif given["val_dir"] and given["val_labels"] is None:
        given["val_labels"] = val_annotations(given["val_dir"])
    if None in given.values() and config.imagenet_dir:
        layout = find_layout(config.imagenet_dir)
        say(f"Found {layout.description}" + (f", labels in {layout.val_labels}" if layout.val_labels else ""))
        found = {"train_dir": layout.train, "val_dir": layout.val, "val_labels": layout.val_labels}
        given = {name: found[name] if value is None else value for name, value in given.items()}
    missing = [name for name, value in given.items() if value is None]
    if missing == ["train_dir"]:
        say("Found no training images: preparing only the validation images")
    elif missing and config.imagenet_dir:
        lacking = "validation images" if "val_dir" in missing else "labels of the validation images"
        flag = "val_dir" if "val_dir" in missing else "val_labels"
        raise UserError(
            f"{config.imagenet_dir} has {layout.description}, but no {lacking}: add them, or pass --{flag}. To take "
            "validation images from the training images, pass --train_dir and --val_fraction."
        )
    elif "val_dir" in missing and config.train_dir:
        raise UserError(
            "there are no validation images. Pass --val_fraction=0.1 to hold out some of the training images, or "
            '--val_dir with --val_labels (--val_annotations_dir="" if they are in class folders).'
        )
    elif missing:
        raise UserError(
            "no images are given: pass --imagenet_dir=FOLDER (ILSVRC2012), or "
            f"{', '.join(f'--{name}' for name in missing)}. See --help for images without annotations."
        )
    return list(given.values())


def _folder_to_split(config: PreparationConfig) -> str:
    if not 0 < config.val_fraction < 1:
        raise SettingError(
            "val_fraction", f"is {config.val_fraction}; expected a number above 0 and below 1, such as 0.1."
        )
    names = ("imagenet_dir", "val_dir", "val_annotations_dir", "val_labels")
    if others := [f"--{name}" for name in names if getattr(config, name) is not None]:
        raise UserError(
            "--val_fraction takes the validation images from those of --train_dir, so it does not go with "
            f"{' and '.join(others)}: leave out the one or the other."
        )
    if not config.train_dir:
        raise UserError("no images are given: pass --train_dir=FOLDER, which --val_fraction splits.")
    return config.train_dir


def _in_parallel(num_processes: int, progress: ScanProgress, function: Callable, items: Sequence) -> list:
    """Computes a function of each item, in several processes where there are enough of them."""
    if len(items) < _FEW_ARCHIVES:
        return list(map(function, items))
    return map_in_processes(function, items, num_processes, lambda done, total: progress(done, total, "archives read"))


def _classes_of(class_mappings: str) -> list[str]:
    """The class ids of a list that is to give labels: each of them once, and none that looks like another."""
    classes = read_class_mappings(class_mappings)
    alike = [f"{escaped(first)} and {escaped(second)}" for first, second in alike_pairs(classes)]
    raise_if_any(alike, f"{class_mappings}: expected each class id once, and no two that look the same")
    return classes


def _synset_mapping(config: PreparationConfig, images_dir: str) -> str | None:
    """ILSVRC's list of class names, or Tiny ImageNet's, where they have it: Kaggle's is next to `ILSVRC`."""
    if config.imagenet_dir and exists(names := os.path.join(config.imagenet_dir, TINY_IMAGENET_NAMES)):
        return names
    folders = [config.imagenet_dir] if config.imagenet_dir else []
    folders += map(str, list(Path(os.path.abspath(images_dir)).parents)[:4])
    if archived := split_archive(images_dir):
        folders.append(f"{archived[0]}@")
    candidates = (os.path.join(folder, SYNSET_MAPPING) for folder in folders)
    return next(filter(exists, candidates), None)
