"""Reads the images of each step in threads and puts them into batches."""

import dataclasses
import weakref
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_alexnet.data.decoded import BufferPool, Crops, Decoded, concatenate_crops
from keras_alexnet.data.exit import end_iterators_at_exit
from keras_alexnet.data.image_map import ImageMap
from keras_alexnet.data.pixel_store import PixelStore
from keras_alexnet.data.transforms import resize_square
from keras_alexnet.system.gpu import leave_gpus_to_the_backend
from keras_alexnet.system.process_pool import cpu_count

NUM_THREADS = cpu_count()
_LARGEST_CHUNK = 64
# Bytes of decoded images that a thread works on at a time, if they have to be resized.
_LARGEST_DECODED_CHUNK = 2**26
# Batches that are cut out of a pixel store at a time, each by several threads.
_STORE_BATCHES = 2
# How many images ahead a store is read into memory: 0.3 GB of pixels.
_READ_AHEAD = 1024

_NO_BYTES, _NO_SIDES, _NO_FLIPS = np.array([], np.uint8), np.array([], np.int64), np.array([], bool)


def full_batches(
    image_map: ImageMap,
    rows_at: Callable[[int, slice], tuple[np.ndarray, np.ndarray]],
    transform: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    batch_size: int,
    shape: tuple[int, ...],
    *,
    first_step: int = 0,
    num_steps: int | None = None,
    choose_crops: Callable[[np.ndarray, np.ndarray], Crops] | None = None,
    decoded: Decoded | None = None,
) -> tf.data.Dataset:
    """Reads the images of each step and puts them into full batches.

    The unit of work of a thread is a chunk: many images, so that handing work over costs little, and few enough that
    all cores work on the first batch, and that what waits takes little memory.

    Args:
        image_map: paths and labels.
        rows_at: gives the rows of the map that a part of a step's batch is made of, and three numbers for each.
        transform: (bytes of a file, its numbers) → uint8 of `shape`.
        batch_size: images a batch. Where `rows_at` gives fewer, black images with label 0 follow.
        shape: of an image, or of its crops.
        first_step, num_steps: where to begin, and how many batches to give; without end if None.
        choose_crops: (sizes of images, their numbers) → the crops that `transform` makes; None if it does more.
        decoded: the images of the map, decoded; None to use their pixel store, if they are in one.
    """
    leave_gpus_to_the_backend()
    end_iterators_at_exit()
    if choose_crops is None:
        decoded = None
    elif decoded is None:
        decoded = PixelStore.find(image_map)
    largest = _LARGEST_CHUNK if len(shape) == 3 else _LARGEST_CHUNK // shape[0]
    if decoded is not None:
        largest = min(max(int(_LARGEST_DECODED_CHUNK / decoded.mean_bytes), 1), largest)
    chunk_size = _chunk_size(batch_size, largest)
    num_threads, is_store = NUM_THREADS, isinstance(decoded, PixelStore)
    if is_store and choose_crops(decoded.first_size, np.zeros((1, 3), np.float32)).sides[0] == shape[0]:
        # Nothing to resize. The store copies crops in threads of its own, straight into the batch.
        chunk_size, num_threads = batch_size, _STORE_BATCHES
    chunks = batch_size // chunk_size
    # TensorFlow keeps the Python functions below, and what they refer to, until the process ends
    # (`_py_funcs_used_in_graph` of script_ops.py). The dataset keeps the images alive instead, as every dataset and
    # iterator keeps what it is made from.
    image_map = dataclasses.replace(image_map, labels=np.asarray(image_map.labels, np.int32))
    source = _Source(image_map, decoded, BufferPool(shape[0]))
    reference = weakref.ref(source)
    in_archives, is_decoded = image_map.locations is not None, decoded is not None

    def rows_of(chunk: int) -> tuple[np.ndarray, np.ndarray]:
        step, number = divmod(chunk, chunks)
        return rows_at(step, slice(number * chunk_size, (number + 1) * chunk_size))

    def read_files(index: np.int64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows, numbers = rows_of(int(index))
        images = alive(reference).image_map
        data = images.read_many(rows.tolist()) if in_archives else images.encoded_paths(rows)
        return np.array(data, object), images.labels[rows], numbers

    def read_decoded(index: np.int64) -> tuple[np.ndarray, ...]:
        source = alive(reference)
        rows, numbers = rows_of(int(index))
        if is_store:
            source.decoded.read_ahead(rows_of(int(index) + -(-_READ_AHEAD // chunk_size))[0])
        images = source.decoded.images(rows)
        if not images:
            return *read_files(index), _NO_BYTES, _NO_SIDES, _NO_FLIPS
        crops = choose_crops(images.sizes, numbers)
        others = np.array([], object), source.image_map.labels[rows], numbers
        if (crops.sides == shape[0]).all():
            pixels = source.buffers.take(len(images))
            images.copy_crops(crops, pixels)
            return *others, pixels.reshape(-1), _NO_SIDES, _NO_FLIPS
        return *others, concatenate_crops(images, crops), crops.sides.astype(np.int64), crops.flipped

    def from_files(data: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(
            lambda row: transform(row[0] if in_archives else tf.io.read_file(row[0]), row[1]),
            (data, numbers),
            fn_output_signature=tf.TensorSpec(shape, tf.uint8),
            parallel_iterations=1,
        )

    def from_crops(pixels: tf.Tensor, sides: tf.Tensor, flipped: tf.Tensor) -> tf.Tensor:
        """As `from_files`, from the bytes of crops; without `sides` they need neither resizing nor flipping."""

        def resized(crop: tuple[tf.Tensor, ...]) -> tf.Tensor:
            start, side, is_flipped = crop
            image = tf.reshape(pixels[start : start + 3 * side * side], tf.stack([side, side, 3]))
            image = resize_square(image, shape[0])
            return tf.cond(is_flipped, lambda: tf.reverse(image, axis=[1]), lambda: image)

        def all_resized() -> tf.Tensor:
            starts = tf.cumsum(3 * sides * sides, exclusive=True)
            output = tf.TensorSpec(shape, tf.uint8)
            return tf.map_fn(resized, (starts, sides, flipped), fn_output_signature=output, parallel_iterations=1)

        return tf.cond(tf.size(sides) > 0, all_resized, lambda: tf.reshape(pixels, (-1, *shape)))

    def load(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        types = (tf.string, tf.int32, tf.float32)
        if is_decoded:
            types += (tf.uint8, tf.int64, tf.bool)
        outputs = tf.numpy_function(read_decoded if is_decoded else read_files, [index], types, stateful=False)
        shapes = ((None,), (None,), (None, 3), (None,), (None,), (None,))
        data, labels, numbers, *crops = (tf.ensure_shape(*both) for both in zip(outputs, shapes, strict=False))
        if is_decoded:
            # Either the files or the crops are empty.
            images = tf.cond(tf.size(data) > 0, lambda: from_files(data, numbers), lambda: from_crops(*crops))
        else:
            images = from_files(data, numbers)
        missing = chunk_size - tf.size(labels)
        # Padding by nothing would still copy the images.
        images = tf.cond(missing > 0, lambda: tf.pad(images, [[0, missing], *[[0, 0]] * len(shape)]), lambda: images)
        labels = tf.pad(labels, [[0, missing]])
        return tf.ensure_shape(images, (chunk_size, *shape)), tf.ensure_shape(labels, (chunk_size,))

    def join(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.reshape(images, (batch_size, *shape)), tf.reshape(labels, (batch_size,))

    options = tf.data.Options()
    # Rows are dealt out to workers above, before they are decoded; TensorFlow's own sharding would do it again.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # All cores decode, an image a core: nothing is left to tune, and tuning would time every operation.
    options.autotune.enabled = False
    options.threading.max_intra_op_parallelism = 1
    options.experimental_optimization.map_parallelization = False
    indices = tf.data.Dataset.counter(first_step * chunks)
    if num_steps is not None:
        indices = indices.take(num_steps * chunks)
    loaded = indices.map(load, num_parallel_calls=num_threads, deterministic=True)
    loaded._source = source
    if chunks > 1:
        loaded = loaded.batch(chunks, drop_remainder=True).map(join)
    return loaded.with_options(options)


@dataclasses.dataclass(eq=False)
class _Source:
    """What a dataset reads from, and the buffers that it writes to."""

    image_map: ImageMap
    decoded: Decoded | None
    buffers: BufferPool


def alive(reference: weakref.ref):
    """What a Python function of a dataset refers to; raises `RuntimeError` once the dataset is gone."""
    found = reference()
    if found is None:
        raise RuntimeError("the dataset was deleted while it was read")
    return found


def _chunk_size(batch_size: int, largest: int) -> int:
    """The largest divisor of `batch_size` up to `largest`."""
    return next(size for size in range(min(batch_size, largest), 0, -1) if batch_size % size == 0)
