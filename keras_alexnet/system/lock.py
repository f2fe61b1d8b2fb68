"""One process at a time in a folder."""

import contextlib
import os
from collections.abc import Iterator

from keras_alexnet.errors import UserError
from keras_alexnet.system.atomic import make_folder
from keras_alexnet.system.progress import write_stderr

# The file stays: between its removal and a new one, two processes could hold one each.
_LOCK_FILE = ".lock"


@contextlib.contextmanager
def exclusive(folder: str | os.PathLike, name: str = _LOCK_FILE, *, wait: bool = False) -> Iterator[None]:
    """Makes `folder` if needed and locks it; the lock ends with the process, however that ends.

    On a file system without locks it locks nothing, and reports that on stderr.

    Args:
        folder: the folder.
        name: of the lock file in it.
        wait: for another process that holds it.

    Raises:
        UserError: another process holds it and `wait` is False, or it cannot be made or written to.
    """
    make_folder(folder)
    try:
        import fcntl
    except ImportError:  # Windows has no such locks.
        yield
        return
    descriptor = _open(folder, name)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except (BlockingIOError, PermissionError):  # NFS may answer with either.
            raise UserError(
                f"another process is writing to {folder}. Wait for it to end, or choose another folder."
            ) from None
        except OSError as error:
            write_stderr(
                f"{folder} cannot be locked ({error.strerror}): nothing prevents another process from writing to it "
                "at the same time\n"
            )
        yield
    finally:
        os.close(descriptor)


def _open(folder: str | os.PathLike, name: str) -> int:
    """Opens the lock file, for writing, since NFS locks no other across hosts."""
    path = os.path.join(folder, name)
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        with contextlib.suppress(OSError):
            if os.access(folder, os.W_OK):  # The file is another user's.
                return os.open(path, os.O_RDONLY)
        raise UserError(f"cannot write to {folder}: {error.strerror}. Choose another folder.") from None
