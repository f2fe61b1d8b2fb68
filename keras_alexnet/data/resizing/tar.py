"""Smaller copies of images in one tar instead of a file each. Pillow, no framework.

A tar that is being written has the suffix `.partial`. It only grows at its end, so that a later run continues after
the last complete copy. Copies are JPEGs, or PPM files of pixels that need no decoding (`ppm`).
"""

import contextlib
import functools
import os
import tarfile
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from keras_alexnet.data import ppm
from keras_alexnet.data.archives.entries import Entries, opened, read_range
from keras_alexnet.data.archives.state import ArchiveState
from keras_alexnet.data.archives.tar import Member, TarPart, members
from keras_alexnet.data.checking import Progress, Source
from keras_alexnet.data.findings import Finding, usable_rows
from keras_alexnet.data.image_file import JPEG_END
from keras_alexnet.data.image_map import ImageMap
from keras_alexnet.data.image_rows import ImageRows
from keras_alexnet.data.resizing.files import cannot_write, modified, resized_copy, resized_paths
from keras_alexnet.errors import UserError
from keras_alexnet.system.atomic import sync_folder
from keras_alexnet.system.process_pool import imap_in_processes
from keras_alexnet.system.progress import ScanProgress

# Bytes after which a tar that grows is brought to the disk, so that a power loss costs no more.
_SYNCED_EVERY = 2**30


class Copy(NamedTuple):
    """A copy in a tar: the time of its original, in whole seconds as a tar has it, and where its bytes are."""

    mtime: int
    offset: int
    size: int


def write_copies(
    images: ImageMap,
    tar: str,
    shorter_side: int,
    num_processes: int,
    progress: Progress | None = None,
    resized_format: str = "tar",
) -> tuple[list[Finding], ImageMap]:
    """As `files.write_copies`, for copies in one tar: JPEGs, or pixels for the format "pixels".

    A copy that an earlier run has written is kept if it has the time of its original, or of the archive that has that.
    A finished tar stays in place until another one has been written whole.
    """
    if not len(images):
        return [], images
    names = _names(images, tar, resized_format)
    findings, copies = _write_tar(tar, images.images(), names, shorter_side, num_processes, progress, resized_format)
    chosen = [row for row in usable_rows(images, findings) if names[row] in copies]
    entries = Entries(ArchiveState.of(tar))
    for row in chosen:
        copy = copies[names[row]]
        entries.append(os.fsencode(names[row]), copy.offset, copy.size)
    rows = ImageRows()
    rows.add_entries(entries, range(len(entries)))
    return findings, rows.image_map(array("i", (images.labels[row] for row in chosen)), tar)


def _write_tar(
    tar: str,
    sources: Sequence[Source],
    names: Sequence[str],
    shorter_side: int,
    num_processes: int,
    progress: Progress | None,
    resized_format: str,
) -> tuple[list[Finding], dict[str, Copy]]:
    """Writes the copies under these names; returns what is the matter with some images, and the copies by name."""
    partial = f"{tar}.partial"
    times = list(map(_seconds, sources))
    kept, continued, is_current = _existing(tar, names, times)
    findings = []
    try:
        with _Writer(partial, continued) as writer:
            work = functools.partial(resized_copy, shorter_side=shorter_side, resized_format=resized_format)
            items = [(source, name in kept or name in continued) for source, name in zip(sources, names, strict=True)]
            with contextlib.closing(imap_in_processes(work, items, num_processes, progress)) as results:
                for name, time, (finding, data) in zip(names, times, results, strict=True):
                    if finding:
                        findings.append(finding)
                    if data:
                        is_current = False
                        writer.add(name, time, data)
            if is_current:
                os.unlink(partial)
                return findings, kept
            if left := [(name, copy) for name, copy in kept.items() if name not in writer.copies]:
                with open(tar, "rb", buffering=0) as old:
                    for name, copy in left:
                        writer.add(name, copy.mtime, read_range(old.fileno(), copy.offset, copy.size))
            writer.finish()
        os.replace(partial, tar)
        sync_folder(Path(tar).parent)
    except OSError as error:
        raise cannot_write(tar, error) from None
    return findings, writer.copies


