"""The archives of ILSVRC2012 as image-net.org has them. Standard library only."""

import hashlib
import os
from collections.abc import Sequence
from typing import NamedTuple

from keras_alexnet.data.archives.directory import Progress
from keras_alexnet.data.archives.entries import opened
from keras_alexnet.errors import UserError

TRAIN_TAR, VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"

_PIECE_BYTES = 2**22


class _Published(NamedTuple):
    size: int | None
    md5: str


# As torchvision (datasets/imagenet.py) and TensorFlow Datasets publish them.
_PUBLISHED = {
    TRAIN_TAR: _Published(147_897_477_120, "1d675b47d978889d74fa0da5fadfb00e"),
    VAL_TAR: _Published(6_744_924_160, "29b22e2961454d5413ddabcf34fc5622"),
    "ILSVRC2012_devkit_t12.tar.gz": _Published(None, "fa75699e90414af021442c21a62c3abf"),
}


def check_archives(paths: Sequence[str], progress: Progress) -> list[str]:
    """Compares files that have the names of official archives with their published sizes and MD5 sums; returns them.

    Raises:
        UserError: one is of another size or sum, or cannot be read; or there is none to compare.
    """
    known = [path for path in paths if os.path.basename(path) in _PUBLISHED and os.path.isfile(path)]
    if not known:
        raise UserError(
            f"--check_archives compares {', '.join(_PUBLISHED)}, but none of them is among what is read: leave it out."
        )
    for path in known:
        expected = _PUBLISHED[os.path.basename(path)]
        size = os.path.getsize(path)
        if expected.size not in (None, size):
            raise _differs(path, f"{expected.size:,} bytes", f"{size:,}")
    for path in known:
        expected_md5, found_md5 = _PUBLISHED[os.path.basename(path)].md5, _md5(path, progress)
        if found_md5 != expected_md5:
            raise _differs(path, f"the MD5 sum {expected_md5}", found_md5)
    return known


def _md5(path: str, progress: Progress) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    done = 0
    with opened(path) as file:
        size = os.fstat(file).st_size
        while piece := os.read(file, _PIECE_BYTES):
            digest.update(piece)
            done += len(piece)
            progress(done >> 20, size >> 20, f"MiB of {os.path.basename(path)} compared")
    return digest.hexdigest()


def _differs(path: str, expected: str, found: str) -> UserError:
    return UserError(f"{path} is not as image-net.org has it: expected {expected}, found {found}. Download it again.")
