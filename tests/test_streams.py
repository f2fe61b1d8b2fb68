"""Commands whose terminal, pipe or disk goes away while they run."""

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios

import pytest

from keras_alexnet import cli, evaluate
from keras_alexnet.errors import UserError
from keras_alexnet.model import build_alexnet
from keras_alexnet.model_file import save_model

FIT = (
    *(sys.executable, "-m", "keras_alexnet.fit", "--preset=tiny", "--batch_size=2", "--learning_rate=0.001"),
    *("--lr_drop_epochs=", "--log_every=1", "--epochs=1", "--steps_per_epoch=20"),
)

# A command that is done in no time.
COMMAND = """
import sys
from keras_alexnet import cli
from keras_alexnet.errors import UserError
from keras_alexnet.system.progress import say
def main(values, arguments):
    {work}
cli.run(cli.Command(main, lambda flag_values: None, "Does something."))
"""
FULL = "stdout cannot be written (No space left on device): the work continues without it\n"


def run_into_full_disk(*arguments: str) -> tuple[int, str]:
    """The status and stderr of a Python command whose stdout takes nothing."""
    command = [sys.executable, *arguments]
    with open("/dev/full", "wb") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    return result.returncode, result.stderr


def run_into_closed_pipe(*arguments: str) -> tuple[int, str]:
    """The status and stderr of a Python command whose stdout has no reader."""
    command = [sys.executable, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        return process.wait(timeout=60), process.stderr.read()


@pytest.mark.slow
def test_a_training_that_ignores_hangups_continues_without_its_terminal(data_dir, tmp_path):
    """As one started with nohup."""
    ours, theirs = pty.openpty()

    def take_terminal():
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    command = [*FIT, f"--data_dir={data_dir}", f"--output_dir={tmp_path}"]
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    process = subprocess.Popen(command, **streams, start_new_session=True, preexec_fn=take_terminal)
    os.close(theirs)
    shown = b""
    while b"3/20" not in shown:
        shown += os.read(ours, 65536)
    os.close(ours)
    assert process.wait(timeout=120) == 0
    assert (tmp_path / "model.keras").exists()


@pytest.mark.parametrize(
    ("run", "work", "expected"),
    [
        (run_into_full_disk, "say('one'); say('two')", (0, FULL)),
        (run_into_closed_pipe, "say('one'); say('two')", (0, "")),
        (run_into_closed_pipe, "print('one', flush=True)", (1, "")),
        # Some is left to write when the command ends.
        (run_into_full_disk, "print('one'); raise UserError('a mistake')", (1, "-c: a mistake\n")),
    ],
)
def test_status_and_message_of_a_command_whose_output_is_not_taken(run, work, expected):
    assert run("-c", COMMAND.format(work=work)) == expected


def test_results_that_cannot_be_printed_are_an_error_unless_a_file_has_them(data_dir, tmp_path, monkeypatch):
    save_model(build_alexnet(3, preset="tiny"), tmp_path / "model.keras")
    flags = [f"--model={tmp_path}/model.keras", f"--data_dir={data_dir}"]
    with monkeypatch.context() as patches:
        patches.setattr(sys, "stdout", None)
        with pytest.raises(UserError, match="the results could not be printed"):
            evaluate.main(*cli.parse(evaluate.define_flags, flags))
        evaluate.main(*cli.parse(evaluate.define_flags, [*flags, f"--metrics_file={tmp_path}/metrics.json"]))
    assert (tmp_path / "metrics.json").exists()
