"""Libraries whose C++ parts write to the terminal, whatever their log settings say."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO


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


@contextlib.contextmanager
def silenced_but_python() -> Iterator[None]:
    """Drops what C++ code writes to stderr, as libjpeg does of damaged images; Python's `sys.stderr` goes on."""
    stderr = sys.stderr
    if stderr is None:
        yield
        return
    with contextlib.ExitStack() as restored:
        # Where a notebook or a test has put its own in place, that stays.
        if _goes_to(stderr, 2):
            kept = open(os.dup(2), "w", buffering=1, encoding=stderr.encoding, errors=stderr.errors)  # noqa: SIM115
            restored.enter_context(kept)
            restored.callback(setattr, sys, "stderr", stderr)
            sys.stderr = kept
        restored.enter_context(silenced(2))
        yield


def _goes_to(stream: TextIO, descriptor: int) -> bool:
    try:
        return stream.fileno() == descriptor
    except (OSError, ValueError):
        return False
