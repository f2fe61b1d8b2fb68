"""Batches of pixels and labels from a map: a pure function of the map, the seed and the position in the run."""

import os
import weakref
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_alexnet.data.archives.index import locate
from keras_alexnet.data.batches import NUM_THREADS, alive, full_batches
from keras_alexnet.data.crops import check_crops, ratio_numerator
from keras_alexnet.data.decoded import Crops, Decoded, center_crops, random_crops
from keras_alexnet.data.exit import end_iterators_at_exit
from keras_alexnet.data.image_map import ImageMap, check_map
from keras_alexnet.data.order import batch_rows, crop_numbers, steps_per_pass
from keras_alexnet.data.transforms import evaluation_image, ten_crops, training_image
from keras_alexnet.errors import SettingError, UserError, integer_setting
from keras_alexnet.presets import IMAGE_SIZE
from keras_alexnet.system.gpu import leave_gpus_to_the_backend

_PREFETCH = 2


def training_dataset(
    image_map: ImageMap,
    batch_size: int,
    *,
    seed: int,
    first_step: int = 0,
    worker: int = 0,
    num_workers: int = 1,
    image_size: int = IMAGE_SIZE,
    decoded: Decoded | None = None,
) -> tf.data.Dataset:
    """The endless training set from `first_step` on.

    Args:
        image_map: the images.
        batch_size: the global batch.
        seed: of the order, the crops and the mirroring.
        first_step: where to begin.
        worker, num_workers: worker k of W reads and decodes rows k, k + W, … of each global batch only.
        image_size: side of the images.
        decoded: the images of the map, decoded; None to use their pixel store, if they are in one.

    Returns:
        A dataset of (uint8 (batch_size / num_workers, image_size, image_size, 3) RGB, int32 labels).

    Raises:
        UserError: fewer images than a batch, workers that do not divide it, or an argument out of its bounds.
    """
    check_map(image_map)
    batch_size, image_size = _check_sizes(batch_size, image_size)
    seed = integer_setting("seed", seed, 0, 2**64 - 1)
    first_step = integer_setting("first_step", first_step, 0)
    share = _share(batch_size, worker, num_workers)
    num_images = len(image_map)
    steps_per_pass(num_images, batch_size)  # Raises the error here, and not in a thread.

    def rows_at(step: int, part: slice) -> tuple[np.ndarray, np.ndarray]:
        rows = batch_rows(num_images, batch_size, seed, step)
        numbers = crop_numbers(seed, step * batch_size, batch_size)
        return rows[worker::num_workers][part], numbers[worker::num_workers][part]

    return full_batches(
        image_map,
        rows_at,
        lambda data, numbers: training_image(data, numbers, image_size),
        share,
        (image_size, image_size, 3),
        first_step=first_step,
        choose_crops=random_crops,
        decoded=decoded,
    ).prefetch(_PREFETCH)


