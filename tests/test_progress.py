import contextlib
import errno
import io
import os
import pty
import queue
import re
import subprocess
import sys
import termios
import threading

import numpy as np
import pytest

from keras_alexnet.model import build_alexnet
from keras_alexnet.system import progress
from keras_alexnet.training import callbacks, loop, progress_line
from keras_alexnet.training.config import TrainConfig
from keras_alexnet.training.devices.base import Devices
from keras_alexnet.training.interruption import StopRequest
from keras_alexnet.training.metrics import compile_model

STYLE = re.compile(r"\x1b\[[0-9;]*m")
BAR = re.compile(r" *[━╸╺-]+ *$")
RATES = {"loss": 2.345, "top1_error": 0.412, "top5_error": 0.183}
IMAGENET = progress_line.training_line((12, 112), (1234, 5004), RATES, 1000, 1234, 0.05, epoch_eta=754, run_eta=187200)
FULL = "epoch 12/112  1,234/5,004  loss 2.345  error 41.2/18.3%  1,234 images/s  data wait 5%  ETA 12:34  run 52:00:00"
UNTRAINED = {"loss": 6.908, "top1_error": 0.999, "top5_error": 0.995}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """That of an ordinary terminal."""
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


class Terminal:
    """A pseudo-terminal: what is written to `stream` can be read, and seen as on a screen."""

    _MARK = b"\0"

    def __init__(self, columns):
        self._master, slave = pty.openpty()
        self.stream = os.fdopen(slave, "w", encoding="utf-8")
        self.resize(columns)
        self._chunks = queue.SimpleQueue()
        threading.Thread(target=self._collect, daemon=True).start()

    def _collect(self):
        with contextlib.suppress(OSError):  # its other end was closed
            while chunk := os.read(self._master, 4096):
                self._chunks.put(chunk)
        os.close(self._master)

    def resize(self, columns):
        self.columns = columns
        termios.tcsetwinsize(self.stream.fileno(), (24, columns))

    def read(self):
        """What was written since the last time."""
        os.write(self.stream.fileno(), self._MARK)
        output = b""
        while not output.endswith(self._MARK):
            output += self._chunks.get(timeout=60)
        return output[:-1].decode()

    def rows(self, output):
        """What a screen shows of it: its rows from the first to that of the cursor."""
        rows, column = [""], 0
        for piece in re.findall(r"\x1b\[K|\x1b\[[0-9;]*m|[^\x1b]", output):
            if piece == "\r":
                column = 0
            elif piece == "\x1b[K":
                rows[-1] = rows[-1][:column]
            elif piece == "\n":
                rows.append("")
            elif not STYLE.match(piece):
                assert column == len(rows[-1])
                width = 2 if "\u3000" <= piece < "\uff00" else 1
                if column + width > self.columns:
                    rows.append("")
                    column = 0
                # The second cell of a wide character.
                rows[-1] += piece + "\0" * (width - 1)
                column += width
        return [row.replace("\0", "") for row in rows]


@pytest.fixture
def open_terminal(monkeypatch):
    """Puts a terminal in place of stderr. To be called by a test: pytest sets stderr between fixtures and test."""
    with contextlib.ExitStack() as opened, monkeypatch.context() as patch:

        def make(columns=80):
            terminal = Terminal(columns)
            patch.setattr(sys, "stderr", opened.enter_context(terminal.stream))
            return terminal

        yield make


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
    start, *shown, end = STYLE.sub("", capsys.readouterr().err).split("\r\x1b[K")
    assert (start, end) == ("", "")
    assert 8 <= len(shown) <= 10  # two of the three seconds, five times a second
    assert shown[0].startswith("2")
    assert all(BAR.sub("", text).endswith(" of 60 class folders") for text in shown)
    assert all(BAR.search(text) for text in shown)


def test_columns_come_from_the_environment_where_the_terminal_does_not_report_them(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "10")
    show_progress(monkeypatch, True, 30)
    shown = STYLE.sub("", capsys.readouterr().err).split("\r\x1b[K")[1:-1]
    assert shown
    assert all(len(text) == 9 for text in shown)


def test_progress_in_a_pipe_is_a_line_every_ten_seconds(monkeypatch, capsys):
    show_progress(monkeypatch, False, 500)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all("\r" not in line and line.endswith(" of 500 class folders") for line in lines)


