"""The readable names of ILSVRC2012's classes, as its own list has them. Needs no framework."""

from collections.abc import Sequence

from keras_alexnet.data.archives.small_files import read_file
from keras_alexnet.system.file_names import from_utf8

SYNSET_MAPPING = "LOC_synset_mapping.txt"


def read_synset_names(path: str, classes: Sequence[str], problems: list[str]) -> list[str]:
    """Reads the readable class names from lines such as `n01440764 tench, Tinca tinca`.

    Args:
        path: ILSVRC's `LOC_synset_mapping.txt`; it may have more classes.
        classes: the class ids, in label order.
        problems: what is wrong is appended here, for `errors.raise_if_any`.

    Returns:
        A name per class, in the order of `classes`.
    """
    names: dict[str, str] = {}
    try:
        for line in read_file(path).decode("utf-8-sig", "surrogateescape").splitlines():
            class_id, *rest = line.split(maxsplit=1) or [""]
            if rest:
                names[from_utf8(class_id)] = " ".join(rest[0].split())
    except OSError as error:
        problems.append(
            f"cannot read {path}: {error.strerror}; expected lines of '<class id> <names>'; fix or remove it"
        )
        return []
    problems.extend(
        f"{path} has no name for class {class_id}: expected a line '{class_id} <names>'; add it, or move the file away "
        "to do without names"
        for class_id in classes
        if class_id not in names
    )
    return [names.get(class_id, "") for class_id in classes]
