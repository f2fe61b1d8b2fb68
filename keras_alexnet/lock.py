"""One process at a time in a folder."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from keras_alexnet.errors import UserError


@contextlib.contextmanager
def exclusive(folder: str | os.PathLike) -> Iterator[None]:
    """Makes `folder` if need be and holds it; the lock goes with the process, however it ends.

    Raises:
        UserError: another process holds it, or it cannot be made.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}. Choose another output folder.") from None
    try:
        import fcntl
    except ImportError:  # Windows has no such locks.
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UserError(
            f"another process is writing to {folder}. Wait for it to end, or choose another folder."
        ) from None
    except OSError:
        pass  # A file system without locks.
    try:
        yield
    finally:
        os.close(descriptor)
