"""The work of many processes done in the one of the test, since starting them takes seconds."""

import contextlib
from collections.abc import Iterator
from unittest import mock


def _imap(function, items, num_processes, progress=None):
    for done, item in enumerate(items, 1):
        yield function(item)
        if progress:
            progress(done, len(items))


def _map(*arguments):
    return list(_imap(*arguments))


@contextlib.contextmanager
def one_process() -> Iterator[None]:
    """Within it, images are checked and resized, and archives read, in this process."""
    with (
        mock.patch("keras_alexnet.data.checking.map_in_processes", _map),
        mock.patch("keras_alexnet.data.resizing.files.map_in_processes", _map),
        mock.patch("keras_alexnet.data.resizing.tar.imap_in_processes", _imap),
        mock.patch("keras_alexnet.data.preparation.map_in_processes", _map),
    ):
        yield
