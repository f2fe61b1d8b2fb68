"""Writes the features of images to a file batch by batch, since those of a convolution exceed the memory."""

import abc
import contextlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from keras_alexnet.errors import UserError
from keras_alexnet.system.atomic import atomic_path
from keras_alexnet.system.csv_file import csv_writer
from keras_alexnet.system.file_names import to_utf8

SUFFIXES = (".npz", ".csv")


def check_name(path: str) -> None:
    """Raises `UserError` for a file that is neither .npz nor .csv."""
    if not path.endswith(SUFFIXES):
        raise UserError(f"--output is {path}; expected a name that ends in {' or '.join(SUFFIXES)} for features.")


@contextlib.contextmanager
def feature_file(path: str, layer: str, shape: Sequence[int]) -> Iterator["FeatureFile"]:
    """Opens a file for features, which is written atomically.

    `.npz` holds `features`, float32 (images, …), and `paths` and `layer`. `.csv` has one row per image: its path and
    the flattened features (the last dimension fastest), whose columns are named after the layer. Completing an `.npz`
    takes twice its size on disk.

    Args:
        path: the file.
        layer: its name.
        shape: of the features of an image.

    Raises:
        UserError: the file cannot be written, or no features were.
    """
    with atomic_path(path) as partial:
        writer = _NpzFile(partial, layer, shape) if path.endswith(".npz") else _CsvFile(partial, layer, shape)
        with writer:
            yield writer
            if not writer.count:
                raise UserError(f"none of the images could be read; {path} was not written.")
            writer.finish()


class FeatureFile(contextlib.AbstractContextManager):
    """Takes features; `count` is the number of images so far."""

    count = 0

    @abc.abstractmethod
    def write(self, paths: Sequence[str], features: np.ndarray) -> None:
        """Adds those of some images: float32 (len(paths), …)."""

    def finish(self) -> None:
        """Completes the file."""


class _CsvFile(FeatureFile):
    def __init__(self, path: Path, layer: str, shape: Sequence[int]):
        self._file = open(path, "w", encoding="utf-8", errors="surrogateescape", newline="")  # noqa: SIM115
        self._writer = csv_writer(self._file)
        self._writer.writerow(["path", *(f"{layer}_{number}" for number in range(int(np.prod(shape))))])

    def write(self, paths: Sequence[str], features: np.ndarray) -> None:
        for path, values in zip(paths, features.reshape(len(paths), -1).tolist(), strict=True):
            # Nine digits identify each float32.
            self._writer.writerow([to_utf8(path), *(f"{value:.9g}" for value in values)])
        self.count += len(paths)

    def __exit__(self, *exception) -> None:
        self._file.close()


class _NpzFile(FeatureFile):
    """Keeps the features in a temporary file until the end, since an array's header holds the number of images."""

    def __init__(self, path: Path, layer: str, shape: Sequence[int]):
        self._path, self._layer, self._shape = path, layer, tuple(shape)
        self._paths: list[str] = []
        self._values = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115

    def write(self, paths: Sequence[str], features: np.ndarray) -> None:
        self._values.write(np.ascontiguousarray(features, "<f4").data)
        self._paths += map(to_utf8, paths)
        self.count += len(paths)

    def finish(self) -> None:
        with open(self._path, "wb") as file:
            np.savez(file, layer=np.array(self._layer), paths=np.array(self._paths))
        header = {"descr": "<f4", "fortran_order": False, "shape": (self.count, *self._shape)}
        self._values.seek(0)
        with (
            zipfile.ZipFile(self._path, "a", zipfile.ZIP_STORED) as archive,
            archive.open("features.npy", "w", force_zip64=True) as member,
        ):
            np.lib.format.write_array_header_1_0(member, header)
            shutil.copyfileobj(self._values, member, 2**20)

    def __exit__(self, *exception) -> None:
        self._values.close()
