"""Data parallelism under JAX: over the devices of one process, or of several processes on one or more machines.

Each process computes on its own devices, and feeds its own share of each global batch. JAX connects the processes by
two ways: the coordination service in process 0, which knows which processes are alive, and the collectives (NCCL
between GPUs, gloo between CPUs), which add up the gradients.
"""

import atexit
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence

import jax
import keras
import numpy as np
from jax.experimental import multihost_utils

from keras_alexnet.errors import UserError
from keras_alexnet.system.gpu import leave_gpus_to_the_backend
from keras_alexnet.system.log_suppression import silenced
from keras_alexnet.system.progress import say
from keras_alexnet.training.devices.base import Devices
from keras_alexnet.training.devices.cluster import (
    ADDRESSES,
    NUM_PROCESSES,
    PROCESS_ID,
    Cluster,
    check_port_is_free,
    jax_cluster,
)
from keras_alexnet.training.devices.feed import Put, device_feed
from keras_alexnet.training.devices.platform import current_platform

_START_SECONDS = 300  # in which all processes have to appear
_HEARTBEAT_SECONDS = 30  # without a sign of life, after which a process counts as lost
_END_SECONDS = 3600  # for which a process that has finished waits for the others, such as one that saves the model

_LOST = (
    "lost the connection to another process of the training, so this one ends too. See the messages of the process "
    "that failed first for the reason. Start all of them again to resume from the last checkpoint."
)
# What the messages of JAX name when it is another process that failed.
_SIGNS_OF_LOSS = ("Gloo", "NCCL", "oordination service", "CoordinationService", "heartbeat", "Connection reset")
_TERMINATING = "Terminating process because the JAX distributed service detected fatal errors"

# Passes on what C++ code writes, but replaces JAX's last message, in a process of its own, since that message is
# followed by an abort. jaxlib's `missed_heartbeat_callback` would be simpler, but aborts with std::bad_cast before it
# calls Python (jaxlib 0.10.2).
_FILTER = """
import json, re, signal, sys
# They may go to all processes of a group.
for number in {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:
    signal.signal(number, signal.SIG_IGN)
said = False
for line in sys.stdin.buffer:
    text = line.decode(errors="replace")
    if said or "Polled an error from coordination service" in text:
        continue
    message = next((message for sign, message in json.loads(sys.argv[1]) if re.search(sign, text)), None)
    said = message is not None
    sys.stderr.buffer.write(message.encode() + b"\\n" if said else line)
    sys.stderr.buffer.flush()
"""


@contextlib.contextmanager
def jax_devices(strategy: str) -> Iterator[Devices]:
    """The devices for `strategy` under JAX, see `choose_devices`."""
    cluster = jax_cluster() if strategy in ("auto", "multi_worker") else None
    if strategy == "multi_worker" and cluster is None:
        raise UserError(
            "strategy is multi_worker, but the environment variables KERAS_DISTRIBUTION_… do not define any processes. "
            "Set them in every process, as docs/distributed.md shows, or use --strategy=auto."
        )
    leave_gpus_to_the_backend()
    if cluster is None or cluster.num_workers == 1:
        # All but GPUs are one device, unless asked for: JAX makes several of a CPU for tests only.
        platform = current_platform()
        several = strategy == "mirrored" or (strategy == "auto" and platform != "cpu")
        with _data_parallel() if several and jax.device_count() > 1 else contextlib.nullcontext():
            count = jax.device_count() if several else 1
            copies = f"{count} × " if count > 1 else ""
            yield JaxDevices(f"{copies}{platform.upper()}, JAX", platform=platform, num_replicas=count, xla=True)
        return
    if cluster.worker == 0:
        say(f"Waiting for all {cluster.num_workers} workers")
    with _processes(cluster), _data_parallel():
        yield JaxWorkers(
            f"{cluster.num_workers} workers with {jax.local_device_count()} {jax.default_backend().upper()} each, JAX",
            platform=jax.default_backend(),
            num_replicas=jax.device_count(),
            xla=True,
            worker=cluster.worker,
            num_workers=cluster.num_workers,
        )


class JaxDevices(Devices):
    """The devices of one process."""

    def alone(self) -> contextlib.AbstractContextManager:
        """As of `Devices`."""
        return _without_distribution()

    def feed(self, batches) -> contextlib.AbstractContextManager:
        """As of `Devices`."""
        return device_feed(batches, self.wait, None if self.platform == "cpu" else _jax_put())


class JaxWorkers(JaxDevices):
    """The devices of several processes."""

    def feed(self, batches) -> contextlib.AbstractContextManager:
        """As of `Devices`.

        Keras makes a global batch of each process's share, and starts to copy it while the devices compute the step
        before; it takes arrays in the host's memory only.
        """
        return device_feed(batches, self.wait, None)

    def agree(self, values: Sequence[float]) -> list[float]:
        """As of `Devices`; exact, and nan where one worker has nan.

        Collective: where the processes call it at different steps, they wait for each other without end.
        """
        return _agree(values).tolist()


