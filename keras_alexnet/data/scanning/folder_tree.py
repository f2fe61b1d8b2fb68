"""A tree of images in folders. Standard library only."""

import os

from keras_alexnet.data.archives.directory import Mapper, read_archive
from keras_alexnet.data.archives.entries import Entries
from keras_alexnet.data.archives.state import ArchiveState
from keras_alexnet.data.file_kinds import is_hidden, is_image_name
from keras_alexnet.data.image_rows import ImageRows
from keras_alexnet.data.image_search import LeftOut, images_below
from keras_alexnet.data.scanning.archive_images import image_entries
from keras_alexnet.data.scanning.archive_tree import add_entries
from keras_alexnet.data.scanning.misplaced import breaking_lines, misplaced, what_else


class FolderTree:
    """A `trees.Tree` of a folder; its arguments are those of `trees.open_tree`."""

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
                    if is_hidden(entry.name):
                        continue
                    if entry.is_dir():
                        folders[entry.name] = os.path.join(self.source, entry.name)
                    elif entry.name.lower().endswith(".tar"):
                        tars[entry.name[: -len(".tar")]] = os.path.join(self.source, entry.name)
                    elif is_image_name(entry.name):
                        self.left_out.add_stray(entry.path)
                    else:
                        self.left_out.add(entry.path)
        except OSError as error:
            problems.append(_unreadable(what, self.source, error))
        else:
            if not folders and not tars:
                problems.append(
                    f"{what} {self.source} has no class folders{what_else(self.left_out)}: expected one folder of "
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
            problems.extend(misplaced(what, folder, counts, left_out))
        self.nested |= {parent: count for parent, count in counts.items() if parent != folder}
        paths.sort()
        problems.extend(breaking_lines(paths, len(os.path.join(folder, ""))))
        rows.add_files(paths)
        return paths


def _unreadable(what: str, folder: str, error: OSError) -> str:
    return (
        f"{what} {error.filename or folder}: {error.strerror}; expected a folder of images that can be read; "
        "correct the path or its permissions"
    )
