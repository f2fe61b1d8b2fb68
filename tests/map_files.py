"""Writes map files, for tests."""

import os
from collections.abc import Iterable

from keras_alexnet.data.map_file import map_lines
from keras_alexnet.data.tab_separated import write_lines


def write_map(path: str | os.PathLike, rows: Iterable[tuple[str, int]]) -> None:
    """Writes `<path>\\t<label>` lines."""
    write_lines(path, map_lines(rows))
