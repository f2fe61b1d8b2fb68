"""What a check of images has found: reporting it, and leaving unusable images out. No framework."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from keras_alexnet.data.image_map import ImageMap
from keras_alexnet.data.scanning.data_set import DataSet
from keras_alexnet.errors import UserError, raise_if_any
from keras_alexnet.system import atomic
from keras_alexnet.system.file_names import to_utf8

BAD_IMAGES = "bad_images.tsv"
_MAX_CLASSES = 10


@dataclass(frozen=True)
class Finding:
    """What is the matter with an image file.

    Attributes:
        path: the file.
        usable: whether it can be decoded.
        problems: what was found: a kind, which may be followed by a colon and details.
    """

    path: str
    usable: bool
    problems: Sequence[str]


def write_findings(path: str | os.PathLike, findings: Iterable[Finding]) -> None:
    """Writes a table of `<path> TAB <unusable or odd> TAB <problems>`, headed by a line that says so."""
    lines = ["path\tseverity\tproblem\n"]
    for finding in findings:
        severity = "odd" if finding.usable else "unusable"
        lines.append(f"{to_utf8(finding.path)}\t{severity}\t{'; '.join(finding.problems)}\n")
    atomic.write_text(path, "".join(lines))


def summary(findings: Sequence[Finding], total: int) -> str:
    """How many of `total` images have which kind of problem, as a table."""
    lines = [f"{total:,} images checked:"]
    for usable, severity in ((False, "unusable"), (True, "odd, but usable")):
        concerned = [finding for finding in findings if finding.usable == usable]
        lines.append(f"{len(concerned):>12,}  {severity}")
        counts = Counter(problem.partition(": ")[0] for finding in concerned for problem in finding.problems)
        lines += [f"{count:>16,}  {kind}" for kind, count in sorted(counts.items(), key=lambda item: (-item[1], item))]
    return "\n".join(lines)


def raise_if_unusable(findings: Sequence[Finding], total: int, table: str | os.PathLike) -> None:
    """Raises `UserError` that names the first unusable images; `table` is where all of them are."""
    raise_if_any(
        [f"{finding.path}: {'; '.join(finding.problems)}" for finding in findings if not finding.usable],
        f"some of the {total:,} images cannot be used, so no maps were written. {table} lists them all; replace or "
        "remove them, or leave them out with --skip_bad_images",
    )


def without_unusable(found: DataSet, findings: Sequence[Finding]) -> DataSet:
    """Leaves the unusable images out.

    Raises:
        UserError: a class would have no training images left, or there would be no validation images.
    """
    train, val = (images.take(usable_rows(images, findings)) for images in (found.train, found.val))
    emptied = [found.classes[label] for label in sorted(set(found.train.labels) - set(train.labels))]
    if emptied:
        listed = ", ".join(emptied[:_MAX_CLASSES]) + (", …" if len(emptied) > _MAX_CLASSES else "")
        raise UserError(
            f"no usable training image is left for {len(emptied):,} of {len(found.classes):,} classes: {listed}. "
            "Replace their images, or remove their folders."
        )
    if not len(val):
        raise UserError(f"none of the {len(found.val):,} validation images is usable: replace them.")
    return replace(found, train=train, val=val)


def usable_rows(images: ImageMap, findings: Iterable[Finding]) -> list[int]:
    """The rows of the images that can be used."""
    unusable = {finding.path for finding in findings if not finding.usable}
    return [row for row, path in enumerate(images.paths) if path not in unusable]
