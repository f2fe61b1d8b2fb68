"""Files that appear under their final name complete, or not at all."""

import contextlib
import functools
import hashlib
import os
import platform
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from keras_alexnet.errors import UserError

# Those of older versions and of `partial_name` lack the host and the process.
_PARTIAL = re.compile(r"\.partial-[0-9a-f]{16}(-(?P<host>[0-9a-f]{8})-(?P<process>[0-9]+)-[0-9a-f]{8})?(\..*)?")
_DAY = 24 * 60 * 60  # seconds


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a path next to `path` to write to; on success its file is flushed to disk and takes the name `path`.

    On an exception the partial file is removed and an older file of that name stays as it was. Each writer has a
    partial file of its own, hidden (`.partial-…`); the next write to the folder removes those of killed processes.

    Raises:
        UserError: `path` is not a regular file, its folder cannot be made or written, or the disk is full.
    """
    path = Path(path)
    check_target(path)
    make_folder(path.parent)
    with partial_path(path) as partial:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)


def partial_name(name: str, unique: str = "") -> str:
    """The name under which a file `name` is written, short, since `name` may be as long as a name can be."""
    suffix = os.path.splitext(name)[1]  # keras.Model.save looks at it.
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    return f".partial-{digest}{unique}{suffix if len(os.fsencode(suffix)) < 16 else ''}"


@contextlib.contextmanager
def partial_path(path: Path) -> Iterator[Path]:
    """Gives a hidden name next to `path` that no other writer has; at the end nothing has that name.

    Raises:
        UserError: in place of any OSError within.
    """
    partial = _new_partial(path)
    try:
        yield partial
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}. Free some space, or make it writable, or choose another "
            "output folder."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            remove(partial)


def _new_partial(path: Path) -> Path:
    """Also removes what killed writers left in the folder."""
    with contextlib.suppress(OSError):
        for left in map(path.parent.joinpath, os.listdir(path.parent)):
            with contextlib.suppress(OSError):
                if _is_abandoned(left):
                    remove(left)
    return path.with_name(partial_name(path.name, f"-{_host()}-{os.getpid()}-{secrets.token_hex(4)}"))


def _is_abandoned(path: Path) -> bool:
    """Whether a path is a partial file of a process that has ended, or, where that cannot be seen, a day old."""
    name = _PARTIAL.fullmatch(path.name)
    if name is None:
        return False
    if name["host"] == _host() and os.path.exists("/proc/self"):
        return not os.path.exists(f"/proc/{name['process']}")
    return time.time() - path.stat().st_mtime > _DAY


@functools.cache
def _host() -> str:
    """Identifies the machine, or the container, in which process numbers mean the same."""
    namespace = ""
    with contextlib.suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{platform.node()} {namespace}".encode()).hexdigest()[:8]


def remove(path: Path) -> None:
    """Removes a file or a folder, if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_target(path: str | os.PathLike) -> None:
    """Raises `UserError` where `path` is a folder, a device or the like, or a name that no file can have."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}. Choose another name.") from None
    if not stat.S_ISREG(mode):
        raise UserError(f"cannot write {path}: it is not a regular file. Choose the name of a file.")


def check_writable(path: str | os.PathLike) -> None:
    """Raises `UserError` if a file cannot be written; to be called before the work whose result it is to hold."""
    check_target(path)
    check_folder(os.path.dirname(os.path.abspath(path)))


def make_folder(folder: str | os.PathLike) -> None:
    """Makes a folder, and those above it, if need be; raises `UserError` where it cannot."""
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {_reason(error, folder)}. Choose another folder.") from None


def check_folder(folder: str | os.PathLike) -> Path:
    """Checks whether files can be written to a folder that may have to be made, and makes nothing.

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
