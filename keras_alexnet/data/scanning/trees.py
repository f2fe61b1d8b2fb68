"""Trees of images: a folder per class, or one folder of images, on the disk or inside an archive.

Standard library only. Listing opens no image: a kind of file is known by its suffix, and nothing is asked of the disk
per file, except where it is a link. Links are followed and written as they are.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Protocol

from keras_alexnet.data.archives.directory import Mapper, Progress, duplicates, read_archive
from keras_alexnet.data.archives.entries import Entries
from keras_alexnet.data.archives.paths import split_archive
from keras_alexnet.data.archives.small_files import entries_of
from keras_alexnet.data.archives.state import ArchiveState
from keras_alexnet.data.image_rows import ImageRows

SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".gif", ".webp", ".ppm")


class Tree(Protocol):
    """Images by folder. What is wrong is appended to `problems`, for `errors.raise_if_any`.

    Attributes:
        source: the folder, or the archive.
    """

    source: str

    def class_folders(self, what: str, flag: str, problems: list[str]) -> dict[str, str]:
        """The path of each folder in it by its name, in the order of the names' bytes."""

    def add_images(self, folder: str, what: str, rows: ImageRows, problems: list[str]) -> list[str]:
        """Adds the images directly in a folder, sorted, to `rows`; returns their paths.

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
        except OSError as error:
            problems.append(_unreadable(what, self.source, error))
        else:
            if not folders and not tars:
                problems.append(
                    f"{what} {self.source} has no class folders: expected one folder of images per "
                    f"class in it; unpack the images so, or give another {flag}"
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
            chosen = [position for position, name in enumerate(entries.names) if is_image(name)]
            return add_entries(state, entries, chosen, folder, what, rows, problems)
        paths: list[str] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = entry.name
                    if not name.lower().endswith(SUFFIXES) or name.startswith("."):
                        continue
                    if (self._pass_links and entry.is_symlink()) or entry.is_file():
                        paths.append(entry.path)
                    elif entry.is_symlink() and not entry.is_dir():
                        problems.append(f"{entry.path} is a broken link: expected an image; fix or remove the link")
        except OSError as error:
            problems.append(_unreadable(what, folder, error))
            return []
        if not paths:
            problems.append(
                f"{what} {folder} has no images: expected {' '.join(SUFFIXES)} files directly in it; put them "
                "there, or remove or replace the folder"
            )
        paths.sort()
        problems.extend(breaking_lines(paths, len(os.path.join(folder, ""))))
        rows.add_files(paths)
        return paths


class _ArchiveTree:
    def __init__(self, archive: str, inside: str, mapper: Mapper, progress: Progress | None) -> None:
        self._archive = archive
        self._state = ArchiveState.of(archive)  # Before its entries: a change meanwhile is found when they are read.
        self._entries = entries_of(self._state, mapper, progress)
        start = os.fsencode(f"{inside}/") if inside else b""
        by_folder: dict[bytes, list[int]] = defaultdict(list)
        for position, name in enumerate(self._entries.names):
            if name.startswith(start) and is_image(name):
                by_folder[name.rpartition(b"/")[0]].append(position)
        self._by_folder = by_folder
        # Folders that all images share are not classes.
        self._root = os.path.commonpath([b"/" + folder for folder in by_folder] or [b"/"])[1:]
        self.root = self.source = self._shown(self._root)

    def class_folders(self, what: str, flag: str, problems: list[str]) -> dict[str, str]:
        start = self._root + b"/" if self._root else b""
        if len(self._by_folder) == 1:  # A single class, or no classes.
            start = self._root.rpartition(b"/")[0] + b"/" if b"/" in self._root else b""
        names = {folder[len(start) :] for folder in self._by_folder if folder.startswith(start)}
        folders = {os.fsdecode(name.removesuffix(b".tar")): start + name for name in names if name and b"/" not in name}
        if not folders:
            problems.append(
                f"{what} {self.source} has no class folders with images ({' '.join(SUFFIXES)}) in it: expected one "
                f"folder, or tar, of images per class; give another {flag}{_packed_again(self._entries)}"
            )
        folders = {name: self._shown(folders[name]) for name in sorted(folders, key=os.fsencode)}
        problems.extend(breaking_lines(list(folders.values()), len(self._archive)))
        return folders

    def add_images(self, folder: str, what: str, rows: ImageRows, problems: list[str]) -> list[str]:
        chosen = self._by_folder.get(os.fsencode(folder[len(self._archive) :].removeprefix("@/")), [])
        return add_entries(self._state, self._entries, chosen, folder, what, rows, problems)

    def _shown(self, folder: bytes) -> str:
        return f"{self._archive}@/{os.fsdecode(folder)}" if folder else self._archive


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
        problems.append(
            f"{what} {folder} has no images: expected {' '.join(SUFFIXES)} files directly in it; give another"
        )
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


def is_image(name: bytes) -> bool:
    """Whether the path of a file inside an archive is that of an image, by its suffix; hidden ones are not."""
    base = name.rpartition(b"/")[2]
    return base.lower().endswith(_SUFFIXES) and not base.startswith(b".") and not name.startswith(b"__MACOSX/")


_SUFFIXES = tuple(map(os.fsencode, SUFFIXES))


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
