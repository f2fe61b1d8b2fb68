"""The images of a training run: both maps of a folder, the batches that they give, and what may go wrong with them."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_alexnet.data.class_mappings import CLASS_MAPPINGS, CLASS_NAMES, read_class_mappings, read_class_names
from keras_alexnet.data.decoded import Decoded
from keras_alexnet.data.image_cache import ImageCache, image_caches
from keras_alexnet.data.image_map import ImageMap, raise_if_missing, sample_rows
from keras_alexnet.data.map_file import TRAIN_MAP, VAL_MAP, read_map
from keras_alexnet.data.order import batch_rows
from keras_alexnet.data.pipeline import padded_evaluation_dataset, training_dataset
from keras_alexnet.data.pixel_store import PixelStore
from keras_alexnet.data.unreadable import READ_AHEAD, evaluation_errors, explained_errors, find_unreadable

# Images at either end of a map that a quick check reads.
_MAX_CHECKED = 8
# Images whose sizes are a part of the identity of data.
_SIZES = 16


@dataclass(frozen=True)
class TrainingData:
    """What `prepare` wrote: both maps, the class ids in label order, and a name for each, if it found any.

    `with_caches` returns data whose decoded images stay in memory.
    """

    train: ImageMap
    validation: ImageMap
    classes: list[str]
    class_names: list[str] | None = None
    # Of the training and of the validation images: their pixel store or cache, if they have one.
    decoded: tuple[Decoded | None, Decoded | None] = (None, None)

    @property
    def num_training(self) -> int:
        """Images to train on."""
        return len(self.train)

    @property
    def num_validation(self) -> int:
        """Images to validate on."""
        return len(self.validation)

    @property
    def num_classes(self) -> int:
        """Labels are below it."""
        return len(self.classes)

    @property
    def identity(self) -> dict:
        """What identifies these data, for people and for JSON."""
        return {
            "training images": _identity(self.train),
            "validation images": _identity(self.validation),
            "classes": self.num_classes,
        }

    def raise_if_missing(self) -> None:
        """Raises `UserError` if images are missing, as far as a quick look shows."""
        for image_map in (self.train, self.validation):
            raise_if_missing(image_map)

    def check_first_and_last(self) -> None:
        """Raises `UserError` where the first or the last images of a map cannot be read."""
        for image_map in (self.train, self.validation):
            total = len(image_map)
            rows = sorted({*range(min(total, _MAX_CHECKED)), *range(max(total - _MAX_CHECKED, 0), total)})
            unreadable = find_unreadable(image_map, rows)
            if unreadable:
                raise unreadable

    def with_caches(self, num_workers: int) -> tuple["TrainingData", str | None]:
        """Returns the same data with caches of decoded images, if they fit into memory, and a line that says so."""
        maps = (self.train, self.validation)
        uncached = [images for images, decoded in zip(maps, self.decoded, strict=True) if decoded is None]
        found = image_caches(uncached, num_workers) if uncached else None
        if found is None:
            return self, None
        caches = iter(found[0])
        return replace(self, decoded=tuple(decoded or next(caches) for decoded in self.decoded)), found[1]

    @property
    def has_dropped_images(self) -> bool:
        """Whether a cache was given up because memory became scarce."""
        return any(isinstance(decoded, ImageCache) and decoded.is_dropped for decoded in self.decoded)

    def training_batches(self, batch_size: int, **settings) -> tf.data.Dataset:
        """This worker's share of the global batches of `batch_size`, without end; settings of `training_dataset`."""
        return training_dataset(self.train, batch_size, decoded=self.decoded[0], **settings)

    def validation_batches(self, batch_size: int, **settings) -> tf.data.Dataset:
        """This worker's share of the validation images; settings of `padded_evaluation_dataset`."""
        return padded_evaluation_dataset(self.validation, batch_size, decoded=self.decoded[1], **settings)

    def training_errors(
        self, batch_size: int, *, seed: int, step: Callable[[], int]
    ) -> contextlib.AbstractContextManager:
        """Within it, errors of the input at training step `step()` or a little later become user errors."""

        def rows() -> Iterable[int]:
            steps = range(step(), step() + READ_AHEAD)
            return np.concatenate([batch_rows(self.num_training, batch_size, seed, ahead) for ahead in steps]).tolist()

        return explained_errors(self.train, rows)

    def validation_errors(self, batch_size: int, *, batch: Callable[[], int]) -> contextlib.AbstractContextManager:
        """As `training_errors`, for the validation."""
        return evaluation_errors(self.validation, batch_size, batch=batch)


def read_training_data(data_dir: str | os.PathLike) -> TrainingData:
    """Reads the three files of `data_dir`; raises `UserError` where one is missing or does not fit the others."""
    folder = Path(data_dir)
    classes = read_class_mappings(folder / CLASS_MAPPINGS)
    train, validation = (read_map(folder / name, len(classes)) for name in (TRAIN_MAP, VAL_MAP))
    return TrainingData(
        train=train,
        validation=validation,
        classes=classes,
        class_names=read_class_names(folder / CLASS_NAMES, classes),
        decoded=(PixelStore.find(train), PixelStore.find(validation)),
    )


def _identity(image_map: ImageMap) -> str:
    """Identifies images wherever they are stored: by their names, their labels, and the sizes of some of them."""
    digest = hashlib.sha256(image_map.fingerprint.encode())
    for row in sample_rows(len(image_map), _SIZES):
        # Copies of another size have the same names.
        with contextlib.suppress(OSError, ValueError):
            digest.update(b" %d" % image_map.size(row))
    return f"{len(image_map):,} (SHA-256 of names, labels and some sizes {digest.hexdigest()[:16]}…)"
