"""Which images a step takes, and how they are cropped: a function of the seed and the position in the run alone.

With n images and a global batch of B, a pass over the data has n // B batches. Step b of a run takes its rows from the
permutation of pass b // (n // B), and row r of the run is cropped and flipped by random numbers of (seed, r). So a run
resumes at any step at no cost, any number of workers sees the same global batches, and threads change nothing.
"""

import functools
import threading

import numpy as np

from keras_alexnet.errors import SettingError

_lock = threading.Lock()


def permutation(num_images: int, seed: int, pass_index: int) -> np.ndarray:
    """The order of a pass: integers (num_images,), read-only. It is the same under every version of NumPy."""
    with _lock:  # All threads of a dataset ask for it at once.
        return _permutation(num_images, seed, pass_index)


# One cache for all datasets, since TensorFlow keeps whatever a dataset's Python functions refer to until the process
# ends. Two entries, since batches that are read ahead may belong to the next pass.
@functools.lru_cache(maxsize=2)
def _permutation(num_images: int, seed: int, pass_index: int) -> np.ndarray:
    order = np.argsort(
        np.random.Philox(key=np.array([seed, pass_index], np.uint64)).random_raw(num_images), kind="stable"
    )
    if num_images < 2**31:
        order = order.astype(np.int32)  # Half the memory.
    order.flags.writeable = False
    return order


def steps_per_pass(num_images: int, batch_size: int) -> int:
    """Batches in a pass; what is left over is left out of this pass alone, as each has an order of its own."""
    if batch_size > num_images:
        raise SettingError(
            "batch_size",
            f"is {batch_size:,}, but there are only {num_images:,} training images. Choose a batch size of at most "
            f"{num_images:,}.",
        )
    return num_images // batch_size


def batch_rows(num_images: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """The rows of the map that training step `step` (from 0) takes: integers (batch_size,)."""
    pass_index, batch = divmod(step, steps_per_pass(num_images, batch_size))
    return permutation(num_images, seed, pass_index)[batch * batch_size : (batch + 1) * batch_size]


def crop_numbers(seed: int, position: int, count: int) -> np.ndarray:
    """The random numbers of the training images at `position`, `position` + 1, … of a run.

    Returns:
        float32 (count, 3), uniform in [0, 1), of 24 bits: a function of the seed and each position alone.
    """
    # No pass gets as far as the second key, so these bits are none of a permutation's. A counter gives four numbers.
    key = np.array([seed, 2**64 - 1], np.uint64)
    raw = np.random.Philox(key=key, counter=[position, 0, 0, 0]).random_raw(4 * count)
    return (raw.reshape(count, 4)[:, :3] >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
