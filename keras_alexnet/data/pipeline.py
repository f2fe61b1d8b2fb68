"""Batches of pixels and labels from a map: a pure function of the map, the seed and the position in the run."""

import dataclasses
import os
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf
from PIL import UnidentifiedImageError

from keras_alexnet.data import images
from keras_alexnet.data.archives.index import locate
from keras_alexnet.data.crops import check_batch_size, check_crops, ratio_numerator
from keras_alexnet.data.decode import decode_image
from keras_alexnet.data.decoded import BufferPool, Crops, Decoded, center_crops, concatenate_crops, random_crops
from keras_alexnet.data.maps import ImageMap
from keras_alexnet.data.order import batch_rows, crop_numbers, steps_per_pass
from keras_alexnet.data.pixel_store import PixelStore
from keras_alexnet.data.transforms import evaluation_image, resize_square, ten_crops, training_image
from keras_alexnet.errors import UserError
from keras_alexnet.presets import IMAGE_SIZE
from keras_alexnet.system.process_pool import cpu_count

_NUM_THREADS = cpu_count()
_LARGEST_CHUNK = 64
# Bytes of decoded images that a thread works on at a time, if they have to be resized.
_LARGEST_DECODED_CHUNK = 2**26
# Batches that are cut out of a pixel store at a time, each by several threads.
_STORE_BATCHES = 2
# How many images ahead a store is read into memory: 0.3 GB of pixels.
_READ_AHEAD = 1024
_PREFETCH = 2

