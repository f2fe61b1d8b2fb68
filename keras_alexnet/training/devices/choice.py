"""Which devices a run uses, and what its workers have to agree on."""

import contextlib
import functools
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import keras

from keras_alexnet.errors import UserError
from keras_alexnet.system.determinism import make_deterministic
from keras_alexnet.system.gpu import check_gpu_is_used
from keras_alexnet.system.progress import say
from keras_alexnet.training.devices.cluster import Cluster, tensorflow_cluster
from keras_alexnet.training.devices.feed import AHEAD, DataWait, device_feed, torch_put


@dataclass(frozen=True)
class Devices:
    """Where a run computes: a copy of the network on each device, and an equal share of each batch.

    Attributes:
        description: for people.
        platform: "cpu" or "gpu".
        num_replicas: devices, over all workers.
        scope: makes the context in which the model has to be built, restored and compiled.
        xla: whether steps are compiled by XLA if nobody asks: where that is the fastest known.
        xla_possible: whether they can be.
        per_replica_xla: whether XLA compiles each replica's passes instead of the whole step.
        worker, num_workers: the number of this process, and of all. Worker 0, the chief, writes all files.
        agree: gives the element-wise maximum over the workers; all of them have to call it.
        wait: how long training has waited for its batches.
        feed: turns a worker's share of the batches into a context of what `fit` and `evaluate` take: batches that are
            copied to the devices ahead of their steps, where the backend can do so.
        adapt: mends a compiled model for `fit` and `evaluate`.
        alone: makes the context in which the chief alone may save, load or evaluate a model.
        explain: gives the user's view of an exception that another worker's end has caused, None for any other.
    """

    description: str
    platform: str = "cpu"
    num_replicas: int = 1
    scope: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
    xla: bool = False
    xla_possible: bool = True
    per_replica_xla: bool = False
    worker: int = 0
    num_workers: int = 1
    agree: Callable[[Sequence[float]], Sequence[float]] = field(default=lambda values: values)
    wait: DataWait = field(default_factory=DataWait)
    feed: Callable[..., contextlib.AbstractContextManager] = contextlib.nullcontext
    adapt: Callable[[keras.Model], None] = field(default=lambda model: None)
    alone: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
    explain: Callable[[Exception], UserError | None] = field(default=lambda error: None)

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one that writes."""
        return self.worker == 0

    def jit_compile(self, setting: str) -> bool:
        """Whether to compile with XLA for `--jit_compile`; raises `UserError` where these devices cannot."""
        if setting == "on" and not self.xla_possible:
            raise UserError(
                f"jit_compile is on, which {self.description} cannot do. Use --jit_compile=auto, or another --strategy."
            )
        return self.xla if setting == "auto" else setting == "on"


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
    if backend == "jax":
        from keras_alexnet.training.devices.jax import jax_devices

        context = jax_devices(strategy)
    else:
        context = contextlib.nullcontext(
            _tensorflow_devices(strategy) if backend == "tensorflow" else _torch_device(strategy)
        )
    with context as devices:
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


def _tensorflow_devices(strategy: str) -> Devices:
    import tensorflow as tf

    cluster = tensorflow_cluster() if strategy in ("auto", "multi_worker") else None
    if strategy == "multi_worker" and cluster is None:
        raise UserError(
            "strategy is multi_worker, but the environment variable TF_CONFIG names no cluster. Set it in every "
            "worker, as the README shows, or use --strategy=auto."
        )
    if cluster and cluster.num_workers > 1:
        return _tensorflow_workers(cluster)
    gpus = tf.config.list_logical_devices("GPU")
    platform = "gpu" if gpus else "cpu"
    settings = {"platform": platform, "xla": prefers_xla(platform)}
    if strategy == "mirrored" or (strategy == "auto" and len(gpus) > 1):
        devices = gpus or tf.config.list_logical_devices("CPU")
        mirrored = tf.distribute.MirroredStrategy([device.name for device in devices])
        return Devices(
            f"{len(devices)} × {devices[0].device_type}, mirrored",
            num_replicas=len(devices),
            scope=mirrored.scope,
            per_replica_xla=True,
            **settings,
        )
    feed = functools.partial(_on_gpu, gpus[0].name) if gpus else contextlib.nullcontext
    return Devices("one GPU" if gpus else "CPU", feed=feed, **settings)


def _on_gpu(device: str, dataset):
    """A context of the dataset with batches copied to the device ahead; strategies do so themselves."""
    import tensorflow as tf

    return contextlib.nullcontext(dataset.apply(tf.data.experimental.prefetch_to_device(device, AHEAD)))


def _tensorflow_workers(cluster: Cluster) -> Devices:
    from keras_alexnet.training.devices import multi_worker

    if cluster.worker == 0:
        say(f"Waiting for all {cluster.num_workers} workers")
    strategy = multi_worker.make_strategy(cluster)
    replicas = strategy.num_replicas_in_sync
    kind = "GPU" if "GPU" in strategy.extended.worker_devices[0] else "CPU"
    return Devices(
        f"{cluster.num_workers} workers with {replicas // cluster.num_workers} {kind} each",
        platform=kind.lower(),
        num_replicas=replicas,
        scope=strategy.scope,
        xla=prefers_xla(kind.lower()),
        per_replica_xla=True,
        worker=cluster.worker,
        num_workers=cluster.num_workers,
        agree=lambda values: multi_worker.agree(strategy, values).tolist(),
        feed=lambda dataset: contextlib.nullcontext(multi_worker.distribute(strategy, dataset)),
        adapt=multi_worker.prepare_model,
        explain=multi_worker.explain_lost_worker,
    )


def _torch_device(strategy: str) -> Devices:
    if strategy in ("mirrored", "multi_worker"):
        raise UserError(
            f"strategy is {strategy}, but Keras trains on one device under torch. Use --strategy=auto, or "
            "KERAS_BACKEND=tensorflow or jax."
        )
    leave_gpus_to_the_backend()
    platform, wait = current_platform(), DataWait()
    feed = functools.partial(device_feed, wait=wait, put=torch_put() if platform == "gpu" else None)
    return Devices("one device, torch", platform=platform, xla_possible=False, wait=wait, feed=feed)


def check_batch_size(batch_size: int, num_replicas: int) -> None:
    """Every replica has to get the same share: Keras crashes on another, or averages gradients wrongly."""
    if batch_size % num_replicas:
        below = batch_size // num_replicas * num_replicas
        choices = [str(size) for size in (below, below + num_replicas) if size]
        raise UserError(
            f"batch_size {batch_size} does not divide by the {num_replicas} devices; the nearest that do are "
            f"{' and '.join(choices)}."
        )


def check_same_settings(devices: Devices, *settings: object) -> None:
    """Raises `UserError` where the workers have different ones: each would train a network of its own."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).digest()
    number = float(int.from_bytes(digest[:6], "big"))
    most, least = devices.agree([number, -number])
    if most != -least:
        raise UserError(
            "the workers were not started with the same settings, or see different data. Give each the same command, "
            "the same files, and the same version of keras_alexnet."
        )


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


def leave_gpus_to_the_backend() -> None:
    """Hides the GPUs from TensorFlow, if it is loaded, where it only reads images: it would take all their memory."""
    if keras.backend.backend() != "tensorflow" and "tensorflow" in sys.modules:
        import tensorflow as tf

        # It cannot be changed once TensorFlow has computed something: then it has been done, or it is too late.
        with contextlib.suppress(RuntimeError):
            tf.config.set_visible_devices([], "GPU")
