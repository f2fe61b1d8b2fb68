"""Files that appear under their final name whole, or not at all."""

import contextlib
import os
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
    # The suffix stays last: keras.Model.save looks at it.
    partial = path.with_name(f".partial-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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


def check_target(path: str | os.PathLike) -> None:
    """Raises `UserError` where `path` is a folder, a device or the like, which a new file must not replace."""
    path = Path(path)
    if path.exists() and not path.is_file():
        raise UserError(f"cannot write {path}: it is no regular file. Give the name of a file.")


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
        raise UserError(f"cannot write to {folder}: {error.strerror}. Choose another folder.") from None
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


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
