"""Finds the images of WebDataset tars and their labels. Standard library only.

The files of a sample follow each other and have the same path up to the first dot of the name, its key: an image, and
its label in `.cls` or as `label` in `.json`.
"""

import json
import os
from itertools import groupby, islice

from keras_alexnet.data.archives.entries import Samples, opened, read_range
from keras_alexnet.data.archives.tar import TarPart, members, read_tar
from keras_alexnet.data.file_kinds import IMAGE_SUFFIXES
from keras_alexnet.errors import UserError

_IMAGES = tuple(suffix[1:].encode() for suffix in IMAGE_SUFFIXES)
_LABELS = (b"cls", b"json")
_MAX_LABEL_BYTES = 2**20
_FIRST = 16  # A sample has fewer files.


def is_webdataset(path: str | os.PathLike) -> bool:
    """Whether a tar begins with a sample of an image and a label."""
    with opened(path) as file:
        first = islice(members(file, TarPart(path), os.fstat(file).st_size), _FIRST)
        parts = [_split(member.name) for member in first]
    with_image, with_label = ({key for key, kind in parts if kind in kinds} for kinds in (_IMAGES, _LABELS))
    return not with_image.isdisjoint(with_label)


def read_webdataset(path: str | os.PathLike) -> Samples:
    """Finds the images of a WebDataset tar and their labels.

    Raises:
        UserError: the tar is truncated or damaged, or a sample has no label or several images.
    """
    files, _ = read_tar(TarPart(path))
    samples = Samples(files.archive)
    with opened(path) as file:
        parts = ((*_split(name), position) for position, name in enumerate(files.names))
        for key, group in groupby(parts, lambda part: part[0]):
            by_kind: dict[bytes, int] = {}
            problem = label = None
            for _, kind, position in group:
                if kind in by_kind:
                    problem = f"several .{kind.decode(errors='replace')} files"
                by_kind[kind] = position
            images = [kind for kind in _IMAGES if kind in by_kind]
            if not images:
                others = sorted(kind for kind in by_kind if kind == b"cls" or kind.endswith(_IMAGES))
                if not others:
                    continue  # Not a sample of an image.
                problem = (
                    f"no image: expected a file with the suffix of one, such as .jpg, behind the "
                    f"first dot of the name, found {b', '.join(others).decode(errors='replace')}"
                )
            elif problem:
                pass
            elif len(images) > 1:
                problem = f"several images ({', '.join(map(bytes.decode, images))})"
            elif (source := next((kind for kind in _LABELS if kind in by_kind), None)) is None:
                problem = "no label: expected a .cls or .json file next to the image"
            else:
                at = by_kind[source]
                text = read_range(file, files.offset[at], min(files.size[at], _MAX_LABEL_BYTES))
                label = _label(text, source)
                if label is None:
                    problem = f"no label in .{source.decode()}: expected an integer, found {text[:80]!r}"
            if problem:
                raise UserError(f"{os.fspath(path)}: sample {os.fsdecode(key)} has {problem}.")
            at = by_kind[images[0]]
            name = files.names[at]
            samples.add(name, files.offset[at], files.size[at], label)
            if name in files.unusable:
                samples.unusable[name] = files.unusable[name]
    return samples


def _split(name: bytes) -> tuple[bytes, bytes]:
    """The key of a sample, and the kind of one of its files."""
    folder, slash, base = name.rpartition(b"/")
    stem, _, kind = base.partition(b".")
    return folder + slash + stem, kind.lower()


def _label(text: bytes, kind: bytes) -> int | None:
    try:
        if kind == b"cls":
            return int(text)
        label = json.loads(text)["label"]
        return label if type(label) is int else None
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
