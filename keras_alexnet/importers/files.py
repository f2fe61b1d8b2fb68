"""Model files, mapped into memory: arrays can be views of them, and only what is used is read from disk."""

import dataclasses
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


def open_model_file(path: str | os.PathLike, expected: str) -> ModelFile:
    """Maps a file into memory.

    NOTE: arrays taken from it may be views: the file must not change while they are used.

    Args:
        path: the file.
        expected: what it should be, for messages: "a Caffe model (.caffemodel)".

    Raises:
        UserError: the file cannot be read or is empty.
    """
    path = os.fspath(path)
    try:
        # Before it is opened, since opening a named pipe waits for its writer.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UserError(f"{path} is not a regular file. Give the name of {expected}.")
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise UserError(f"{path} is empty. Expected {expected}: download or copy it again.")
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}. Expected {expected}.") from None
    return ModelFile(path, data, expected)


def read_model_file(path: str | os.PathLike, expected: str) -> ModelFile:
    """Reads a whole file into memory: unlike with `open_model_file`, arrays that are views of it outlive changes.

    Args:
        path: the file.
        expected: what it should be, for messages.

    Raises:
        UserError: the file cannot be read, is empty, or has 2 GiB or more.
    """
    file = open_model_file(path, expected)
    if len(file) > _MAX_BYTES:
        raise UserError(f"{file.path} has {len(file):,} bytes. Expected {expected} of less than 2 GiB.")
    try:
        with open(file.path, "rb") as opened:
            return dataclasses.replace(file, data=memoryview(opened.read()))
    except OSError as error:
        raise UserError(f"cannot read {file.path}: {error.strerror or error}. Expected {expected}.") from None
