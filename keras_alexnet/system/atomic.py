"""Files that appear under their final name whole, or not at all."""

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from keras_alexnet.errors import UserError


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a path beside `path` to write to; on success its file is flushed to disk and takes the name `path`.

    On an exception the part written is removed and an older file of that name stays as it was. What a killed process
    leaves behind is hidden (`.partial-…`), and the next write to the same name replaces it.

    Raises:
        UserError: `path` is something else than a file, its folder cannot be made or written, or the disk is full.
    """
    path = Path(path)
    check_target(path)
    partial = path.with_name(partial_name(path.name))
    make_folder(path.parent)
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    except OSError as error:
        _remove(partial)
        raise UserError(
            f"cannot write {path}: {error.strerror or error}. Make room or permit writing there, or choose another "
            "output folder."
        ) from error
    except BaseException:
        _remove(partial)
        raise


def partial_name(name: str) -> str:
    """The name under which a file `name` is written: of few characters, as those of `name` may be all there can be."""
    suffix = os.path.splitext(name)[1]  # keras.Model.save looks at it.
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    return f".partial-{digest}{suffix if len(os.fsencode(suffix)) < 16 else ''}"


def check_target(path: str | os.PathLike) -> None:
    """Raises `UserError` where `path` is a folder, a device or the like, or a name that no file can have."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}. Give another name.") from None
    if not stat.S_ISREG(mode):
        raise UserError(f"cannot write {path}: it is no regular file. Give the name of a file.")


def check_writable(path: str | os.PathLike) -> None:
    """Finds out whether a file can be written, before the work whose result it is to hold; raises `UserError`."""
    check_target(path)
    check_folder(os.path.dirname(os.path.abspath(path)))


def make_folder(folder: str | os.PathLike) -> None:
    """Makes a folder, and those above it, if need be; raises `UserError` where it cannot."""
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {_reason(error, folder)}. Choose another folder.") from None


def check_folder(folder: str | os.PathLike) -> Path:
    """Finds out whether files can be written to a folder that may have to be made, and makes nothing.

    Returns:
        The folder, or the nearest above it that there is.

    Raises:
        UserError: it cannot be written to.
    """
    absolute = Path(folder).absolute()
    existing = next(path for path in (absolute, *absolute.parents) if os.path.lexists(path))
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"x")
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {_reason(error, existing)}. Choose another folder.") from None
    return existing


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes `text` (UTF-8; bytes that file names smuggled in as surrogates come out as they were)."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="surrogateescape", newline="\n")


def sync_folder(folder: Path) -> None:
    """Makes the new name itself survive a power loss, where the file system offers it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _reason(error: OSError, folder: str | os.PathLike) -> str:
    """Why a folder cannot be made or written to."""
    folder = Path(folder).absolute()
    for path in (folder, *folder.parents):
        if path.is_symlink() and not path.exists():
            return f"{path} is a link to {os.readlink(path)}, which does not exist"
    if isinstance(error, FileExistsError):
        return f"{folder} is not a folder"
    return error.strerror


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
