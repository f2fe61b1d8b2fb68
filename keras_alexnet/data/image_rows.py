"""Gathers images from folders and archives into a map. Needs NumPy, and no framework."""

from array import array
from collections.abc import Iterable, Sequence

import numpy as np

from keras_alexnet.data.archives.entries import Entries
from keras_alexnet.data.archives.locations import Locations
from keras_alexnet.data.archives.state import ArchiveState
from keras_alexnet.data.image_map import ImageMap


class ImageRows:
    """Images in the order in which they are added."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self._archives: dict[ArchiveState, int] = {}
        self._archive, self._offset, self._size, self._method = array("i"), array("q"), array("q"), array("B")

    def __len__(self) -> int:
        return len(self.paths)

    def add_files(self, paths: Sequence[str]) -> None:
        """Adds image files."""
        self.paths += paths
        self._archive.extend([-1] * len(paths))
        for values in (self._offset, self._size, self._method):
            values.extend([0] * len(paths))

    def add_entries(self, entries: Entries, positions: Iterable[int]) -> None:
        """Adds images inside an archive: the entries at `positions`."""
        number = self._archives.setdefault(entries.archive, len(self._archives))
        for position in positions:
            self.paths.append(entries.path(position))
            self._archive.append(number)
            self._offset.append(entries.offset[position])
            self._size.append(entries.size[position])
            self._method.append(entries.method[position])

    def image_map(self, labels: Sequence[int], source: str) -> ImageMap:
        """The images as a map."""
        arrays = map(np.asarray, (self._archive, self._offset, self._size, self._method))
        locations = Locations(list(self._archives), *arrays) if self._archives else None
        return ImageMap(self.paths, labels, source=source, locations=locations)