def evaluation_dataset(
    image_map: ImageMap, batch_size: int, *, image_size: int = IMAGE_SIZE, preprocessing: str = "cntk", crops: int = 1
) -> tf.data.Dataset:
    """Every image exactly once, in the map's order; elements as `training_dataset`'s; the last batch may be smaller.

    `preprocessing` and `crops` are those of `padded_evaluation_dataset`.
    """

    def without_padding(images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        size = tf.math.count_nonzero(weights)
        return images[:size], labels[:size]

    dataset = padded_evaluation_dataset(
        image_map, batch_size, image_size=image_size, preprocessing=preprocessing, crops=crops
    )
    return dataset.map(without_padding)


def image_dataset(
    images: ImageMap | Sequence[str | os.PathLike],
    batch_size: int = 32,
    *,
    image_size: int = IMAGE_SIZE,
    preprocessing: str = "cntk",
    crops: int = 1,
) -> tf.data.Dataset:
    """Images as a network sees them in evaluation, each once and in order, for code of one's own.

    Args:
        images: a map, or paths of images.
        batch_size, image_size, preprocessing, crops: as for `padded_evaluation_dataset`.

    Returns:
        A dataset of (images, labels), as `evaluation_dataset` gives it, for a map; of images alone for paths.

    Raises:
        UserError: there are no images, or an unknown `preprocessing` or `crops`.
    """
    settings: dict[str, Any] = {"image_size": image_size, "preprocessing": preprocessing, "crops": crops}
    if isinstance(images, ImageMap):
        return evaluation_dataset(images, batch_size, **settings)
    return evaluation_dataset(unlabeled_map(images), batch_size, **settings).map(lambda pixels, _: pixels)


def unlabeled_map(paths: ImageMap | Iterable[str | os.PathLike]) -> ImageMap:
    """A map of the images at `paths`; raises `UserError` if there are none, or for a single path in place of a list."""
    if isinstance(paths, ImageMap) and len(paths):
        return paths
    found = [] if isinstance(paths, ImageMap | str | os.PathLike) else [os.fspath(path) for path in paths]
    if not found:
        raise UserError(
            f"the images are {paths!r}; expected a list of paths, as find_images gives it, or a map, as read_map does."
        )
    source = "the list of paths"
    locations = locate(found, source) if any("@/" in path for path in found) else None
    return ImageMap(found, array("i", [0]) * len(found), source=source, locations=locations)


def padded_evaluation_dataset(
    image_map: ImageMap,
    batch_size: int,
    *,
    worker: int = 0,
    num_workers: int = 1,
    image_size: int = IMAGE_SIZE,
    preprocessing: str = "cntk",
    crops: int = 1,
    decoded: Decoded | None = None,
) -> tf.data.Dataset:
    """`evaluation_dataset` in batches that are all full: black images of weight 0 fill up the last one.

    A smaller batch would leave a device without an image, which crashes, and be compiled once more. Workers share the
    batches as in `training_dataset`.

    Args:
        image_map, batch_size, worker, num_workers, image_size, decoded: as for `training_dataset`.
        preprocessing: a key of `crops.PREPROCESSINGS`.
        crops: 1 for the square in the middle of each image, 10 for `ten_crops`.

    Returns:
        A dataset of (images, labels, weights), weights float32: 1, and 0 for the padding. Images are uint8
        (batch, image_size, image_size, 3), or (batch, 10, image_size, image_size, 3).

    Raises:
        UserError: an unknown `preprocessing` or `crops`, or workers that do not divide the batch.
    """
    check_map(image_map)
    batch_size, image_size = _check_sizes(batch_size, image_size)
    check_crops(preprocessing, crops, image_size)
    share = _share(batch_size, worker, num_workers)
    crop, choose_crops = evaluation_image, None
    shape: tuple[int, ...] = (image_size, image_size, 3)
    if crops > 1:
        crop, shape = ten_crops, (crops, *shape)
    elif preprocessing != "caffe":
        numerator = ratio_numerator(preprocessing, image_size)

        def choose_crops(sizes: np.ndarray, _: np.ndarray) -> Crops:
            return center_crops(sizes, numerator)

    num_images = len(image_map)

    def rows_at(step: int, part: slice) -> tuple[np.ndarray, np.ndarray]:
        rows = np.arange(step * batch_size, min((step + 1) * batch_size, num_images))[worker::num_workers][part]
        return rows, np.zeros((len(rows), 3), np.float32)

    def weighted(step: tf.Tensor, batch: tuple) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        rows = step * batch_size + tf.range(worker, batch_size, num_workers, dtype=tf.int64)
        return *batch, tf.cast(rows < num_images, tf.float32)

    num_steps = -(-num_images // batch_size)
    batches = full_batches(
        image_map,
        rows_at,
        lambda data, _: crop(data, image_size, preprocessing),
        share,
        shape,
        num_steps=num_steps,
        choose_crops=choose_crops,
        decoded=decoded,
    )
    return tf.data.Dataset.zip(tf.data.Dataset.range(num_steps), batches).map(weighted).prefetch(_PREFETCH)


def readable_images(
    image_map: ImageMap,
    batch_size: int,
    *,
    image_size: int = IMAGE_SIZE,
    preprocessing: str = "cntk",
    crops: int = 1,
) -> tf.data.Dataset:
    """Every image that can be read, in order: files of which some may be no images.

    Args:
        image_map: the files; its labels do not matter.
        batch_size, image_size, preprocessing, crops: as for `padded_evaluation_dataset`.

    Returns:
        A dataset of (rows of the map, images): int64 (batch,), and uint8 (batch, image_size, image_size, 3) or
        (batch, 10, image_size, image_size, 3). The last batch may be smaller. What is missing could not be read:
        `unreadable.why_unreadable` returns why.
    """
    batch_size, image_size = _check_sizes(batch_size, image_size)
    check_crops(preprocessing, crops, image_size)
    leave_gpus_to_the_backend()
    end_iterators_at_exit()
    crop = ten_crops if crops > 1 else evaluation_image
    reference = weakref.ref(image_map)  # See `full_batches`.

    def read(position: np.int64) -> bytes:
        return alive(reference).read(int(position))

    def load(position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        data = tf.ensure_shape(tf.numpy_function(read, [position], tf.string, stateful=False), ())
        return position, crop(data, image_size, preprocessing)

    images = tf.data.Dataset.range(len(image_map)).map(load, num_parallel_calls=NUM_THREADS, deterministic=True)
    images._image_map = image_map
    return images.ignore_errors().batch(batch_size).prefetch(_PREFETCH)


def _check_sizes(batch_size: int, image_size: int) -> tuple[int, int]:
    return integer_setting("batch_size", batch_size, 1), integer_setting("image_size", image_size, 1)


def _share(batch_size: int, worker: int, num_workers: int) -> int:
    """Images per batch of a worker."""
    integer_setting("num_workers", num_workers, 1)
    integer_setting("worker", worker, 0, num_workers - 1)
    if batch_size % num_workers:
        raise SettingError("batch_size", f"is {batch_size}, which is not divisible by the {num_workers} workers.")
    return batch_size // num_workers
