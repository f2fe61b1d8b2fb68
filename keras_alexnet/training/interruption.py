"""Ctrl-C, SIGTERM and SIGHUP as a request to stop at the next step, when all can be saved."""

import signal
import sys
import threading

# Windows has no SIGHUP, which ends what belongs to a terminal that was closed or a connection that was lost.
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class StopRequest:
    """A context manager within which the first of these signals is noted only, and a second one ends the work at once.

    Those but Ctrl-C stay ignored where they are, as nohup ignores SIGHUP.

    In other threads than the main one, where Python cannot handle signals, it notes nothing.

    Attributes:
        signal: the number of the signal that came, 0 for none.
    """

    def __init__(self) -> None:
        self.signal = 0

    def __enter__(self) -> "StopRequest":
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            # None: a handler that was not set by Python, and cannot be by it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame) -> None:
        if not self.signal:
            self.signal = number
        elif number != getattr(signal, "SIGHUP", None):
            # SIGHUP may come twice by itself: from the terminal and from its shell.
            stop(number)


def stop(number: int) -> None:
    """Ends as a program does after that signal: `KeyboardInterrupt`, or an exit with status 128 + `number`."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)
