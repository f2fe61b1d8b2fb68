"""Suppression of what the C++ parts of libraries write to the terminal in spite of their log settings."""

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from typing import TextIO

from keras_alexnet.system.shared_context import shared_by_threads

# Of the process that holds back what is written: it reads until one of its two arguments comes, or until the end.
_HOLDER = """
import os, sys
drop, show = map(str.encode, sys.argv[1:])
held = b""
while drop not in held:
    data = os.read(0, 65536)
    held += data
    if not data or show in held:
        os.write(1, held.replace(show, b""))
        break
"""


@contextlib.contextmanager
def stderr_held_back() -> Iterator[None]:
    """Drops what is written to file descriptor 2 within it, or shows it if an exception or the process ends it.

    Another process holds the text, as nothing else survives the abort of a library that finds no AVX, and no writable
    temporary folder is needed. Where none can be started, nothing is held back. Processes that are started meanwhile
    and outlive it have a stderr without a reader.
    """
    if sys.stderr is None:  # Nobody would see it.
        yield
        return
    sys.stderr.flush()
    drop, show = secrets.token_hex(), secrets.token_hex()
    holder = _start_holder(drop, show)
    if holder is None:
        yield
        return
    saved = os.dup(2)
    os.dup2(holder.stdin.fileno(), 2)
    holder.stdin.close()
    word = show
    try:
        yield
        word = drop
    finally:
        with contextlib.suppress(OSError):
            sys.stderr.flush()
            os.write(2, word.encode())
        os.dup2(saved, 2)
        os.close(saved)
        holder.wait()


def _start_holder(drop: str, show: str) -> subprocess.Popen | None:
    if not sys.executable:  # Python within another program.
        return None
    try:
        # In a session of its own, so that Ctrl-C does not end it. Its output is our stderr.
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _HOLDER, drop, show],
            stdin=subprocess.PIPE,
            stdout=2,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return None


@shared_by_threads
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


@shared_by_threads
@contextlib.contextmanager
def silenced_but_python() -> Iterator[None]:
    """Drops what C++ code, such as libjpeg, writes to stderr; Python's `sys.stderr` still works."""
    stderr = sys.stderr
    if stderr is None:
        yield
        return
    with contextlib.ExitStack() as restored:
        # Where a notebook or a test has put its own in place, that stays.
        if _goes_to(stderr, 2):
            kept = open(os.dup(2), "w", buffering=1, encoding=stderr.encoding, errors=stderr.errors)  # noqa: SIM115
            restored.callback(_close, kept)
            restored.callback(setattr, sys, "stderr", stderr)
            sys.stderr = kept
        restored.enter_context(silenced(2))
        yield


def _close(stream: TextIO) -> None:
    with contextlib.suppress(OSError):  # What it could not write is lost already.
        stream.close()


def _goes_to(stream: TextIO, descriptor: int) -> bool:
    try:
        return stream.fileno() == descriptor
    except (OSError, ValueError):
        return False
