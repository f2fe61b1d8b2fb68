"""Copies of image files at a smaller size. Pillow, no framework."""

import contextlib
import functools
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence

from PIL import Image

from keras_alexnet.data import ppm
from keras_alexnet.data.checking import (
    Progress,
    Source,
    UnusableError,
    load,
    note_orientation,
    open_image,
    problems_told,
)
from keras_alexnet.data.file_kinds import FORMAT_OF_SUFFIX
from keras_alexnet.data.findings import Finding
from keras_alexnet.data.image_file import JPEG_END, upright_rgb
from keras_alexnet.data.image_map import ImageMap
from keras_alexnet.errors import UserError
from keras_alexnet.system import atomic
from keras_alexnet.system.process_pool import map_in_processes

JPEG_QUALITY = 92

# How copies are kept, as --resized_format: JPEG files, JPEGs in a tar for each split, decoded pixels (PPM) in one.
FORMATS = ("files", "tar", "pixels")

_LONGEST_SIDE = 65_500  # of a JPEG
_SETTINGS = "resize.json"


def resized_paths(images: ImageMap, folder: str, resized_format: str = "files") -> ImageMap:
    """Where the copies of `images` go: below `folder` as the images lie below their own (`images.source`).

    A copy is a JPEG, or a PPM for "pixels": a name that says otherwise gets `.JPEG` or `.ppm` behind it.

    Raises:
        UserError: two images would have the same copy.
    """
    kind, ending = ("PPM", ppm.SUFFIX) if resized_format == "pixels" else ("JPEG", ".JPEG")
    original_of: dict[str, str] = {}
    for row, path in enumerate(images.paths):
        below = path.removeprefix(images.source).removeprefix("@").removeprefix("/")
        if images.is_archived(row):  # An archive, or a tar of a class in it, becomes a folder.
            below = below.replace(".tar@/", "/").replace(".tar/", "/").replace("@/", "/")
        if ".." in below.split("/"):
            raise UserError(f"{path} would have its copy outside {folder}: write the archive with names without '..'.")
        name = os.path.join(folder, below)
        suffix = os.path.splitext(name)[1].lower()
        copy = name if name.endswith(ending) or FORMAT_OF_SUFFIX.get(suffix) == kind == "JPEG" else name + ending
        other = original_of.setdefault(copy, path)
        if other is not path:
            raise UserError(f"{path} and {other} would have the same copy, {copy}: rename one of the two.")
    return ImageMap(list(original_of), images.labels, source=folder)


def write_copies(
    images: ImageMap,
    folder: str,
    shorter_side: int,
    num_processes: int,
    progress: Progress | None = None,
) -> tuple[list[Finding], ImageMap]:
    """Writes copies of the images of a map, as `resize` does, to the files that `resized_paths` names.

    Returns:
        What is the matter with some, and the map of the copies of those that are usable.
    """
    copies = resized_paths(images, folder)
    findings = resize(images.images(), copies.paths, shorter_side, num_processes, progress)
    unusable = {finding.path for finding in findings if not finding.usable}
    rows = [row for row, path in enumerate(images.paths) if path not in unusable]
    return findings, copies.take(rows) if unusable else copies


def resize(
    sources: Sequence[Source],
    copies: Sequence[str],
    shorter_side: int,
    num_processes: int,
    progress: Progress | None = None,
) -> list[Finding]:
    """Checks images as `checking.check` does and writes JPEG copies of another size, in parallel.

    A copy is upright, RGB and without metadata. It has the modification time of its original, or of the archive: one
    that is whole and has it stays as it is. So the work can be interrupted at any time, and done again for what has
    changed.

    Args:
        sources: the images.
        copies: the files to write, as many.
        shorter_side: of the copies, in pixels. The longer side keeps the proportions, rounded to the nearest, halves
            up. Smaller images are enlarged.
        num_processes: how many processes.
        progress: called with (images done, images in all).

    Returns:
        What is the matter with some, in the order of `sources`. Of unusable ones no copy is written.

    Raises:
        UserError: a copy cannot be written, or a worker process ended by itself.
    """
    try:
        for folder in dict.fromkeys(map(os.path.dirname, copies)):
            os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise cannot_write(error.filename, error) from None
    work = functools.partial(_resize_one, shorter_side=shorter_side)
    found = map_in_processes(work, list(zip(sources, copies, strict=True)), num_processes, progress)
    if hasattr(os, "sync"):
        # Maps that name the copies must not outlive a power loss that these do not.
        os.sync()
    return [finding for finding in found if finding]


def reject_overlap(sources: Iterable[str], targets: Iterable[str]) -> None:
    """Raises `UserError` if a folder to write to is in a folder of original images or the other way round."""
    sources = {os.path.realpath(folder): folder for folder in sources}
    targets = {os.path.realpath(folder): folder for folder in targets}
    for inner, outer in ((sources, targets), (targets, sources)):
        for real, folder in inner.items():
            hit = next((outer[above] for above in _with_parents(real) if above in outer), None)
            if hit:
                raise UserError(
                    f"--resized_dir must be apart from the images: {folder} is {hit} or inside it. Give a folder of "
                    "its own."
                )


