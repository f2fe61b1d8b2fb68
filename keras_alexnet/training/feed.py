"""Batches on their way to the devices: copied there before their step begins, and how long the training waits for them.

TensorFlow and its strategies copy ahead themselves, once asked to; `TimedNetwork` takes the time. Under JAX and PyTorch
a thread reads and copies, and Keras takes what it has: `DeviceFeed`.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import keras
import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf

# Batches that are on a device, or on their way to it, before they are asked for.
AHEAD = 2


class DataWait:
    """Adds up how long the training waits for its batches.

    Attributes:
        seconds: so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def next(self, iterator: Iterator):
        """The next element of an iterator."""
        start = time.monotonic()
        try:
            return next(iterator)
        finally:
            self.seconds += time.monotonic() - start


@contextlib.contextmanager
def device_feed(
    batches: "tf.data.Dataset | keras.utils.PyDataset", wait: DataWait, put: Callable[[tuple], tuple] | None
) -> Iterator["DeviceFeed"]:
    """Makes a `DeviceFeed`, whose thread ends with this context."""
    feed = DeviceFeed(batches, wait, put)
    try:
        yield feed
    finally:
        feed.close()


class DeviceFeed(keras.utils.PyDataset):
    """The batches of a dataset, once and in order, as `fit` and `evaluate` take them under JAX and PyTorch.

    Args:
        batches: gives tuples of arrays; a finite number of them, or without end.
        wait: takes the time that is spent waiting for them.
        put: starts copying a batch of NumPy arrays to the devices, and gives it as it will be there. It runs in a
            thread, `AHEAD` batches before they are needed. None for batches that stay where they are.
    """

    def __init__(
        self,
        batches: "tf.data.Dataset | keras.utils.PyDataset",
        wait: DataWait,
        put: Callable[[tuple], tuple] | None = None,
    ):
        super().__init__()
        if isinstance(batches, keras.utils.PyDataset):
            self._num_batches = batches.num_batches
            iterator = iter(batches)
        else:
            cardinality = int(batches.cardinality())
            self._num_batches = cardinality if cardinality >= 0 else None
            iterator = batches.as_numpy_iterator()
        self._wait = wait
        self._reader = _Reader(iterator, put) if put else None
        self._iterator = self._reader or iterator

    @property
    def num_batches(self) -> int | None:
        return self._num_batches

    def __getitem__(self, index: int) -> tuple:
        return self._wait.next(self._iterator)

    def close(self) -> None:
        """Ends the thread."""
        if self._reader:
            self._reader.close()


class _Reader:
    """An iterator over batches that a thread has put on a device; what goes wrong in it is raised in its turn."""

    def __init__(self, batches: Iterator, put: Callable[[tuple], tuple]):
        self._batches = batches
        self._put = put
        self._ready: queue.Queue = queue.Queue(AHEAD - 1)  # The thread holds one more.
        self._closed = False
        self._thread = threading.Thread(target=self._read, name="device feed", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for batch in self._batches:
                self._ready.put((self._put(batch), None))
                if self._closed:
                    return
            self._ready.put((None, StopIteration()))
        except Exception as error:
            self._ready.put((None, error))

    def __iter__(self) -> "_Reader":
        return self

    def __next__(self) -> tuple:
        batch, error = self._ready.get()
        if error is not None:
            raise error
        return batch

    def close(self) -> None:
        self._closed = True
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self._ready.get(timeout=0.01)


def put_torch(batch: tuple[np.ndarray, ...]) -> tuple:
    """Starts copying arrays to PyTorch's GPU, by way of pinned memory."""
    import torch

    def put(array: np.ndarray):
        tensor = torch.empty(array.shape, dtype=getattr(torch, str(array.dtype)), pin_memory=True)
        tensor.numpy()[...] = array
        return tensor.to("cuda", non_blocking=True)

    return tuple(put(array) for array in batch)
