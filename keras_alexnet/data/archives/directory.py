"""Finds the files inside an archive of any kind that is read. Standard library only."""

from collections.abc import Callable, Iterable, Sequence

from keras_alexnet.data.archives.entries import Entries, opened, read_range
from keras_alexnet.data.archives.tar import TarPart, is_tar, read_tar
from keras_alexnet.data.archives.tfrecord import is_tfrecord, read_tfrecord
from keras_alexnet.data.archives.zip import read_zip
from keras_alexnet.data.file_kinds import COMPRESSIONS, detect
from keras_alexnet.errors import UserError

# Computes a function of each item, in order: `map`, or something parallel that reports its progress.
Mapper = Callable[[Callable, Sequence], Iterable]
# Called with (done, total, what is counted), often.
Progress = Callable[[int, int, str], None]

_HEADER_BYTES = 2048


def read_archive(path: str, mapper: Mapper = map, progress: Progress | None = None) -> Entries:
    """Reads what files an archive has; tars inside a tar are read like folders.

    Args:
        path: a zip, a tar or a TFRecord file, whatever its suffix. Of a TFRecord file the images are its files.
        mapper: computes the parts of a tar of tars.
        progress: of a tar, which has a header per file.

    Raises:
        UserError: it is another kind of file, is compressed as a whole, or damaged.
    """
    with opened(path) as file:
        head = read_range(file, 0, _HEADER_BYTES)
    if is_tar(head):
        entries, inner = read_tar(TarPart(path), progress)
        for part in mapper(_read_inner, inner):
            entries.extend(part)
    elif is_tfrecord(head):
        entries = read_tfrecord(path)
    else:
        entries = _read_zip(path, head)
    entries.refuse_duplicates()
    return entries


def _read_zip(path: str, head: bytes) -> Entries:
    """Reads what is a zip, unless it begins otherwise: a zip may have other bytes in front."""
    kind = detect(head)
    if kind in COMPRESSIONS:
        raise UserError(
            f"the archive {path} is compressed ({kind}), so that an image in it can only be read by decompressing "
            f"all before it. Decompress it once, such as with gzip -d for .tar.gz, and pass the .tar."
        )
    if not head:
        raise UserError(f"the archive {path} is empty.")
    try:
        return read_zip(path)
    except UserError as error:
        if head.startswith(b"PK"):
            raise
        expected = "Expected a folder, a zip, a tar or a TFRecord file."
        if kind or _is_text(head):
            raise UserError(f"{path} is a {kind or 'text'} file. {expected}") from None
        raise UserError(f"{error} {expected}") from None


def _is_text(head: bytes) -> bool:
    """Whether a file begins like a text, and not like a script that unpacks itself."""
    return len(head) > 4 and all(byte >= 32 or byte in b"\t\n\r" for byte in head) and not head.startswith(b"#!")


def _read_inner(part: TarPart) -> Entries:
    entries, inner = read_tar(part)
    for deeper in inner:
        entries.append_unusable(deeper.prefix.removesuffix(b"/"), "it is a tar inside a tar inside a tar")
    return entries
