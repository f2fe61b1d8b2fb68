"""A tree of images in folders."""

import os
from collections.abc import Iterator

from keras_alexnet.data.archives.directory import read_archive
from keras_alexnet.data.file_kinds import is_hidden, is_image_name
from keras_alexnet.data.image_rows import ImageRows
from keras_alexnet.data.image_search import LeftOut, images_below, images_inside
from keras_alexnet.data.scanning.archive_tree import add_entries
from keras_alexnet.data.scanning.trees import ScanOptions, Tree, breaking_lines, what_else


class FolderTree(Tree):
    """A folder, whose classes may be tars."""

    def __init__(self, folder: str, options: ScanOptions) -> None:
        super().__init__(options)
        self.source = self.root = folder
        self._options = options
        self._tars = {}  # the entries of each by its path

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
                    elif entry.is_symlink() and not os.path.exists(entry.path):
                        problems.append(f"{entry.path} is a broken link: expected a class; fix or remove the link")
                    else:
                        self.left_out.add(entry.path)
        except OSError as error:
            problems.append(_unreadable(what, self.source, error))
        else:
            if not folders and not tars:
                problems.append(
                    f"{what} {self.source} has no class folders{what_else(self.left_out)}: expected one folder of "
                    f"images per class in it; unpack the images so, or choose another {flag}"
                )
        problems.extend(self._same_folders(folders))
        # ILSVRC2012_img_train.tar holds a tar per class; one that has been unpacked as well is not read twice.
        tars = {name: path for name, path in tars.items() if name not in folders}
        paths = list(tars.values())
        self._tars = dict(zip(paths, self._options.mapper(read_archive, paths), strict=True))
        folders = dict(sorted((folders | tars).items(), key=lambda item: os.fsencode(item[0])))
        problems.extend(breaking_lines(list(folders.values()), len(os.path.join(self.source, ""))))
        return folders

    def _same_folders(self, folders: dict[str, str]) -> Iterator[str]:
        """What is wrong with links to the folder of another class, or of all classes."""
        by_place = {os.path.realpath(self.source): self.source}
        for path in sorted(folders.values(), key=os.path.islink):
            first = by_place.setdefault(os.path.realpath(path), path)
            if first != path:
                yield f"{path} and {first} are the same folder: expected one folder per class; remove the link"

    def add_images(self, folder: str, what: str, rows: ImageRows, problems: list[str]) -> list[str]:
        if folder in self._tars:
            entries = self._tars.pop(folder)
            return add_entries(entries, images_inside(entries, b"", self.left_out), folder, what, rows, problems)
        paths: list[str] = []
        counts: dict[str, int] = {}
        left_out = LeftOut(self._options.used)

        def unreadable(error: OSError) -> None:
            problems.append(_unreadable(what, folder, error))

        before = len(problems)
        for parent, images in images_below(folder, left_out, unreadable):
            count = len(paths)
            for image in images:
                try:
                    if (self._options.pass_links and image.is_symlink()) or image.is_file():
                        paths.append(image.path)
                    elif image.is_symlink() and not image.is_dir():
                        problems.append(f"{image.path} is a broken link: expected an image; fix or remove the link")
                except OSError as error:
                    unreadable(error)
            if len(paths) > count:
                counts[parent] = len(paths) - count
        self.left_out.update(left_out)
        if len(problems) == before or paths:
            self._check_places(what, folder, counts, left_out, problems)
        paths.sort()
        problems.extend(breaking_lines(paths, len(os.path.join(folder, ""))))
        rows.add_files(paths)
        return paths


def _unreadable(what: str, folder: str, error: OSError) -> str:
    return (
        f"{what} {error.filename or folder}: {error.strerror}; expected a folder of images that can be read; "
        "correct the path or its permissions"
    )
