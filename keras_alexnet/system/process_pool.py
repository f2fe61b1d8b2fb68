"""Work divided among processes. Standard library only."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import resource_tracker
from typing import TypeVar

from keras_alexnet.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

# Ctrl-C waits for the chunks that the processes have started, which are up to two each.
_MAX_CHUNK = 8
# No more are submitted at a time, as a million futures take gigabytes.
_CHUNKS_PER_PROCESS = 4


def cpu_count() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_processes(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    num_processes: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Result]:
    """As `imap_in_processes`, all results at once."""
    return list(imap_in_processes(function, items, num_processes, progress))


def imap_in_processes(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    num_processes: int,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Result]:
    """Computes `function(item) for item in items` in processes of their own.

    They end with this process, however it ends.

    Args:
        function: can be pickled, as can its results.
        items: what to give it.
        num_processes: how many.
        progress: called with (items done, items in all).

    Yields:
        The results in the order of `items`; a few at a time are in memory.

    Raises:
        UserError: a process ended by itself, such as one that was killed because memory ran out.
        Exception: the first that `function` raised, in the order of `items`; the processes are stopped.
    """
    size = max(1, min(_MAX_CHUNK, len(items) // (4 * num_processes)))
    chunks = (items[start : start + size] for start in range(0, len(items), size))
    # A fork of a process that has threads, as any notebook with a framework has, may hang.
    try:
        executor = ProcessPoolExecutor(num_processes, multiprocessing.get_context("spawn"), _prepare_process)
    except OSError as error:
        raise UserError(
            f"cannot start processes: {error.strerror}. They need semaphores: make /dev/shm writable, with some "
            "kilobytes free."
        ) from None

    def submit(count: int) -> Iterator[Future]:
        for chunk in islice(chunks, count):
            # This starts a process as long as there are too few.
            with _interrupts_held_back():
                try:
                    future = executor.submit(_apply, function, chunk)
                except OSError as error:
                    raise UserError(
                        f"cannot start {num_processes} processes: {error.strerror}. Use a smaller --num_processes."
                    ) from None
            yield future

    done = 0
    try:
        submitted = deque(submit(_CHUNKS_PER_PROCESS * num_processes))
        while submitted:
            results = submitted.popleft().result()
            submitted.extend(submit(1))
            yield from results
            done += len(results)
            if progress:
                progress(done, len(items))
    except BrokenProcessPool:
        raise UserError(
            "a process was killed or crashed, probably out of memory. Run the command again, with a smaller "
            "--num_processes if it happens again. (A script of your own that starts processes needs "
            'if __name__ == "__main__": around its calls.)'
        ) from None
    finally:
        _shut_down(executor)


def _shut_down(executor: ProcessPoolExecutor) -> None:
    """Waits for the processes. A second Ctrl-C kills them: Python, at its exit, would wait for them forever."""
    try:
        executor.shutdown(cancel_futures=True)
    except BaseException:
        for process in list((executor._processes or {}).values()):
            process.kill()
        raise


def _apply(function: Callable[[Item], Result], chunk: Sequence[Item]) -> list[Result]:
    return [function(item) for item in chunk]


def _prepare_process() -> None:
    # A terminal sends Ctrl-C to all; only the parent decides what then happens.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A process that waits for work would never notice that the parent was killed.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Holds Ctrl-C back here, and for good in the processes started meanwhile: they would report it one by one."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # The mask is what a started process inherits. Here it is not enough: a library's own thread, such as NumPy's, takes
    # the signal all the same, and an interrupt during a start leaves a process that reports it.
    interrupts = []
    handler = signal.signal(signal.SIGINT, lambda *_: interrupts.append(True))
    try:
        # The first process to start would have this one started as well, which ends with Ctrl-C no longer held back.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    finally:
        signal.signal(signal.SIGINT, handler)
        if interrupts:
            signal.raise_signal(signal.SIGINT)