@contextlib.contextmanager
def _processes(cluster: Cluster) -> Iterator[None]:
    """Connects the processes of `cluster`.

    To be entered once in a process, before JAX computes anything or is asked for its devices.

    A process that leaves the context without an exception waits at its end, in Python's exit, for the others. One that
    leaves it with an exception does not: they are to learn of it at once. When another process is lost, or did not
    appear, this one says so in one message on stderr and ends with a status that is not 0. That is no exception, since
    it is a thread of JAX that aborts the process, wherever it is.

    It calls `jax.distributed.initialize`, since that of Keras leaves all time limits at minutes.

    Raises:
        UserError: a port that is taken, or processes with unlike numbers of devices.
    """
    coordinator, num_processes, process_id = cluster.addresses[0], cluster.num_workers, cluster.worker
    if process_id == 0:
        check_port_is_free(coordinator)
    _replace_last_words(
        {
            f"{_TERMINATING}.*DEADLINE_EXCEEDED: Deadline Exceeded": (
                f"process {process_id}: not all of the {num_processes} processes met at {coordinator} within "
                f"{_START_SECONDS} s. Start each, with the same {ADDRESSES} and {NUM_PROCESSES}, where that address "
                "can be reached."
            ),
            f"{_TERMINATING}.*newer incarnation": (
                f"there is another process with {PROCESS_ID}={process_id}. Each needs its own number, 0 to "
                f"{num_processes - 1}."
            ),
            _TERMINATING: f"process {process_id}: {_LOST}",
        }
    )
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # JAX would take SIGTERM for itself.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=_START_SECONDS,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_END_SECONDS,
            cluster_detection_method="deactivate",
        )
    except jax.errors.JaxRuntimeError as error:
        raise UserError(
            f"process {process_id} cannot use {coordinator}: {error}. Is the port taken? Choose another one in "
            f"{ADDRESSES}, for all processes."
        ) from None
    try:
        if jax.device_count() != num_processes * jax.local_device_count():
            raise UserError(
                f"process {process_id} has {jax.local_device_count()} of {jax.device_count()} devices; expected the "
                f"same number in each of the {num_processes} processes."
            )
        with silenced(1):  # The first collective prints who is connected.
            _agree([0.0])
        yield
    except BaseException as error:
        if _is_loss_of_a_process(error):
            # The filter reports it once, even if JAX finds out the same at this moment.
            os.write(2, f"{_TERMINATING}\n".encode())
            _end_at_once(1)
        # After the message or the traceback, and before JAX, which would wait for the others.
        status = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
        atexit.register(_end_at_once, 130 if isinstance(error, KeyboardInterrupt) else status)
        raise


def _is_loss_of_a_process(error: BaseException) -> bool:
    """Whether a collective failed since another process has gone.

    Only the text shows it: JAX raises a JaxRuntimeError, of whatever cause, and from some calls a ValueError.
    """
    return (
        isinstance(error, RuntimeError | ValueError)
        and jax.distributed.is_initialized()
        and any(sign in str(error) for sign in _SIGNS_OF_LOSS)
    )


@contextlib.contextmanager
def _data_parallel() -> Iterator[None]:
    """Trains what is built and compiled inside on all devices of all processes; restores what was set before.

    `fit` and `evaluate` take the process's own share of each batch, of the same size in each process, and divisible by
    the number of its devices. `keras.utils.set_random_seed` has to be called with the same seed in each process: JAX
    raises an AssertionError for variables that differ. Dropout draws one mask over the global batch.

    What makes variables has to be done in all processes, or outside. That includes `model.save`, which makes an
    optimizer to compare with: save outside, in one process.
    """
    # Keras's own sharding would decode every image in every process.
    with keras.distribution.DataParallel(auto_shard_dataset=False).scope():
        yield


@contextlib.contextmanager
def _without_distribution() -> Iterator[None]:
    """In it, one process alone may make variables, and so save a model: else JAX has all compare each of them.

    Models that are loaded in it compute on one device, on batches of any size.
    """
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


def _jax_put() -> Put:
    """Copies to the device, or to all of a distribution, each of which gets its part of the batch."""
    # Keras has one a thread.
    distribution = keras.distribution.distribution()

    def put(batch: tuple[np.ndarray, ...]) -> Callable[[], tuple]:
        if distribution is None:
            arrays = jax.device_put(batch)
        else:
            layouts = [distribution.get_data_layout(array.shape).backend_layout for array in batch]
            arrays = tuple(map(jax.device_put, batch, layouts))
        return lambda: arrays

    return put


def _agree(values: Sequence[float]) -> np.ndarray:
    """The elementwise maximum of float64 `values` over all processes, exactly; nan where one has nan.

    Collective: every process has to call it, between the same two steps, so count steps and not seconds: where the
    processes call it at different steps, they wait for each other without end. It waits for the steps before it.
    """
    values = np.ascontiguousarray(values, np.float64)
    # As words, since JAX would round to float32.
    words = multihost_utils.process_allgather(values.reshape(-1).view(np.uint32))
    return words.view(np.float64).max(axis=0).reshape(values.shape)


def _end_at_once(status: int) -> None:
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def _replace_last_words(messages: dict[str, str]) -> None:
    """Has a process read what C++ code writes to stderr, until the end of this process.

    At the first line in which one of the patterns is found, its message is written instead, and nothing after it.
    Python's own stderr stays what it was.
    """
    if sys.stderr is None:
        return
    sys.stderr.flush()
    terminal = os.dup(2)
    reader, writer = os.pipe()
    os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-S", "-c", _FILTER, json.dumps(list(messages.items()))],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, reader, 0), (os.POSIX_SPAWN_DUP2, terminal, 2)],
    )
    os.dup2(writer, 2)
    os.close(reader)
    os.close(writer)
    sys.stderr = os.fdopen(terminal, "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")
