"""What is wrong with where the images of a tree are. Standard library only."""

from collections.abc import Iterator, Mapping, Sequence

from keras_alexnet.data.image_search import LeftOut


def misplaced(what: str, folder: str, counts: Mapping[str, int], left_out: LeftOut) -> Iterator[str]:
    """What is wrong with where a folder has its images, from their number in each folder below it that has some."""
    if not counts:
        yield (
            f"{what} {folder} has no images{what_else(left_out)}: expected JPEG, PNG or other images; put some there, "
            "or remove or replace the folder"
        )
    elif folder not in counts and len(counts) > 1:
        yield (
            f"{what} {folder} has no images itself, but {len(counts):,} folders below it have, such as "
            f"{next(iter(counts))}: expected images directly in it, or in one folder below it; give the folder whose "
            "subfolders are the classes, or move the images"
        )


def what_else(left_out: LeftOut) -> str:
    """For messages: what there is in place of images."""
    return f", but {left_out.describe()}" if left_out else ""


def breaking_lines(paths: Sequence[str], start: int = 0) -> Iterator[str]:
    """The paths that from position `start` have a TAB or a line break, which are what divides a map file."""
    joined = "".join(paths)
    if any(mark in joined for mark in "\t\n\r"):
        for path in paths:
            if any(mark in path[start:] for mark in "\t\n\r"):
                yield f"{path!r} has a TAB or a line break in its name, which a map file cannot hold: rename it"
