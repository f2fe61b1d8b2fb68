"""Which devices a run uses."""

import contextlib
from collections.abc import Iterator

import keras

from keras_alexnet.system.determinism import make_deterministic
from keras_alexnet.system.gpu import check_gpu_is_used
from keras_alexnet.training.devices.base import Devices


@contextlib.contextmanager
def choose_devices(strategy: str, *, deterministic: bool = False) -> Iterator[Devices]:
    """The devices for `strategy`, to compute on within this context.

    Args:
        strategy: "auto" (all workers if the environment names several, else all GPUs when there are several, otherwise
            one device), "none" (one device), "mirrored" (all devices of this machine; the logical CPUs when there is no
            GPU) or "multi_worker" (the workers that the environment names).
        deterministic: whether to use only deterministic algorithms on GPUs.

    Raises:
        UserError: a strategy that the backend cannot do, or that the environment does not fit; a GPU that the backend
            does not see; or another worker ended.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        from keras_alexnet.training.devices.tensorflow import tensorflow_devices as devices_of_backend
    elif backend == "jax":
        from keras_alexnet.training.devices.jax import jax_devices as devices_of_backend
    else:
        from keras_alexnet.training.devices.torch import torch_device as devices_of_backend

    with devices_of_backend(strategy) as devices:
        check_gpu_is_used(backend, devices.platform)
        if deterministic:
            make_deterministic(devices.platform)
        try:
            yield devices
        except Exception as error:
            explained = devices.explain(error)
            if explained is None:
                raise
            raise explained from None
