"""Several real processes on this machine that train together, by scripts/launch_local.sh."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest
from backend_processes import BackendProcess
from training_process import assert_close, installed, newest_checkpoint

from keras_alexnet import cli, fit
from keras_alexnet.errors import UserError
from keras_alexnet.training import loop
from keras_alexnet.training.devices.choice import choose_devices

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
FIT = (sys.executable, "-m", "keras_alexnet.fit")
BACKENDS = installed("tensorflow", "jax")


class Workers:
    """Runs of the same training by any number of workers."""

    def __init__(self, process: BackendProcess, data_dir: Path):
        self.process = process
        self.environment = {**os.environ, "KERAS_BACKEND": process.backend}
        # As for users: a killed process might leave half a program in the cache.
        self.environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        self.arguments = [
            *(f"--data_dir={data_dir}", "--preset=tiny", "--epochs=2", "--steps_per_epoch=8", "--batch_size=12"),
            *("--dropout=0", "--learning_rate=0.001", "--lr_drop_epochs=1", "--checkpoint_minutes=0.0001"),
        ]

    def run_in_one_process(self, folder: Path) -> str:
        flags, _ = cli.parse(fit.define_flags, [*self.arguments, f"--output_dir={folder}"])
        self.process.run(loop.train, fit.config_from(flags))
        return self.process.printed

    def start(self, count: int, folder: Path, *arguments: str, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            ["scripts/launch_local.sh", str(count), *self.arguments, f"--output_dir={folder}", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=self.environment | environment,
        )

    def run(self, count: int, folder: Path, *arguments: str) -> str:
        process = self.start(count, folder, *arguments)
        stdout, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr
        return stdout


def process_of(worker: int, folder: Path) -> int:
    """The process id of a worker of the run in `folder`."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
        except OSError:
            continue
        numbers = [int(a or b) for a, b in re.findall(rb'"index": (\d+)|PROCESS_ID=(\d+)', environment)]
        if b"keras_alexnet.fit" in command and str(folder).encode() in command and numbers == [worker]:
            return int(entry.name)
    raise AssertionError(f"no worker {worker}")


