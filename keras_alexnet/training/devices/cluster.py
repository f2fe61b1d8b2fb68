"""Reads from the environment which process of several this one is. Standard library only."""

import errno
import json
import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keras_alexnet.errors import UserError

_EXAMPLE = '{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 0}}'
ADDRESSES = "KERAS_DISTRIBUTION_JOB_ADDRESSES"
NUM_PROCESSES = "KERAS_DISTRIBUTION_NUM_PROCESSES"
PROCESS_ID = "KERAS_DISTRIBUTION_PROCESS_ID"
# TF_CONFIG may name other roles too. These train, in the order in which TensorFlow counts them.
_TRAINING_ROLES = ("chief", "worker")
_WAIT = 0.2  # seconds between two looks
_CONNECT_TIMEOUT = 5.0


@dataclass(frozen=True)
class Cluster:
    """The processes that train together.

    Attributes:
        worker: this one, from 0; worker 0 leads.
        addresses: host:port of every worker, in their order; "" where it is not known and not needed.
    """

    worker: int
    addresses: tuple[str, ...]

    @property
    def num_workers(self) -> int:
        """How many train together, this one included."""
        return len(self.addresses)

    @property
    def address(self) -> str:
        """Where this worker listens."""
        return self.addresses[self.worker]


def tensorflow_cluster(environ: Mapping[str, str] = os.environ) -> Cluster | None:
    """Reads TF_CONFIG, the JSON text that describes the cluster to TensorFlow's programs.

    Returns:
        The cluster, with a chief, if there is one, as worker 0; None where TF_CONFIG is unset or names no cluster.

    Raises:
        UserError: a TF_CONFIG that is malformed, contradicts itself, or gives this process another task than training.
    """
    text = environ.get("TF_CONFIG", "")
    if not text.strip():
        return None
    try:
        config = json.loads(text)
    except ValueError as error:
        raise _bad_tf_config(f"is not JSON ({error})") from None
    if not isinstance(config, dict):
        raise _bad_tf_config(f"is {json.dumps(config)}, not a JSON object")
    roles = config.get("cluster") or {}
    if not isinstance(roles, dict):
        raise _bad_tf_config(f'has the "cluster" {json.dumps(roles)}, which is not an object of roles and addresses')
    if not roles:
        return None
    for role, addresses in roles.items():
        if not isinstance(addresses, list):
            raise _bad_tf_config(f'has {json.dumps(addresses)} under "{role}", which is not a list of addresses')
    _check_addresses([address for addresses in roles.values() for address in addresses], "TF_CONFIG")
    if len(roles.get("chief", ())) > 1:
        raise _bad_tf_config(f"names {len(roles['chief'])} chiefs; there can be one")
    role, index = _task(config)
    if not 0 <= index < len(roles.get(role, ())):
        names = ", ".join(f"{len(addresses)} {name}" for name, addresses in roles.items())
        raise _bad_tf_config(f"makes this process {role} {index}, counted from 0, but its cluster has {names}")
    workers = [address for name in _TRAINING_ROLES for address in roles.get(name, ())]
    return Cluster(workers.index(roles[role][index]), tuple(workers))


def jax_cluster(environ: Mapping[str, str] = os.environ) -> Cluster | None:
    """Reads the three variables of `keras.distribution.initialize`.

    Returns:
        The cluster; None where none of them is set. The first address, where JAX's processes meet, is always known;
        the others are "" if it is the only one given.

    Raises:
        UserError: variables that are missing, malformed or contradict each other.
    """
    values = {name: environ.get(name, "").strip() for name in (ADDRESSES, NUM_PROCESSES, PROCESS_ID)}
    if not any(values.values()):
        return None
    for name, value in values.items():
        if not value:
            raise UserError(
                f"{name} is not set, but other KERAS_DISTRIBUTION_ variables are. Set {', '.join(values)} in every "
                "process, or none of them to train in one."
            )
    num_processes = _number(NUM_PROCESSES, values, "how many processes train together", 1)
    process_id = _number(PROCESS_ID, values, "which of the processes this is, from 0", 0)
    if process_id >= num_processes:
        raise UserError(
            f"{PROCESS_ID} is {process_id}, but {NUM_PROCESSES} is {num_processes}. Number the processes from 0 to "
            f"{num_processes - 1}."
        )
    addresses = [address.strip() for address in values[ADDRESSES].split(",")]
    _check_addresses(addresses, ADDRESSES)
    if len(addresses) not in (1, num_processes):
        raise UserError(
            f"{ADDRESSES} has {len(addresses)} addresses, but {NUM_PROCESSES} is {num_processes}. List the address "
            "of every process, or only that of process 0."
        )
    return Cluster(process_id, tuple(addresses) + ("",) * (num_processes - len(addresses)))


