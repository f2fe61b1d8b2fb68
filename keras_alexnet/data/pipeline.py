"""Batches of pixels and labels from a map: a pure function of the map, the seed and the position in the run.

With n images and a global batch of B, a pass over the data has n // B batches. Step b of a run takes its rows from the
permutation of pass b // (n // B), and row r of the run is cropped and mirrored by random numbers of (seed, r). So a run
goes on at any step at no cost, any number of workers sees the same global batches, and threads change nothing.
"""

import os
from collections.abc import Iterable

import numpy as np
import tensorflow as tf
from PIL import UnidentifiedImageError

from keras_alexnet.data.decode import decode_with_pillow
from keras_alexnet.data.maps import ImageMap
from keras_alexnet.data.transforms import evaluation_image, training_image
from keras_alexnet.errors import UserError
from keras_alexnet.presets import IMAGE_SIZE


def permutation(num_images: int, seed: int, pass_index: int) -> np.ndarray:
    """The order of a pass: int64 (num_images,). The same under every version of NumPy, as its raw bit streams are."""
    return np.argsort(np.random.Philox(key=[seed, pass_index]).random_raw(num_images), kind="stable")


def steps_per_pass(num_images: int, batch_size: int) -> int:
    """Batches in a pass; what is left over is left out of this pass alone, as each has an order of its own."""
    if batch_size > num_images:
        raise UserError(
            f"batch_size is {batch_size:,}, but there are only {num_images:,} training images. "
            f"Choose a batch size of at most {num_images:,}."
        )
    return num_images // batch_size


def batch_rows(num_images: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """The rows of the map that training step `step` (from 0) takes: int64 (batch_size,)."""
    pass_index, batch = divmod(step, steps_per_pass(num_images, batch_size))
    return permutation(num_images, seed, pass_index)[batch * batch_size : (batch + 1) * batch_size]


def training_dataset(
    image_map: ImageMap,
    batch_size: int,
    *,
    seed: int,
    first_step: int = 0,
    worker: int = 0,
    num_workers: int = 1,
    image_size: int = IMAGE_SIZE,
) -> tf.data.Dataset:
    """The endless training set from `first_step` on.

    Args:
        image_map: the images.
        batch_size: the global batch.
        seed: of the order, the crops and the mirroring.
        first_step: where to begin.
        worker, num_workers: worker k of W reads and decodes rows k, k + W, … of each global batch only.
        image_size: side of the images.

    Returns:
        A dataset of (uint8 (batch_size / num_workers, image_size, image_size, 3) RGB, int32 labels).

    Raises:
        UserError: fewer images than a batch, or workers that do not divide it.
    """
    num_images = len(image_map)
    steps = steps_per_pass(num_images, batch_size)
    if batch_size % num_workers:
        raise UserError(f"batch_size {batch_size} does not divide by the {num_workers} workers.")
    first_pass, first_batch = divmod(first_step, steps)

    def positions_and_rows(pass_index: np.int64) -> tuple[np.ndarray, np.ndarray]:
        begin = first_batch * batch_size if pass_index == first_pass else 0
        order = permutation(num_images, seed, int(pass_index))
        in_pass = slice(begin + worker, steps * batch_size, num_workers)
        positions = np.arange(steps * batch_size)[in_pass] + pass_index * steps * batch_size
        return positions, order[in_pass]

    def rows_of_pass(pass_index: tf.Tensor) -> tf.data.Dataset:
        arrays = tf.numpy_function(positions_and_rows, [pass_index], (tf.int64, tf.int64), stateful=False)
        return tf.data.Dataset.from_tensor_slices(tuple(tf.ensure_shape(array, (None,)) for array in arrays))

    paths, labels = _columns(image_map)

    def load(position: tf.Tensor, row: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        data = tf.io.read_file(paths[row])
        return training_image(data, tf.stack([tf.constant(seed, tf.int64), position]), image_size), labels[row]

    rows = tf.data.Dataset.counter(first_pass).flat_map(rows_of_pass)
    batches = _load_in_parallel(rows, load).batch(batch_size // num_workers, drop_remainder=True)
    return batches.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)).prefetch(2)


def evaluation_dataset(image_map: ImageMap, batch_size: int, *, image_size: int = IMAGE_SIZE) -> tf.data.Dataset:
    """Every image exactly once, in the map's order; elements as `training_dataset`'s; the last batch may be smaller."""
    paths, labels = _columns(image_map)

    def load(row: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return evaluation_image(tf.io.read_file(paths[row]), image_size), labels[row]

    return _load_in_parallel(tf.data.Dataset.range(len(image_map)), load).batch(batch_size).prefetch(2)


def find_unreadable(image_map: ImageMap, rows: Iterable[int]) -> UserError | None:
    """Reads the images of `rows`, in order, and describes the first that cannot be: TensorFlow names no file."""
    for row in rows:
        path = image_map.paths[row]
        reason = _why_unreadable(path)
        if reason:
            return UserError(
                f"cannot read the image {path} (line {row + 1} of {image_map.source}): {reason}. Put a whole image "
                "there; or take the line out of the map, and give --restart to a training that had begun with it."
            )
    return None


def _why_unreadable(path: str) -> str | None:
    try:
        with open(path, "rb") as file:
            data = file.read()
        # The whole image: the damage may lie outside the square in the middle.
        decode_with_pillow(data)
        evaluation_image(tf.constant(data), IMAGE_SIZE)
    except FileNotFoundError:
        return "the file is missing"
    except UnidentifiedImageError:
        return "the file is empty" if not data else "it is not an image, or of an unknown kind"
    except tf.errors.OpError:
        return "TensorFlow cannot decode it"
    # Pillow raises errors of every kind on damaged files.
    except Exception as error:
        return getattr(error, "strerror", None) or str(error) or type(error).__name__
    return None


def _columns(image_map: ImageMap) -> tuple[tf.Tensor, tf.Tensor]:
    """The paths and labels as tensors. They are captured by the datasets, not copied into their graphs."""
    return (
        tf.constant([os.fsencode(path) for path in image_map.paths]),
        tf.constant(np.asarray(image_map.labels, np.int32)),
    )


def _load_in_parallel(rows: tf.data.Dataset, load) -> tf.data.Dataset:
    options = tf.data.Options()
    # Rows are dealt out to workers above, before they are decoded; TensorFlow's own sharding would do it again.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return rows.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).with_options(options)
