"""Writes the copies of a data set, in any of their forms. Pillow, no framework."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from keras_alexnet.data.findings import Finding
from keras_alexnet.data.resizing import files, tar
from keras_alexnet.data.resizing.disk_space import check_space
from keras_alexnet.data.scanning.data_set import DataSet
from keras_alexnet.errors import UserError
from keras_alexnet.system import atomic
from keras_alexnet.system.progress import WorkProgress, say

_SETTINGS = "resize.json"


def check_resized_dir(
    resized_dir: str | None,
    shorter_side: int | None,
    resized_format: str,
    image_folders: Sequence[str | None],
) -> str | None:
    """The absolute path of the folder for copies; None if there are to be none.

    Raises:
        UserError: only one of the settings is given, or the folder is not apart from the images.
    """
    if bool(resized_dir) != bool(shorter_side):
        raise UserError("--resize_shorter_side and --resized_dir go together: pass both, or neither.")
    if not resized_dir:
        if resized_format != "files":
            raise UserError("--resized_format is the format of the copies in --resized_dir: pass both, or neither.")
        return None
    resized_dir = os.path.abspath(resized_dir)
    if any(mark in resized_dir for mark in "\t\n\r"):
        raise UserError(f"--resized_dir {resized_dir!r} has a TAB or a line break, which a map cannot hold: rename it.")
    targets = [resized_dir, os.path.join(resized_dir, "train"), os.path.join(resized_dir, "val")]
    _reject_overlap(filter(None, image_folders), targets)
    return resized_dir


def write_all_copies(
    data_set: DataSet,
    resized_dir: str,
    shorter_side: int,
    resized_format: str,
    num_processes: int,
    progress: WorkProgress,
) -> tuple[list[Finding], DataSet]:
    """Writes copies of the training and the validation images.

    Returns:
        What is the matter with some, and the data set of the copies of the usable ones.

    Raises:
        UserError: the folder has other copies, the disk is too small, or a copy cannot be written.
    """
    originals = {"train": data_set.train, "val": data_set.val}
    suffix = "" if resized_format == "files" else ".tar"
    targets = {part: os.path.join(resized_dir, part + suffix) for part in originals}
    if resized_format == "files":
        copies = [files.resized_paths(images, targets[part]) for part, images in originals.items()]
        _reject_overlap(_folders_of(originals.values()), _folders_of(copies))
    _claim_resized_dir(resized_dir, shorter_side, resized_format)
    if resized_format == "pixels":
        say(check_space([(images, targets[part]) for part, images in originals.items()], shorter_side, num_processes))
    findings, copied = [], {}
    count, before = len(data_set.train) + len(data_set.val), 0
    for part, images in originals.items():

        def report(done: int, _: int, before: int = before) -> None:
            progress(before + done, count, "images resized")

        settings = images, targets[part], shorter_side, num_processes, report
        if resized_format == "files":
            found, copied[part] = files.write_copies(*settings)
        else:
            found, copied[part] = tar.write_copies(*settings, resized_format)
        findings += found
        before += len(images)
    return findings, replace(data_set, **copied)


def _reject_overlap(sources: Iterable[str], targets: Iterable[str]) -> None:
    """Raises `UserError` if a folder to write to is in a folder of original images or the other way round."""
    sources = {os.path.realpath(folder): folder for folder in sources}
    targets = {os.path.realpath(folder): folder for folder in targets}
    for inner, outer in ((sources, targets), (targets, sources)):
        for real, folder in inner.items():
            above = next((outer[above] for above in (real, *map(str, Path(real).parents)) if above in outer), None)
            if above:
                raise UserError(
                    f"--resized_dir must be apart from the images: {folder} is {above} or inside it. Choose a "
                    "separate folder."
                )


def _claim_resized_dir(folder: str, shorter_side: int, resized_format: str) -> None:
    """Notes in `folder` of which size and in which form its copies are.

    Raises:
        UserError: it has copies of another size, or image folders that are not known to be copies.
    """
    path = os.path.join(folder, _SETTINGS)
    settings = {"version": 1, "shorter_side": shorter_side}
    if resized_format != "pixels":
        settings["quality"] = files.JPEG_QUALITY
    if resized_format != "files":
        settings["format"] = resized_format
    remedy = "Choose another --resized_dir, or remove this one."
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except FileNotFoundError:
        taken = [
            name for name in ("train", "val", "train.tar", "val.tar") if os.path.lexists(os.path.join(folder, name))
        ]
        if taken:
            raise UserError(
                f"{folder} has {taken[0]} but no {_SETTINGS}, so its images are not known to be copies. {remedy}"
            ) from None
        atomic.write_text(path, json.dumps(settings) + "\n")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}, which says what the copies next to it are: {error}. {remedy}") from None
    else:
        if found != settings:
            expected, received = map(_described, (settings, found))
            raise UserError(f"{folder} has copies of other settings: expected {expected}, found {received}. {remedy}")


def _described(settings: object) -> str:
    """What resize.json says, in words; files are the format that it does not name."""
    if not isinstance(settings, dict):
        return json.dumps(settings)
    return ", ".join(f"{name} {value}" for name, value in sorted(({"format": "files"} | settings).items()))


def _folders_of(maps) -> set[str]:
    return {os.path.dirname(path) for images in maps for path in images.paths}
