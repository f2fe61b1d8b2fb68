"""Writes the map files that training reads: which image has which label, and which class each label is.

  python -m keras_alexnet.prepare --imagenet_dir=/data/ILSVRC --output_dir=data

This folder holds ILSVRC2012 as Kaggle's tree or zip, as the official archives (ILSVRC2012_img_train.tar,
ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz), or as shards of WebDataset or TFRecord. Archives need not be
unpacked: the maps name images inside them as <archive>@/<entry>, and training reads them in place. If there are
validation images alone, only these are prepared, for evaluate. Or each part by itself, a folder or an archive:

  python -m keras_alexnet.prepare --train_dir=/data/train --val_dir=/data/val \\
      --val_annotations_dir=/data/val_annotations --output_dir=data

The training folder holds one folder of images per class; a label is the position of a class in the sorted names of
these folders. The validation folder holds images; --val_labels has the class of each: LOC_val_solution.csv, the devkit
or a folder of XML annotations, as in ILSVRC2012.

Images of your own need no annotations. If the validation folder holds a folder per class as well:

  python -m keras_alexnet.prepare --train_dir=/data/train --val_dir=/data/val --val_annotations_dir="" --output_dir=data

If there is one folder of images per class and nothing else, a tenth of each class becomes the validation images:

  python -m keras_alexnet.prepare --train_dir=/data/flowers --val_fraction=0.1 --output_dir=data

With --relative_paths and an --output_dir beside or above the images, all of it can be moved or mounted elsewhere.

--check_images decodes every image and names those that cannot be used. Copies whose shorter side has 256 pixels are
read several times as fast; writing them goes on where it was interrupted, and checks the images as well.
--resized_format=tar writes one tar of them per split; --resized_format=pixels writes such tars of decoded pixels, which
need no decoding in training, and take ten times the space (about 335 GB for all of ImageNet):

  python -m keras_alexnet.prepare --imagenet_dir=/data/ILSVRC --output_dir=data \\
      --resize_shorter_side=256 --resized_dir=/data/ILSVRC_256 --skip_bad_images

Writes to --output_dir, once everything has been found in order:

  train_map.txt      <absolute path> TAB <label>, an image a line, by class
  val_map.txt        the same for the validation images
  *_map.index.npz    where the images are in their archives, if they are in archives
  classmappings.txt  <class id> TAB <label>, in label order
  classnames.txt     <class id> TAB <label> TAB <names>, if LOC_synset_mapping.txt lies in --imagenet_dir or in one of
                     the three folders above the training folder; else an older one is removed
  bad_images.tsv     <absolute path> TAB <unusable or odd> TAB <problems>, if the images are checked
"""

import contextlib
import functools
import os
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from keras_alexnet import cli
from keras_alexnet.data import maps
from keras_alexnet.data.archives import files
from keras_alexnet.data.archives.paths import split_archive
from keras_alexnet.data.scanning import scan
from keras_alexnet.data.scanning.layout import find_layout
from keras_alexnet.data.scanning.official import check_archives
from keras_alexnet.data.scanning.shards import find_shards
from keras_alexnet.errors import UserError
from keras_alexnet.system import process_pool
from keras_alexnet.system.atomic import make_folder
from keras_alexnet.system.lock import exclusive
from keras_alexnet.system.progress import ScanProgress, WorkProgress, say

if TYPE_CHECKING:
    from keras_alexnet.data.images import Finding

