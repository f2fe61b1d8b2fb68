"""The devices of a run, whatever the backend, and what its workers have to agree on."""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import keras

from keras_alexnet.errors import SettingError, UserError
from keras_alexnet.training.devices.feed import DataWait


@dataclass(frozen=True)
class Devices:
    """Where a run computes: a copy of the network on each device, and an equal share of each batch.

    The base class is one device that needs nothing special.

    Attributes:
        description: for people.
        platform: "cpu" or "gpu".
        num_replicas: number of devices of all workers.
        xla: whether XLA compiles the steps with `--jit_compile=auto`: where that is the fastest known.
        worker, num_workers: the number of this process, and of all. Worker 0, the chief, writes all files.
        wait: how long training has waited for its batches.
        can_use_xla: whether XLA can compile the steps.
        per_replica_xla: whether XLA compiles each replica's passes instead of the whole step.
    """

    description: str
    platform: str = "cpu"
    num_replicas: int = 1
    xla: bool = False
    worker: int = 0
    num_workers: int = 1
    wait: DataWait = field(default_factory=DataWait)

    can_use_xla: ClassVar[bool] = True
    per_replica_xla: ClassVar[bool] = False

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one that writes."""
        return self.worker == 0

    def jit_compile(self, setting: str) -> bool:
        """Whether to compile with XLA for `--jit_compile`; raises `UserError` if these devices cannot."""
        if setting == "on" and not self.can_use_xla:
            raise SettingError(
                "jit_compile",
                f"is on, which {self.description} cannot do. Use --jit_compile=auto, or another --strategy.",
            )
        return self.xla if setting == "auto" else setting == "on"

    def scope(self) -> contextlib.AbstractContextManager:
        """The context in which the model has to be built, restored and compiled."""
        return contextlib.nullcontext()

    def alone(self) -> contextlib.AbstractContextManager:
        """The context in which the chief, without the others, may save, load or evaluate a model."""
        return contextlib.nullcontext()

    def feed(self, batches) -> contextlib.AbstractContextManager:
        """Turns a worker's share of the batches into a context of what `fit` and `evaluate` take.

        Batches are copied to the devices ahead of their steps, where the backend can do so.
        """
        return contextlib.nullcontext(batches)

    def adapt(self, model: keras.Model) -> None:
        """Prepares a compiled model for `fit` and `evaluate` on these devices."""

    def agree(self, values: Sequence[float]) -> Sequence[float]:
        """Returns the elementwise maximum over all workers; all of them have to call it, between the same steps."""
        return values

    def explain(self, error: Exception) -> UserError | None:
        """Returns the user's view of an exception caused by the end of another worker; None for any other."""
        return None


def check_batch_size(batch_size: int, num_replicas: int) -> None:
    """Every replica has to get the same share: Keras crashes on another, or averages gradients wrongly."""
    if batch_size % num_replicas:
        below = batch_size // num_replicas * num_replicas
        choices = [str(size) for size in (below, below + num_replicas) if size]
        raise SettingError(
            "batch_size",
            f"is {batch_size}, which is not divisible by the {num_replicas} devices; the nearest that are: "
            f"{' and '.join(choices)}.",
        )


def check_same_settings(devices: Devices, *settings: object) -> None:
    """Raises `UserError` where the workers have different ones: each would train a network of its own."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).digest()
    number = float(int.from_bytes(digest[:6], "big"))
    most, least = devices.agree([number, -number])
    if most != -least:
        raise UserError(
            "the workers were not started with the same settings, or see different data. Use the same command, "
            "the same files, and the same version of keras_alexnet."
        )
