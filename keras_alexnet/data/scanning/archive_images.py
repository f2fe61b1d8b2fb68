"""Finds the images among the files inside an archive. Standard library only."""

import os
import zlib

from keras_alexnet.data.archives.entries import Entries
from keras_alexnet.data.archives.locations import ArchivedImage
from keras_alexnet.data.archives.state import ArchiveState
from keras_alexnet.data.file_kinds import HEAD_BYTES, is_hidden, is_image_head, is_image_name
from keras_alexnet.data.image_search import LeftOut


def image_entries(state: ArchiveState, entries: Entries, start: bytes, left_out: LeftOut) -> list[int]:
    """The positions of the images whose names begin with `start`; other files are added to `left_out`, hidden ones not.

    As for files, only where the suffix says nothing are the first bytes read.
    """
    chosen = []
    for position, name in enumerate(entries.names):
        if not name.startswith(start) or is_hidden(path := os.fsdecode(name[len(start) :])):
            continue
        is_image = is_image_name(path)
        if is_image or (is_image is None and _is_image(state, entries, position)):
            chosen.append(position)
        else:
            left_out.add(f"{state.path}@/{os.fsdecode(name)}")
    return chosen


def _is_image(state: ArchiveState, entries: Entries, position: int) -> bool:
    where = entries.offset[position], entries.size[position], entries.method[position]
    try:
        return is_image_head(ArchivedImage("", state, *where).head(HEAD_BYTES))
    except (OSError, zlib.error):
        return False
