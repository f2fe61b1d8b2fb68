"""Checks image files: decodes them and reports problems. Pillow, no framework."""

import contextlib
import errno
import io
import os
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, TypeVar

from PIL import Image, UnidentifiedImageError

from keras_alexnet.data import image_file
from keras_alexnet.data.archives.locations import ArchivedImage
from keras_alexnet.data.file_kinds import FORMAT_OF_SUFFIX, HEADER_BYTES, suffix_of, why_not_an_image
from keras_alexnet.data.findings import Finding
from keras_alexnet.data.image_file import EXIF_TRANSPOSES, orientation_of, pillow_formats, raise_if_damaged, upright_rgb
from keras_alexnet.data.image_map import ImageMap, sample_rows
from keras_alexnet.errors import UserError
from keras_alexnet.system.process_pool import map_in_processes

SMALL = 32

# Called with (images done, images in all).
Progress = Callable[[int, int], None]
# The path of an image file, or an image inside an archive.
Source = str | ArchivedImage

_Result = TypeVar("_Result")


class UnusableError(Exception):
    """Says why an image cannot be used."""


def check(sources: Sequence[Source], num_processes: int, progress: Progress | None = None) -> list[Finding]:
    """Decodes images, in parallel; returns what is the matter with some, in the order of `sources`.

    Raises:
        UserError: a worker process ended by itself.
    """
    found = map_in_processes(check_one, sources, num_processes, progress)
    return [finding for finding in found if finding]


def mean_over_sample(images: ImageMap, function: Callable[[int, int], float]) -> float:
    """The mean of a function of (width, height) over up to 100 images, evenly spread; unusable ones are skipped.

    The function may raise `UnusableError`, too.
    """
    values = []
    for row in sample_rows(len(images), 100):
        _, size = examine(images.image(row), lambda opened: opened.image.size)
        if size:
            with contextlib.suppress(UnusableError):
                values.append(function(*size))
    return sum(values) / max(len(values), 1)


def check_one(source: Source) -> Finding | None:
    """What is the matter with an image, if anything."""

    def decode(opened: OpenImage) -> None:
        loaded = opened.load(smaller=True)
        orientation = opened.orientation()
        if opened.image.format != "JPEG":
            upright_rgb(loaded, orientation)

    return examine(source, decode)[0]


class OpenImage:
    """An image, the file that it is read from, and what is odd about it."""

    def __init__(self, image: Image.Image, file: BinaryIO, warned: Sequence[warnings.WarningMessage]) -> None:
        self.image = image
        self.odd: list[str] = []
        self._file = file
        self._warned = warned

    def load(self, *, smaller: bool = False) -> Image.Image:
        """As `image_file.load`; notes what is odd."""
        loaded, lacks_end = image_file.load(self.image, self._file, smaller=smaller)
        if lacks_end:
            self.odd.append("no end marker")
        return loaded

    def orientation(self) -> int | None:
        """As `image_file.orientation_of`; notes what is odd."""
        found = orientation_of(self.image)
        # The EXIF reader is Pillow's TIFF reader. Some damage it keeps to itself, and then there are no EXIF tags.
        has_warned = any(os.path.basename(warning.filename) == "TiffImagePlugin.py" for warning in self._warned)
        nothing_in_it = self.image.info.get("exif") and not (found and self.image.getexif())
        if self.image.format != "TIFF" and (found is None or has_warned or nothing_in_it):
            self.odd.append("broken EXIF data")
        if found in EXIF_TRANSPOSES:
            self.odd.append(f"turned by its EXIF orientation: {found}")
        return found


def examine(source: Source, work: Callable[[OpenImage], _Result]) -> tuple[Finding | None, _Result | None]:
    """Opens an image, and turns whatever is raised because of it into a finding.

    Returns:
        What is the matter with the image, if anything; and the result of `work`, None if the image is unusable.

    Raises:
        UserError: the memory does not suffice.
    """
    path = source if isinstance(source, str) else source.path
    try:
        with warnings.catch_warnings(record=True) as warned, _opened(source) as file:
            warnings.simplefilter("always")
            with _open_image(file) as image:
                opened = OpenImage(image, file, warned)
                opened.odd += _header_problems(image, source)
                result = work(opened)
        return Finding(path, True, tuple(opened.odd)) if opened.odd else None, result
    except UnusableError as error:
        problem = str(error)
    except MemoryError:
        raise UserError(f"not enough memory to decode {path}. Use a smaller --num_processes.") from None
    except Image.DecompressionBombError:
        problem = f"too many pixels: more than {2 * Image.MAX_IMAGE_PIXELS:,}"
    except Exception as error:  # Pillow raises a dozen kinds of exceptions for broken files.
        if isinstance(error, OSError) and error.strerror is not None:
            problem = _unreadable(path, error)
        else:
            problem = f"truncated or corrupted: {' '.join(str(error).split()) or type(error).__name__}"
    return Finding(path, False, (problem,)), None


def _opened(source: Source) -> BinaryIO:
    if not isinstance(source, str):
        return io.BytesIO(source.read())
    mode = os.stat(source).st_mode
    # Opening a pipe would wait for its writer.
    if not stat.S_ISREG(mode):
        raise UnusableError(f"not a file: {'a folder' if stat.S_ISDIR(mode) else 'a device or the like'}")
    return open(source, "rb")


def _open_image(file: BinaryIO) -> Image.Image:
    try:
        image = Image.open(file, formats=pillow_formats())
    except UnidentifiedImageError:
        file.seek(0)
        raise UnusableError(why_not_an_image(file.read(HEADER_BYTES))) from None
    if image.format == "PPM":
        file.seek(0)
        raise_if_damaged(image, file.read())
    return image


def _header_problems(image: Image.Image, source: Source) -> Iterator[str]:
    suffix = suffix_of(source if isinstance(source, str) else source.path)
    # Cameras put a second, larger picture behind some JPEGs.
    kind = "JPEG" if image.format == "MPO" else image.format
    if FORMAT_OF_SUFFIX.get(suffix, kind) != kind:
        yield f"{kind} named {suffix}"
    if image.mode == "CMYK":
        yield "CMYK"
    if image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I"):
        yield "gray"
    # Of PNG colors of 16 bits Pillow keeps 8 by itself.
    deep_png = image.format == "PNG" and any("16" in str(tile[3]) for tile in image.tile)
    if deep_png or image.mode == "F" or image.mode.startswith("I"):
        yield "more than 8 bits a channel"
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        yield "transparency, which is dropped"
    if min(image.size) < SMALL:
        yield f"shorter side below {SMALL} pixels: {image.width} x {image.height}"
    if image.format in ("GIF", "PNG", "WEBP") and _is_animated(source):
        yield "several frames, of which the first counts"


def _is_animated(source: Source) -> bool:
    # In an image of its own: looking for a second frame moves on to it, and may fail where the first is well.
    with contextlib.suppress(Exception), _opened(source) as file, Image.open(file, formats=pillow_formats()) as image:
        return image.is_animated
    return False


def _unreadable(path: str, error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "loop of links"
    if error.errno == errno.ENOENT and os.path.islink(path):
        return "broken link"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "no permission to read it"
    return f"cannot be read: {error.strerror}"
