"""A tree of images inside an archive, and other images there."""

import os

from keras_alexnet.data.archives.entries import Entries
from keras_alexnet.data.archives.small_files import entries_of
from keras_alexnet.data.image_rows import ImageRows
from keras_alexnet.data.image_search import images_inside
from keras_alexnet.data.scanning.trees import ScanOptions, Tree, breaking_lines, what_else


class ArchiveTree(Tree):
    """An archive, or the folder `inside` it."""

    def __init__(self, archive: str, inside: str, options: ScanOptions) -> None:
        super().__init__(options)
        self._archive = archive
        self._entries = entries_of(archive, options.mapper, options.progress)
        self._by_folder: dict[bytes, list[int]] = {}
        start = os.fsencode(f"{inside}/") if inside else b""
        for position in images_inside(self._entries, start, self.left_out):
            self._by_folder.setdefault(self._entries.names[position].rpartition(b"/")[0], []).append(position)
        # Folders that all images share are not classes.
        self._root = os.path.commonpath([b"/" + folder for folder in self._by_folder] or [b"/"])[1:]
        self.source = self._path(start[:-1])
        self.root = self._path(self._root)

    def class_folders(self, what: str, flag: str, problems: list[str]) -> dict[str, str]:
        root = self._root
        if len(self._by_folder) == 1:  # A single class, or no classes.
            root = root.rpartition(b"/")[0]
        start = root + b"/" if root else b""
        folders: dict[str, str] = {}
        for folder, positions in self._by_folder.items():
            name = folder[len(start) :].split(b"/", 1)[0]
            if folder != root and name:
                folders[os.fsdecode(name.removesuffix(b".tar"))] = self._path(start + name)
                continue
            for position in positions:
                self.left_out.add_stray(self._entries.path(position))
        if not folders:
            problems.append(
                f"{what} {self.source} has no class folders with images in it{what_else(self.left_out)}: expected one "
                f"folder, or tar, of images per class; choose another {flag}{_packed_again(self._entries)}"
            )
        folders = {name: folders[name] for name in sorted(folders, key=os.fsencode)}
        problems.extend(breaking_lines(list(folders.values()), len(self._archive)))
        return folders

    def add_images(self, folder: str, what: str, rows: ImageRows, problems: list[str]) -> list[str]:
        inside = os.fsencode(folder[len(self._archive) :].removeprefix("@/"))
        start = inside + b"/" if inside else b""
        chosen: list[int] = []
        counts: dict[str, int] = {}
        for parent, positions in self._by_folder.items():
            if parent == inside or parent.startswith(start):
                chosen += positions
                counts[self._path(parent)] = len(positions)
        if chosen:
            self._check_places(what, folder, counts, self.left_out, problems)
        return add_entries(self._entries, chosen, folder, what, rows, problems)

    def _path(self, folder: bytes) -> str:
        return f"{self._archive}@/{os.fsdecode(folder)}" if folder else self._archive


def add_entries(
    entries: Entries, chosen: list[int], folder: str, what: str, rows: ImageRows, problems: list[str]
) -> list[str]:
    """Adds images inside an archive to `rows`, as `Tree.add_images`; `chosen`, their positions, is sorted by name."""
    if not chosen:
        problems.append(f"{what} {folder} has no images: put some there, or choose another")
    chosen.sort(key=entries.names.__getitem__)
    count = len(rows)
    rows.add_entries(entries, chosen)
    paths = rows.paths[count:]
    reasons = {path: entries.unusable.get(entries.names[at]) for path, at in zip(paths, chosen, strict=True)}
    problems.extend(f"{path}: {reason}" for path, reason in reasons.items() if reason)
    problems.extend(breaking_lines(paths, len(entries.archive.path)))
    return paths


def _packed_again(entries: Entries) -> str:
    """Advice where an archive holds nothing but another one, as Kaggle's did once."""
    inner = next((name for name in entries.names if name.endswith((b".tar.gz", b".tgz", b".zip"))), None)
    return f", or unpack {os.fsdecode(inner)} from it, which cannot be read in place" if inner else ""
