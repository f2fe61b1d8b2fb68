import errno
import io
import os
import pty
import re
import sys
import termios
from types import SimpleNamespace

import pytest

from keras_alexnet.system import progress
from keras_alexnet.training import callbacks, progress_line
from keras_alexnet.training.config import TrainConfig
from keras_alexnet.training.devices.base import Devices
from keras_alexnet.training.interruption import StopRequest

STYLE = re.compile(r"\x1b\[[0-9;]*m")
BAR = re.compile(r" *[━╸╺]+ *$")
RATES = {"loss": 2.345, "top1_error": 0.412, "top5_error": 0.183}
IMAGENET = progress_line.training_line((12, 112), (1234, 5004), RATES, 1000, 1234, 0.05, epoch_eta=754, run_eta=187200)
METRICS = {"cross_entropy": 2.345, "top1_accuracy": 0.5, "top5_accuracy": 1.0}
FULL = "epoch 12/112  1,234/5,004  loss 2.345  error 41.2/18.3%  1,234 images/s  data wait 5%  ETA 12:34  run 52:00:00"


@pytest.fixture
def open_terminal(monkeypatch, capsys):
    """Makes stderr a terminal, whose columns are COLUMNS; returns a function for what it has shown since.

    To be called by a test: pytest sets stderr between fixtures and test.
    """

    def make():
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        return lambda: capsys.readouterr().err

    return make


def lines_of(output):
    """The lines that a terminal showed one after the other, each in place of the one before."""
    start, *lines = STYLE.sub("", output).split("\r\x1b[K")
    assert start == ""
    return [BAR.sub("", line) for line in lines]


