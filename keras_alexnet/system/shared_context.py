"""Contexts that change something of the whole process, for several threads at a time."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator


def shared_by_threads(context: Callable[..., contextlib.AbstractContextManager[None]]):
    """Decorates a context manager: the first thread to enter it does so for all, and the last one to leave exits it.

    Otherwise a thread could save what another one has set, and restore that in the end. Calls with different arguments
    are different contexts.
    """
    lock = threading.RLock()  # Within it, the garbage collector may end a generator that is in the same context.
    entered: dict[tuple, tuple[int, contextlib.AbstractContextManager[None]]] = {}

    @contextlib.contextmanager
    @functools.wraps(context)
    def shared(*arguments) -> Iterator[None]:
        with lock:
            count, current = entered.get(arguments) or (0, context(*arguments))
            if count == 0:
                current.__enter__()
            entered[arguments] = count + 1, current
        try:
            yield
        finally:
            with lock:
                count, current = entered.pop(arguments)
                if count > 1:
                    entered[arguments] = count - 1, current
                else:
                    current.__exit__(None, None, None)

    return shared