def test_long_work_has_an_eta_from_the_pace_of_the_last_minute(monkeypatch, capsys):
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
    assert lines[0] == "1,010 of 5,000 images, ETA 0:40"
    assert lines[-1] == "1,300 of 5,000 images, ETA 1:01:40"


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00")])
def test_duration(seconds, text):
    assert progress.duration(seconds) == text


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        (115, FULL),
        (90, "epoch 12/112 1234/5004 loss 2.35 err 41.2/18.3% 1234 img/s wait 5% ETA 12:34 run 52:00:00"),
        (80, "epoch 12/112 1234/5004 loss 2.35 err 41.2/18.3% 1234 img/s wait 5% ETA 12:34"),
        (60, "epoch 12/112 1234/5004 loss 2.35 err 41.2/18.3% ETA 12:34"),
        (44, "epoch 12/112 1234/5004 loss 2.35 ETA 12:34"),
        (30, "1234/5004 ETA 12:34"),
        (16, "ETA 12:34"),
        (8, "ETA 12:"),
    ],
)
def test_training_on_terminals_of_many_widths(open_terminal, columns, text):
    terminal = open_terminal(columns)
    progress.StatusLine().show(IMAGENET)
    assert terminal.rows(terminal.read()) == [text]


def test_eighty_columns_have_room_for_the_longest_numbers_of_imagenet():
    slow = progress_line.training_line(
        (112, 112), (5003, 5004), UNTRAINED, 1000, 36, 1.0, epoch_eta=35999, run_eta=None
    )
    fast = progress_line.training_line(
        (112, 112), (5003, 5004), UNTRAINED, 1000, 12345, 0.25, epoch_eta=599, run_eta=None
    )
    assert progress.compose(slow, 79).endswith("err 99.9/99.5% 36 img/s wait 100% ETA 9:59:59")
    assert progress.compose(fast, 79).endswith("err 99.9/99.5% 12345 img/s wait 25% ETA 9:59")


def test_the_bar_fills_what_the_text_leaves(open_terminal):
    terminal = open_terminal(60)
    progress.StatusLine().show([progress.Part(1, "3 of 4 images")], 0.75)
    (row,) = terminal.rows(terminal.read())
    assert row == "3 of 4 images  " + "━" * 30 + "╺" + "━" * 9
    terminal.resize(len("3 of 4 images") + 10)
    progress.StatusLine().show([progress.Part(1, "3 of 4 images")], 0.75)
    assert terminal.rows(terminal.read()) == ["3 of 4 images"]


def test_a_line_replaces_the_one_before(open_terminal):
    terminal = open_terminal()
    line = progress.StatusLine()
    line.show(IMAGENET, 0.25)
    line.show([progress.Part(1, "done")])
    assert terminal.rows(terminal.read()) == ["done"]
    line.clear()
    line.clear()
    assert terminal.read() == "\r\x1b[K"


def test_a_terminal_made_narrower_shows_one_row(open_terminal, monkeypatch):
    terminal = open_terminal()
    # What the shell knew at its start, and the size of stdout, do not count.
    monkeypatch.setenv("COLUMNS", "200")
    line = progress.StatusLine()
    for columns in (120, 80, 40, 100):
        terminal.resize(columns)
        line.show(IMAGENET)
        (row,) = terminal.rows(terminal.read())
        assert row == progress.compose(IMAGENET, columns - 1)


@pytest.mark.parametrize(
    ("columns", "row"), [(9, "鳥と魚: "), (10, "鳥と魚: 3"), (8, "鳥と魚:"), (6, "鳥と "), (80, None)]
)
def test_wide_characters_take_two_columns(open_terminal, columns, row):
    terminal = open_terminal(columns)
    text = "鳥と魚: 3 of 9"
    progress.StatusLine().show([progress.Part(1, text)])
    assert terminal.rows(terminal.read()) == [row or text]


@pytest.mark.parametrize(
    ("name", "value", "color"),
    [("NO_COLOR", "1", False), ("NO_COLOR", "", True), ("TERM", "dumb", False)],
)
def test_colors_can_be_refused(open_terminal, monkeypatch, name, value, color):
    terminal = open_terminal()
    assert progress.use_color(terminal.stream)
    monkeypatch.setenv(name, value)
    assert progress.use_color(terminal.stream) is color
    progress.StatusLine().show([progress.Part(1, "1 of 2 images")], 0.5)
    output = terminal.read()
    assert bool(STYLE.search(output)) == color
    assert output.startswith("\r\x1b[K") == (name != "TERM")


