"""Copies batches to the devices ahead of their steps, and measures how long training waits for them.

TensorFlow copies ahead by itself; `TensorFlowNetwork` measures the wait. Under JAX and PyTorch, `DeviceFeed` reads and
copies in a thread.
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

# Number of batches that are on the device, or being copied to it, before they are requested.
AHEAD = 2


class DataWait:
    """Accumulates the time that training waits for its next batch, in `seconds`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def next(self, iterator: Iterator):
        """Returns the next element of an iterator and adds the time that it took."""
        start = time.monotonic()
        try:
            return next(iterator)
        finally:
            self.seconds += time.monotonic() - start


# Called in the reading thread: starts copying a batch of NumPy arrays to the devices, and returns a function that
# returns the copied batch when called in the computing thread.
Put = Callable[[tuple[np.ndarray, ...]], Callable[[], tuple]]


@contextlib.contextmanager
def device_feed(
    batches: "tf.data.Dataset | keras.utils.PyDataset", wait: DataWait, put: Put | None
) -> Iterator["DeviceFeed"]:
    """A `DeviceFeed` whose thread ends with this context."""
    feed = DeviceFeed(batches, wait, put)
    try:
        yield feed
    finally:
        feed.close()


class DeviceFeed(keras.utils.PyDataset):
    """The batches of a dataset for `fit` and `evaluate` under JAX and PyTorch: each once, in order.

    Args:
        batches: finite or endless dataset of tuples of arrays.
        wait: accumulates the waiting time.
        put: copies a batch to the devices. It runs in a thread, `AHEAD` batches ahead. None to pass batches on as NumPy
            arrays.
    """

    def __init__(
        self,
        batches: "tf.data.Dataset | keras.utils.PyDataset",
        wait: DataWait,
        put: Put | None = None,
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
        """Stops the thread."""
        if self._reader:
            self._reader.close()


class _Reader:
    """Iterates over batches that a thread puts on the device. Errors in the thread are raised in order."""

    def __init__(self, batches: Iterator, put: Put):
        self._batches = batches
        self._put = put
        self._ready: queue.Queue = queue.Queue(AHEAD - 1)  # The thread holds one more.
        self._closed = False
        self._end: Exception | None = None
        self._thread = threading.Thread(target=self._read, name="device feed", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for batch in self._batches:
                self._ready.put(self._put(batch))
                if self._closed:
                    return
            self._ready.put(StopIteration())
        except Exception as error:
            self._ready.put(error)

    def __iter__(self) -> "_Reader":
        return self

    def __next__(self) -> tuple:
        if self._end is None:
            ready = self._ready.get()
            if not isinstance(ready, Exception):
                return ready()
            self._end = ready
        raise self._end

    def close(self) -> None:
        self._closed = True
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self._ready.get(timeout=0.01)
