"""Progress of long work on stderr, and output that never stops the work.

rich renders what a terminal shows. It is imported when something is shown, so that commands start without it.
"""

import collections
import contextlib
import io
import math
import os
import shutil
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple, Self, TextIO

_LIVE_AFTER, _LIVE_INTERVAL, _PLAIN_INTERVAL = 1.0, 0.2, 10.0
_ESTIMATE_SECONDS = 60.0
_MIN_BAR, _MAX_BAR = 8, 40
_CLEAR = "\r\x1b[K"
_dropped: list[TextIO] = []  # streams that can no longer be written


class Part(NamedTuple):
    """A piece of a progress line.

    Attributes:
        rank: its importance, 1 the greatest: a narrow terminal leaves out the largest numbers first.
        text: the wording in a log or on a wide terminal.
        short: the wording on a narrower terminal; `text` where it is empty.
    """

    rank: int
    text: str
    short: str = ""


def compose(parts: Sequence[Part], width: float = math.inf) -> str:
    """Joins parts in their order: all of them, or as many as fit into `width` columns and always the most important."""
    line = "  ".join(part.text for part in parts)
    for rank in sorted({part.rank for part in parts}, reverse=True):
        if display_width(line) <= width:
            break
        line = " ".join(part.short or part.text for part in parts if part.rank <= rank)
    return line


