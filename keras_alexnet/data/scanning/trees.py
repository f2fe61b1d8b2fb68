"""Trees of images: a folder per class, or one folder of images, on the disk or inside an archive.

Standard library only. Links are followed and written as they are.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from keras_alexnet.data.archives.directory import Mapper, Progress, duplicates, read_archive
from keras_alexnet.data.archives.entries import Entries
from keras_alexnet.data.archives.paths import split_archive
from keras_alexnet.data.archives.small_files import entries_of
from keras_alexnet.data.archives.state import ArchiveState
from keras_alexnet.data.file_kinds import is_image_name
from keras_alexnet.data.image_rows import ImageRows
from keras_alexnet.data.image_search import LeftOut, images_below
from keras_alexnet.data.scanning.archive_images import image_entries


class Tree(Protocol):
    """Images by folder. What is wrong is appended to `problems`, for `errors.raise_if_any`.

    Attributes:
        source: the folder, or the archive.
        left_out: what was found that is not taken.
        nested: how many images were found in which folders below those that were asked for.
    """

    source: str
    left_out: LeftOut
    nested: dict[str, int]

    def class_folders(self, what: str, flag: str, problems: list[str]) -> dict[str, str]:
        """The path of each folder in it by its name, in the order of the names' bytes."""

    def add_images(self, folder: str, what: str, rows: ImageRows, problems: list[str]) -> list[str]:
        """Adds the images in a folder and in those below it, sorted, to `rows`; returns their paths.

        Args:
            folder: one of `class_folders`, or the `root`.
            what: what the folder is, for messages.
            rows: where they are added.
            problems: see above.
        """

    @property
    def root(self) -> str:
        """The folder that holds the images of a tree that has no class folders."""


def open_tree(
    path: str | os.PathLike, pass_links: bool = False, mapper: Mapper = map, progress: Progress | None = None
) -> Tree:
    """The tree of a folder, of an archive, or of a folder inside an archive (`<archive>@/<folder>`).

    Args:
        path: where it is.
        pass_links: take symbolic links for images without looking where they lead, since `checking.check` will.
        mapper, progress: as for `read_archive`.

    Raises:
        UserError: the archive is truncated or damaged.
    """
    archived = (os.path.abspath(path), "") if os.path.isfile(path) else split_archive(path)
    if archived:
        return _ArchiveTree(*archived, mapper, progress)
    return _FolderTree(os.path.abspath(path), pass_links, mapper)


