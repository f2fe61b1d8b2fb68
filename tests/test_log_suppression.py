import os
import subprocess
import sys

import pytest

from keras_alexnet.system.log_suppression import stderr_held_back

PROGRAM = """
import os, signal, sys
from keras_alexnet.system.log_suppression import stderr_held_back
with stderr_held_back():
    os.write(2, b"no AVX" * 20_000)
    {end}
os.write(2, b"after")
"""


def stderr_of(end: str, **environment) -> tuple[int, str]:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(end=end)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
        timeout=60,
    )
    return result.returncode, result.stderr


def test_what_was_held_back_is_dropped():
    assert stderr_of("pass") == (0, "after")


@pytest.mark.parametrize(
    ("end", "status"),
    [("os.abort()", -6), ("os.kill(os.getpid(), signal.SIGKILL)", -9), ("os._exit(3)", 3)],
)
def test_what_was_held_back_survives_the_end_of_the_process(end, status):
    found, text = stderr_of(end)
    assert found == status
    assert text == "no AVX" * 20_000


def test_an_interrupt_from_a_library_shows_why():
    # OpenBLAS raises SIGINT where it can start no threads.
    status, text = stderr_of("signal.raise_signal(signal.SIGINT)")
    assert status == -2
    assert text.startswith("no AVX")


def test_no_temporary_folder_is_needed():
    assert stderr_of("pass", TMPDIR="/proc/none") == (0, "after")


def test_nothing_is_held_back_where_no_process_can_be_started(monkeypatch, capfd):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with stderr_held_back():
        os.write(2, b"chatter")
    assert capfd.readouterr().err == "chatter"