def test_only_terminals_have_colors(tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    closed = io.StringIO()
    closed.close()
    with open(tmp_path / "log", "w") as file:
        assert [progress.use_color(stream) for stream in (file, closed, None)] == [False, False, False]


def test_bars_need_no_other_encoding_than_the_terminals(open_terminal):
    terminal = open_terminal()
    terminal.stream.reconfigure(encoding="gbk")
    progress.StatusLine().show([progress.Part(1, "1 of 2 images")], 0.5)
    assert re.search(r"1 of 2 images  -{20} -{19}$", STYLE.sub("", terminal.read()))


def test_a_dumb_terminal_gets_plain_lines(open_terminal, monkeypatch):
    terminal = open_terminal(40)
    monkeypatch.setenv("TERM", "dumb")
    line = progress.StatusLine()
    line.show(IMAGENET, 0.25)
    line.clear()
    progress.clear_status_line()
    assert terminal.read() == FULL + "\r\n"
    assert not line.due()


def test_a_line_in_a_pipe_is_complete(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "20")
    progress.StatusLine().show(IMAGENET, 0.25)
    assert capsys.readouterr().err == FULL + "\n"


@pytest.mark.parametrize("stderr", [None, io.StringIO()])
def test_without_stderr_nothing_is_shown(monkeypatch, capsys, stderr):
    line = progress.StatusLine()
    if stderr is not None:
        stderr.close()
    monkeypatch.setattr(sys, "stderr", stderr)
    for each in (line, progress.StatusLine()):
        each.show(IMAGENET)
        each.clear()
    progress.clear_status_line()
    assert capsys.readouterr() == ("", "")


def test_a_process_started_without_stderr_shows_nothing():
    program = (
        "from keras_alexnet.system import progress\n"
        "progress._PLAIN_INTERVAL = 0.0\n"
        "with progress.WorkProgress() as report:\n"
        "    report(1, 2, 'images')\n"
        "progress.clear_status_line()\n"
        "print('done')\n"
    )
    command = ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, program]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert result.stdout == "done\n"


def test_commands_start_without_rich():
    program = "import sys; import keras_alexnet.prepare, keras_alexnet.cli; assert 'rich' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_validation_shows_batches_throughput_and_eta():
    line = progress_line.validation_line((12, 112), (45, 1196), 1234, 35, 187200)
    assert progress.compose(line) == "epoch 12/112  validating 45/1,196  1,234 images/s  ETA 0:35  run 52:00:00"
    assert progress.compose(line, 39) == "validating 45/1196 ETA 0:35"
    unknown = progress_line.validation_line((12, 112), (4500, None), 1234, None, None)
    assert progress.compose(unknown) == "epoch 12/112  validating 4,500  1,234 images/s"


@pytest.fixture(scope="module")
def model():
    """A compiled network with metrics."""
    network = build_alexnet(3, preset="tiny")
    compile_model(network)
    network.evaluate(np.zeros((2, *network.input_shape[1:]), np.uint8), np.zeros(2, np.int32), verbose=0)
    return network


def make_watch(model, monkeypatch, first_step=0):
    """That of three epochs of 4 steps, with its clock and metrics; it shows each step."""
    clock = Clock()
    monkeypatch.setattr(callbacks, "time", clock)
    monkeypatch.setattr(progress_line, "time", clock)
    monkeypatch.setattr(progress, "_PLAIN_INTERVAL", 0.0)
    config = TrainConfig(epochs=3, batch_size=8)
    nothing = {"waited": lambda: 0.0, "save": lambda: None, "log": lambda *_: None}
    watch = callbacks.StepWatch(config, 4, first_step, Devices("CPU"), StopRequest(), **nothing)
    watch.set_model(model)
    return watch, clock, model.get_metrics_result()


def times_shown(capsys):
    """The ETAs of each line, with its step."""
    lines = capsys.readouterr().err.splitlines()
    return [(re.search(r"(\S+)/4 ", line)[1], re.search(r"  ETA (.*)$", line)[1]) for line in lines]


