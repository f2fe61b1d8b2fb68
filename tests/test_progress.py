import sys

import pytest

from keras_alexnet import progress


class Clock:
    """Stands for the time module: goes on when told."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


def show_progress(monkeypatch, live, steps):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: live)
    with progress.ScanProgress() as report:
        for number in range(1, steps + 1):
            clock.now += 0.05
            report(number, steps, "class folders")


@pytest.mark.parametrize("live", [True, False])
def test_short_scans_show_no_progress(monkeypatch, capsys, live):
    show_progress(monkeypatch, live, 19)
    assert capsys.readouterr().err == ""


def test_progress_on_a_terminal_is_one_live_line(monkeypatch, capsys):
    show_progress(monkeypatch, True, 60)
    start, *shown, end = capsys.readouterr().err.split("\r\x1b[K")
    assert (start, end) == ("", "")
    assert 8 <= len(shown) <= 10  # two of the three seconds, five times a second
    assert shown[0].startswith("2")
    assert all(text.endswith(" of 60 class folders") for text in shown)


def test_live_line_fits_the_terminal(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "10")
    show_progress(monkeypatch, True, 30)
    shown = capsys.readouterr().err.split("\r\x1b[K")[1:-1]
    assert shown
    assert all(len(text) == 9 for text in shown)


def test_progress_in_a_pipe_is_a_line_every_ten_seconds(monkeypatch, capsys):
    show_progress(monkeypatch, False, 500)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all("\r" not in line and line.endswith(" of 500 class folders") for line in lines)


def test_long_work_tells_the_time_left_at_the_pace_of_the_last_minute(monkeypatch, capsys):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    with progress.WorkProgress() as report:
        for second in range(1, 301):
            clock.now += 1
            # The first 1,000 at once, then one a second.
            report(1000 + second, 5000, "images")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 30
    assert lines[0] == "1,010 of 5,000 images, 0:40 left"
    assert lines[-1] == "1,300 of 5,000 images, 1:01:40 left"


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00")])
def test_duration(seconds, text):
    assert progress.duration(seconds) == text