class _FolderTree:
    def __init__(self, folder: str, pass_links: bool, mapper: Mapper) -> None:
        self.source = self.root = folder
        self.left_out = LeftOut()
        self.nested: dict[str, int] = {}
        self._pass_links = pass_links
        self._mapper = mapper
        self._tars: dict[str, tuple[ArchiveState, Entries]] = {}

    def class_folders(self, what: str, flag: str, problems: list[str]) -> dict[str, str]:
        problems.extend(breaking_lines([self.source]))
        folders: dict[str, str] = {}
        tars: dict[str, str] = {}
        try:
            with os.scandir(self.source) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir():
                        folders[entry.name] = os.path.join(self.source, entry.name)
                    elif entry.name.endswith(".tar"):
                        tars[entry.name.removesuffix(".tar")] = os.path.join(self.source, entry.name)
                    elif is_image_name(entry.name):
                        self.left_out.add_stray(entry.path)
                    else:
                        self.left_out.add(entry.path)
        except OSError as error:
            problems.append(_unreadable(what, self.source, error))
        else:
            if not folders and not tars:
                problems.append(
                    f"{what} {self.source} has no class folders{_left_out(self.left_out)}: expected one folder of "
                    f"images per class in it; unpack the images so, or give another {flag}"
                )
        # ILSVRC2012_img_train.tar holds a tar per class; one that has been unpacked as well is not read twice.
        tars = {name: path for name, path in tars.items() if name not in folders}
        states = [ArchiveState.of(path) for path in tars.values()]
        entries = self._mapper(read_archive, list(tars.values()))
        self._tars = dict(zip(tars.values(), zip(states, entries, strict=True), strict=True))
        folders = dict(sorted((folders | tars).items(), key=lambda item: os.fsencode(item[0])))
        problems.extend(breaking_lines(list(folders.values()), len(os.path.join(self.source, ""))))
        return folders

    def add_images(self, folder: str, what: str, rows: ImageRows, problems: list[str]) -> list[str]:
        if folder in self._tars:
            state, entries = self._tars.pop(folder)
            chosen = image_entries(state, entries, b"", self.left_out)
            return add_entries(state, entries, chosen, folder, what, rows, problems)
        paths: list[str] = []
        counts: dict[str, int] = {}
        left_out = LeftOut(self.left_out.used)

        def unreadable(error: OSError) -> None:
            problems.append(_unreadable(what, error.filename or folder, error))

        before = len(problems)
        for parent, entries in images_below(folder, left_out, unreadable):
            count = len(paths)
            for entry in entries:
                try:
                    if (self._pass_links and entry.is_symlink()) or entry.is_file():
                        paths.append(entry.path)
                    elif entry.is_symlink() and not entry.is_dir():
                        problems.append(f"{entry.path} is a broken link: expected an image; fix or remove the link")
                except OSError as error:
                    unreadable(error)
            if len(paths) > count:
                counts[parent] = len(paths) - count
        self.left_out.update(left_out)
        if len(problems) == before or paths:
            problems.extend(_misplaced(what, folder, counts, left_out))
        self.nested |= _without(counts, folder)
        paths.sort()
        problems.extend(breaking_lines(paths, len(os.path.join(folder, ""))))
        rows.add_files(paths)
        return paths


class _ArchiveTree:
    def __init__(self, archive: str, inside: str, mapper: Mapper, progress: Progress | None) -> None:
        self._archive = archive
        self._state = ArchiveState.of(archive)  # Before its entries: a change meanwhile is found when they are read.
        self._entries = entries_of(self._state, mapper, progress)
        self.left_out = LeftOut()
        self.nested: dict[str, int] = {}
        start = os.fsencode(f"{inside}/") if inside else b""
        names = self._entries.names
        positions = image_entries(self._state, self._entries, start, self.left_out)
        by_folder = {}
        for position in positions:
            by_folder.setdefault(names[position].rpartition(b"/")[0], []).append(position)
        self._by_folder: Mapping[bytes, list[int]] = by_folder
        # Folders that all images share are not classes.
        self._root = os.path.commonpath([b"/" + folder for folder in by_folder] or [b"/"])[1:]
        self.root = self.source = self._shown(self._root)

    def class_folders(self, what: str, flag: str, problems: list[str]) -> dict[str, str]:
        root = self._root
        if len(self._by_folder) == 1:  # A single class, or no classes.
            root = root.rpartition(b"/")[0]
        start = root + b"/" if root else b""
        folders: dict[str, str] = {}
        for folder, positions in self._by_folder.items():
            name = folder[len(start) :].split(b"/", 1)[0]
            if folder != root and name:
                folders[os.fsdecode(name.removesuffix(b".tar"))] = self._shown(start + name)
                continue
            for position in positions:
                self.left_out.add_stray(self._shown(self._entries.names[position]))
        if not folders:
            problems.append(
                f"{what} {self.source} has no class folders with images in it{_left_out(self.left_out)}: expected one "
                f"folder, or tar, of images per class; give another {flag}{_packed_again(self._entries)}"
            )
        folders = {name: folders[name] for name in sorted(folders, key=os.fsencode)}
        problems.extend(breaking_lines(list(folders.values()), len(self._archive)))
        return folders

    def add_images(self, folder: str, what: str, rows: ImageRows, problems: list[str]) -> list[str]:
        inside = os.fsencode(folder[len(self._archive) :].removeprefix("@/"))
        start = inside + b"/" if inside else b""
        parts = {
            parent: positions
            for parent, positions in self._by_folder.items()
            if parent == inside or parent.startswith(start)
        }
        chosen = [position for positions in parts.values() for position in positions]
        if chosen:
            counts = {self._shown(parent): len(positions) for parent, positions in parts.items()}
            problems.extend(_misplaced(what, folder, counts, self.left_out))
            self.nested |= _without(counts, folder)
        return add_entries(self._state, self._entries, chosen, folder, what, rows, problems)

    def _shown(self, folder: bytes) -> str:
        return f"{self._archive}@/{os.fsdecode(folder)}" if folder else self._archive