def count_missing(images: ImageMap, tar: str, resized_format: str) -> tuple[int, int]:
    """How many copies `write_copies` has to make, and how many it has to write, with those carried over."""
    names = _names(images, tar, resized_format)
    kept, continued, is_current = _existing(tar, names, list(map(_seconds, images.images())))
    to_make = sum(name not in kept and name not in continued for name in names)
    return to_make, 0 if is_current and not to_make else len(names) - len(continued)


def _names(images: ImageMap, tar: str, resized_format: str) -> list[str]:
    """What the copies are called in the tar."""
    start = f"{tar}@/"
    return [path.removeprefix(start) for path in resized_paths(images, start, resized_format).paths]


def _existing(
    tar: str, names: Sequence[str], times: Sequence[int | None]
) -> tuple[dict[str, Copy], dict[str, Copy], bool]:
    """The usable copies of a finished tar, those of a begun one, and whether the former has nothing else."""
    with ScanProgress() as looking:
        finished, begun = (dict(_copies(path, looking)) for path in (tar, f"{tar}.partial"))
    kept, continued = (
        {
            name: copies[name]
            for name, time in zip(names, times, strict=True)
            if name in copies and copies[name].mtime == time
        }
        for copies in (finished, begun)
    )
    if len(continued) < len(begun):
        continued = {}  # A tar cannot lose single entries.
    # An older tar may have all that it should have, and a begun one what came later.
    is_current = os.path.exists(tar) and len(kept) == len(finished) and continued.keys() <= kept.keys()
    return kept, continued, is_current


def _seconds(source: Source) -> int | None:
    """When an image, or its archive, was modified; None if it does not exist."""
    try:
        return modified(source) // 10**9
    except OSError:
        return None


def _copies(tar: str, progress: ScanProgress) -> Iterator[tuple[str, Copy]]:
    """The copies in a tar, up to the first that is not whole: a killed process, or a power loss, may leave such."""
    if not os.path.exists(tar):
        return
    with opened(tar) as file:
        size = os.fstat(file).st_size
        what = f"MiB of {os.path.basename(tar)} searched for copies"
        try:
            for member in members(file, TarPart(tar), size):
                progress(member.offset >> 20, size >> 20, what)
                if not _is_whole(file, member, size):
                    return
                yield os.fsdecode(member.name), Copy(member.mtime, member.offset, member.size)
        except UserError:
            return


def _is_whole(file: int, member: Member, size: int) -> bool:
    end = member.offset + member.size
    if not member.name.endswith(os.fsencode(ppm.SUFFIX)):
        return read_range(file, end - len(JPEG_END), len(JPEG_END)) == JPEG_END
    if size - end > 2 * _SYNCED_EVERY:
        return True  # It was on the disk before what follows was written. To read all pixels would take hours.
    data = read_range(file, member.offset, member.size)
    return ppm.read_header(data) is not None and not ppm.is_damaged(data)


class _Writer:
    """Appends copies to a tar behind those that it has."""

    def __init__(self, path: str, copies: dict[str, Copy]) -> None:
        self.copies = copies
        self._file: BinaryIO = open(path, "r+b" if os.path.exists(path) else "w+b")  # noqa: SIM115
        self._file.truncate(max((_padded(copy.offset + copy.size) for copy in copies.values()), default=0))
        os.fsync(self._file.fileno())  # What a killed run has written may still be in memory only.
        self._file.seek(0, os.SEEK_END)
        self._synced = self._file.tell()

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *exception) -> None:
        self._file.close()

    def add(self, name: str, mtime: int, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mtime = len(data), mtime
        self._file.write(member.tobuf(tarfile.PAX_FORMAT, errors="surrogateescape"))
        self.copies[name] = Copy(mtime, self._file.tell(), len(data))
        self._file.write(data)
        self._file.write(bytes(_padded(len(data)) - len(data)))
        if self._file.tell() - self._synced > _SYNCED_EVERY:
            self._sync()

    def finish(self) -> None:
        """Ends the tar, and waits until it is on the disk."""
        self._file.write(bytes(tarfile.RECORDSIZE))
        self._sync()

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._synced = self._file.tell()


def _padded(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
