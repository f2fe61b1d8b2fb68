"""scripts/stress_resume.py, which interrupts trainings; most tests interrupt a small program instead."""

import re
import sys
import time

import numpy as np
import pytest
import stress_resume
from stress_resume import CLOSED, CLOSED_NOHUP, STATUSES, Training

from keras_alexnet import cli, fit

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


@pytest.mark.parametrize("interruption", [None, CLOSED])
def test_an_unexpected_status_ends_the_script_with_what_was_printed(tmp_path, interruption):
    program = "import sys; sys.exit('the disk is full')"
    with start(interruption, tmp_path, program) as training, pytest.raises(SystemExit) as caught:
        training.ends_within(10)
        training.completes()
    assert re.fullmatch(r"a run ended with status 1( after .*)?:\nthe disk is full\r?\n", str(caught.value))


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


def test_it_interrupts_runs_of_fit_and_ends_with_an_error_if_one_differs(monkeypatch, capsys):
    command_of_fit = stress_resume.fit_command

    def fit_command(options, folder):
        flags, _ = cli.parse(fit.define_flags, command_of_fit(options, folder)[3:])
        assert flags.output_dir == str(folder)
        return [sys.executable, "-c", "import time; time.sleep(0.5)"]

    monkeypatch.setattr(stress_resume, "fit_command", fit_command)
    monkeypatch.setattr(stress_resume, "newest_checkpoint", lambda _: None)
    monkeypatch.setattr(stress_resume, "results", lambda folder: ({"a": np.full(2, folder.name == "run-1")}, []))
    monkeypatch.setattr(sys, "argv", ["stress_resume.py", "--data_dir=data", "--kills=3"])
    with pytest.raises(SystemExit) as caught:
        stress_resume.main()
    assert caught.value.code == 1
    printed = capsys.readouterr().out
    runs = len(re.findall(r"^run \d+: ", printed, re.MULTILINE))
    assert "\nrun 1: a differ\n" in printed
    assert re.search(rf"^3 kills \(.*\) in {runs} runs$", printed, re.MULTILINE)
    assert printed.endswith(f"{runs - 1} of {runs} runs are bit-identical to the uninterrupted one\n")