def display_width(text: str) -> int:
    """Columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def truncate(text: str, width: int) -> str:
    """The beginning of a text, at most `width` columns of a terminal."""
    if display_width(text) <= width:
        return text
    from rich.cells import set_cell_size

    return set_cell_size(text, width)


def use_color(stream: TextIO | None) -> bool:
    """Whether output to a stream may have colors and bold type.

    It may on a terminal, unless the environment has NO_COLOR (https://no-color.org) or TERM is "dumb".
    """
    return _is_terminal(stream) and not os.environ.get("NO_COLOR")


class StatusLine:
    """One live line on a terminal; a line every ten seconds in a pipe or a log. Work of less than a second shows none.

    rich's own live display is not used: it hides the cursor, which a killed process would not bring back.
    """

    def __init__(self) -> None:
        self._live = _is_terminal(sys.stderr)
        self._next = time.monotonic() + (_LIVE_AFTER if self._live else _PLAIN_INTERVAL)
        self._visible = False

    def due(self) -> bool:
        """Whether it is time for `show`; ask before composing a text."""
        return time.monotonic() >= self._next

    def show(self, parts: Sequence[Part], share: float | None = None) -> None:
        """Shows the parts; on a terminal as many as fit, with a bar in the remaining space.

        Args:
            parts: the line.
            share: the finished share of the work, 0 to 1, for the bar; None for no bar.
        """
        self._next = time.monotonic() + (_LIVE_INTERVAL if self._live else _PLAIN_INTERVAL)
        if self._live:
            write_stderr(_CLEAR + _render(parts, share, sys.stderr))
            self._visible = True
        else:
            write_stderr(f"{compose(parts)}\n")

    def clear(self) -> None:
        """Removes the live line, before other output."""
        if self._visible:
            clear_status_line()
            self._visible = False


def _render(parts: Sequence[Part], share: float | None, stream: TextIO) -> str:
    """The line as a terminal of its present width shows it in one row."""
    from rich.console import Console
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    # A longer line would wrap, and the next one could not overwrite it.
    width = columns(stream) - 1
    console = Console(
        # Not the stream itself, which rich would flush: that fails once the terminal has closed.
        file=io.TextIOWrapper(io.BytesIO(), encoding=stream.encoding),
        width=width,
        force_terminal=True,
        force_jupyter=False,
        color_system="auto" if use_color(stream) else None,
    )
    line = truncate(compose(parts, width), width)
    bar_width = min(width - display_width(line) - 2, _MAX_BAR)
    with console.capture() as rendered:
        console.print(Text(line), end="")
        if share is not None and bar_width >= _MIN_BAR:
            console.print(Text("  "), end="")
            console.print(ProgressBar(total=1.0, completed=share, width=bar_width), end="")
    return rendered.get()


def clear_status_line() -> None:
    """Removes whatever a `StatusLine` may have left on the terminal."""
    if _is_terminal(sys.stderr):
        write_stderr(_CLEAR)


def write_stderr(text: str) -> None:
    """Writes to stderr, if there is one; nothing depends on whether it is read."""
    # Given no file, print would write to stdout.
    if _is_open(sys.stderr):
        try:
            print(text, end="", file=sys.stderr, flush=True)
        except OSError:
            _drop(sys.stderr)  # Else every later flush would fail for the same text.


def say(text: str) -> bool:
    """Prints a line to stdout at once, and returns whether it could.

    Where stdout is a closed terminal, a full disk or a pipe without a reader, the work continues; stderr reports the
    first two, once.
    """
    if not _is_open(sys.stdout) or any(sys.stdout is stream for stream in _dropped):
        return False
    try:
        print(text, flush=True)
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            clear_status_line()
            write_stderr(f"stdout cannot be written ({error.strerror}): the work continues without it\n")
        _drop(sys.stdout)
        return False
    return True


def flush_or_drop(stream: TextIO | None) -> None:
    """Flushes a stream, and gives it up if that fails."""
    if _is_open(stream):
        try:
            stream.flush()
        except OSError:
            _drop(stream)


def _is_open(stream: TextIO | None) -> bool:
    """Whether a stream exists and is open; those that notebooks and scripts put in place may lack attributes."""
    return stream is not None and not getattr(stream, "closed", False)


def _drop(stream: TextIO) -> None:
    """Gives a stream up; of the process's own, what is left of its output, and all that follows, goes nowhere."""
    _dropped.append(stream)
    if stream in (sys.__stdout__, sys.__stderr__):
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
            stream.flush()


def printable(text: str) -> str:
    """`text` with what a terminal would take for commands, such as in names of files, as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _is_terminal(stream: TextIO | None) -> bool:
    """Whether a stream, which may be closed, goes to a terminal that does what escapes say."""
    # rich would also believe FORCE_COLOR, which CI systems set for logs.
    return _is_open(stream) and hasattr(stream, "isatty") and stream.isatty() and os.environ.get("TERM") != "dumb"


def columns(stream: TextIO) -> int:
    """Columns of the terminal that a stream goes to, which may have been resized since the last time."""
    # rich and `shutil.get_terminal_size` ask stdin or stdout, which may be files, and believe COLUMNS, which may be
    # out of date.
    try:
        width = os.get_terminal_size(stream.fileno()).columns
    except (AttributeError, OSError, ValueError):
        width = 0
    return width or shutil.get_terminal_size().columns


class ScanProgress(StatusLine):
    """A context manager to be called with (done, total, what is counted), as often as one likes."""

    def __call__(self, done: int, total: int, what: str) -> None:
        if self.due():
            self._show_count(done, total, what)

    def _show_count(self, done: int, total: int, what: str) -> None:
        self.show([Part(1, f"{done:,} of {total:,} {what}")], done / total if total else None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception) -> None:
        self.clear()


class WorkProgress(ScanProgress):
    """As `ScanProgress`, with an ETA from the pace of the last minute."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: collections.deque[tuple[float, int]] = collections.deque([(time.monotonic(), 0)])

    def __call__(self, done: int, total: int, what: str) -> None:
        if not self.due():
            return
        now = time.monotonic()
        # The whole run's pace would mislead: what an earlier run finished is passed over at once.
        while len(self._seen) > 1 and self._seen[1][0] < now - _ESTIMATE_SECONDS:
            self._seen.popleft()
        then, done_then = self._seen[0]
        self._seen.append((now, done))
        eta = f", ETA {duration((total - done) * (now - then) / (done - done_then))}" if done > done_then else ""
        self._show_count(done, total, f"{what}{eta}")


def duration(seconds: float) -> str:
    """A time as h:mm:ss, or m:ss below one hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