def check_port_is_free(address: str) -> None:
    """Raises `UserError` where this process cannot listen on the port of `address`, which is its own.

    TensorFlow and JAX would report it in C++, among much else. The host is ignored: they listen on all of the
    machine's addresses, and from within a container the host that others see may be none of them.
    """
    port = int(address.rpartition(":")[2])
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        # As theirs do: without it, connections that ended a moment ago would count as use of the port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
            # On Linux two such sockets may be bound to a port; that one of them listens is what is refused.
            listener.listen()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                reason = "another process listens there. End it if it is left from an earlier run"
            elif error.errno == errno.EACCES:
                reason = "ports this low are reserved for the system"
            else:
                return  # Such as a machine without IPv4: theirs is the last word.
            raise UserError(
                f"cannot listen on port {port} of {address}, the address of this worker: {reason}, or choose "
                "another port, in the environment of every worker."
            ) from None


def wait_for_workers(cluster: Cluster, timeout: float) -> None:
    """Waits until all workers but worker 0 listen; for worker 0, before it starts to listen itself.

    TensorFlow's worker 0 would wait for them beyond the time-out that it is given, deaf to Ctrl-C, and not
    say for whom.

    Raises:
        UserError: some do not listen after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    missing = dict(enumerate(cluster.addresses[1:], 1))
    while True:
        missing = {worker: address for worker, address in missing.items() if not _listens(address)}
        if not missing:
            return
        if time.monotonic() > deadline:
            names = ", ".join(f"{worker} at {address}" for worker, address in missing.items())
            raise UserError(
                f"{len(missing)} of {cluster.num_workers} workers did not connect within {timeout:g} seconds: {names}. "
                "Check that each was started with the same cluster in its environment and its own index, and that its "
                "port can be reached from here."
            )
        time.sleep(_WAIT)


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT):
            return True
    except OSError:
        return False


def _task(config: dict) -> tuple[str, int]:
    task = config.get("task")
    if not isinstance(task, dict) or not {"type", "index"} <= task.keys():
        raise _bad_tf_config('has a cluster but no "task" with a "type" and an "index": which worker is this?')
    role, index = task["type"], task["index"]
    if role not in _TRAINING_ROLES:
        raise _bad_tf_config(
            f'gives this process a task of type {json.dumps(role)}, but only "chief" and "worker" train'
        )
    if not isinstance(index, int) or isinstance(index, bool):
        raise _bad_tf_config(f'has the task "index" {json.dumps(index)}, which is not an integer')
    return role, index


def _number(name: str, values: Mapping[str, str], meaning: str, smallest: int) -> int:
    if not values[name].isdecimal() or int(values[name]) < smallest:
        raise UserError(f"{name} is {values[name]!r}; expected an integer of at least {smallest}: {meaning}.")
    return int(values[name])


def _check_addresses(addresses: Sequence[object], source: str) -> None:
    for address in addresses:
        match = re.fullmatch(r"(?:\[[\da-fA-F:.]+\]|[^\s:/\[\]]+):(\d+)", address) if isinstance(address, str) else None
        if not match or not 0 < int(match[1]) < 65536:
            raise UserError(
                f"{source} has the address {json.dumps(address)}; expected host:port, such as 10.0.0.1:2222. Correct "
                "it in every worker."
            )
        if addresses.count(address) > 1:
            raise UserError(
                f"{source} has the address {address} {addresses.count(address)} times. Each worker needs its own "
                "address, on one machine its own port."
            )


def _bad_tf_config(problem: str) -> UserError:
    return UserError(
        f"the environment variable TF_CONFIG {problem}. Expected something like {_EXAMPLE}. Correct it, or unset it to "
        "train in one process."
    )
