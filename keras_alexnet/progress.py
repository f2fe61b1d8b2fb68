"""Tells on stderr how far long work is."""

import collections
import shutil
import sys
import time

_LIVE_INTERVAL, _PLAIN_INTERVAL = 0.2, 10.0
_ESTIMATE_FROM = 60.0


class StatusLine:
    """On a terminal one line that is kept up to date; into a pipe or a log a line every ten seconds.

    Work of less than a second shows nothing.
    """

    def __init__(self) -> None:
        self._live = _on_terminal()
        self._next = time.monotonic() + (1.0 if self._live else _PLAIN_INTERVAL)
        self._shown = False

    def due(self) -> bool:
        """Whether it is time for `show`; ask before composing a text."""
        return time.monotonic() >= self._next

    def show(self, text: str) -> None:
        self._next = time.monotonic() + (_LIVE_INTERVAL if self._live else _PLAIN_INTERVAL)
        if self._live:
            # A line longer than the terminal would wrap, and could not be overwritten.
            text = text[: shutil.get_terminal_size().columns - 1]
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
            self._shown = True
        else:
            print(text, file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Takes the live line away, before other output."""
        if self._shown:
            clear_status_line()
            self._shown = False


def clear_status_line() -> None:
    """Takes away whatever a `StatusLine` may have left on the terminal."""
    if _on_terminal():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _on_terminal() -> bool:
    # A process may have been started with stderr closed.
    return sys.stderr is not None and sys.stderr.isatty()


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