def claim_resized_dir(folder: str, shorter_side: int, resized_format: str = "files") -> None:
    """Notes in `folder` of which size and in which form its copies are.

    Raises:
        UserError: it has copies of another size, or image folders that were not written by `resize`.
    """
    path = os.path.join(folder, _SETTINGS)
    settings = {"version": 1, "shorter_side": shorter_side}
    if resized_format != "pixels":
        settings["quality"] = JPEG_QUALITY
    if resized_format != "files":
        settings["format"] = resized_format
    remedy = "Give another --resized_dir, or remove this one."
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
            expected, received = (json.dumps(value, sort_keys=True) for value in (settings, found))
            raise UserError(f"{folder} has copies of other settings: expected {expected}, found {received}. {remedy}")


def resized_copy(
    item: tuple[Source, bool], shorter_side: int, resized_format: str = "files"
) -> tuple[Finding | None, bytes | None]:
    """Checks an image and makes a smaller copy of it.

    Args:
        item: the image, and whether it has a copy, so that nothing but its header is checked.
        shorter_side: of the copy, in pixels.
        resized_format: one of `FORMATS`.

    Returns:
        What is the matter with the image, and the copy, a JPEG or PPM file; None if it has one or is unusable.
    """
    source, has_copy = item
    resized = None
    with problems_told(source) as problems, open_image(source, problems) as (image, file):
        loaded = None if has_copy else load(image, file, problems)
        turn = note_orientation(image, problems)
        if loaded:
            resized = _resized(upright_rgb(loaded, turn), shorter_side)
    if resized is None:
        return problems.finding, None
    if resized_format == "pixels":
        return problems.finding, ppm.encode(resized)
    buffer = io.BytesIO()
    resized.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return problems.finding, buffer.getvalue()


def modified(source: Source) -> int:
    """When an image, or its archive, was modified, in nanoseconds; raises `OSError` if it does not exist."""
    return os.stat(source if isinstance(source, str) else source.archive.path).st_mtime_ns


def _resize_one(item: tuple[Source, str], shorter_side: int) -> Finding | None:
    source, copy = item
    try:
        mtime_ns = modified(source)
    except OSError:
        mtime_ns = None  # Opening it fails as well.
    finding, data = resized_copy((source, _is_whole(copy, mtime_ns)), shorter_side)
    if data:
        _write_copy(copy, data, mtime_ns)
    return finding


def resized_size(size: tuple[int, int], shorter_side: int) -> tuple[int, int]:
    """The sides of the copy of an image of this size; raises `UnusableError` if the longer one would be too long."""
    shortest, longest = min(size), max(size)
    width, height = ((2 * side * shorter_side + shortest) // (2 * shortest) for side in size)
    # Pillow refuses to open an image of more pixels.
    most_pixels = 2 * (Image.MAX_IMAGE_PIXELS or longest * shortest)
    if max(width, height) > _LONGEST_SIDE or width * height > most_pixels:
        raise UnusableError("too long and narrow to be resized: {} x {}".format(*size))
    return width, height


def _resized(image: Image.Image, shorter_side: int) -> Image.Image:
    size = resized_size(image.size, shorter_side)
    # Of Pillow's antialiasing filters the one that keeps most detail: training reads nothing but these copies.
    return image.resize(size, Image.Resampling.LANCZOS)


def _is_whole(copy: str, mtime_ns: int | None) -> bool:
    """Whether `copy` was made from a file of this time, and reaches to its end also after a power loss."""
    try:
        if os.stat(copy).st_mtime_ns != mtime_ns:
            return False
        with open(copy, "rb") as file:
            file.seek(-len(JPEG_END), os.SEEK_END)
            return file.read() == JPEG_END
    except OSError:
        return False


def _write_copy(copy: str, data: bytes, mtime_ns: int) -> None:
    # Flushing each of a million files, as atomic.atomic_path does, would take hours; `_is_whole` looks instead.
    folder, name = os.path.split(copy)
    partial = os.path.join(folder, atomic.partial_name(name))
    try:
        with open(partial, "wb") as file:
            file.write(data)
        os.utime(partial, ns=(mtime_ns, mtime_ns))
        os.replace(partial, copy)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        if isinstance(error, OSError):
            raise cannot_write(copy, error) from None
        raise


def cannot_write(path: str, error: OSError) -> UserError:
    """The error of a copy, or a tar of them, that cannot be written."""
    return UserError(
        f"cannot write {path}: {error.strerror or error}. Make room or permit writing there, or give another "
        "--resized_dir; the same command then continues where this one stopped."
    )


def _with_parents(path: str) -> Iterator[str]:
    while True:
        yield path
        parent = os.path.dirname(path)
        if parent == path:
            return
        path = parent
