"""The device of a run under PyTorch: Keras trains on one."""

import contextlib
import functools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from keras.src.backend.torch.core import get_device

from keras_alexnet.errors import SettingError
from keras_alexnet.system.gpu import leave_gpus_to_the_backend
from keras_alexnet.training.devices.base import Devices
from keras_alexnet.training.devices.feed import Put, device_feed
from keras_alexnet.training.devices.platform import current_platform


@contextlib.contextmanager
def torch_device(strategy: str) -> Iterator[Devices]:
    """The device for `strategy` under PyTorch: see `choose_devices`."""
    if strategy in ("mirrored", "multi_worker"):
        raise SettingError(
            "strategy",
            f"is {strategy}, but Keras trains on one device under torch. Use --strategy=auto, or "
            "KERAS_BACKEND=tensorflow or jax.",
        )
    leave_gpus_to_the_backend()
    yield TorchDevice("one device, torch", platform=current_platform())


class TorchDevice(Devices):
    """A CPU or GPU."""

    can_use_xla = False

    @functools.cached_property
    def _put(self) -> Put | None:
        # One stream for all feeds: PyTorch keeps the memory of each stream apart.
        return _torch_put() if self.platform == "gpu" else None

    def feed(self, batches) -> contextlib.AbstractContextManager:
        """As of `Devices`."""
        return device_feed(batches, self.wait, self._put)


def _torch_put() -> Put:
    """Copies through pinned memory in a separate stream, so copies do not queue behind the computation."""
    device = get_device()
    stream = torch.cuda.Stream(device)

    def put(batch: tuple[np.ndarray, ...]) -> Callable[[], tuple]:
        with torch.cuda.stream(stream):
            tensors = tuple(copied(array) for array in batch)
            event = stream.record_event()

        def ready() -> tuple:
            current = torch.cuda.current_stream(device)
            current.wait_event(event)
            for tensor in tensors:
                tensor.record_stream(current)  # Keeps its memory until the step is done with it.
            return tensors

        return ready

    def copied(array: np.ndarray):
        pinned = torch.empty(array.shape, dtype=getattr(torch, str(array.dtype)), pin_memory=True)
        pinned.numpy()[...] = array
        return pinned.to(device, non_blocking=True)

    return put
