"""Image files: decoding them, and finding the bad ones. Pillow, no framework."""

import contextlib
import errno
import functools
import io
import os
import stat
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from keras_alexnet.data import maps, ppm
from keras_alexnet.data.archives.locations import ArchivedImage
from keras_alexnet.data.scanning.scan import ImageFolders
from keras_alexnet.errors import UserError, raise_if_any
from keras_alexnet.system import atomic
from keras_alexnet.system.file_names import to_utf8
from keras_alexnet.system.process_pool import map_in_processes

BAD_IMAGES = "bad_images.tsv"
SMALL = 32
KIND_OF_SUFFIX = {
    ".jpeg": "JPEG",
    ".jpg": "JPEG",
    ".png": "PNG",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".webp": "WEBP",
    ".ppm": "PPM",
}

# Called with (images done, images in all).
Progress = Callable[[int, int], None]
# The path of an image file, or an image inside an archive.
Source = str | ArchivedImage

# What Pillow reads without starting another program, as it does for PostScript.
_KINDS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "JPEG2000", "AVIF", "PPM")
_FIRST_BYTES = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"BM", b"RIFF")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SHOWN = 10

# Pillow warns of broken EXIF data and of large images, which it then reads well: `check` tells of what matters.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True)
class Finding:
    """What is the matter with an image file.

    Attributes:
        path: the file.
        usable: whether it can be decoded.
        problems: what was found: a kind, which may be followed by a colon and details.
    """

    path: str
    usable: bool
    problems: Sequence[str]


class UnusableError(Exception):
    """Says why an image cannot be used."""


def decode(data: bytes) -> np.ndarray:
    """Decodes an image file.

    The image is turned as its EXIF data say, if these can be read. Of several frames the first counts. Transparency is
    dropped, and colours of 16 bits keep their upper 8.

    Args:
        data: the file's bytes.

    Returns:
        uint8 (height, width, 3), RGB.

    Raises:
        Exception: of whatever kind Pillow raises, since `data` is no whole image.
    """
    with Image.open(io.BytesIO(data), formats=_kinds()) as image:
        raise_if_damaged(image, data)
        image.load()
        return np.asarray(upright_rgb(image, _orientation(image)))


def raise_if_damaged(image: Image.Image, data: bytes) -> None:
    """Raises `ValueError` for an image of a format without checksums that has one of this project (`ppm`)."""
    if image.format == "PPM" and ppm.is_damaged(data):
        raise ValueError("its pixels do not fit their checksum")


def orientation(data: bytes) -> int:
    """The EXIF orientation of an image file, 1 to 8; 1, which is upright, if it says none or cannot be read."""
    try:
        with Image.open(io.BytesIO(data), formats=_kinds()) as image:
            return _orientation(image) or 1
    except Exception:
        # Decoding says what is wrong with it.
        return 1


def check(sources: Sequence[Source], num_workers: int, progress: Progress | None = None) -> list[Finding]:
    """Decodes images, in parallel; returns what is the matter with some, in the order of `sources`.

    Raises:
        UserError: a worker process ended by itself.
    """
    found = map_in_processes(check_one, sources, num_workers, progress)
    return [finding for finding in found if finding]


def mean_over_sample(images: maps.ImageMap, function: Callable[[int, int], float], count: int = 100) -> float:
    """The mean of a function of (width, height) over up to `count` images, evenly spread; unusable ones are skipped."""
    values = []
    for row in maps.sample_rows(len(images), count):
        with problems_told(source := images.image(row)) as problems, open_image(source, problems) as image:
            values.append(function(*image.size))
    return sum(values) / max(len(values), 1)


def write_findings(path: str | os.PathLike, findings: Iterable[Finding]) -> None:
    """Writes a table of `<path> TAB <unusable or odd> TAB <problems>`, headed by a line that says so."""
    lines = ["path\tseverity\tproblem\n"]
    for finding in findings:
        severity = "odd" if finding.usable else "unusable"
        lines.append(f"{to_utf8(finding.path)}\t{severity}\t{'; '.join(finding.problems)}\n")
    atomic.write_text(path, "".join(lines))