# Fewer are read faster than processes start.
_FEW_ARCHIVES = 16


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the command's flags."""
    cli.define_path(
        "imagenet_dir",
        None,
        "ILSVRC2012: the folder that has Data/CLS-LOC/train, Data/CLS-LOC/val and Annotations/CLS-LOC/val, or the one "
        "above it, or one with the archives of Kaggle or image-net.org.",
        flag_values=flag_values,
    )
    cli.define_path(
        "train_dir",
        None,
        "The training images, a folder per class; may be an archive. Without it: those of --imagenet_dir.",
        flag_values=flag_values,
    )
    cli.define_path(
        "val_dir",
        None,
        "The validation images; may be an archive. Without it: those of --imagenet_dir.",
        flag_values=flag_values,
    )
    cli.define_path(
        "val_labels",
        None,
        "What has the classes of the validation images: LOC_val_solution.csv, the devkit (.tar.gz or unpacked) or its "
        "ILSVRC2012_validation_ground_truth.txt, or a folder of XML annotations. Without it: the first of these that "
        "is in --imagenet_dir.",
        flag_values=flag_values,
    )
    cli.define_path(
        "classmappings",
        None,
        "The classes and their labels, as in classmappings.txt, for shards and for validation images alone. Without "
        "it: the classes that shards name, or else the 1,000 of ILSVRC2012.",
        flag_values=flag_values,
    )
    cli.define_path(
        "val_annotations_dir",
        None,
        "An XML file per validation image, as --val_labels. Given, but empty "
        '(--val_annotations_dir=""): the validation folder has a folder of images per class.',
        flag_values=flag_values,
        may_be_empty=True,
    )
    flags.DEFINE_float(
        "val_fraction",
        None,
        "Instead of a validation folder: take this part of the images of each class of --train_dir; above 0, below 1. "
        "One image or more of each class goes to either side, if it has two.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "split_seed",
        0,
        "Another number has --val_fraction take other images; the same takes the same on every machine.",
        flag_values=flag_values,
    )
    flags.DEFINE_bool(
        "relative_paths",
        False,
        "Write paths relative to --output_dir, so that it can be moved together with the images.",
        flag_values=flag_values,
    )
    cli.define_path("output_dir", "data", "The folder to write to; it is made if need be.", flag_values=flag_values)
    flags.DEFINE_bool(
        "check_archives",
        False,
        "First compare the official archives with their published sizes and MD5 sums, which reads all of them.",
        flag_values=flag_values,
    )
    flags.DEFINE_bool(
        "check_images",
        False,
        "Decode every image. bad_images.tsv lists the odd ones and those that cannot be used; if there are any of "
        "these, no maps are written.",
        flag_values=flag_values,
    )
    flags.DEFINE_bool(
        "skip_bad_images",
        False,
        "Check the images, and leave those that cannot be used out of the maps.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "resize_shorter_side",
        None,
        "Check the images, write a copy of each whose shorter side has this many pixels to --resized_dir, and "
        "have the maps name the copies. 256 suits AlexNet.",
        lower_bound=32,
        upper_bound=4096,
        flag_values=flag_values,
    )
    cli.define_path(
        "resized_dir",
        None,
        "The folder for the copies, apart from the images. Copies that an earlier run has finished stay as they are.",
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "resized_format",
        "files",
        ["files", "tar", "pixels"],
        "How the copies are kept: a file each; or one tar of the training and one of the validation images, which any "
        "file system takes easily; or decoded pixels in such tars (PPM), ten times as large, which training need not "
        "decode.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "num_processes",
        None,
        "Processes that check and resize images; unset for one per CPU.",
        lower_bound=1,
        flag_values=flag_values,
    )
    flags.DEFINE_alias("num_workers", "num_processes", flag_values=flag_values)  # its former name


def main(values: flags.FlagValues, arguments: list[str]) -> None:
    """Scans, writes, and tells what was found."""
    cli.reject_positional(arguments)
    started = time.perf_counter()
    train_dir, val_dir, val_labels = _folders(values)
    if train_dir is None:
        _reject_older_training_map(values.output_dir)
    resized_dir = _resized_dir(values, [train_dir, val_dir])
    reads_images = bool(values.check_images or values.skip_bad_images or resized_dir)
    if values.check_archives:
        with WorkProgress() as progress:
            checked = check_archives([path for path in (train_dir, val_dir, val_labels) if path], progress)
        say(f"As published: {', '.join(checked)}")
    with ScanProgress() as progress:
        found = scan.scan(
            train_dir,
            val_dir,
            val_labels,
            _synset_mapping(values, train_dir),
            progress,
            classes=maps.read_class_mappings(values.classmappings) if values.classmappings else None,
            val_fraction=values.val_fraction,
            split_seed=values.split_seed,
            pass_links=reads_images,
            mapper=functools.partial(_in_parallel, values.num_processes or process_pool.cpu_count(), progress),
        )
    with contextlib.ExitStack() as held:
        folders = [folder for folder in (values.output_dir, resized_dir) if folder]
        for folder in folders:
            make_folder(folder)
        # Both may be the same folder, and one that is held cannot be held once more.
        for folder in sorted(set(map(os.path.realpath, folders))):
            held.enter_context(exclusive(folder))
        if reads_images:
            found = _read_images(values, found, resized_dir)
        written = maps.write_data_dir(
            values.output_dir, found.train, found.val, found.classes, found.class_names, values.relative_paths
        )
    if train_dir is not None:
        say(f"{len(found.train):,} training images of {len(found.classes):,} classes: {written.pop(0)}")
    say(f"{len(found.val):,} validation images: {written.pop(0)}")
    say(f"{len(found.classes):,} classes: {', '.join(written)}")
    say(f"{time.perf_counter() - started:.1f} s")
    present = set(found.val.labels)
    absent = [class_id for label, class_id in enumerate(found.classes) if label not in present]
    if absent:
        shown = ", ".join(absent[:5]) + (", …" if len(absent) > 5 else "")
        say(f"Note: no validation images for {len(absent):,} of the {len(found.classes):,} classes: {shown}")
    if len(found.classes) == 1:
        say("Note: there is only one class, so a network would have nothing to learn")
    data_dir = shlex.quote(values.output_dir)
    if train_dir is None:
        say(f"Next: python -m keras_alexnet.evaluate --model=MODEL --data_dir={data_dir}")
        return
    recipe = "fit_imagenet" if len(found.train) > 100_000 else "fit_small"
    say(f"Next: python -m keras_alexnet.fit --flagfile=flags/{recipe}.flags --data_dir={data_dir}")