def wait_for_checkpoint(process: subprocess.Popen, folder: Path, step: int) -> None:
    while not any(int(path.stem[5:]) >= step for path in (folder / "checkpoint").glob("step-*.npz")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.fixture(scope="module", params=BACKENDS)
def workers(request, data_dir, tmp_path_factory, backend_process):
    """Workers of a backend, and the folder of the same run in one process."""
    folder = tmp_path_factory.mktemp(request.param) / "single"
    started = Workers(backend_process(request.param), data_dir)
    started.run_in_one_process(folder)
    return started, folder


def test_a_killed_worker_ends_the_others_and_the_same_command_resumes(workers, tmp_path):
    started, single = workers
    # JAX's worker 0 holds the service that the others ask; TensorFlow's is no different from the others.
    victim = 0 if started.process.backend == "jax" else 1
    folder = tmp_path / "run"
    process = started.start(2, folder)
    wait_for_checkpoint(process, folder, 2)
    os.kill(process_of(victim, folder), signal.SIGKILL)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode not in (0, 2)
    assert len(re.findall("another (worker ended|process of the training)", stderr)) == 1, stderr
    assert "Traceback" not in stderr
    assert int(newest_checkpoint(folder).stem[5:]) < 16
    if started.process.backend == "tensorflow":
        # TensorFlow cannot be set up for workers once it has computed anything, as when a dry run has looked at images.
        assert started.run(2, folder, "--dry_run").splitlines()[-1] == "Nothing was written. The run can start."
    printed = started.run(2, folder, "--report", "--profile_steps=14:16")
    assert "resuming after epoch" in printed
    assert len(list((folder / "profile").glob("plugins/profile/steps-*-16"))) == 1
    assert_close(folder, single)
    assert printed.splitlines()[-1] == f"The report is {folder}/report/report.html"
    assert (folder / "report" / "report.html").exists()


def test_a_signal_to_one_worker_saves_and_ends_all_and_another_number_of_workers_resumes(workers, tmp_path):
    started, single = workers
    count = 3 if started.process.backend == "tensorflow" else 2
    folder = tmp_path / "run"
    process = started.start(count, folder)
    wait_for_checkpoint(process, folder, 2)
    os.kill(process_of(count - 1, folder), signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 143, stderr
    assert stdout.count("Stopped and saved after step") == 1
    assert f"{count} workers with 1 CPU each" in stdout
    assert "resuming after epoch" in started.run_in_one_process(folder)
    assert_close(folder, single)


@pytest.mark.parametrize("workers", ["tensorflow"], indirect=True)
def test_workers_save_and_exit_when_the_launcher_is_killed(workers, tmp_path):
    """Other signals: see test_launch_local."""
    started, _ = workers
    folder = tmp_path / "run"
    process = started.start(2, folder, "--epochs=100")
    wait_for_checkpoint(process, folder, 2)
    process.kill()
    # The pipes close when the last worker has exited.
    stdout, stderr = process.communicate(timeout=60)
    assert stdout.count("Stopped and saved after step") == 1
    # A worker that ends after worker 0 may still report that its heartbeat found nobody.
    of_launcher = [line for line in stderr.splitlines() if not line.startswith("[worker ")]
    assert of_launcher == ["launch_local.sh: killed; stopping the workers"]
    assert process.returncode == -signal.SIGKILL


JOIN = """
import signal
from keras_alexnet import cli
with cli.quiet_framework_start():
    from keras_alexnet.training.devices.cluster import tensorflow_cluster
    from keras_alexnet.training.devices.tensorflow_workers import make_strategy
strategy = make_strategy(tensorflow_cluster())
signal.raise_signal(signal.SIGTERM)
"""


def test_tensorflow_does_not_swallow_sigterm_after_the_workers_have_met():
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        addresses = [f"127.0.0.1:{server.getsockname()[1]}" for server in (one, other)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", JOIN],
            env=os.environ
            | {"TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})},
        )
        for index in range(2)
    ]
    assert [process.wait(timeout=60) for process in processes] == [-signal.SIGTERM] * 2


@pytest.mark.parametrize("workers", ["tensorflow"], indirect=True)
def test_a_worker_that_dies_at_the_start_ends_the_other(workers, tmp_path):
    """Worker 0 would wait 300 seconds for it. JAX notices by itself."""
    started, _ = workers
    folder = tmp_path / "run"
    process = started.start(2, folder)
    worker = None
    while worker is None:
        time.sleep(0.05)
        with contextlib.suppress(AssertionError):
            worker = process_of(1, folder)
    os.kill(worker, signal.SIGKILL)
    _, stderr = process.communicate(timeout=60)
    assert stderr.splitlines() == [
        "launch_local.sh: worker 1 ended with status 137 (SIGKILL)",
        "launch_local.sh: worker 1 ended with status 137; stopping the others",
    ]
    assert process.returncode == 137


@pytest.mark.parametrize("workers", ["tensorflow"], indirect=True)
def test_workers_that_see_different_folders_are_told(workers, tmp_path):
    """One of them reads an empty folder: as if the folder were not shared. What tells of it knows no backend."""
    started, single = workers
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes = []
    for index, folder in enumerate((single, tmp_path / "elsewhere")):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        processes.append(
            subprocess.Popen(
                [*FIT, *started.arguments, f"--output_dir={folder}", "--epochs=3"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | {"TF_CONFIG": json.dumps(config)},
            )
        )
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [1, 1]
    assert any("the workers do not see the same checkpoint" in error for error in errors)
    assert not (tmp_path / "elsewhere").exists()


def port_error(environment: dict[str, str]) -> str:
    with mock.patch.dict(os.environ, environment), pytest.raises(UserError) as caught, choose_devices("auto"):
        pass
    return str(caught.value)


def test_a_port_in_use_is_told(workers):
    started, _ = workers
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        cluster = {"worker": [address, f"127.0.0.1:{free_ports(1)[0]}"]}
        environment = {
            "TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 0}}),
            "KERAS_DISTRIBUTION_JOB_ADDRESSES": address,
            "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
            "KERAS_DISTRIBUTION_PROCESS_ID": "0",
        }
        message = started.process.run(port_error, environment)
    assert f"cannot listen on port {address.split(':')[1]}" in message


def free_ports(count: int) -> list[int]:
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    return ports
