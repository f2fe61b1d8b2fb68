"""Text files with a line per item and TABs between the columns, as `prepare` writes them. Standard library only."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from keras_alexnet.errors import UserError
from keras_alexnet.system.text_file import strip_mark

# File names are bytes, and pass through a map unharmed: see `file_names`.
TEXT = {"encoding": "utf-8", "errors": "surrogateescape"}

# What to do about a file that is not as `prepare` writes it.
WRITE_AGAIN = "write it again with python -m keras_alexnet.prepare"


@contextlib.contextmanager
def open_for_reading(path: str | os.PathLike, what: str) -> Iterator[BinaryIO]:
    """Opens a file behind its byte-order mark; raises `UserError`, which says that `what` was expected."""
    try:
        with open(path, "rb") as file:
            head = file.read(64)
            file.seek(len(head) - len(strip_mark(head, path)))
            yield file
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}. Expected {what}.") from None


def write_lines(path: str | os.PathLike, lines: Iterable[str]) -> None:
    """Writes lines, and waits until they are on the disk."""
    with open(path, "w", newline="\n", **TEXT) as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())


def clip(text: str) -> str:
    """The beginning of a text, for messages."""
    return text if len(text) <= 80 else text[:77] + "…"
