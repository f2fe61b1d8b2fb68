"""Work divided among processes. Standard library only."""

import contextlib
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import TypeVar

from keras_alexnet.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

# A worker has its next chunk at hand when it ends one, so it never waits for the parent.
_CHUNKS_AT_HAND = 2
_LARGEST_CHUNK = 32
_SECONDS_TO_END = 5


def cpu_count() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_processes(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    num_workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Result]:
    """Computes `[function(item) for item in items]` in processes of their own.

    They end with this process, however it ends: they notice a kill before their next item.

    Args:
        function: can be pickled, as can its results.
        items: what to give it.
        num_workers: how many processes.
        progress: called with (items done, items in all).

    Returns:
        The results in the order of `items`.

    Raises:
        UserError: a process ended by itself, such as one killed for want of memory.
        Exception: the first that `function` raised; the processes are stopped.
    """
    size = max(1, min(_LARGEST_CHUNK, len(items) // (4 * num_workers)))
    starts = range(0, len(items), size)
    results: list[list[Result]] = [[] for _ in starts]
    waiting = iter(range(len(starts)))
    done = 0
    with _processes(function, min(num_workers, len(starts))) as connections:
        at_hand: dict[Connection, list[int]] = {connection: [] for connection in connections}

        def hand_out(connection: Connection) -> None:
            for number in waiting:
                at_hand[connection].append(number)
                connection.send(items[starts[number] : starts[number] + size])
                if len(at_hand[connection]) == _CHUNKS_AT_HAND:
                    break

        try:
            for connection in connections:
                hand_out(connection)
            while any(at_hand.values()):
                for connection in wait([connection for connection, numbers in at_hand.items() if numbers]):
                    outcome = connection.recv()
                    if isinstance(outcome, BaseException):
                        raise outcome
                    results[at_hand[connection].pop(0)] = outcome
                    hand_out(connection)
                    done += len(outcome)
                    if progress:
                        progress(done, len(items))
        except (EOFError, ConnectionError):
            raise UserError(
                "a worker process was killed or crashed, often for want of memory. Run the command again, with fewer "
                "--num_workers if it happens again."
            ) from None
    return [result for chunk in results for result in chunk]


@contextlib.contextmanager
def _processes(function: Callable, number: int) -> Iterator[list[Connection]]:
    """Starts processes that answer each list of items with the list of results, or with an exception; ends them."""
    # A fork of a process that has threads, as any notebook with a framework has, may hang.
    context = multiprocessing.get_context("spawn")
    processes, connections = [], []
    try:
        with _interrupts_held_back():
            for _ in range(number):
                try:
                    here, there = context.Pipe()
                    connections.append(here)
                    process = context.Process(target=_work, args=(there, function), daemon=True)
                    process.start()
                except OSError as error:
                    raise UserError(
                        f"cannot start {number} worker processes: {error.strerror}. Give a smaller --num_workers."
                    ) from None
                processes.append(process)
                # The worker has the only other end, so reading from `here` ends when the worker does.
                there.close()
        yield connections
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(_SECONDS_TO_END)
            if process.exitcode is None:
                process.kill()
        for connection in connections:
            connection.close()


def _work(connection: Connection, function: Callable) -> None:
    # A terminal sends Ctrl-C to all; the parent alone decides what then happens.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # As an exception, so that what is half-written gets removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    parent = multiprocessing.parent_process()
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            outcome = []
            for item in connection.recv():
                if not parent.is_alive():
                    return
                try:
                    outcome.append(function(item))
                except Exception as error:
                    error.add_note(f"In a worker process:\n{traceback.format_exc()}")
                    connection.send(error)
                    return
            connection.send(outcome)


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Holds Ctrl-C back here, and for good in the processes started meanwhile: they would tell of it one by one."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # The first process to start would have this one started as well, which ends with Ctrl-C no longer held back.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
