"""TensorFlow's synchronous training in several processes, made to work with Keras's `fit` and `evaluate`.

Every worker runs the same program. What they compute together (a step; reading, assigning or resetting a metric) waits
until all of them do it, so all have to do it, and in the same order. Weights and the optimizer's variables are copies
of each worker's own, equal everywhere: a single worker may read them, save them or the model, and has to see to it
itself that all assign the same.
"""

import contextlib
import functools
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context

from keras_alexnet.errors import UserError
from keras_alexnet.system.log_suppression import silenced
from keras_alexnet.system.progress import say
from keras_alexnet.training.devices.base import Devices
from keras_alexnet.training.devices.cluster import Cluster, check_port_is_free, wait_for_workers
from keras_alexnet.training.devices.platform import prefers_xla

START_TIMEOUT = 300.0


@dataclass(frozen=True, kw_only=True)
class TensorFlowWorkers(Devices):
    """The devices of several processes; `strategy` is that of `make_strategy`."""

    strategy: tf.distribute.MultiWorkerMirroredStrategy

    per_replica_xla = True

    @classmethod
    def join(cls, cluster: Cluster) -> "TensorFlowWorkers":
        """Joins the cluster of TF_CONFIG; raises as `make_strategy`."""
        if cluster.worker == 0:
            say(f"Waiting for all {cluster.num_workers} workers")
        strategy = make_strategy(cluster)
        replicas = strategy.num_replicas_in_sync
        kind = "GPU" if "GPU" in strategy.extended.worker_devices[0] else "CPU"
        return cls(
            f"{cluster.num_workers} workers with {replicas // cluster.num_workers} {kind} each",
            platform=kind.lower(),
            num_replicas=replicas,
            xla=prefers_xla(kind.lower()),
            worker=cluster.worker,
            num_workers=cluster.num_workers,
            strategy=strategy,
        )

    def scope(self) -> contextlib.AbstractContextManager:
        """As of `Devices`."""
        return self.strategy.scope()

    def adapt(self, model: keras.Model) -> None:
        """As of `Devices`, for a model built and compiled in the scope of the strategy; all workers call it.

        The logs of a batch are then of this worker's images only, those of an epoch and what `evaluate` returns of all
        workers' images. `predict` returns this worker's own images.
        """
        from keras.src.backend.tensorflow import trainer

        # trainer.reduce_per_replica reduces the scalar metrics of each step with strategy.reduce("MEAN", value,
        # axis=0), and a scalar has no axis 0: ValueError "Invalid reduction dimension 0". If there seems to be one
        # worker, it takes the mean of the local replicas, as under MirroredStrategy, without communication. The logs of
        # epochs come from the metrics' variables instead, which TensorFlow sums over all workers when they are read.
        trainer._collective_all_reduce_multi_worker = lambda strategy: False

        # TensorFlowTrainer._maybe_symbolic_build gets the shape of the first batch from strategy.reduce("MEAN", batch),
        # which fails on a tuple of PerReplica values, as every batch is here: ValueError "Attempt to convert a value
        # (PerReplica …) with an unsupported type". What it would build is built here, from the shapes. It is replaced
        # on the instance, because a saved model records its class.
        images = keras.KerasTensor(model.input_shape, "uint8")
        labels, weights = keras.KerasTensor((None,), "int32"), keras.KerasTensor((None,), "float32")
        with model.distribute_strategy.scope():
            model._symbolic_build(data_batch=(images, labels, weights))
        model._maybe_symbolic_build = lambda iterator=None, data_batch=None: None

    def feed(self, batches: tf.data.Dataset) -> contextlib.AbstractContextManager[tf.distribute.DistributedDataset]:
        """What `fit` and `evaluate` take, of this worker's share of the batches.

        Args:
            batches: (images, labels) or (images, labels, weights), of global batch size / workers images per batch, all
                full, and as many batches in every worker. `fit` and `evaluate` get the same batches in this order.

        Returns:
            A context of the dataset, each batch split evenly among this worker's replicas, and nothing split among
            workers.

        Raises:
            UserError: a batch that is not divisible by this worker's devices.
        """
        num_steps = int(batches.cardinality())
        local_replicas = len(self.strategy.extended.worker_devices)
        if local_replicas > 1:
            share = tf.nest.flatten(batches.element_spec)[0].shape[0]
            if share % local_replicas:
                raise UserError(
                    f"a worker's share of a batch, {share} images, is not divisible by its {local_replicas} devices. "
                    "Choose a batch size that is divisible by the number of devices of all workers."
                )
            # Each element goes to one replica, the next to the next.
            batches = batches.rebatch(share // local_replicas, drop_remainder=True)
        # experimental_distribute_dataset would take each batch for a global one and cut it up once more.
        distributed = self.strategy.distribute_datasets_from_function(lambda _: batches)
        # It counts elements, which are replicas' parts; Keras reads it as steps.
        distributed._cardinality = num_steps
        return contextlib.nullcontext(distributed)

    def agree(self, values: Sequence[float]) -> list[float]:
        """The elementwise maximum of all workers' `values`, which are as many in all workers: float64.

        All workers have to call it, between the same steps. It costs a few milliseconds, and waits for the slowest.
        """
        with tf.device("CPU:0"):
            gathered = _gather_function(self.strategy)(np.asarray(values, np.float64)[None])
        return gathered.numpy().max(axis=0).tolist()

    def explain(self, error: Exception) -> UserError | None:
        """As of `Devices`.

        If a worker ends, killed or by an error of its own, the others raise UnavailableError out of their step within
        seconds. If one hangs or its machine is lost, they raise it, or DeadlineExceededError if it was worker 0, after
        about ten seconds without heartbeats.
        """
        lost = isinstance(error, tf.errors.UnavailableError | tf.errors.DeadlineExceededError)
        if not lost and "Collective ops is aborted" not in str(error):
            return None
        return UserError(
            "another worker ended or can no longer be reached. Find the one that failed first in what the workers "
            "printed; then start all of them again with the same command to resume from the last checkpoint."
        )


def make_strategy(cluster: Cluster, start_timeout: float = START_TIMEOUT) -> tf.distribute.MultiWorkerMirroredStrategy:
    """Joins the cluster of TF_CONFIG, and waits until all of its workers are there.

    To be called before TensorFlow has computed anything. All of this worker's GPUs take part, or else its CPU; all
    workers need the same number. NCCL reduces among GPUs, TensorFlow's own ring among CPUs.

    Args:
        cluster: what `tensorflow_cluster` read: two workers or more.
        start_timeout: seconds to wait for the others.

    Raises:
        UserError: the others did not come, or this worker's port is in use.
    """
    check_port_is_free(cluster.address)
    if cluster.worker == 0:
        wait_for_workers(cluster, start_timeout)
    tf_context = context.context()
    # By default, the others wait for worker 0 for many minutes, and the strategy has no argument for it: it is added to
    # the call by which CollectiveAllReduceExtended._initialize_multi_worker sets up the service where workers meet.
    tf_context.configure_coordination_service = functools.partial(
        tf_context.configure_coordination_service, cluster_register_timeout_in_ms=round(1000 * start_timeout)
    )
    try:
        with silenced(2), _interruptible():
            strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.OpError as error:
        raise UserError(
            f"worker {cluster.worker}, {cluster.address}, could not join the {cluster.num_workers} workers led by "
            f"{cluster.addresses[0]} within {start_timeout:g} seconds ({error.message.splitlines()[0]}). Check that "
            "each was started with the same cluster in its TF_CONFIG and its own index, that its port is free and can "
            "be reached from the others, and what they printed."
        ) from None
    finally:
        del tf_context.configure_coordination_service
    # Otherwise workers ask each other before every batch whether one of them has run out of data. Ours have the same
    # number of batches, all full.
    strategy.extended.experimental_enable_get_next_as_optional = False
    return strategy


@functools.lru_cache(maxsize=1)
def _gather_function(strategy: tf.distribute.Strategy) -> tf.types.experimental.PolymorphicFunction:
    # A graph that is made once: as single operations a call takes 160 ms. The reductions that strategies offer are sum
    # and mean.
    @tf.function(input_signature=[tf.TensorSpec((1, None), tf.float64)])
    def gather(values: tf.Tensor) -> tf.Tensor:
        return strategy.gather(values, axis=0)

    return gather


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends the process at once: Python would hear of it only when TensorFlow's wait is over.

    TensorFlow installs a handler of SIGTERM of its own, which would stay and swallow it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    on_terminate = signal.getsignal(signal.SIGTERM)
    on_interrupt = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, on_interrupt)
        if on_terminate is not None:  # It was not set by Python.
            signal.signal(signal.SIGTERM, on_terminate)
