"""What the environment says of a cluster. The port check is tried on real sockets."""

import errno
import json
import socket
import subprocess
import sys
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


def test_neither_a_framework_nor_numpy_is_imported():
    module = "keras_alexnet.training.devices.cluster"
    program = f"import sys, {module}; print({{'tensorflow', 'keras', 'numpy'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"TF_CONFIG": " \n"},
        {"TF_CONFIG": "{}"},
        {"TF_CONFIG": '{"cluster": {}, "task": {"type": "worker", "index": 0}}'},
    ],
)
def test_without_a_cluster_there_is_none(environ):
    assert tensorflow_cluster(environ) is None


@pytest.mark.parametrize("index", [0, 1])
def test_workers_are_counted_in_their_order(index):
    cluster = tensorflow_cluster(tf_config({"worker": TWO}, {"type": "worker", "index": index}))
    assert cluster == Cluster(index, ("a:1", "b:2"))
    assert cluster.num_workers == 2
    assert cluster.address == TWO[index]


@pytest.mark.parametrize(("role", "index", "worker"), [("chief", 0, 0), ("worker", 0, 1), ("worker", 1, 2)])
def test_the_chief_comes_first_wherever_it_stands(role, index, worker):
    cluster = tensorflow_cluster(tf_config({"worker": TWO, "chief": ["c:3"]}, {"type": role, "index": index}))
    assert cluster == Cluster(worker, ("c:3", "a:1", "b:2"))


def test_roles_that_do_not_train_are_no_workers():
    roles = {"evaluator": ["e:5"], "ps": ["p:4"], "worker": TWO}
    assert tensorflow_cluster(tf_config(roles, WORKER_0)) == Cluster(0, ("a:1", "b:2"))


@pytest.mark.parametrize("address", ["10.0.0.1:2222", "some-host.example.org:1", "[fe80::1]:65535", "under_score:80"])
def test_addresses_of_every_kind_are_taken(address):
    assert tensorflow_cluster(tf_config({"worker": [address]}, WORKER_0)).address == address


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("worker 0", "is not JSON (Expecting value: line 1 column 1 (char 0))"),
        ("[1]", "is [1], not a JSON object"),
        ('{"cluster": ["a:1"]}', 'has the "cluster" ["a:1"], which is not an object'),
        ('{"cluster": {"worker": "a:1"}}', 'has "a:1" under "worker", which is not a list'),
    ],
)
def test_a_malformed_tf_config_is_told_with_an_example(text, told):
    with pytest.raises(UserError) as caught:
        tensorflow_cluster({"TF_CONFIG": text})
    message = str(caught.value)
    assert f"TF_CONFIG {told}" in message
    assert '{"cluster": {"worker": ["10.0.0.1:2222"' in message
    assert "unset it to train in one process" in message


@pytest.mark.parametrize(
    ("task", "told"),
    [
        (None, 'no "task"'),
        ({"type": "worker"}, 'no "task" with a "type" and an "index"'),
        ({"type": "ps", "index": 0}, 'of type "ps", but only "chief" and "worker" train'),
        ({"type": ["worker"], "index": 0}, 'of type ["worker"]'),
        ({"type": "worker", "index": "0"}, 'the task "index" "0", which is not an integer'),
        ({"type": "worker", "index": True}, 'the task "index" true, which is not an integer'),
        ({"type": "worker", "index": 2}, "makes this process worker 2, counted from 0, but its cluster has 2 worker"),
        ({"type": "worker", "index": -1}, "worker -1"),
        ({"type": "chief", "index": 0}, "makes this process chief 0"),
    ],
)
def test_a_task_that_cannot_train_is_told(task, told):
    with pytest.raises(UserError) as caught:
        tensorflow_cluster(tf_config({"worker": TWO, "evaluator": ["e:5"], "ps": ["p:4"]}, task))
    assert told in str(caught.value)


def test_two_chiefs_are_refused():
    with pytest.raises(UserError, match="names 2 chiefs"):
        tensorflow_cluster(tf_config({"chief": TWO}, {"type": "chief", "index": 0}))


@pytest.mark.parametrize("address", ["", "a", ":1", "a:0", "a:65536", "a:b", "http://a:1", "[::1]", "::1:5", 5])
def test_a_malformed_address_is_told(address):
    with pytest.raises(UserError) as caught:
        tensorflow_cluster(tf_config({"worker": ["good:1", address]}, WORKER_0))
    assert f"TF_CONFIG has the address {json.dumps(address)}; expected host:port" in str(caught.value)


