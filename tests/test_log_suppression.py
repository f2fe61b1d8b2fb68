import os
import subprocess
import sys

import pytest

from keras_alexnet.system.log_suppression import silenced_but_python, stderr_held_back

PROGRAM = """
import os, signal, sys
from keras_alexnet.system.log_suppression import silenced_but_python, stderr_held_back
with stderr_held_back():
    os.write(2, b"no AVX" * 20_000)
    {end}
os.write(2, b"after")
"""


@pytest.mark.parametrize(
    ("end", "status", "expected"),
    [
        ("pass", 0, "after"),
        ("os.abort()", -6, "no AVX" * 20_000),
        ("os.kill(os.getpid(), signal.SIGKILL)", -9, "no AVX" * 20_000),
        ("os._exit(3)", 3, "no AVX" * 20_000),
        # OpenBLAS raises it where it can start no threads.
        ("signal.raise_signal(signal.SIGINT)", -2, "no AVX" * 20_000),
    ],
)
def test_what_was_held_back_is_dropped_unless_the_process_ends(end, status, expected):
    # No temporary folder is needed.
    environment = os.environ | {"TMPDIR": "/proc/none"}
    command = [sys.executable, "-c", PROGRAM.format(end=end)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)
    # A traceback of Python may follow.
    assert (result.returncode, result.stderr[: len(expected)]) == (status, expected)
    assert expected != "after" or result.stderr == expected


def test_nothing_is_held_back_where_no_process_can_be_started(monkeypatch, capfd):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with stderr_held_back():
        os.write(2, b"chatter")
    assert capfd.readouterr().err == "chatter"


def test_threads_share_the_descriptor(capfd):
    first, second = silenced_but_python(), silenced_but_python()
    stderr = sys.stderr
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    os.write(2, b"chatter")
    print("said", file=sys.stderr)
    second.__exit__(None, None, None)
    os.write(2, b"after")
    assert sys.stderr is stderr
    assert capfd.readouterr().err == "said\nafter"