def _folders(values: flags.FlagValues) -> list[str | None]:
    """Where the training images, the validation images and these' labels are.

    The first is None if only validation images are to be prepared; the others are None with --val_fraction. The labels
    are empty where the validation images have them in their folders or shards.
    """
    if values.val_fraction is not None:
        return [_folder_to_split(values), None, None]
    if values.val_labels is not None and values.val_annotations_dir is not None:
        raise UserError("--val_labels and --val_annotations_dir are both given: leave out the one or the other.")
    labels = "val_annotations_dir" if values.val_labels is None else "val_labels"
    given = {name: values[name].value for name in ("train_dir", "val_dir", labels)}
    if given["val_dir"] and find_shards(given["val_dir"], "val"):
        given[labels] = given[labels] or ""
    if None in given.values() and values.imagenet_dir:
        layout = find_layout(values.imagenet_dir)
        say(f"Found {layout.description}" + (f", labels in {layout.val_labels}" if layout.val_labels else ""))
        found = {"train_dir": layout.train, "val_dir": layout.val, labels: layout.val_labels}
        given = {name: found[name] if value is None else value for name, value in given.items()}
    missing = [name.replace("val_annotations_dir", "val_labels") for name in given if given[name] is None]
    if missing == ["train_dir"]:
        say("Found no training images: preparing the validation images alone")
    elif missing and values.imagenet_dir:
        first = next(name for name in missing if name != "train_dir")
        raise UserError(
            f"{values.imagenet_dir} has {layout.description}, but not what --{first} is for: put it there, or "
            "give the flag."
        )
    elif missing:
        raise UserError(
            "where are the images? Give --imagenet_dir=FOLDER (ILSVRC2012), or "
            f"{', '.join(f'--{name}' for name in missing)}. See --help for images without annotations."
        )
    return list(given.values())


def _reject_older_training_map(output_dir: str) -> None:
    older = os.path.join(output_dir, maps.TRAIN_MAP)
    if os.path.lexists(older):
        raise UserError(
            f"{older} may belong to other classes than the validation images alone: give another --output_dir, or "
            "remove it."
        )


def _folder_to_split(values: flags.FlagValues) -> str:
    if not 0 < values.val_fraction < 1:
        raise UserError(f"val_fraction is {values.val_fraction}; expected a number above 0 and below 1, such as 0.1.")
    others = [
        name
        for name in ("imagenet_dir", "val_dir", "val_annotations_dir", "val_labels")
        if values[name].value is not None
    ]
    if others:
        raise UserError(
            "--val_fraction takes the validation images from those of --train_dir, so it does not go with "
            f"{' and '.join(f'--{name}' for name in others)}: leave out the one or the other."
        )
    if not values.train_dir:
        raise UserError("where are the images? Give --train_dir=FOLDER, which --val_fraction is to split.")
    return values.train_dir


