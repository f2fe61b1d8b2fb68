"""Model files, mapped into memory: arrays can be views of them, and only what is used is read from disk."""

import mmap
import os
import stat
from dataclasses import dataclass

from keras_alexnet.errors import UserError

# Protobuf allows no larger messages, and no AlexNet is larger.
_MAX_BYTES = 2**31 - 1


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file that is not trusted.

    Attributes:
        path: its name, for messages.
        data: all of its bytes, read-only.
        expected: what it should be, for messages.
    """

    path: str
    data: memoryview
    expected: str

    def __len__(self) -> int:
        return len(self.data)

    def error(self, problem: str) -> UserError:
        """The error that the file `problem`: "is truncated", "has no layers"."""
        return UserError(
            f"{self.path} {problem}. Expected {self.expected}; if it is one, it is damaged: download or copy it again."
        )


def open_model_file(path: str | os.PathLike, expected: str, *, is_message: bool = False) -> ModelFile:
    """Maps a file into memory.

    NOTE: arrays taken from it may be views: the file must not change while they are used.

    Args:
        path: the file.
        expected: what it should be, for messages: "a Caffe model (.caffemodel)".
        is_message: whether it is a protobuf message, which must have less than 2 GiB. It is read, not mapped, so that
            arrays outlive changes of the file.

    Raises:
        UserError: the file cannot be read, is empty, or is too large.
    """
    path = os.fspath(path)
    try:
        # Before it is opened, since opening a named pipe waits for its writer.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UserError(f"{path} is not a regular file. Pass the name of {expected}.")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                raise UserError(f"{path} is empty. Expected {expected}: download or copy it again.")
            if is_message and size > _MAX_BYTES:
                raise UserError(f"{path} has {size:,} bytes. Expected {expected} of less than 2 GiB.")
            data = file.read() if is_message else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}. Expected {expected}.") from None
    return ModelFile(path, memoryview(data), expected)