def notes_of(tree: Tree) -> Iterator[str]:
    """What a user should know about a tree whose images have been added."""
    if tree.nested:
        yield f"{sum(tree.nested.values()):,} images come from subfolders, such as {next(iter(tree.nested))}"
    if tree.left_out:
        yield f"Left out of {tree.source}: {tree.left_out.describe()}"


def _without(counts: Mapping[str, int], folder: str) -> dict[str, int]:
    return {parent: count for parent, count in counts.items() if parent != folder}


def _misplaced(what: str, folder: str, counts: Mapping[str, int], left_out: LeftOut) -> Iterator[str]:
    """What is wrong with where a folder has its images, from their number in each folder below it that has some."""
    if not counts:
        yield (
            f"{what} {folder} has no images{_left_out(left_out)}: expected JPEG, PNG or other images; put some there, "
            "or remove or replace the folder"
        )
    elif folder not in counts and len(counts) > 1:
        yield (
            f"{what} {folder} has no images itself, but {len(counts):,} folders below it have, such as "
            f"{next(iter(counts))}: expected images directly in it, or in one folder below it; give the folder whose "
            "subfolders are the classes, or move the images"
        )


def _left_out(left_out: LeftOut) -> str:
    return f", but {left_out.describe()}" if left_out else ""


def add_entries(
    state: ArchiveState,
    entries: Entries,
    chosen: list[int],
    folder: str,
    what: str,
    rows: ImageRows,
    problems: list[str],
) -> list[str]:
    """Adds images inside an archive to `rows`, as `Tree.add_images`; `chosen`, their positions, is sorted by name."""
    archive = state.path
    if not chosen:
        problems.append(f"{what} {folder} has no images: put some there, or give another")
    chosen.sort(key=entries.names.__getitem__)
    names = [entries.names[position] for position in chosen]
    paths = [f"{archive}@/{os.fsdecode(name)}" for name in names]
    for name in duplicates(names):
        problems.append(f"{archive}@/{os.fsdecode(name)} is there several times; write the archive with each name once")
    problems.extend(
        f"{path}: {entries.unusable[name]}" for name, path in zip(names, paths, strict=True) if name in entries.unusable
    )
    problems.extend(breaking_lines(paths, len(archive)))
    rows.add_entries(state, entries, chosen, paths)
    return paths


def _packed_again(entries: Entries) -> str:
    """Advice where an archive holds nothing but another one, as Kaggle's did once."""
    inner = next((name for name in entries.names if name.endswith((b".tar.gz", b".tgz", b".zip"))), None)
    return f", or unpack {os.fsdecode(inner)} from it, which cannot be read in place" if inner else ""


def breaking_lines(paths: Sequence[str], start: int = 0) -> Iterator[str]:
    """The paths that from position `start` have a TAB or a line break, which are what divides a map file."""
    joined = "".join(paths)
    if any(mark in joined for mark in "\t\n\r"):
        for path in paths:
            if any(mark in path[start:] for mark in "\t\n\r"):
                yield f"{path!r} has a TAB or a line break in its name, which a map file cannot hold: rename it"


def _unreadable(what: str, folder: str, error: OSError) -> str:
    return (
        f"{what} {error.filename or folder}: {error.strerror}; expected a folder of images that can be read; "
        "correct the path or its permissions"
    )
