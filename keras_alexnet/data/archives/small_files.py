"""Small files, on the disk or inside an archive: lists of classes and labels.

Here `<archive>@/<path>` is a file or folder inside an archive.
"""

import os
from collections.abc import Callable

from keras_alexnet.data.archives.directory import Mapper, Progress, read_archive
from keras_alexnet.data.archives.entries import Entries
from keras_alexnet.data.archives.locations import ArchivedImage
from keras_alexnet.data.archives.paths import split_archive
from keras_alexnet.data.archives.state import ArchiveState

# Lists have some megabytes; a limit keeps a wrong file from filling the memory.
_MAX_BYTES = 2**26

_last: list[Entries] = []


def entries_of(archive: str, mapper: Mapper = map, progress: Progress | None = None) -> Entries:
    """As `read_archive`. It keeps the entries of the last archive: all parts of ImageNet may be in one."""
    if not _last or _last[0].archive != ArchiveState.of(archive):
        _last[:] = [read_archive(archive, mapper, progress)]
    return _last[0]


def exists(path: str | os.PathLike) -> bool:
    """Whether there is such a file or folder."""
    archived = split_archive(path)
    if archived is None:
        return os.path.exists(path)
    archive, inside = archived
    name = os.fsencode(inside)
    names = entries_of(archive).names
    return any(other.startswith(name) and other[len(name) : len(name) + 1] in (b"", b"/") for other in names)


def reader(folder: str | os.PathLike) -> Callable[[str], bytes]:
    """A function that gives the bytes of a file in a folder.

    It raises `OSError` if the file does not exist, if it cannot be read, or if it is larger than 64 MiB.
    """
    archived = split_archive(folder)
    if archived is None:
        return lambda name: _read(os.path.join(folder, name))
    archive, inside = archived
    entries = entries_of(archive)
    start = os.fsencode(f"{inside}/") if inside else b""
    positions = {name: position for position, name in enumerate(entries.names) if name.startswith(start)}

    def read(name: str) -> bytes:
        position = positions.get(start + os.fsencode(name))
        if position is None:
            raise FileNotFoundError(None, "the archive has no entry of this name")
        _check_size(entries.size[position])
        return ArchivedImage.of(entries, position).read()

    return read


def read_file(path: str | os.PathLike) -> bytes:
    """The bytes of a file; raises as `reader`'s function."""
    folder, name = os.path.split(os.path.abspath(path))
    return reader(f"{folder}/")(name)


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        _check_size(os.fstat(file.fileno()).st_size)
        return file.readall()


def _check_size(size: int) -> None:
    if size > _MAX_BYTES:
        raise OSError(None, f"it is larger than {_MAX_BYTES // 2**20} MiB")
