"""scripts/stress_resume.py, which interrupts trainings; most tests interrupt a small program instead."""

import re
import sys
import time

import numpy as np
import pytest
import stress_resume
from stress_resume import CLOSED, CLOSED_NOHUP, STATUSES, Training

# Exits as a training does after SIGHUP. Where that is ignored it prints until this fails, and exits with status 0.
PROGRAM = """
import os, pathlib, signal, sys, time
if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
pathlib.Path(sys.argv[1]).touch()
try:
    while True:
        print("working", file=sys.stderr, flush=True)
        time.sleep(0.02)
except OSError as error:
    # At its end, Python would try to write to the terminal once more, and perhaps end with status 120.
    os._exit(0 if error.errno == 5 else 1)
"""


def start(interruption, tmp_path, program=PROGRAM):
    return Training([sys.executable, "-c", program, str(tmp_path / "ready")], tmp_path / "log", interruption)


@pytest.mark.parametrize("interruption", STATUSES)
def test_each_interruption_ends_a_training_except_a_closed_terminal_under_nohup(tmp_path, interruption):
    with start(interruption, tmp_path) as training:
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        assert not training.ends_within(0.1)
        training.interrupt()
        assert training.ends_within(10)
        assert training.completes() == (interruption == CLOSED_NOHUP)
    assert "working" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("interruption", [None, "SIGTERM", CLOSED])
def test_an_unexpected_status_ends_the_script_with_what_was_printed(tmp_path, interruption):
    program = "import sys; sys.exit('the disk is full')"
    with start(interruption, tmp_path, program) as training, pytest.raises(SystemExit) as caught:
        training.ends_within(10)
        training.completes()
    assert re.fullmatch(r"a run ended with status 1( after .*)?:\nthe disk is full\r?\n", str(caught.value))


def test_no_training_is_left_behind(tmp_path):
    with start(CLOSED_NOHUP, tmp_path, "import time; time.sleep(60)") as training:
        assert not training.ends_within(0)
    assert training.ends_within(0)


def test_every_difference_is_named(monkeypatch, tmp_path):
    expected = {"a": np.float32([1, 2]), "b": np.float32([0.0])}, [{"loss": "1"}]
    for arrays, history, different in [
        ({"a": np.float32([1, 2]), "b": np.float32([0.0])}, "1", []),
        ({"a": np.float32([1, 2]), "b": np.float32([-0.0])}, "1", ["b"]),
        ({"a": np.float32([1, 2])}, "1", ["b"]),
        ({"a": np.float32([1, 2]), "b": np.float32([0.0]), "c": np.float32([])}, "2", ["c", "history"]),
    ]:
        monkeypatch.setattr(stress_resume, "results", lambda _, found=(arrays, [{"loss": history}]): found)
        assert stress_resume.differences(tmp_path, expected) == different


@pytest.mark.slow
def test_interrupted_trainings_are_bit_identical(monkeypatch, data_dir, capsys):
    settings = ("--epochs=2", "--steps_per_epoch=4", "--batch_size=4", "--kills=1", "--checkpoint_minutes=0.0001")
    monkeypatch.setattr(sys, "argv", ["stress_resume.py", f"--data_dir={data_dir}", *settings])
    with pytest.raises(SystemExit) as caught:
        stress_resume.main()
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    runs = len(re.findall(r"^run \d+: bit-identical$", printed, re.MULTILINE))
    assert re.search(rf"^1 kills \(.*\) in {runs} runs$", printed, re.MULTILINE)
    assert printed.endswith(f"{runs} of {runs} runs are bit-identical to the uninterrupted one\n")
