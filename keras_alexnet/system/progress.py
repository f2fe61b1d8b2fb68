"""Tells on stderr how far long work is."""

import collections
import contextlib
import math
import os
import re
import shutil
import sys
import time
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple, TextIO

_LIVE_AFTER, _LIVE_INTERVAL, _PLAIN_INTERVAL = 1.0, 0.2, 10.0
_ESTIMATE_FROM = 60.0
_BOLD, _RESET = "\x1b[1m", "\x1b[0m"
_dropped: list[TextIO] = []  # streams that cannot be written any more
_COLOR = r"\x1b\[[0-9;]*m"


class Part(NamedTuple):
    """A piece of a line of progress, which a narrow terminal shows in fewer characters, or does without.

    Attributes:
        rank: its importance, 1 the greatest: parts of the largest number are left out first.
        wordings: from the full one to the shortest.
        joint: what joins it to the part before, in place of spaces.
        bold: whether it is bold where there are colours.
    """

    rank: int
    wordings: Sequence[str]
    joint: str = ""
    bold: bool = False


# Spaces between parts, and which of their wordings: from the widest line to the narrowest.
_STYLES = (("  ", 0), (" ", 0), (" ", 1), (" ", 2))


def compose(parts: Sequence[Part], width: float = math.inf, *, color: bool = False) -> str:
    """Joins parts to a line.

    Args:
        parts: in their order.
        width: cells of a terminal that it may take. Shorter wordings come before parts are left out.
        color: whether to make parts bold.

    Returns:
        The line; cut off only where not even the most important part fits.
    """
    line = ""
    for rank in sorted({part.rank for part in parts}, reverse=True):
        kept = [part for part in parts if part.rank <= rank]
        for spaces, shortness in _STYLES:
            line = ""
            for part in kept:
                wording = part.wordings[min(shortness, len(part.wordings) - 1)]
                joint = (part.joint or spaces) if line else ""
                line += joint + (f"{_BOLD}{wording}{_RESET}" if color and part.bold else wording)
            if cells(line) <= width:
                return line
    return cut(line, width)


def cells(text: str) -> int:
    """Columns of a terminal that a text without control characters takes; escapes for colours take none."""
    return sum(map(_cells_of, re.sub(_COLOR, "", text)))


def _cells_of(character: str) -> int:
    # Marks on the character before, and what only joins characters or tells their direction.
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, width: float) -> str:
    """The beginning of a text, at most `width` cells of a terminal; escapes for colours all stay."""
    kept, taken = "", 0
    for piece in re.findall(f"{_COLOR}|.", text, re.DOTALL):
        taken += cells(piece)
        if taken <= width or piece.startswith("\x1b"):
            kept += piece
    return kept


def use_color(stream: TextIO | None) -> bool:
    """Whether what is written to a stream may have colours.

    It may on a terminal, but not where the environment has NO_COLOR (https://no-color.org) or TERM is "dumb".
    """
    return _is_terminal(stream) and not os.environ.get("NO_COLOR")


class StatusLine:
    """On a terminal one line that is kept up to date; into a pipe or a log a line every ten seconds.

    Work of less than a second shows nothing.
    """

    def __init__(self) -> None:
        self._live = _is_terminal(sys.stderr)
        self._next = time.monotonic() + (_LIVE_AFTER if self._live else _PLAIN_INTERVAL)
        self._shown = False

    def due(self) -> bool:
        """Whether it is time for `show`; ask before composing a text."""
        return time.monotonic() >= self._next

    def show(self, line: str | Sequence[Part]) -> None:
        """Shows a text, or parts; of these as much as the terminal has room for, or all in a pipe."""
        self._next = time.monotonic() + (_LIVE_INTERVAL if self._live else _PLAIN_INTERVAL)
        parts = [Part(1, (line,))] if isinstance(line, str) else line
        if self._live:
            # A line longer than the terminal would wrap, and could not be overwritten.
            text = compose(parts, columns(sys.stderr) - 1, color=use_color(sys.stderr))
            tell(f"\r\x1b[K{text}")
            self._shown = True
        else:
            tell(f"{compose(parts)}\n")

    def clear(self) -> None:
        """Takes the live line away, before other output."""
        if self._shown:
            clear_status_line()
            self._shown = False


def clear_status_line() -> None:
    """Takes away whatever a `StatusLine` may have left on the terminal."""
    if _is_terminal(sys.stderr):
        tell("\r\x1b[K")


def tell(text: str) -> None:
    """Writes to stderr, if there is one: nothing else depends on whether somebody reads it."""
    # Given no file, print would write to stdout.
    if _is_open(sys.stderr):
        try:
            print(text, end="", file=sys.stderr, flush=True)
        except OSError:
            _drop(sys.stderr)  # Else every later flush would fail for the same text.


def say(text: str) -> bool:
    """Prints a line to stdout at once, and returns whether it could.

    Where stdout is a closed terminal, a full disk or a pipe without a reader, work goes on; stderr says so of the first
    two, once.
    """
    if not _is_open(sys.stdout) or any(sys.stdout is stream for stream in _dropped):
        return False
    try:
        print(text, flush=True)
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            clear_status_line()
            tell(f"stdout cannot be written ({error.strerror}): the work continues without it\n")
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
    """Whether a stream is there and open; those that notebooks and scripts put in place may lack attributes."""
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
    return _is_open(stream) and hasattr(stream, "isatty") and stream.isatty() and os.environ.get("TERM") != "dumb"


def columns(stream: TextIO) -> int:
    """Columns of the terminal that a stream goes to, which may have been resized since the last time."""
    # `shutil.get_terminal_size` asks stdout, which may be a file, and believes COLUMNS, which may be out of date.
    try:
        width = os.get_terminal_size(stream.fileno()).columns
    except (AttributeError, OSError, ValueError):
        width = 0
    return width or shutil.get_terminal_size().columns


class ScanProgress(StatusLine):
    """A context manager to be called with (done, total, what is counted), as often as one likes."""

    def __call__(self, done: int, total: int, what: str) -> None:
        if self.due():
            self.show(f"{done:,} of {total:,} {what}")

    def __enter__(self) -> "ScanProgress":
        return self

    def __exit__(self, *exception) -> None:
        self.clear()


class WorkProgress(ScanProgress):
    """As `ScanProgress`, for long work: tells how long it may still take, from the pace of the last minute."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: collections.deque[tuple[float, int]] = collections.deque([(time.monotonic(), 0)])

    def __call__(self, done: int, total: int, what: str) -> None:
        if not self.due():
            return
        now = time.monotonic()
        # The whole run's pace would mislead: what an earlier run left is passed over at once.
        while len(self._seen) > 1 and self._seen[1][0] < now - _ESTIMATE_FROM:
            self._seen.popleft()
        then, done_then = self._seen[0]
        self._seen.append((now, done))
        left = f", {duration((total - done) * (now - then) / (done - done_then))} left" if done > done_then else ""
        self.show(f"{done:,} of {total:,} {what}{left}")


def duration(seconds: float) -> str:
    """A time as h:mm:ss, or m:ss below one hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