def summary(findings: Sequence[Finding], total: int) -> str:
    """How many of `total` images have which kind of problem, as a table."""
    lines = [f"{total:,} images checked:"]
    for usable, severity in ((False, "unusable"), (True, "odd, but usable")):
        concerned = [finding for finding in findings if finding.usable == usable]
        lines.append(f"{len(concerned):>12,}  {severity}")
        counts = Counter(problem.partition(": ")[0] for finding in concerned for problem in finding.problems)
        lines += [f"{count:>16,}  {kind}" for kind, count in sorted(counts.items(), key=lambda item: (-item[1], item))]
    return "\n".join(lines)


def raise_if_unusable(findings: Sequence[Finding], total: int, table: str | os.PathLike) -> None:
    """Raises `UserError` that names the first unusable images; `table` is where all of them are."""
    raise_if_any(
        [f"{finding.path}: {'; '.join(finding.problems)}" for finding in findings if not finding.usable],
        f"some of the {total:,} images cannot be used, so no maps were written. {table} lists them all; replace or "
        "remove them, or leave them out with --skip_bad_images",
    )


def without_unusable(found: ImageFolders, findings: Iterable[Finding]) -> ImageFolders:
    """Leaves the unusable images out.

    Raises:
        UserError: a class would have no training images left, or there would be no validation images.
    """
    unusable = {finding.path for finding in findings if not finding.usable}
    train, val = (_without(images, unusable) for images in (found.train, found.val))
    emptied = [found.classes[label] for label in sorted(set(found.train.labels) - set(train.labels))]
    if emptied:
        shown = ", ".join(emptied[:_SHOWN]) + (", …" if len(emptied) > _SHOWN else "")
        raise UserError(
            f"no usable training image is left for {len(emptied):,} of {len(found.classes):,} classes: {shown}. "
            "Replace their images, or remove their folders."
        )
    if not len(val):
        raise UserError(f"none of the {len(found.val):,} validation images is usable: replace them.")
    return replace(found, train=train, val=val)


def _without(images: maps.ImageMap, unusable: set[str]) -> maps.ImageMap:
    return images.take([row for row, path in enumerate(images.paths) if path not in unusable])


def check_one(source: Source) -> Finding | None:
    """What is the matter with an image, if anything."""
    with problems_told(source) as problems, open_image(source, problems) as image:
        # At an eighth of the size a JPEG is read to its end just as well, in half the time.
        if image.format == "JPEG":
            image.draft(image.mode, (1, 1))
            image.load()
            note_orientation(image, problems)
        else:
            image.load()
            upright_rgb(image, note_orientation(image, problems))
    return problems.finding