def _resized_dir(values: flags.FlagValues, image_folders: list[str | None]) -> str | None:
    if bool(values.resized_dir) != bool(values.resize_shorter_side):
        raise UserError("--resize_shorter_side and --resized_dir go together: give both, or neither.")
    if not values.resized_dir:
        if values.resized_format != "files":
            raise UserError("--resized_format is of the copies in --resized_dir: give both, or neither.")
        return None
    from keras_alexnet.data.resizing import files

    resized_dir = os.path.abspath(values.resized_dir)
    if any(mark in resized_dir for mark in "\t\n\r"):
        raise UserError(f"--resized_dir {resized_dir!r} has a TAB or a line break, which a map cannot hold: rename it.")
    targets = [resized_dir, os.path.join(resized_dir, "train"), os.path.join(resized_dir, "val")]
    files.reject_overlap(filter(None, image_folders), targets)
    return resized_dir


def _read_images(values: flags.FlagValues, found: scan.ImageFolders, resized_dir: str | None) -> scan.ImageFolders:
    """Checks the images, and writes their copies if there is a folder for them; returns what the maps are to name."""
    # Here and above, so that --help and a mere scan do without NumPy and Pillow.
    from keras_alexnet.data import images

    num_processes = values.num_processes or process_pool.cpu_count()
    count = len(found.train) + len(found.val)
    copies = {}
    with WorkProgress() as progress:
        if resized_dir:
            findings, copies = _write_copies(values, found, resized_dir, num_processes, progress)
        else:
            sources = [*found.train.images(), *found.val.images()]
            findings = images.check(sources, num_processes, lambda done, total: progress(done, total, "images checked"))
    table = os.path.join(values.output_dir, images.BAD_IMAGES)
    images.write_findings(table, findings)
    say(f"{images.summary(findings, count)}\nDetails: {table}")
    if not values.skip_bad_images:
        images.raise_if_unusable(findings, count, table)
    if resized_dir:
        say(f"Copies: {resized_dir}")
    return replace(images.without_unusable(found, findings), **copies)


def _write_copies(
    values: flags.FlagValues,
    found: scan.ImageFolders,
    resized_dir: str,
    num_processes: int,
    progress: WorkProgress,
) -> tuple[list["Finding"], dict[str, maps.ImageMap]]:
    """Writes copies of the training and the validation images; returns what is the matter, and the maps of both."""
    from keras_alexnet.data.resizing import files, tar

    write, suffix = files.write_copies, ""
    if values.resized_format != "files":
        write, suffix = functools.partial(tar.write_copies, resized_format=values.resized_format), ".tar"
    originals = {"train": found.train, "val": found.val}
    targets = {part: os.path.join(resized_dir, part + suffix) for part in originals}
    if not suffix:
        copied = [files.resized_paths(images, targets[part]) for part, images in originals.items()]
        folders, targeted = (
            {os.path.dirname(path) for images in both for path in images.paths} for both in (originals.values(), copied)
        )
        files.reject_overlap(folders, targeted)
    files.claim_resized_dir(resized_dir, values.resize_shorter_side, values.resized_format)
    if values.resized_format == "pixels":
        from keras_alexnet.data.resizing.disk_space import check_space

        both = [(images, targets[part]) for part, images in originals.items()]
        say(check_space(both, values.resize_shorter_side, num_processes))
    findings, copies = [], {}
    count, before = len(found.train) + len(found.val), 0
    for part, images in originals.items():

        def report(done: int, _: int, before: int = before) -> None:
            progress(before + done, count, "images resized")

        more, copies[part] = write(images, targets[part], values.resize_shorter_side, num_processes, report)
        findings += more
        before += len(images)
    return findings, copies


def _in_parallel(num_processes: int, progress: ScanProgress, function: Callable, items: Sequence) -> list:
    """Computes a function of each item, in several processes where there are enough of them."""
    if len(items) < _FEW_ARCHIVES:
        return list(map(function, items))
    return process_pool.map_in_processes(
        function, items, num_processes, lambda done, total: progress(done, total, "archives read")
    )


def _synset_mapping(values: flags.FlagValues, train_dir: str | None) -> str | None:
    """ILSVRC's list of class names, if it lies where ILSVRC has it."""
    folders = [values.imagenet_dir] if values.imagenet_dir else []
    if train_dir is not None:
        folders += map(str, list(Path(os.path.abspath(train_dir)).parents)[:3])
        if archived := split_archive(train_dir):
            folders.append(f"{archived[0]}@")
    candidates = (os.path.join(folder, scan.SYNSET_MAPPING) for folder in folders)
    return next(filter(files.exists, candidates), None)


if __name__ == "__main__":
    cli.run(main, define_flags, __doc__)
