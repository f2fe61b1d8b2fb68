"""How scripts/launch_local.sh starts, signals and ends its workers, which are small programs in place of trainings."""

import os
import pty
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

def exit_on(*names):
    def handle(number, frame):
        say(f"got {signal.Signals(number).name}")
        sys.exit(128 + number)
    for name in names:
        signal.signal(signal.Signals[name], handle)
    say("is ready")
    open(f"{worker}-is-ready", "w").close()

def wait_for_worker(other):
    while not os.path.exists(f"{other}-is-ready"):
        time.sleep(0.05)

exec(sys.argv[1])
"""

WAIT = 'exit_on("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM"); time.sleep(60)'
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

    def start(self, program: str, num_workers: int = 2, **options) -> subprocess.Popen:
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        process = subprocess.Popen(
            [self._script, str(num_workers), program],
            cwd=self._folder,  # where python -m looks first
            start_new_session=True,  # with a process group of its own, as a shell makes for a command
            **options,
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


def wait_until_ready(process: subprocess.Popen, num_workers: int = 2) -> None:
    lines = [process.stdout.readline() for _ in range(num_workers)]
    assert sorted(line.removeprefix("[worker 1] ") for line in lines) == [f"{n} is ready\n" for n in range(num_workers)]
    # The traps are set just after the last worker has been started.
    time.sleep(0.3)


@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM"])
def test_signals_are_forwarded(launcher, name):
    process = launcher.start(WAIT)
    wait_until_ready(process)
    process.send_signal(signal.Signals[name])
    stdout, stderr = process.communicate(timeout=10)
    assert sorted(stdout.splitlines()) == [f"0 got {name}", f"[worker 1] 1 got {name}"]
    assert stderr == ""
    assert process.returncode == 128 + signal.Signals[name]


# A time limit of timeout(1) kills the process group.
@pytest.mark.parametrize("kill", [os.kill, os.killpg])
def test_workers_do_not_outlive_a_killed_script(launcher, kill):
    process = launcher.start(WAIT)
    wait_until_ready(process)
    kill(process.pid, signal.SIGKILL)
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


def test_workers_that_exit_by_themselves_after_another_are_not_mentioned(launcher):
    launcher.set(exit_seconds=3)
    process = launcher.start("time.sleep(worker); sys.exit(f'worker {worker} failed')")
    stdout, stderr = process.communicate(timeout=10)
    assert (stdout, stderr) == ("", "worker 0 failed\n[worker 1] worker 1 failed\n")
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("end", "status"), [("sys.exit(7)", 7), ("os.kill(os.getpid(), signal.SIGKILL)", 137), ("os.abort()", 134)]
)
def test_the_others_are_stopped_when_a_worker_has_ended(launcher, end, status):
    launcher.set(exit_seconds=1)
    process = launcher.start(f"if worker == 1:\n  wait_for_worker(0)\n  {end}\n{WAIT}")
    stdout, stderr = process.communicate(timeout=10)
    assert stdout == "0 is ready\n0 got SIGTERM\n"
    assert stderr.splitlines()[-1] == f"launch_local.sh: worker 1 ended with status {status}; stopping the others"
    assert process.returncode == status


def test_workers_that_do_not_stop_are_killed(launcher):
    launcher.set(exit_seconds=1, kill_seconds=1)
    process = launcher.start(f"if worker == 1: sys.exit(7)\n{WAIT_DEAF}")
    _, stderr = process.communicate(timeout=10)
    assert "launch_local.sh: the other workers did not stop within 1 seconds; killing them\n" in stderr
    assert process.returncode == 7


def ignore_hangup() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def test_sighup_stays_ignored_as_under_nohup(launcher):
    program = 'say("is ready"); time.sleep(1); say(signal.getsignal(signal.SIGHUP).name)'
    process = launcher.start(program, preexec_fn=ignore_hangup)
    wait_until_ready(process)
    os.killpg(process.pid, signal.SIGHUP)
    stdout, stderr = process.communicate(timeout=10)
    assert sorted(stdout.splitlines()) == ["0 SIG_IGN", "[worker 1] 1 SIG_IGN"]
    assert (stderr, process.returncode) == ("", 0)


# Worker 0 waits until all that worker 1 prints has been read.
PRINT_MUCH = """
if worker == 1:
    for number in range(2000):
        for stream in (sys.stdout, sys.stderr):
            print("x" * 80, file=stream, flush=True)
        if number == 1000:
            time.sleep(0.5)
    open("1-is-ready", "w").close()
    time.sleep(60)
wait_for_worker(1)
sys.exit(7)
"""


@pytest.mark.parametrize("terminal", [False, True])
def test_output_that_nobody_reads_ends_nothing(launcher, terminal):
    launcher.set(exit_seconds=1)
    reader, writer = pty.openpty() if terminal else os.pipe()
    process = launcher.start(PRINT_MUCH, stdout=writer, stderr=writer, preexec_fn=ignore_hangup)
    os.close(writer)
    assert os.read(reader, 1)
    os.close(reader)
    # Not the status of worker 1, which could write all its lines, nor SIGPIPE, although the script printed a message.
    assert process.wait(timeout=20) == 7


def test_the_script_explains_its_argument():
    result = subprocess.run([SCRIPT, "two"], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith(f"Usage: {SCRIPT} N ")
