"""Ctrl-C and SIGTERM as a request to stop at the next step, when all can be saved."""

import signal
import sys
import threading

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """A context manager within which the first Ctrl-C or SIGTERM is noted only, and a second one ends the work at once.

    In other threads than the main one, where Python lets nobody handle signals, it notes nothing.

    Attributes:
        signal: the number of the signal that came, 0 for none.
    """

    def __init__(self) -> None:
        self.signal = 0

    def __enter__(self) -> "StopRequest":
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            # None: a handler that was not set by Python, and cannot be by it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame) -> None:
        if self.signal:
            stop(number)
        self.signal = number


def stop(number: int) -> None:
    """Ends as a program does after that signal: `KeyboardInterrupt`, or an exit with status 128 + `number`."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)