class Problems:
    """Gathers what is found about one file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.odd: list[str] = []
        self.unusable: str | None = None
        self.warnings: list[warnings.WarningMessage] = []

    @property
    def finding(self) -> Finding | None:
        if self.unusable:
            return Finding(self.path, False, (self.unusable,))
        return Finding(self.path, True, tuple(self.odd)) if self.odd else None


@contextlib.contextmanager
def problems_told(source: Source) -> Iterator[Problems]:
    """Turns whatever is raised because of an image into a problem."""
    path = source if isinstance(source, str) else source.path
    problems = Problems(path)
    try:
        with warnings.catch_warnings(record=True) as problems.warnings:
            warnings.simplefilter("always")
            yield problems
    except UnusableError as error:
        problems.unusable = str(error)
    except MemoryError:
        raise UserError(f"not enough memory to decode {path}. Give a smaller --num_workers.") from None
    except Image.DecompressionBombError:
        problems.unusable = f"too many pixels: more than {2 * Image.MAX_IMAGE_PIXELS:,}"
    except Exception as error:
        if isinstance(error, OSError) and error.strerror is not None:
            problems.unusable = _unreadable(path, error)
        else:
            # Pillow raises a dozen kinds of exceptions for broken files.
            problems.unusable = f"truncated or corrupt: {' '.join(str(error).split()) or type(error).__name__}"


@contextlib.contextmanager
def open_image(source: Source, problems: Problems) -> Iterator[Image.Image]:
    """Opens an image and notes what its header tells."""
    with _opened(source) as file:
        try:
            image = Image.open(file, formats=_kinds())
        except UnidentifiedImageError:
            file.seek(0)
            start = file.read(16)
            if not start:
                raise UnusableError("empty file") from None
            if start.startswith(_FIRST_BYTES):
                raise UnusableError("truncated or corrupt: its header cannot be read") from None
            raise UnusableError(f"not an image: begins with {start!r}") from None
        with image:
            if image.format == "PPM":
                file.seek(0)
                raise_if_damaged(image, file.read())
            problems.odd += _header_problems(image, source)
            yield image


def _opened(source: Source) -> BinaryIO:
    if not isinstance(source, str):
        return io.BytesIO(source.read())
    mode = os.stat(source).st_mode
    # Opening a pipe would wait for its writer.
    if not stat.S_ISREG(mode):
        raise UnusableError(f"not a file: {'a folder' if stat.S_ISDIR(mode) else 'a device or the like'}")
    return open(source, "rb")


def _header_problems(image: Image.Image, source: Source) -> Iterator[str]:
    suffix = os.path.splitext(source if isinstance(source, str) else source.path)[1].lower()
    # Cameras put a second, larger picture behind some JPEGs.
    kind = "JPEG" if image.format == "MPO" else image.format
    # Records of a TFRecord file have numbers and no suffixes.
    if (suffix or isinstance(source, str)) and kind != KIND_OF_SUFFIX.get(suffix):
        yield f"{kind} named {suffix}"
    if image.mode == "CMYK":
        yield "CMYK"
    if image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I"):
        yield "gray"
    # Of PNG colours of 16 bits Pillow keeps 8 by itself.
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
    with contextlib.suppress(Exception), _opened(source) as file, Image.open(file, formats=_kinds()) as image:
        return image.is_animated
    return False


def note_orientation(image: Image.Image, problems: Problems) -> int | None:
    """Notes what is odd about the orientation, and returns it."""
    found = _orientation(image)
    # The EXIF reader is Pillow's TIFF reader. Some damage it keeps to itself, and then there are no EXIF tags.
    warned = any(os.path.basename(warning.filename) == "TiffImagePlugin.py" for warning in problems.warnings)
    nothing_in_it = image.info.get("exif") and not (found and image.getexif())
    if image.format != "TIFF" and (found is None or warned or nothing_in_it):
        problems.odd.append("broken EXIF data")
    if found in _TURNS:
        problems.odd.append(f"turned by its EXIF orientation: {found}")
    return found


def _orientation(image: Image.Image) -> int | None:
    """The EXIF orientation, or None if the EXIF data are broken."""
    try:
        # Pillow would take an orientation from XMP as well, which neither OpenCV nor browsers do.
        for xmp in ("xmp", "XML:com.adobe.xmp"):
            image.info.pop(xmp, None)
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
        # 0 is what some cameras write that do not know.
        return 1 if found in (0, 1) else found if found in _TURNS else None
    except Exception:
        # As for decoding, there is a dozen kinds of them.
        return None


def upright_rgb(image: Image.Image, turn: int | None) -> Image.Image:
    """A loaded image as RGB, turned by an EXIF orientation."""
    # Else Pillow looks for a colour that is to stand for transparency.
    image.info.pop("transparency", None)
    if image.mode == "F":
        image = Image.fromarray(_gray_of_floats(np.asarray(image)))
    elif image.mode.startswith("I"):
        # Pillow's own conversion clips 16-bit gray instead of scaling it.
        image = Image.fromarray((np.asarray(image).clip(0, 65_535) >> 8).astype(np.uint8))
    if image.mode != "RGB":
        image = image.convert("RGB")
    return image.transpose(_TURNS[turn]) if turn in _TURNS else image


def _gray_of_floats(values: np.ndarray) -> np.ndarray:
    """8-bit gray of floats, of which the file does not say what is white: 1, 255 or 65,535, whichever holds them."""
    values = np.nan_to_num(values, nan=0.0)
    white = next((white for white in (1, 255) if values.max(initial=0) <= white), 65_535)
    return (values.clip(0, white) * (255 / white) + 0.5).astype(np.uint8)


def _unreadable(path: str, error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "loop of links"
    if error.errno == errno.ENOENT and os.path.islink(path):
        return "broken link"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "no permission to read it"
    return f"cannot be read: {error.strerror}"


@functools.cache
def _kinds() -> tuple[str, ...]:
    Image.init()
    return tuple(kind for kind in _KINDS if kind in Image.OPEN)
