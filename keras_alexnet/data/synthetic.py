"""Batches that cost nothing: the same images at every step, to find how fast the devices are without the input.

They come as what the backend of Keras takes without a detour: a `tf.data.Dataset` under TensorFlow, and a `PyDataset`
of NumPy arrays under JAX and PyTorch, for which TensorFlow is not imported.
"""

import contextlib
from typing import TYPE_CHECKING

import keras
import numpy as np

from keras_alexnet.presets import IMAGE_SIZE

# An epoch's, unless steps_per_epoch is set.
_STEPS = 100

if TYPE_CHECKING:
    import tensorflow as tf


class SyntheticData:
    """Stands in for `TrainingData`: as many images and classes as a run needs, none of which is read.

    Args:
        batch_size: the global batch. There are `_STEPS` of them to train on, and one to validate on.
    """

    num_classes = 1000

    def __init__(self, batch_size: int):
        self.num_training = _STEPS * batch_size
        self.num_validation = batch_size
        self.identity = {"images": "synthetic"}

    def check_first_and_last(self) -> None:
        """There is nothing that could be wrong."""

    has_dropped_images = False

    def with_caches(self, num_workers: int) -> tuple["SyntheticData", None]:
        """There is nothing to decode."""
        return self, None

    def training_batches(
        self, batch_size: int, *, image_size: int, seed: int, first_step: int, worker: int = 0, num_workers: int = 1
    ):
        """This worker's share of the one batch, again and again."""
        share = batch_size // num_workers
        return synthetic_training_batches(share, self.num_classes, seed=seed + worker, image_size=image_size)

    def validation_batches(self, batch_size: int, *, image_size: int, worker: int = 0, num_workers: int = 1):
        """This worker's share of one batch."""
        share = batch_size // num_workers
        return synthetic_evaluation_batches(1, share, self.num_classes, seed=worker, image_size=image_size)

    def training_errors(self, *arguments, **settings) -> contextlib.AbstractContextManager:
        """The input cannot fail."""
        return contextlib.nullcontext()

    validation_errors = training_errors


def synthetic_training_batches(
    batch_size: int, num_classes: int, *, seed: int = 0, image_size: int = IMAGE_SIZE
) -> "keras.utils.PyDataset | tf.data.Dataset":
    """The endless training set of one batch: give `fit` its `steps_per_epoch`.

    Where several processes train, each has its share of the batch, and a seed of its own for the pixels and labels.

    Returns:
        (uint8 (batch_size, image_size, image_size, 3), int32 labels below `num_classes`), the same at every step.
    """
    return _repeated(_batch(batch_size, num_classes, seed, image_size), None)


def synthetic_evaluation_batches(
    num_batches: int, batch_size: int, num_classes: int, *, seed: int = 0, image_size: int = IMAGE_SIZE
) -> "keras.utils.PyDataset | tf.data.Dataset":
    """`num_batches` times the batch of `synthetic_training_batches`, with weights: float32 (batch_size,), all 1.

    It can be iterated over as often as one likes, such as after each epoch of `fit`.
    """
    weights = np.ones(batch_size, np.float32)
    return _repeated((*_batch(batch_size, num_classes, seed, image_size), weights), num_batches)


def _batch(batch_size: int, num_classes: int, seed: int, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (batch_size, image_size, image_size, 3), np.uint8)
    return images, rng.integers(0, num_classes, batch_size, np.int32)


def _repeated(batch: tuple[np.ndarray, ...], num_batches: int | None) -> "keras.utils.PyDataset | tf.data.Dataset":
    if keras.backend.backend() != "tensorflow":
        return SameBatch(batch, num_batches)
    import tensorflow as tf

    # Each element is the one tensor itself. Without its own options, fit would begin by looking for a way to shard it.
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # There is nothing to tune, and fit would at times end only when the tuning wakes up: after 2.6 s, 5.1 s, 10.2 s, …
    options.autotune.enabled = False
    return tf.data.Dataset.from_tensors(batch).repeat(num_batches).with_options(options)


class SameBatch(keras.utils.PyDataset):
    """The same arrays `num_batches` times, or without end: a generator would be used up after one evaluation."""

    def __init__(self, batch: tuple[np.ndarray, ...], num_batches: int | None):
        super().__init__()
        self._batch = batch
        self._num_batches = num_batches

    @property
    def num_batches(self) -> int | None:
        return self._num_batches

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        return self._batch
