"""Libraries whose C++ parts write to the terminal, whatever their log settings say."""

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def silenced(descriptor: int) -> Iterator[None]:
    """Drops what is written to the file descriptor, 1 for stdout or 2 for stderr, meanwhile."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    saved = os.dup(descriptor)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), descriptor)
        yield
    finally:
        os.dup2(saved, descriptor)
        os.close(saved)
