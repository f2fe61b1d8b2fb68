"""The devices of one process under TensorFlow."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import tensorflow as tf

from keras_alexnet.errors import UserError
from keras_alexnet.training.devices.base import Devices
from keras_alexnet.training.devices.cluster import tensorflow_cluster
from keras_alexnet.training.devices.feed import AHEAD
from keras_alexnet.training.devices.platform import prefers_xla


@contextlib.contextmanager
def tensorflow_devices(strategy: str) -> Iterator[Devices]:
    """The devices for `strategy` under TensorFlow: see `choose_devices`."""
    cluster = tensorflow_cluster() if strategy in ("auto", "multi_worker") else None
    if strategy == "multi_worker" and cluster is None:
        raise UserError(
            "strategy is multi_worker, but the environment variable TF_CONFIG does not define a cluster. Set it in "
            "every worker, as docs/distributed.md shows, or use --strategy=auto."
        )
    if cluster and cluster.num_workers > 1:
        from keras_alexnet.training.devices.tensorflow_workers import TensorFlowWorkers

        yield TensorFlowWorkers.join(cluster)
        return
    gpus = tf.config.list_logical_devices("GPU")
    platform = "gpu" if gpus else "cpu"
    settings = {"platform": platform, "xla": prefers_xla(platform)}
    if strategy == "mirrored" or (strategy == "auto" and len(gpus) > 1):
        yield MirroredDevices.of(gpus or tf.config.list_logical_devices("CPU"), **settings)
    elif gpus:
        yield OneGPU("one GPU", name=gpus[0].name, **settings)
    else:
        yield Devices("CPU", **settings)


@dataclass(frozen=True, kw_only=True)
class OneGPU(Devices):
    """A single GPU, without a strategy."""

    name: str

    def feed(self, batches: tf.data.Dataset) -> contextlib.AbstractContextManager:
        """As of `Devices`; strategies copy ahead by themselves."""
        return contextlib.nullcontext(batches.apply(tf.data.experimental.prefetch_to_device(self.name, AHEAD)))


@dataclass(frozen=True, kw_only=True)
class MirroredDevices(Devices):
    """The replicas of a TensorFlow strategy."""

    strategy: tf.distribute.Strategy

    per_replica_xla = True

    @classmethod
    def of(cls, devices: list[tf.config.LogicalDevice], **settings) -> "MirroredDevices":
        """All of `devices`, of one machine."""
        return cls(
            f"{len(devices)} × {devices[0].device_type}, mirrored",
            strategy=tf.distribute.MirroredStrategy([device.name for device in devices]),
            num_replicas=len(devices),
            **settings,
        )

    def scope(self) -> contextlib.AbstractContextManager:
        """As of `Devices`."""
        return self.strategy.scope()
