"""What the Keras backend computes on."""

import contextlib
import os
from collections.abc import Iterator

import keras

from keras_alexnet.errors import UserError


def current_platform() -> str:
    """What the Keras backend computes on by default: "cpu" or "gpu".

    Raises:
        UserError: the environment names a device that the backend cannot use.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return "gpu" if tf.config.list_logical_devices("GPU") else "cpu"
    if backend == "jax":
        import jax

        with _explained_device("JAX_PLATFORMS"):
            return jax.default_backend()
    import torch
    from keras.src.backend.torch.core import get_device

    with _explained_device("KERAS_TORCH_DEVICE"):
        torch.empty(0, device=get_device())
    return "gpu" if get_device().startswith("cuda") else "cpu"


@contextlib.contextmanager
def _explained_device(variable: str) -> Iterator[None]:
    try:
        yield
    except (AssertionError, RuntimeError) as error:
        if variable not in os.environ:
            raise
        reason = str(error).partition("\n")[0].rstrip(".") or "there is no such device"
        raise UserError(
            f"{variable} is {os.environ[variable]!r}, which {keras.backend.backend()} cannot use here: {reason}. Unset "
            "it, or install the driver and the GPU version of the backend."
        ) from None


def prefers_xla(platform: str) -> bool:
    """Whether the Keras backend is fastest with XLA on "cpu" or "gpu"."""
    backend = keras.backend.backend()
    # On CPUs, XLA is two to three times slower than TensorFlow's own kernels.
    return backend == "jax" or (backend == "tensorflow" and platform == "gpu")
