"""The files inside an archive, as byte ranges. Standard library only."""

import contextlib
import os
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from keras_alexnet.data.archives.state import ArchiveState
from keras_alexnet.errors import UserError

# How the bytes of an entry are stored. A zip entry has a local header in front, which gives its own length.
PLAIN, ZIP_STORED, ZIP_DEFLATED = range(3)


@dataclass
class Entries:
    """The files inside an archive, in its order; all sequences have one item per file.

    Attributes:
        archive: the archive file as it was before its entries were read: a change meanwhile is found when they are.
        names: paths inside the archive, with `/`, as bytes. A file of a tar inside the tar is `inner.tar/name`.
        offset: where an entry begins in the archive file; of a zip entry, its local header.
        size: bytes that it takes there, without a zip entry's header.
        method: one of `PLAIN`, `ZIP_STORED` and `ZIP_DEFLATED`.
        unusable: why some entries cannot be read, by name.
    """

    archive: ArchiveState
    names: list[bytes] = field(default_factory=list)
    offset: array = field(default_factory=lambda: array("q"))
    size: array = field(default_factory=lambda: array("q"))
    method: array = field(default_factory=lambda: array("B"))
    unusable: dict[bytes, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    def path(self, position: int) -> str:
        """What a map calls an entry."""
        return f"{self.archive.path}@/{os.fsdecode(self.names[position])}"

    def append(self, name: bytes, offset: int, size: int, method: int = PLAIN) -> None:
        """Adds an entry."""
        self.names.append(name)
        self.offset.append(offset)
        self.size.append(size)
        self.method.append(method)

    def append_unusable(self, name: bytes, reason: str) -> None:
        """Adds an entry that cannot be read."""
        self.append(name, 0, 0)
        self.unusable[name] = reason

    def refuse_duplicates(self) -> None:
        """Makes those entries unusable whose name others have, too."""
        if len(set(self.names)) < len(self.names):
            doubles = [name for name, count in Counter(self.names).items() if count > 1]
            reason = "the archive has several entries of this name; write it with each name once"
            self.unusable |= dict.fromkeys(doubles, reason)

    def extend(self, other: "Entries") -> None:
        """Adds those of another part of the archive."""
        self.names += other.names
        self.offset += other.offset
        self.size += other.size
        self.method += other.method
        self.unusable |= other.unusable


@dataclass
class Samples(Entries):
    """Images inside an archive that have their labels with them.

    Attributes:
        labels: as they are written there, counted from 0 or from 1; None where there is none.
        class_ids: such as `n01440764`; empty where there is none.
        label_feature: the name of what has the label, where names differ in meaning.
    """

    labels: list[int | None] = field(default_factory=list)
    class_ids: list[bytes] = field(default_factory=list)
    label_feature: bytes | None = None

    def add(self, name: bytes, offset: int, size: int, label: int | None, class_id: bytes = b"") -> None:
        """Adds an image."""
        self.append(name, offset, size)
        self.labels.append(label)
        self.class_ids.append(class_id)


@contextlib.contextmanager
def opened(path: str | os.PathLike) -> Iterator[int]:
    """Opens an archive and gives its descriptor; raises `UserError` where it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            yield file.fileno()
    except OSError as error:
        raise UserError(f"cannot read the archive {os.fspath(path)}: {error.strerror}.") from None


def read_range(descriptor: int, offset: int, size: int) -> bytes:
    """The bytes of a file from `offset` on: `size` of them, or fewer where the file ends."""
    data = os.pread(descriptor, size, offset)
    while len(data) < size and (more := os.pread(descriptor, size - len(data), offset + len(data))):
        data += more  # A read gives at most 2 GiB, and less on some file systems.
    return data


def truncated(path: str | os.PathLike, what: str, expected: int, size: int) -> UserError:
    """The error of an archive that ends too early."""
    return UserError(
        f"the archive {os.fspath(path)} is truncated: {what} ends at byte {expected:,}, but the file has {size:,} "
        "bytes. Copy or download it again."
    )