_NO_BYTES, _NO_SIDES, _NO_FLIPS = np.array([], np.uint8), np.array([], np.int64), np.array([], bool)


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
        UserError: fewer images than a batch, or workers that do not divide it.
    """
    num_images = len(image_map)
    steps_per_pass(num_images, batch_size)  # Raises the error here, and not in a thread.

    def rows_at(step: int, part: slice) -> tuple[np.ndarray, np.ndarray]:
        rows = batch_rows(num_images, batch_size, seed, step)
        numbers = crop_numbers(seed, step * batch_size, batch_size)
        return rows[worker::num_workers][part], numbers[worker::num_workers][part]

    return _batches(
        image_map,
        rows_at,
        lambda data, numbers: training_image(data, numbers, image_size),
        _share(batch_size, num_workers),
        (image_size, image_size, 3),
        first_step=first_step,
        choose_crops=random_crops,
        decoded=decoded,
    ).prefetch(_PREFETCH)


def evaluation_dataset(
    image_map: ImageMap, batch_size: int, *, image_size: int = IMAGE_SIZE, resize: str = "square", crops: int = 1
) -> tf.data.Dataset:
    """Every image exactly once, in the map's order; elements as `training_dataset`'s; the last batch may be smaller.

    `resize` and `crops` are those of `padded_evaluation_dataset`.
    """

    def without_padding(images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        size = tf.math.count_nonzero(weights)
        return images[:size], labels[:size]

    dataset = padded_evaluation_dataset(image_map, batch_size, image_size=image_size, resize=resize, crops=crops)
    return dataset.map(without_padding)


def image_dataset(
    images: ImageMap | Sequence[str | os.PathLike],
    batch_size: int = 32,
    *,
    image_size: int = IMAGE_SIZE,
    resize: str = "square",
    crops: int = 1,
) -> tf.data.Dataset:
    """Images as a network sees them in evaluation, each once and in order, for code of one's own.

    Args:
        images: a map, or paths of images.
        batch_size, image_size, resize, crops: as for `padded_evaluation_dataset`.

    Returns:
        A dataset of (images, labels), as `evaluation_dataset` gives it, for a map; of images alone for paths.

    Raises:
        UserError: there are no images, or an unknown `resize` or `crops`.
    """
    check_batch_size(batch_size)
    cut = {"image_size": image_size, "resize": resize, "crops": crops}
    if isinstance(images, ImageMap):
        return evaluation_dataset(images, batch_size, **cut)
    return evaluation_dataset(unlabelled_map(images), batch_size, **cut).map(lambda pixels, _: pixels)


def unlabelled_map(paths: ImageMap | Iterable[str | os.PathLike]) -> ImageMap:
    """A map of the images at `paths`; raises `UserError` if there are none, or for a single path in place of a list."""
    if isinstance(paths, ImageMap) and len(paths):
        return paths
    found = [] if isinstance(paths, str | os.PathLike) else [os.fspath(path) for path in paths]
    if not found:
        raise UserError(
            f"the images are {paths!r}; expected a list of paths, as find_images gives it, or a map, as read_map does."
        )
    source = "the list of paths"
    locations = locate(list(map(os.fsencode, found)), source) if any("@/" in path for path in found) else None
    return ImageMap(found, np.zeros(len(found), np.int32), source=source, locations=locations)


def padded_evaluation_dataset(
    image_map: ImageMap,
    batch_size: int,
    *,
    worker: int = 0,
    num_workers: int = 1,
    image_size: int = IMAGE_SIZE,
    resize: str = "square",
    crops: int = 1,
    decoded: Decoded | None = None,
) -> tf.data.Dataset:
    """`evaluation_dataset` in batches that are all full: black images of weight 0 fill up the last one.

    A smaller batch would leave a device without an image, which crashes, and be compiled once more. Workers share the
    batches as in `training_dataset`.

    Args:
        image_map, batch_size, worker, num_workers, image_size, decoded: as for `training_dataset`.
        resize: which part of an image is seen, a key of `crops.RESIZES`.
        crops: 1 for the square in the middle of each image, 10 for `ten_crops`.

    Returns:
        A dataset of (images, labels, weights), weights float32: 1, and 0 for the padding. Images are uint8
        (batch, image_size, image_size, 3), or (batch, 10, image_size, image_size, 3).

    Raises:
        UserError: an unknown `resize` or `crops`, or workers that do not divide the batch.
    """
    check_crops(resize, crops, image_size)
    crop, shape, choose_crops = evaluation_image, (image_size, image_size, 3), None
    if crops > 1:
        crop, shape = ten_crops, (crops, *shape)
    elif resize != "warp256":
        numerator = ratio_numerator(resize, image_size)

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
    batches = _batches(
        image_map,
        rows_at,
        lambda data, _: crop(data, image_size, resize),
        _share(batch_size, num_workers),
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
    resize: str = "square",
    crops: int = 1,
) -> tf.data.Dataset:
    """Every image that can be read, in order: files of which some may be no images.

    Args:
        image_map: the files; its labels do not matter.
        batch_size, image_size, resize, crops: as for `padded_evaluation_dataset`.

    Returns:
        A dataset of (rows of the map, images): int64 (batch,), and uint8 (batch, image_size, image_size, 3) or
        (batch, 10, image_size, image_size, 3). The last batch may be smaller. What is missing could not be read:
        `why_unreadable` tells why.
    """
    check_crops(resize, crops, image_size)
    crop = ten_crops if crops > 1 else evaluation_image
    reference = weakref.ref(image_map)  # See `_batches`.

    def read(position: np.int64) -> bytes:
        return _alive(reference).read(int(position))

    def load(position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        data = tf.ensure_shape(tf.numpy_function(read, [position], tf.string, stateful=False), ())
        return position, crop(data, image_size, resize)

    images = tf.data.Dataset.range(len(image_map)).map(load, num_parallel_calls=_NUM_THREADS, deterministic=True)
    images._image_map = image_map
    return images.ignore_errors().batch(batch_size).prefetch(_PREFETCH)


def find_unreadable(image_map: ImageMap, rows: Iterable[int]) -> UserError | None:
    """Reads the images of `rows` and describes the first that cannot be read: TensorFlow names no file."""
    rows = list(rows)
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        reasons = pool.map(lambda row: why_unreadable(image_map, row), rows)
        row, reason = next(((row, reason) for row, reason in zip(rows, reasons, strict=True) if reason), (None, None))
        pool.shutdown(cancel_futures=True)
    if reason is None:
        return None
    return UserError(
        f"cannot read the image {image_map.paths[row]} (line {row + 1} of {image_map.source}): {reason}. Put a whole "
        "image there. Or leave it out: python -m keras_alexnet.prepare --skip_bad_images writes maps without such "
        "images; a training that had begun with it needs --restart, since its batches change."
    )


def why_unreadable(image_map: ImageMap, row: int) -> str | None:
    """Why the image of a row cannot be read; None if it can."""
    try:
        data = image_map.read(row)
        # The whole image: the damage may lie outside the square in the middle.
        images.decode(data)
        evaluation_image(tf.constant(data), IMAGE_SIZE)
        decode_image(tf.constant(data))
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


def _batches(
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
    if choose_crops is None:
        decoded = None
    elif decoded is None:
        decoded = PixelStore.find(image_map)
    largest = _LARGEST_CHUNK if len(shape) == 3 else _LARGEST_CHUNK // shape[0]
    if decoded is not None:
        largest = min(max(int(_LARGEST_DECODED_CHUNK / decoded.mean_bytes), 1), largest)
    chunk_size = _chunk_size(batch_size, largest)
    num_threads, is_store = _NUM_THREADS, isinstance(decoded, PixelStore)
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
        images = _alive(reference).image_map
        data = images.read_many(rows.tolist()) if in_archives else images.encoded_paths(rows)
        return np.array(data, object), images.labels[rows], numbers

    def read_decoded(index: np.int64) -> tuple[np.ndarray, ...]:
        source = _alive(reference)
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


def _alive(reference: weakref.ref):
    found = reference()
    if found is None:
        raise RuntimeError("the dataset was deleted while it was read")
    return found


def _share(batch_size: int, num_workers: int) -> int:
    if batch_size % num_workers:
        raise UserError(f"batch_size {batch_size} does not divide by the {num_workers} workers.")
    return batch_size // num_workers


def _chunk_size(batch_size: int, largest: int) -> int:
    """The largest divisor of `batch_size` up to `largest`."""
    return next(size for size in range(min(batch_size, largest), 0, -1) if batch_size % size == 0)
