"""Which devices a run uses."""

import contextlib
from dataclasses import dataclass

import keras
import tensorflow as tf

from keras_alexnet.errors import UserError


@dataclass(frozen=True)
class Devices:
    """Where a run computes.

    Attributes:
        scope: the context in which the model has to be built and compiled.
        num_replicas: copies of the network; a global batch is dealt out among them.
        description: for people.
    """

    scope: contextlib.AbstractContextManager
    num_replicas: int
    description: str


def choose_devices(strategy: str) -> Devices:
    """Returns the devices for `strategy`.

    Args:
        strategy: "auto" (all GPUs when there are several, otherwise one device), "none" (one device), or "mirrored"
            (all GPUs; all of TensorFlow's logical CPUs when there is none).

    Raises:
        UserError: a strategy that the backend cannot do.
    """
    backend = keras.backend.backend()
    if backend != "tensorflow":
        if strategy == "mirrored":
            raise UserError(
                f"strategy mirrored is TensorFlow's, but the Keras backend is {backend}: it trains on one device. "
                "Use --strategy=auto, or KERAS_BACKEND=tensorflow."
            )
        leave_gpus_to_the_backend()
        return Devices(contextlib.nullcontext(), 1, f"one device, {backend}")

    gpus = tf.config.list_logical_devices("GPU")
    if strategy == "mirrored" or (strategy == "auto" and len(gpus) > 1):
        devices = gpus or tf.config.list_logical_devices("CPU")
        mirrored = tf.distribute.MirroredStrategy([device.name for device in devices])
        return Devices(mirrored.scope(), len(devices), f"{len(devices)} × {devices[0].device_type}, mirrored")
    return Devices(contextlib.nullcontext(), 1, "one GPU" if gpus else "CPU")


def check_batch_size(batch_size: int, num_replicas: int) -> None:
    """Every replica has to get the same share: Keras crashes on another, or averages gradients wrongly."""
    if batch_size % num_replicas:
        below = batch_size // num_replicas * num_replicas
        choices = [str(size) for size in (below, below + num_replicas) if size]
        raise UserError(
            f"batch_size {batch_size} does not divide by the {num_replicas} devices; the nearest that do are "
            f"{' and '.join(choices)}."
        )


def leave_gpus_to_the_backend() -> None:
    """Hides the GPUs from TensorFlow where it only reads images: it would take all of their memory."""
    if keras.backend.backend() != "tensorflow":
        # It cannot be changed once TensorFlow has computed something: then it has been done, or it is too late.
        with contextlib.suppress(RuntimeError):
            tf.config.set_visible_devices([], "GPU")
