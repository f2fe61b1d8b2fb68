"""Explains errors of the input: finds the image behind them, since TensorFlow names no file."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import tensorflow as tf
from PIL import UnidentifiedImageError

from keras_alexnet.data import image_file
from keras_alexnet.data.decode import decode_image
from keras_alexnet.data.file_kinds import HEADER_BYTES, why_not_an_image
from keras_alexnet.data.image_map import ImageMap
from keras_alexnet.data.transforms import evaluation_image
from keras_alexnet.errors import UserError
from keras_alexnet.presets import IMAGE_SIZE
from keras_alexnet.system.process_pool import cpu_count

# Batches in which an image that cannot be read is looked for. The input reports it in its turn, however far it has
# read; Keras and the strategies ask for a few batches ahead.
READ_AHEAD = 6

_MISSING = "the file is missing"


def find_unreadable(image_map: ImageMap, rows: Iterable[int]) -> UserError | None:
    """Reads the images of `rows` and describes the first that cannot be read: TensorFlow names no file."""
    rows = list(rows)
    with ThreadPoolExecutor(cpu_count()) as pool:
        reasons = pool.map(lambda row: why_unreadable(image_map, row), rows)
        row, reason = next(((row, reason) for row, reason in zip(rows, reasons, strict=True) if reason), (None, None))
        pool.shutdown(cancel_futures=True)
    if reason is None:
        return None
    remedy = (
        "Restore it. Or leave it out: python -m keras_alexnet.prepare writes maps of the images that are there"
        if reason == _MISSING
        else "Replace it with an intact image. Or leave it out: python -m keras_alexnet.prepare --skip_bad_images "
        "writes maps without unusable images"
    )
    return UserError(
        f"cannot read the image {image_map.paths[row]} (line {row + 1} of {image_map.source}): {reason}. {remedy}; a "
        "training that began with it needs --restart, since its batches change."
    )


def why_unreadable(image_map: ImageMap, row: int) -> str | None:
    """Why the image of a row cannot be read; None if it can."""
    try:
        data = image_map.read(row)
    except FileNotFoundError:
        return _MISSING
    except MemoryError:
        raise UserError(
            f"not enough memory to read the image {image_map.paths[row]}. Free some memory and retry."
        ) from None
    except (OSError, ValueError) as error:  # No file can have a name with a zero byte.
        return getattr(error, "strerror", None) or str(error)
    try:
        # The whole image: the damage may lie outside the square in the middle.
        image_file.decode(data)
        evaluation_image(tf.constant(data), IMAGE_SIZE)
        decode_image(tf.constant(data))
    except UnidentifiedImageError:
        reason = why_not_an_image(data[:HEADER_BYTES])
        return f"it is {reason}" if reason.startswith(("not ", "truncated ")) else reason
    except tf.errors.OpError:
        return "TensorFlow cannot decode it"
    except Exception as error:  # Pillow raises a dozen kinds for broken files.
        return str(error) or type(error).__name__
    return None


def evaluation_errors(
    image_map: ImageMap, batch_size: int, *, batch: Callable[[], int]
) -> contextlib.AbstractContextManager:
    """Within it, errors of an evaluation that computes `batch()` are reported as a user error."""

    def rows() -> Iterable[int]:
        first = batch() * batch_size
        return range(first, min(first + READ_AHEAD * batch_size, len(image_map)))

    return explained_errors(image_map, rows)


@contextlib.contextmanager
def explained_errors(image_map: ImageMap, rows: Callable[[], Iterable[int]]) -> Iterator[None]:
    """Turns TensorFlow's errors into the user's mistake behind them, if an image of `rows()` cannot be read."""
    try:
        yield
    except (tf.errors.ResourceExhaustedError, tf.errors.UnavailableError, tf.errors.DeadlineExceededError):
        raise  # A device has too little memory, or another worker has ended.
    except tf.errors.OpError:
        unreadable = find_unreadable(image_map, rows())
        if unreadable is None:
            raise
        raise unreadable from None
