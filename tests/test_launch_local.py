"""How scripts/launch_local.sh starts, signals and ends its workers, which are small programs in place of trainings."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "launch_local.sh"

# In place of keras_alexnet.fit: it runs the program that it is given.
FIT = r"""
import json, os, signal, sys, time
worker = json.loads(os.environ["TF_CONFIG"])["task"]["index"]

def say(text):
    os.write(1, f"{worker} {text}\n".encode())  # in one piece, as workers write at the same time

def wait():
    def handle(number, frame):
        say(f"got {signal.Signals(number).name}")
        sys.exit(128 + number)
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, handle)
    say("is ready")
    open(f"{worker}-is-ready", "w").close()
    time.sleep(60)

def wait_for_worker(other):
    while not os.path.exists(f"{other}-is-ready"):
        time.sleep(0.05)

exec(sys.argv[1])
"""

WAIT_DEAF = 'signal.signal(signal.SIGTERM, signal.SIG_IGN); say("is ready"); time.sleep(60)'


class Launcher:
    """A copy of the script in a folder with a package of its own."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._processes: list[subprocess.Popen] = []
        self._script = folder / "scripts" / "launch_local.sh"
        self._script.parent.mkdir()
        shutil.copy(SCRIPT, self._script)
        (folder / "keras_alexnet").mkdir()
        (folder / "keras_alexnet" / "__init__.py").touch()  # else it yields to another package of that name
        (folder / "keras_alexnet" / "fit.py").write_text(FIT)
        python = folder / ".venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.symlink_to(sys.executable)

    def set(self, **seconds: int) -> None:
        """Changes the script's time limits."""
        text = self._script.read_text()
        for name, value in seconds.items():
            text, count = re.subn(rf"^{name}=\d+", f"{name}={value}", text, flags=re.MULTILINE)
            assert count == 1
        self._script.write_text(text)

    def start(self, program: str) -> subprocess.Popen:
        """Starts the script with two workers."""
        process = subprocess.Popen(
            [self._script, "2", program],
            cwd=self._folder,  # where python -m looks first
            start_new_session=True,  # with a process group of its own, as a shell makes for a command
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._processes.append(process)
        return process

    def end(self) -> None:
        """Ends what a failed test has left."""
        for process in self._processes:
            process.kill()
            process.communicate(timeout=10)


@pytest.fixture
def launcher(tmp_path):
    launcher = Launcher(tmp_path)
    yield launcher
    launcher.end()


def wait_until_ready(process: subprocess.Popen) -> None:
    lines = {process.stdout.readline() for _ in range(2)}
    assert lines == {"0 is ready\n", "[worker 1] 1 is ready\n"}
    # The traps are set just after the last worker has been started.
    time.sleep(0.3)


@pytest.mark.parametrize("name", ["SIGINT", "SIGQUIT", "SIGTERM", "SIGHUP"])
def test_signals_are_forwarded(launcher, name):
    process = launcher.start("wait()")
    wait_until_ready(process)
    process.send_signal(signal.Signals[name])
    stdout, stderr = process.communicate(timeout=10)
    assert sorted(stdout.splitlines()) == [f"0 got {name}", f"[worker 1] 1 got {name}"]
    assert (stderr, process.returncode) == ("", 128 + signal.Signals[name])


# A time limit of timeout(1) kills the process group.
def test_workers_do_not_outlive_a_killed_script(launcher):
    process = launcher.start("wait()")
    wait_until_ready(process)
    os.killpg(process.pid, signal.SIGKILL)
    # The output ends when all processes have ended that write to it.
    stdout, stderr = process.communicate(timeout=10)
    assert sorted(stdout.splitlines()) == ["0 got SIGTERM", "[worker 1] 1 got SIGTERM"]
    assert stderr == "launch_local.sh: killed; stopping the workers\n"


def test_workers_that_ignore_sigterm_do_not_outlive_a_killed_script(launcher):
    launcher.set(save_seconds=1)
    process = launcher.start(WAIT_DEAF)
    wait_until_ready(process)
    process.kill()
    process.communicate(timeout=10)


def test_the_others_are_stopped_when_a_worker_has_ended(launcher):
    launcher.set(exit_seconds=1)
    process = launcher.start("if worker == 1:\n  wait_for_worker(0)\n  os.kill(os.getpid(), signal.SIGKILL)\nwait()")
    stdout, stderr = process.communicate(timeout=10)
    assert stdout == "0 is ready\n0 got SIGTERM\n"
    assert stderr.splitlines() == [
        "launch_local.sh: worker 1 ended with status 137 (SIGKILL)",
        "launch_local.sh: worker 1 ended with status 137; stopping the others",
    ]
    assert process.returncode == 137


def test_workers_that_do_not_stop_are_killed(launcher):
    launcher.set(exit_seconds=1, kill_seconds=1)
    process = launcher.start(f"if worker == 1: sys.exit(7)\n{WAIT_DEAF}")
    _, stderr = process.communicate(timeout=10)
    assert "launch_local.sh: the other workers did not stop within 1 seconds; killing them\n" in stderr
    assert process.returncode == 7
