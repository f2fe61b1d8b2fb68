"""Processes of Keras's other backends that compute for tests: to start one and import its framework takes seconds."""

import contextlib
import io
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from unittest import mock

NUM_DEVICES = 4  # of JAX: parts of the CPU, of which training takes one unless asked otherwise


class BackendProcess:
    """Runs functions of test modules under a backend: in a process of its own, or here for TensorFlow.

    Attributes:
        backend: its name.
        printed: what the last function printed.
    """

    def __init__(self, backend: str):
        self.backend = backend
        self.printed = ""
        self._executor = None
        if backend != "tensorflow":
            environment = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={NUM_DEVICES}"}
            with mock.patch.dict(os.environ, environment, KERAS_BACKEND=backend):
                self._executor = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
                self._executor.submit(_start).result()

    def run(self, function: Callable, *arguments, **settings):
        """Returns what `function` returns, or raises what it raises."""
        run = self._executor.submit(_run, function, arguments, settings).result if self._executor else None
        result, self.printed = run() if run else _run(function, arguments, settings)
        return result

    def end(self) -> None:
        if self._executor:
            self._executor.shutdown()


def _start() -> None:
    import conftest  # noqa: F401  # It imports the frameworks without their chatter.


def _run(function: Callable, arguments: tuple, settings: dict) -> tuple:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        result = function(*arguments, **settings)
    return result, printed.getvalue()
