"""What the environment says of a cluster. The port check is tried on real sockets."""

import json
import socket
import threading
import time

import pytest

from keras_alexnet.errors import UserError
from keras_alexnet.training.devices.cluster import (
    Cluster,
    check_port_is_free,
    jax_cluster,
    tensorflow_cluster,
    wait_for_workers,
)

TWO = ["a:1", "b:2"]
WORKER_0 = {"type": "worker", "index": 0}


def tf_config(cluster, task=None):
    return {"TF_CONFIG": json.dumps({"cluster": cluster} | ({} if task is None else {"task": task}))}


def keras_variables(addresses=None, num_processes=None, process_id=None):
    values = {"JOB_ADDRESSES": addresses, "NUM_PROCESSES": num_processes, "PROCESS_ID": process_id}
    return {f"KERAS_DISTRIBUTION_{name}": value for name, value in values.items() if value is not None}


@pytest.mark.parametrize("text", [" \n", "{}", '{"cluster": {}, "task": {"type": "worker", "index": 0}}'])
def test_without_a_cluster_there_is_none(text):
    assert tensorflow_cluster({}) is None
    assert tensorflow_cluster({"TF_CONFIG": text}) is None
    assert jax_cluster({}) is None
    assert jax_cluster(keras_variables("", "", "")) is None


@pytest.mark.parametrize(("role", "index", "worker"), [("chief", 0, 0), ("worker", 0, 1), ("worker", 1, 2)])
def test_the_chief_comes_first_and_roles_that_do_not_train_do_not_count(role, index, worker):
    roles = {"evaluator": ["e:5"], "ps": ["p:4"], "worker": TWO, "chief": ["c:3"]}
    cluster = tensorflow_cluster(tf_config(roles, {"type": role, "index": index}))
    assert cluster == Cluster(worker, ("c:3", "a:1", "b:2"))
    assert cluster.num_workers == 3
    assert cluster.address == roles[role][index]


@pytest.mark.parametrize(
    ("text", "expected_text"),
    [
        ("worker 0", "is not JSON (Expecting value"),
        ("[1]", "is [1], not a JSON object"),
        ('{"cluster": ["a:1"]}', 'has the "cluster" ["a:1"], which is not an object'),
        ('{"cluster": {"worker": "a:1"}}', 'has "a:1" under "worker", which is not a list'),
        ('{"cluster": {"chief": ["a:1", "b:2"]}}', "names 2 chiefs"),
        ('{"cluster": {"worker": ["a:1"], "chief": ["a:1"]}}', "has the address a:1 2 times"),
        ('{"cluster": {"worker": ["a:1", "http://b:1"]}}', 'has the address "http://b:1"; expected host:port'),
    ],
)
def test_a_malformed_tf_config_is_reported(text, expected_text):
    with pytest.raises(UserError) as caught:
        tensorflow_cluster({"TF_CONFIG": text})
    assert f"TF_CONFIG {expected_text}" in str(caught.value)


@pytest.mark.parametrize(
    ("task", "expected_text"),
    [
        (None, 'no "task"'),
        ({"type": "ps", "index": 0}, 'of type "ps", but only "chief" and "worker" train'),
        ({"type": "worker", "index": True}, 'the task "index" true, which is not an integer'),
        ({"type": "worker", "index": 2}, "makes this process worker 2, counted from 0, but its cluster has 2 worker"),
    ],
)
def test_a_task_that_cannot_train_is_reported(task, expected_text):
    with pytest.raises(UserError) as caught:
        tensorflow_cluster(tf_config({"worker": TWO, "evaluator": ["e:5"], "ps": ["p:4"]}, task))
    assert expected_text in str(caught.value)


def test_addresses():
    def cluster_of(address):
        return tensorflow_cluster(tf_config({"worker": [address]}, WORKER_0))

    for address in ("10.0.0.1:2222", "some-host.example.org:1", "[fe80::1]:65535", "under_score:80"):
        assert cluster_of(address).address == address
    for address in ("a", ":1", "a:65536", "::1:5", 5):
        with pytest.raises(UserError, match=f"TF_CONFIG has the address {json.dumps(address)}; expected host:port"):
            cluster_of(address)


def test_the_variables_of_keras_make_a_cluster():
    assert jax_cluster(keras_variables("a:1, b:2", "2", " 1 ")) == Cluster(1, ("a:1", "b:2"))
    # The address of process 0 is enough.
    assert jax_cluster(keras_variables("a:1", "3", "0")) == Cluster(0, ("a:1", "", ""))


@pytest.mark.parametrize(
    ("values", "expected_text"),
    [
        (("a:1,b:2", None, "0"), "NUM_PROCESSES is not set, but other"),
        (("a:1,b:2", "two", "0"), "NUM_PROCESSES is 'two'; expected an integer of at least 1"),
        (("a:1,b:2", "2", "-1"), "PROCESS_ID is '-1'; expected an integer of at least 0"),
        (("a:1,b:2", "2", "2"), "PROCESS_ID is 2, but KERAS_DISTRIBUTION_NUM_PROCESSES is 2. Number the processes"),
        (("a:1,b:2", "3", "0"), "JOB_ADDRESSES has 2 addresses, but KERAS_DISTRIBUTION_NUM_PROCESSES is 3"),
        (("a:1,", "2", "0"), 'JOB_ADDRESSES has the address ""; expected host:port'),
    ],
)
def test_wrong_variables_of_keras_are_reported(values, expected_text):
    with pytest.raises(UserError) as caught:
        jax_cluster(keras_variables(*values))
    assert f"KERAS_DISTRIBUTION_{expected_text}" in str(caught.value)


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def address_of(server):
    return f"127.0.0.1:{server.getsockname()[1]}"


def test_a_port_in_use_is_reported_whatever_the_host(listener):
    port = listener.getsockname()[1]
    with pytest.raises(UserError, match=f"cannot listen on port {port} of not.ours:{port}, .*: another process"):
        check_port_is_free(f"not.ours:{port}")


def test_a_free_port_stays_free_and_connections_that_ended_do_not_hold_it(listener):
    with socket.create_connection(listener.getsockname()):
        # The side that closes first keeps the port in TIME_WAIT.
        listener.accept()[0].close()
    address = address_of(listener)
    listener.close()
    check_port_is_free(address)
    check_port_is_free(address)


def test_the_wait_ends_when_all_others_listen(listener):
    with socket.create_server(("127.0.0.1", 0)) as late:
        address = address_of(late)
        late.close()
        # Worker 0 waits for the others, not for itself.
        cluster = Cluster(0, ("127.0.0.1:1", address_of(listener), address))
        waiting = threading.Thread(target=wait_for_workers, args=(cluster, 60))
        waiting.start()
        time.sleep(0.1)
        assert waiting.is_alive()
        with socket.create_server(("127.0.0.1", int(address.split(":")[1]))):
            waiting.join(10)
            assert not waiting.is_alive()


def test_workers_that_do_not_come_are_named(listener):
    cluster = Cluster(0, ("127.0.0.1:1", address_of(listener), "127.0.0.1:2", "no.such.host.invalid:3"))
    with pytest.raises(UserError) as caught:
        wait_for_workers(cluster, 0)
    assert "2 of 4 workers did not connect within 0 seconds: 2 at 127.0.0.1:2, 3 at no.such" in str(caught.value)
