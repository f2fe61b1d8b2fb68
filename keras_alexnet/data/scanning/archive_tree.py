"""A tree of images inside an archive, and other images there. Standard library only."""

import os
from collections.abc import Mapping

from keras_alexnet.data.archives.directory import Mapper, Progress, duplicates
from keras_alexnet.data.archives.entries import Entries
from keras_alexnet.data.archives.small_files import entries_of
from keras_alexnet.data.archives.state import ArchiveState
from keras_alexnet.data.image_rows import ImageRows
from keras_alexnet.data.image_search import LeftOut
from keras_alexnet.data.scanning.archive_images import image_entries
from keras_alexnet.data.scanning.misplaced import breaking_lines, misplaced, what_else


class ArchiveTree:
    """A `trees.Tree` of an archive, or of a folder inside it; its arguments are those of `trees.open_tree`."""

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
                f"{what} {self.source} has no class folders with images in it{what_else(self.left_out)}: expected one "
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
            problems.extend(misplaced(what, folder, counts, self.left_out))
            self.nested |= {parent: count for parent, count in counts.items() if parent != folder}
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
