"""Finds the archived images of a map, from the index that `prepare` wrote or from the archives themselves.

An index has one item per line of its map, so that reading it takes no time and no lookup: it holds for exactly this
map. Without it the directory of each archive is read: seconds for a zip of ImageNet, and for a tar one read per image.
"""

import hashlib
import json
import os
import zipfile
from array import array
from collections.abc import Sequence

import numpy as np

from keras_alexnet.data.archives.directory import read_archive
from keras_alexnet.data.archives.entries import Entries, opened, read_range
from keras_alexnet.data.archives.locations import Locations
from keras_alexnet.data.archives.paths import candidates
from keras_alexnet.data.archives.state import ArchiveState
from keras_alexnet.errors import UserError, raise_if_any
from keras_alexnet.system.atomic import atomic_path
from keras_alexnet.system.progress import ScanProgress

_VERSION = 1
# Blocks of an archive that identify it.
_SAMPLED_BLOCKS, _BLOCK = 8, 4096
_AGAIN = "run python -m keras_alexnet.prepare again"


def locate(paths: Sequence[str], source: str) -> Locations | None:
    """Finds images in the directories of their archives; None if none of them is inside an archive.

    A path is read as CNTK does: up to the first `@/` that an existing file comes before it is the archive, and the rest
    the entry; with no such file, it is that of a plain file. `source` is the map, for messages.

    Raises:
        UserError: an archive cannot be read, or some entries are not in it.
    """
    archives: list[ArchiveState] = []
    # By the text in front of `@`: None if it is no file.
    known: dict[bytes, tuple[int, dict[bytes, int], Entries] | None] = {}
    number, offset, size, method = array("i"), array("q"), array("q"), array("B")
    problems: list[str] = []
    with ScanProgress() as progress:
        for row, path in enumerate(paths):
            values = (-1, 0, 0, 0)
            for archive, entry in candidates(os.fsencode(path)):
                if archive not in known:
                    known[archive] = _directory(os.fsdecode(archive), archives)
                if known[archive] is not None:
                    position, directory, entries = known[archive]
                    found = directory.get(entry, -1)
                    if found >= 0 and entry not in entries.unusable:
                        values = position, entries.offset[found], entries.size[found], entries.method[found]
                    else:
                        reason = entries.unusable.get(entry, "it has no such entry")
                        problems.append(f"line {row + 1}: {os.fsdecode(entry)!r} in {os.fsdecode(archive)}: {reason}")
                    break
            for values_of_all, value in zip((number, offset, size, method), values, strict=True):
                values_of_all.append(value)
            if not row % 4096:
                progress(row, len(paths), "map lines looked up in archives")
    raise_if_any(problems, f"{source} names images that cannot be read from their archives; correct it or {_AGAIN}")
    arrays = map(np.asarray, (number, offset, size, method))
    return Locations(archives, *arrays) if archives else None


def _directory(archive: str, archives: list[ArchiveState]) -> tuple[int, dict[bytes, int], Entries] | None:
    if not os.path.isfile(archive):
        return None
    entries = read_archive(archive)
    archives.append(entries.archive)
    directory = {name: position for position, name in enumerate(entries.names)}
    entries.names.clear()
    return len(archives) - 1, directory, entries


def write_index(path: str | os.PathLike, fingerprint: str, locations: Locations) -> None:
    """Writes the index of a map of this fingerprint, atomically."""
    header = {
        "version": _VERSION,
        "map": fingerprint,
        "archives": [[state.size, state.mtime_ns, _digest(state.path)] for state in locations.archives],
    }
    large = len(locations) and locations.size.max() >= 2**32
    with atomic_path(path) as partial, open(partial, "wb") as file:
        np.savez(
            file,
            header=np.frombuffer(json.dumps(header).encode(), np.uint8),
            archive=locations.archive,
            offset=locations.offset,
            size=locations.size.astype(np.int64 if large else np.uint32),
            method=locations.method,
        )


def read_index(path: str | os.PathLike, fingerprint: str, paths: Sequence[str]) -> Locations | None:
    """Reads the index of the map of this fingerprint; None if there is none, or one of another map.

    Raises:
        UserError: an archive is missing, or is not the one that was indexed.
    """
    try:
        with open(path, "rb") as opened_file, np.load(opened_file, allow_pickle=False) as file:
            header = json.loads(file["header"].tobytes())
            if header["version"] != _VERSION or header["map"] != fingerprint:
                return None
            arrays = [file[name] for name in ("archive", "offset", "size", "method")]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    numbers, firsts = np.unique(arrays[0], return_index=True)
    archives: list[ArchiveState | None] = [None] * len(header["archives"])
    for number, row in zip(numbers.tolist(), firsts.tolist(), strict=True):
        if number >= 0:
            archives[number] = _checked(paths[row], *header["archives"][number], path)
    return Locations(archives, *arrays)


def _checked(image: str, size: int, mtime_ns: int, digest: str, index: str | os.PathLike) -> ArchiveState:
    named = [os.fsdecode(archive) for archive, _ in candidates(os.fsencode(image))]
    archive = next(filter(os.path.isfile, named), named[0])
    try:
        state = ArchiveState.of(archive)
    except FileNotFoundError:
        raise UserError(
            f"the archive {archive} does not exist. Is its disk mounted? If it has been moved, {_AGAIN}; with "
            "--relative_paths it writes maps that can be moved together with their archives."
        ) from None
    except OSError as error:
        raise UserError(f"cannot read the archive {archive}: {error.strerror}.") from None
    # A copy may have another time.
    if state.size != size or (state.mtime_ns != mtime_ns and _digest(archive) != digest):
        raise UserError(
            f"the archive {archive} is not the one that {os.fspath(index)} was written for: expected {size:,} bytes, "
            f"found {state.size:,}{'' if state.size != size else ' with other contents'}. Restore it, or {_AGAIN}."
        )
    return state


def _digest(archive: str) -> str:
    """SHA-256 of some blocks of an archive, evenly spread from its first to its last byte."""
    digest = hashlib.sha256()
    with opened(archive) as file:
        size = os.fstat(file).st_size
        for block in range(_SAMPLED_BLOCKS):
            digest.update(read_range(file, max(size - _BLOCK, 0) * block // (_SAMPLED_BLOCKS - 1), _BLOCK))
    return digest.hexdigest()
