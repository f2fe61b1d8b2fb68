"""Commands whose terminal, pipe or disk goes away while they run."""

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from keras_alexnet.model import build_alexnet
from keras_alexnet.model_file import save_model

pytestmark = pytest.mark.slow

FIT = (
    *(sys.executable, "-m", "keras_alexnet.fit", "--preset=tiny", "--batch_size=8", "--learning_rate=0.001"),
    *("--lr_drop_epochs=1", "--log_every=1"),
)


def start_in_terminal(command: list[str], *, ignores_hangup: bool) -> tuple[subprocess.Popen, int]:
    """Starts a command on a terminal of its own; returns it, and the other end of the terminal."""
    ours, theirs = pty.openpty()

    def take_terminal():
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignores_hangup else signal.SIG_DFL)

    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, preexec_fn=take_terminal
    )
    os.close(theirs)
    return process, ours


@pytest.fixture
def trained_model(tmp_path) -> Path:
    save_model(build_alexnet(3, preset="tiny"), tmp_path / "model.keras")
    return tmp_path / "model.keras"


def read_until(descriptor: int, text: bytes) -> bytes:
    found = b""
    while text not in found:
        found += os.read(descriptor, 65536)
    return found


def steps(folder: Path) -> int:
    """Of the newest checkpoint."""
    names = [path.stem for path in folder.glob("checkpoint/step-*.npz")]
    return max((int(name.removeprefix("step-")) for name in names), default=0)


@pytest.mark.parametrize(("ignores_hangup", "status"), [(False, 129), (True, 0)])
def test_a_closed_terminal(data_dir, tmp_path, ignores_hangup, status):
    command = [*FIT, f"--data_dir={data_dir}", f"--output_dir={tmp_path}", "--epochs=1", "--steps_per_epoch=60"]
    process, terminal = start_in_terminal(command, ignores_hangup=ignores_hangup)
    read_until(terminal, b"3/60")
    os.close(terminal)
    assert process.wait(timeout=120) == status
    assert steps(tmp_path) >= 3
    assert (tmp_path / "model.keras").exists() == ignores_hangup


@pytest.mark.parametrize(("number", "status"), [(None, 0), (signal.SIGINT, 130)])
def test_a_pipe_without_a_reader_changes_no_exit_status(data_dir, tmp_path, number, status):
    epochs = 1 if number is None else 1000
    command = [*FIT, f"--data_dir={data_dir}", f"--output_dir={tmp_path}", f"--epochs={epochs}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    if number is not None:
        while not steps(tmp_path):
            time.sleep(0.1)
        process.send_signal(number)
    error = process.communicate(timeout=60)[1].decode()
    assert process.returncode == status
    assert "Traceback" not in error
    assert "Exception ignored" not in error


def test_a_full_disk_behind_stdout(data_dir, tmp_path):
    with open("/dev/full", "wb") as full:

        def run(*command: str) -> subprocess.CompletedProcess:
            return subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=120)

        expected_text = "stdout cannot be written (No space left on device): the work continues without it"
        fit = run(*FIT, f"--data_dir={data_dir}", f"--output_dir={tmp_path}", "--epochs=1")
        assert (fit.returncode, fit.stderr.count(expected_text)) == (0, 1)
        evaluate = (sys.executable, "-m", "keras_alexnet.evaluate", f"--model={tmp_path}/model.keras")
        result = run(*evaluate, f"--data_dir={data_dir}")
        assert result.returncode == 1
        assert expected_text in result.stderr
        assert "the results could not be printed. Give --metrics_file" in result.stderr
        result = run(*evaluate, f"--data_dir={data_dir}", f"--metrics_file={tmp_path}/metrics.json")
        assert result.returncode == 0
        assert (tmp_path / "metrics.json").exists()
        predict = (sys.executable, "-m", "keras_alexnet.predict", f"--model={tmp_path}/model.keras")
        result = run(*predict, str(next(Path(data_dir, "val").iterdir())))
        assert result.returncode == 1
        assert "cannot write the output: No space left on device" in result.stderr
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("redirection", "reason"), [(">> {}", "File too large"), ("> /dev/full", "No space left")])
def test_help_that_cannot_be_written_is_one_message(tmp_path, redirection, reason):
    # SIGXFSZ is ignored by Python, so the limit shows as an error.
    help_ = f"{sys.executable} -m keras_alexnet.prepare --help {redirection.format(tmp_path / 'out')}"
    result = subprocess.run(f"ulimit -f 1; {help_}", shell=True, stderr=subprocess.PIPE, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith(f"python -m keras_alexnet.prepare: cannot write the output: {reason}")
    assert result.stderr.count("\n") == 1


UNFLUSHED = """
import sys
from keras_alexnet import cli
from keras_alexnet.errors import UserError
def main(values, arguments):
    print("some output")
    print("and more", end="", file=sys.stderr)
    raise UserError("a mistake")
cli.run(cli.Command(main, lambda flag_values: None, "Makes a mistake."))
"""


@pytest.mark.parametrize("stderr", [subprocess.PIPE, "/dev/full"])
def test_what_is_left_to_write_changes_no_exit_status(stderr):
    with open("/dev/full", "wb") as full:
        errors = full if stderr == "/dev/full" else stderr
        result = subprocess.run(
            [sys.executable, "-c", UNFLUSHED], stdout=full, stderr=errors, text=True, check=False, timeout=60
        )
    assert result.returncode == 1
    assert "Exception ignored" not in (result.stderr or "")


def test_results_into_a_pipe_without_a_reader_end_quietly(trained_model, data_dir):
    command = [sys.executable, "-m", "keras_alexnet.predict", f"--model={trained_model}", f"{data_dir}/val"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.communicate(timeout=120)[1] == b""
    assert process.returncode == 1
