"""What an archive file was when its entries were found. Standard library only."""

import os
from typing import NamedTuple


class ArchiveState(NamedTuple):
    """An archive file as it was when its entries were found."""

    path: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: str | os.PathLike, file: int | None = None) -> "ArchiveState":
        """The present state of a file, or of what was opened as `file`; raises `OSError` if there is none."""
        status = os.stat(path if file is None else file)
        return cls(os.fspath(path), status.st_size, status.st_mtime_ns)
