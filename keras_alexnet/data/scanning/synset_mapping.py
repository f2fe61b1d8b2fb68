"""The readable names of ILSVRC2012's classes, as its own list has them. Needs no framework."""

from collections.abc import Sequence

from keras_alexnet.data.archives.small_files import read_file
from keras_alexnet.system.file_names import from_utf8
from keras_alexnet.system.text_file import decode

SYNSET_MAPPING = "LOC_synset_mapping.txt"
TINY_IMAGENET_NAMES = "words.txt"


def read_synset_names(path: str, classes: Sequence[str], problems: list[str], notes: list[str]) -> list[str] | None:
    """Reads the readable class names from lines such as `n01440764 tench, Tinca tinca`.

    Args:
        path: ILSVRC's `LOC_synset_mapping.txt`, or Tiny ImageNet's `words.txt`; it may have more classes.
        classes: the class ids, in label order.
        problems, notes: as in `image_folders`.

    Returns:
        A name per class; None if the file lacks one of them, since it may be of another data set in a folder above.
    """
    names: dict[str, str] = {}
    try:
        for line in decode(read_file(path), path).split("\n"):
            class_id, *rest = line.split(maxsplit=1) or [""]
            if rest:
                names[from_utf8(class_id)] = " ".join(rest[0].split())
    except OSError as error:
        problems.append(
            f"cannot read {path}: {error.strerror}; expected lines of '<class id> <names>'; fix or remove it"
        )
        return None
    missing = [class_id for class_id in classes if class_id not in names]
    if not missing:
        return [names[class_id] for class_id in classes]
    notes.append(
        f"Note: no class names, as {path} has none for {len(missing):,} of the {len(classes):,} classes, such as "
        f"{missing[0]}"
    )
    return None
