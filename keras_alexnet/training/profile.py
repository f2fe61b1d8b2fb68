"""A trace of some steps of the training, for TensorBoard and for Perfetto."""

import contextlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import keras

from keras_alexnet.errors import UserError
from keras_alexnet.system.atomic import atomic_path
from keras_alexnet.system.log_suppression import silenced
from keras_alexnet.system.progress import clear_status_line
from keras_alexnet.training.callbacks import StepWatch
from keras_alexnet.training.chrome_trace import write_chrome_trace
from keras_alexnet.training.config import TrainConfig

_STEP = "train"
_SUFFIX = ".trace.json.gz"


def check_profile_steps(config: TrainConfig, steps_per_epoch: int) -> None:
    """Raises `UserError` where the run has none of the steps to trace."""
    num_steps = config.epochs * steps_per_epoch
    if config.profile_steps and config.profile_steps[0] >= num_steps:
        first, last = config.profile_steps
        raise UserError(f"profile_steps is {first}:{last}, but the run has {num_steps:,} steps. Begin below that.")


class StepProfiler(keras.callbacks.Callback):
    """Traces the steps of a range; to be given to `fit` after `watch`, within its own context.

    The context ends with the training of an epoch: a range that goes on in the next one gets a trace of its own there,
    without the validation. So does one that is interrupted, when the run goes on. A training that fails leaves none.
    Nothing is done to other steps.

    Args:
        folder: where the traces go.
        steps: the first step of the run to trace, from 0, and the one after the last.
        watch: knows the step.
        say: told where a trace is.
    """

    def __init__(self, folder: Path, steps: tuple[int, int], watch: StepWatch, say: Callable[[str], None]):
        super().__init__()
        self._folder = folder
        self._first, self._last = steps
        self._watch = watch
        self._say = say
        self._tracer: _XSpaceTracer | _TorchTracer | None = None
        self._step = contextlib.ExitStack()  # the one that is being computed

    def __enter__(self) -> "StepProfiler":
        return self

    def __exit__(self, kind: type | None, *exception) -> None:
        self._end(write=kind is None or self._watch.stopped)

    # `on_train_batch_end` would make Keras wait for each step.
    def on_train_batch_begin(self, batch: int, logs=None) -> None:
        step = self._watch.step
        if self._first <= step < self._last:
            if self._tracer is None:
                self._begin(step)
            self._step.close()
            self._step.enter_context(self._tracer.step(step))
            self._finished = step + 1
        elif self._tracer:
            self._end(write=True)

    def _begin(self, step: int) -> None:
        tracer = _TRACERS[keras.backend.backend()]()
        tracer.wait()  # Devices may still be at the steps before.
        with silenced(2):
            tracer.start()
        self._tracer, self._begun = tracer, step

    def _end(self, write: bool) -> None:
        tracer, self._tracer = self._tracer, None
        if tracer is None:
            return
        if write:
            tracer.wait()
        self._step.close()
        name = f"steps-{self._begun}-{self._finished}"
        with silenced(2):
            problems = tracer.end(self._folder, name if write else None)
        if not write:
            return
        clear_status_line()
        for problem in problems:
            self._say(f"The profiler tells: {problem}")
        self._say(
            f"Steps {self._begun:,} to {self._finished:,} are traced: https://ui.perfetto.dev opens "
            f"{self._folder / name}{_SUFFIX}"
            + (f", and TensorBoard with xprof {self._folder}" if tracer.for_tensorboard else "")
        )


class _XSpaceTracer:
    """What TensorFlow and JAX have in common: their profilers write an XSpace protocol buffer, below a folder."""

    for_tensorboard = True

    def __init__(self) -> None:
        try:
            self._temporary = tempfile.TemporaryDirectory(prefix="keras_alexnet-")
        except OSError as error:
            raise UserError(
                f"--profile_steps needs a writable temporary folder ({error.strerror}). Set TMPDIR to one."
            ) from None

    def end(self, folder: Path, name: str | None) -> list[str]:
        """Writes the trace for TensorBoard and for Perfetto, or none without a name; returns what went wrong in it."""
        with self._temporary:
            self._stop()
            if name is None:
                return []
            (source,) = Path(self._temporary.name).rglob("*.xplane.pb")
            xspace = source.read_bytes()
        # The path under which TensorBoard looks for it, and keeps what it has computed from an earlier one.
        own_folder = folder / "plugins" / "profile" / name
        shutil.rmtree(own_folder, ignore_errors=True)
        with atomic_path(own_folder / source.name) as partial:
            partial.write_bytes(xspace)
        with atomic_path(folder / (name + _SUFFIX)) as partial:
            return write_chrome_trace(xspace, partial)


class _TensorFlowTracer(_XSpaceTracer):
    def __init__(self) -> None:
        super().__init__()
        import tensorflow as tf

        self._tf = tf
        self._profiler = tf.profiler.experimental

    def start(self) -> None:
        self._profiler.start(self._temporary.name)

    def step(self, number: int) -> contextlib.AbstractContextManager:
        return self._profiler.Trace(_STEP, step_num=number, _r=1)

    def wait(self) -> None:
        # `tf.test.experimental.sync_devices` would ask the devices of other workers too, and fail.
        for kind in ("CPU", "GPU"):
            for number in range(len(self._tf.config.get_visible_devices(kind))):
                with self._tf.device(f"{kind}:{number}"):
                    self._tf.raw_ops.SyncDevice()

    def _stop(self) -> None:
        self._profiler.stop()


class _JaxTracer(_XSpaceTracer):
    def __init__(self) -> None:
        super().__init__()
        import jax

        self._jax = jax

    def start(self) -> None:
        options = self._jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # Every call of a Python function would be an event.
        self._jax.profiler.start_trace(self._temporary.name, profiler_options=options)

    def step(self, number: int) -> contextlib.AbstractContextManager:
        return self._jax.profiler.StepTraceAnnotation(_STEP, step_num=number)

    def wait(self) -> None:
        self._jax.block_until_ready(self._jax.live_arrays())

    def _stop(self) -> None:
        self._jax.profiler.stop_trace()


class _TorchTracer:
    """PyTorch's profiler writes Chrome traces itself."""

    for_tensorboard = False

    def __init__(self) -> None:
        import torch

        self._torch = torch
        self._profiler = torch.profiler.profile()

    def start(self) -> None:
        self._profiler.start()

    def step(self, number: int) -> contextlib.AbstractContextManager:
        return self._torch.profiler.record_function(f"{_STEP} {number}")

    def wait(self) -> None:
        if self._torch.cuda.is_available():
            self._torch.cuda.synchronize()

    def end(self, folder: Path, name: str | None) -> list[str]:
        self._profiler.stop()
        if name is not None:
            with atomic_path(folder / (name + _SUFFIX)) as partial:
                self._profiler.export_chrome_trace(str(partial))
        return []


_TRACERS = {"tensorflow": _TensorFlowTracer, "jax": _JaxTracer, "torch": _TorchTracer}