def test_etas_count_what_is_known(model, monkeypatch, capsys):
    """Steps of 10 seconds and 4 batches of 5 seconds; each first one takes 100 more, to be compiled."""
    watch, clock, results = make_watch(model, monkeypatch)
    for epoch in range(3):
        watch.begin_epoch(epoch, 0, 0.0, 0.0)
        for batch in range(4):
            watch.on_train_batch_begin(batch)
            clock.now += 10 if batch else 110
        watch.end_training(results)
        watch.set_params({"steps": 4})
        watch.on_test_begin()
        for batch in range(4):
            watch.on_test_batch_begin(batch)
            clock.now += 5 if batch else 105
        watch.on_test_end()
    assert times_shown(capsys) == [
        ("1", "5:30"),
        ("2", "0:20  run 1:40"),
        ("3", "0:10  run 1:30"),
        ("1", "5:15"),
        ("2", "0:10  run 5:30"),
        ("3", "0:05  run 5:25"),
        ("1", "5:30"),
        ("2", "0:20  run 1:40"),
        ("3", "0:10  run 1:30"),
        ("1", "5:15"),
        ("2", "0:10  run 2:50"),
        ("3", "0:05  run 2:45"),
        ("1", "5:30"),
        ("2", "0:20  run 0:40"),
        ("3", "0:10  run 0:30"),
        ("1", "5:15"),
        ("2", "0:10"),
        ("3", "0:05"),
    ]


def test_a_resumed_run_has_the_pace_of_its_own(model, monkeypatch, capsys):
    watch, clock, _ = make_watch(model, monkeypatch, first_step=5)
    watch.begin_epoch(1, 1, 1000.0, 0.0)  # One step took 1,000 seconds before the interruption.
    for batch in range(3):
        watch.on_train_batch_begin(batch)
        clock.now += 10
    assert times_shown(capsys) == [("2", "0:20"), ("3", "0:10  run 0:50")]


def test_validation_without_a_known_number_of_batches(model, monkeypatch, capsys):
    watch, clock, results = make_watch(model, monkeypatch)
    watch.begin_epoch(0, 4, 50.0, 0.0)
    watch.end_training(results)
    watch.set_params({"steps": None})
    watch.on_test_begin()
    for batch in range(3):
        watch.on_test_batch_begin(batch)
        clock.now += 5
    assert capsys.readouterr().err.splitlines() == [f"epoch 1/3  validating {batch}  2 images/s" for batch in (1, 2)]


def test_a_run_on_a_terminal(open_terminal, data_dir, tmp_path, monkeypatch):
    terminal = open_terminal(40)
    for name in ("_LIVE_AFTER", "_LIVE_INTERVAL", "_PLAIN_INTERVAL"):
        monkeypatch.setattr(progress, name, 0.0)
    config = TrainConfig(
        data_dir=str(data_dir),
        output_dir=str(tmp_path),
        preset="tiny",
        epochs=2,
        batch_size=3,
        steps_per_epoch=3,
        learning_rate=0.001,
        lr_drop_epochs=(),
    )
    loop.train(config)
    output = terminal.read()
    assert terminal.rows(output) == [""]
    shown = [BAR.sub("", STYLE.sub("", text)) for text in output.split("\r\x1b[K") if text]
    assert len(shown) == 2 * (2 + 2)
    assert all(len(text) < 40 for text in shown)
    assert re.fullmatch(r"epoch 1/2 1/3 loss 1\.\d\d ETA \d:\d\d", shown[0])
    assert re.findall(r" validating (\S+) ", " ".join(shown)) == ["1/3", "2/3"] * 2


def test_say_takes_any_stdout_and_gives_up_once(monkeypatch, capsys):
    class Tee:
        def __init__(self):
            self.written = ""

        def write(self, text):
            if "full" in text:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.written += text

        def flush(self):
            pass

    tee = Tee()
    monkeypatch.setattr(sys, "stdout", tee)
    assert progress.say("a line")
    assert tee.written == "a line\n"
    assert [progress.say(text) for text in ("full", "full", "more")] == [False, False, False]
    assert capsys.readouterr().err.count("stdout cannot be written (No space left on device)") == 1
    monkeypatch.setattr(sys, "stdout", None)
    assert not progress.say("a line")