class Clock:
    """Stands for the time module: continues when asked to."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in (progress, callbacks, progress_line):
        monkeypatch.setattr(module, "time", clock)
    return clock


def scan(clock, steps):
    with progress.ScanProgress() as report:
        for number in range(1, steps + 1):
            clock.now += 0.05
            report(number, steps, "class folders")


def test_scans_on_a_terminal_show_one_live_line_after_a_second(open_terminal, clock):
    terminal = open_terminal()
    scan(clock, 19)
    assert terminal() == ""
    scan(clock, 60)
    output = terminal()
    *shown, end = lines_of(output)
    assert end == ""
    assert 8 <= len(shown) <= 10  # two of the three seconds, five times a second
    assert shown[0].startswith("2")
    assert all(text.endswith(" of 60 class folders") for text in shown)
    assert "━" in output


def test_scans_in_a_pipe_print_a_line_every_ten_seconds(clock, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "10")
    scan(clock, 19)
    assert capsys.readouterr().err == ""
    scan(clock, 500)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.endswith(" of 500 class folders") for line in lines)


def test_long_work_has_an_eta_from_the_pace_of_the_last_minute(clock, capsys):
    with progress.WorkProgress() as report:
        for second in range(1, 301):
            clock.now += 1
            # The first 1,000 at once, then one a second.
            report(1000 + second, 5000, "images")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 30
    assert lines[0] == "1,010 of 5,000 images, ETA 0:40"
    assert lines[-1] == "1,300 of 5,000 images, ETA 1:01:40"


def test_a_line_fits_a_terminal_that_changes_its_width(open_terminal, monkeypatch):
    terminal = open_terminal()
    line = progress.StatusLine()
    names = [progress.Part(1, "鳥と魚: 3 of 9")]  # Wide characters take two columns.
    for columns, parts, text in (
        (115, IMAGENET, FULL),
        (80, IMAGENET, "epoch 12/112 1234/5004 loss 2.35 err 41.2/18.3% 1234 img/s wait 5% ETA 12:34"),
        (44, IMAGENET, "epoch 12/112 1234/5004 loss 2.35 ETA 12:34"),
        (8, IMAGENET, "ETA 12:"),
        (10, names, "鳥と魚: 3"),
        (6, names, "鳥と "),
    ):
        monkeypatch.setenv("COLUMNS", str(columns))
        line.show(parts, 0.25)
        assert lines_of(terminal()) == [text]
    line.clear()
    line.clear()
    assert terminal() == "\r\x1b[K"


def test_columns_are_those_of_the_stream_rather_than_those_that_the_shell_knew(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream:
        termios.tcsetwinsize(theirs, (24, 70))
        assert progress.columns(stream) == 70
        assert progress.use_color(stream)
    os.close(ours)


def test_a_terminal_may_have_no_colors_or_be_dumb(open_terminal, tmp_path, monkeypatch):
    terminal = open_terminal()
    monkeypatch.setenv("FORCE_COLOR", "1")
    line = progress.StatusLine()
    for value, color in (("", True), ("1", False)):
        monkeypatch.setenv("NO_COLOR", value)
        line.show([progress.Part(1, "1 of 2 images")], 0.5)
        assert bool(STYLE.search(terminal())) is color
    monkeypatch.setenv("TERM", "dumb")
    progress.StatusLine().show(IMAGENET, 0.25)
    assert terminal() == FULL + "\n"
    with open(tmp_path / "log", "w") as file:
        assert not progress.use_color(file)


def test_without_stderr_nothing_is_shown(monkeypatch, capsys):
    closed = io.StringIO()
    closed.close()
    for stderr in (None, closed):
        monkeypatch.setattr(sys, "stderr", stderr)
        line = progress.StatusLine()
        line.show(IMAGENET)
        line.clear()
        progress.clear_status_line()
    assert capsys.readouterr() == ("", "")


def test_validation_shows_what_is_known_of_it():
    line = progress_line.validation_line((12, 112), (45, 1196), 1234, 35, 187200)
    assert progress.compose(line) == "epoch 12/112  validating 45/1,196  1,234 images/s  ETA 0:35  run 52:00:00"
    unknown = progress_line.validation_line((12, 112), (4500, None), 1234, None, None)
    assert progress.compose(unknown) == "epoch 12/112  validating 4,500  1,234 images/s"


def make_watch(monkeypatch, epochs, first_step=0):
    """A `StepWatch` of epochs of 4 steps that shows each step."""
    monkeypatch.setattr(progress, "_PLAIN_INTERVAL", 0.0)
    nothing = {"waited": lambda: 0.0, "save": lambda: None, "log": lambda *_: None}
    config = TrainConfig(epochs=epochs, batch_size=8)
    watch = callbacks.StepWatch(config, 4, first_step, Devices("CPU"), StopRequest(), **nothing)
    watch.set_model(SimpleNamespace(output_shape=(None, 3), get_metrics_result=lambda: METRICS))
    return watch


def etas_shown(capsys):
    """The ETAs of each line, with its step."""
    lines = capsys.readouterr().err.splitlines()
    return [(re.search(r"(\S+)/4 ", line)[1], re.search(r"  ETA (.*)$", line)[1]) for line in lines]


def test_etas_count_what_is_known(monkeypatch, clock, capsys):
    """Steps of 10 seconds and 4 batches of 5 seconds; each first one takes 100 more, to be compiled."""
    watch = make_watch(monkeypatch, epochs=2)
    for epoch in range(2):
        watch.begin_epoch(epoch, 0, 0.0, 0.0)
        for batch in range(4):
            watch.on_train_batch_begin(batch)
            clock.now += 10 if batch else 110
        watch.end_training(METRICS)
        watch.set_params({"steps": 4})
        watch.on_test_begin()
        for batch in range(4):
            watch.on_test_batch_begin(batch)
            clock.now += 5 if batch else 105
        watch.on_test_end()
    assert etas_shown(capsys) == [
        *[("1", "5:30"), ("2", "0:20  run 1:00"), ("3", "0:10  run 0:50")],
        *[("1", "5:15"), ("2", "0:10  run 2:50"), ("3", "0:05  run 2:45")],
        *[("1", "5:30"), ("2", "0:20  run 0:40"), ("3", "0:10  run 0:30")],
        *[("1", "5:15"), ("2", "0:10"), ("3", "0:05")],
    ]


def test_a_resumed_run_has_the_pace_of_its_own(monkeypatch, clock, capsys):
    watch = make_watch(monkeypatch, epochs=3, first_step=5)
    watch.begin_epoch(1, 1, 1000.0, 0.0)  # One step took 1,000 seconds before the interruption.
    for batch in range(3):
        watch.on_train_batch_begin(batch)
        clock.now += 10
    assert etas_shown(capsys) == [("2", "0:20"), ("3", "0:10  run 0:50")]


def test_say_takes_any_stdout_and_gives_up_once(monkeypatch, capsys):
    class Tee:
        def write(self, text):
            if "full" in text:
                raise OSError(errno.ENOSPC, "No space left on device")

        def flush(self):
            pass

    monkeypatch.setattr(sys, "stdout", Tee())
    assert [progress.say(text) for text in ("a line", "full", "more")] == [True, False, False]
    assert capsys.readouterr().err.count("stdout cannot be written (No space left on device)") == 1
    monkeypatch.setattr(sys, "stdout", None)
    assert not progress.say("a line")


def test_work_goes_on_after_its_terminal_has_closed(monkeypatch):
    ours, theirs = pty.openpty()
    terminal = open(theirs, "w")  # noqa: SIM115
    monkeypatch.setattr(sys, "stderr", terminal)
    line = progress.StatusLine()
    os.close(ours)
    for _ in range(2):
        line.show([progress.Part(1, "at work")], 0.5)
    line.clear()
    with pytest.raises(OSError, match="Input/output error"):
        terminal.close()