@pytest.mark.parametrize("cluster", [{"worker": ["a:1", "a:1"]}, {"worker": ["a:1"], "chief": ["a:1"]}])
def test_an_address_given_twice_is_refused(cluster):
    with pytest.raises(UserError, match="TF_CONFIG has the address a:1 2 times"):
        tensorflow_cluster(tf_config(cluster, WORKER_0))


def test_without_the_variables_of_keras_there_is_no_cluster():
    assert jax_cluster({}) is None
    assert jax_cluster(keras_variables("", "", "")) is None


def test_the_variables_of_keras_make_a_cluster():
    assert jax_cluster(keras_variables("a:1, b:2", "2", " 1 ")) == Cluster(1, ("a:1", "b:2"))


def test_the_address_of_process_0_is_enough():
    cluster = jax_cluster(keras_variables("a:1", "3", "0"))
    assert cluster == Cluster(0, ("a:1", "", ""))
    assert cluster.num_workers == 3
    assert cluster.address == "a:1"


@pytest.mark.parametrize("missing", ["JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID"])
def test_a_variable_of_keras_that_is_missing_is_told(missing):
    environ = keras_variables("a:1,b:2", "2", "0")
    del environ[f"KERAS_DISTRIBUTION_{missing}"]
    with pytest.raises(UserError, match=f"KERAS_DISTRIBUTION_{missing} is not set, but other"):
        jax_cluster(environ)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (("a:1,b:2", "two", "0"), "NUM_PROCESSES is 'two'; expected an integer of at least 1"),
        (("a:1,b:2", "0", "0"), "NUM_PROCESSES is '0'; expected an integer of at least 1"),
        (("a:1,b:2", "2", "-1"), "PROCESS_ID is '-1'; expected an integer of at least 0"),
        (
            ("a:1,b:2", "2", "2"),
            "PROCESS_ID is 2, but KERAS_DISTRIBUTION_NUM_PROCESSES is 2. Number the processes from 0",
        ),
        (("a:1,b:2", "3", "0"), "JOB_ADDRESSES has 2 addresses, but KERAS_DISTRIBUTION_NUM_PROCESSES is 3"),
        (("a:1,a:1", "2", "0"), "JOB_ADDRESSES has the address a:1 2 times"),
        (("a:1,b", "2", "0"), 'JOB_ADDRESSES has the address "b"; expected host:port'),
        (("a:1,", "2", "0"), 'JOB_ADDRESSES has the address ""'),
    ],
)
def test_wrong_variables_of_keras_are_told(values, told):
    with pytest.raises(UserError) as caught:
        jax_cluster(keras_variables(*values))
    assert f"KERAS_DISTRIBUTION_{told}" in str(caught.value)


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def address_of(server):
    return f"127.0.0.1:{server.getsockname()[1]}"


def test_a_free_port_stays_free(listener):
    address = address_of(listener)
    listener.close()
    check_port_is_free(address)
    check_port_is_free(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "some.host.that.is.not.ours", "[::1]"])
def test_a_port_in_use_is_told_whatever_the_host(listener, host):
    port = listener.getsockname()[1]
    with pytest.raises(UserError) as caught:
        check_port_is_free(f"{host}:{port}")
    assert f"cannot listen on port {port} of {host}:{port}, the address of this worker: another" in str(caught.value)


def test_a_port_in_use_on_all_addresses_is_told():
    with socket.create_server(("", 0)) as server, pytest.raises(UserError, match="another process listens there"):
        check_port_is_free(address_of(server))


def test_connections_that_ended_do_not_hold_a_port(listener):
    with socket.create_connection(listener.getsockname()):
        # The side that closes first keeps the port in TIME_WAIT.
        listener.accept()[0].close()
    address = address_of(listener)
    listener.close()
    check_port_is_free(address)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EAFNOSUPPORT])
def test_only_what_the_user_can_mend_is_told(monkeypatch, number):
    def bind(*_):
        raise OSError(number, "no")

    monkeypatch.setattr("keras_alexnet.training.devices.cluster.socket.socket.bind", bind)
    if number == errno.EACCES:
        with pytest.raises(UserError, match="ports this low are reserved"):
            check_port_is_free("a:80")
    else:
        check_port_is_free("a:80")


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
