"""Copies of image files at a smaller size. Pillow, no framework."""

import contextlib
import functools
import io
import os

from PIL import Image

from keras_alexnet.data import ppm
from keras_alexnet.data.checking import OpenImage, Progress, Source, UnusableError, examine
from keras_alexnet.data.file_kinds import FORMAT_OF_SUFFIX
from keras_alexnet.data.findings import Finding, usable_rows
from keras_alexnet.data.image_file import JPEG_END, upright_rgb
from keras_alexnet.data.image_map import ImageMap
from keras_alexnet.errors import UserError
from keras_alexnet.system import atomic
from keras_alexnet.system.process_pool import map_in_processes

JPEG_QUALITY = 92

# How copies are kept, as --resized_format: JPEG files, JPEGs in a tar for each split, decoded pixels (PPM) in one.
FORMATS = ("files", "tar", "pixels")

_MAX_SIDE = 65_500  # of a JPEG


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
    images: ImageMap, folder: str, shorter_side: int, num_processes: int, progress: Progress | None = None
) -> tuple[list[Finding], ImageMap]:
    """Checks images as `checking.check` does, and writes a JPEG copy of each to the file that `resized_paths` names.

    A copy is upright, RGB and without metadata. Its longer side keeps the proportions, rounded to the nearest, halves
    up; smaller images are enlarged. It has the modification time of its original, or of the archive: one that is whole
    and has it stays as it is. So the work can be interrupted at any time, and done again for what has changed.

    Returns:
        What is the matter with some, in the order of the images, and the map of the copies. Of unusable ones no copy is
        written.

    Raises:
        UserError: a copy cannot be written, or a worker process ended by itself.
    """
    copies = resized_paths(images, folder)
    try:
        for parent in dict.fromkeys(map(os.path.dirname, copies.paths)):
            os.makedirs(parent, exist_ok=True)
    except OSError as error:
        raise cannot_write(error.filename, error) from None
    work = functools.partial(_resize_one, shorter_side=shorter_side)
    items = list(zip(images.images(), copies.paths, strict=True))
    findings = list(filter(None, map_in_processes(work, items, num_processes, progress)))
    if hasattr(os, "sync"):
        # Maps that name the copies must not outlive a power loss that these do not.
        os.sync()
    return findings, copies.take(usable_rows(images, findings))


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

    def resize(opened: OpenImage) -> Image.Image | None:
        loaded = None if has_copy else opened.load()
        orientation = opened.orientation()
        if loaded is None:
            return None
        upright = upright_rgb(loaded, orientation)
        # Of Pillow's antialiasing filters the one that keeps most detail: training reads nothing but these copies.
        return upright.resize(resized_size(upright.size, shorter_side), Image.Resampling.LANCZOS)

    finding, resized = examine(source, resize)
    if resized is None:
        return finding, None
    if resized_format == "pixels":
        return finding, ppm.encode(resized)
    buffer = io.BytesIO()
    resized.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return finding, buffer.getvalue()


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
    max_pixels = 2 * (Image.MAX_IMAGE_PIXELS or longest * shortest)
    if max(width, height) > _MAX_SIDE or width * height > max_pixels:
        raise UnusableError("too long and narrow to be resized: {} x {}".format(*size))
    return width, height


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
        f"cannot write {path}: {error.strerror or error}. Free some space, or make it writable, or choose another "
        "--resized_dir; the same command then continues where this one stopped."
    )
