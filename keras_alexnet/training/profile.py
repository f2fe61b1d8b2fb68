"""Traces of training steps, as the frameworks' own profilers write them."""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import keras

from keras_alexnet.errors import SettingError
from keras_alexnet.system.atomic import atomic_path
from keras_alexnet.system.log_suppression import silenced
from keras_alexnet.system.progress import clear_status_line
from keras_alexnet.training.callbacks import StepWatch
from keras_alexnet.training.config import TrainConfig

_STEP = "train"
_PERFETTO_FILE = "perfetto_trace.json.gz"  # JAX's own name for it


def check_profile_steps(config: TrainConfig, steps_per_epoch: int) -> None:
    """Raises `UserError` where the run has none of the steps to trace."""
    num_steps = config.epochs * steps_per_epoch
    if config.profile_steps and config.profile_steps[0] >= num_steps:
        first, last = config.profile_steps
        raise SettingError(
            "profile_steps", f"is {first}:{last}, but the run has {num_steps:,} steps. Begin below that."
        )


class StepProfiler(keras.callbacks.Callback):
    """Traces the steps of a range; to be given to `fit` after `watch`, within its own context.

    The context ends with the training of an epoch: a range that continues in the next one gets a trace of its own
    there, without the validation. So does one that is interrupted, when the run resumes. A training that fails leaves
    none. Other steps are not touched, and an error of the profiler is reported without stopping the training.

    Args:
        folder: where the traces go: below it, `plugins/profile/steps-FROM-TO/` is where TensorBoard looks for one.
        steps: the first step of the run to trace, from 0, and the one after the last.
        watch: knows the step.
        say: called with where a trace is, or why there is none.
    """

    def __init__(self, folder: Path, steps: tuple[int, int], watch: StepWatch, say: Callable[[str], None]):
        super().__init__()
        self._folder = folder
        self._first, self._last = steps
        self._watch = watch
        self._say = say
        self._tracer: _TensorFlowTracer | _JaxTracer | _TorchTracer | None = None
        self._step = contextlib.ExitStack()  # the one that is being computed
        self._resources = contextlib.ExitStack()

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
            if self._tracer:
                self._step.close()
                self._step.enter_context(self._tracer.step(step))
                self._finished = step + 1
        else:
            self._end(write=True)

    def _begin(self, step: int) -> None:
        with self._errors_reported():
            tracer = _TRACERS[keras.backend.backend()]()
            tracer.wait()  # Devices may still be at the steps before.
            # The framework writes here first, so that nothing half-written is in the folder of the run.
            self._temporary = self._resources.enter_context(tempfile.TemporaryDirectory(prefix="keras_alexnet-"))
            with silenced(2):
                tracer.start(self._temporary)
            self._tracer, self._begun = tracer, step

    def _end(self, write: bool) -> None:
        tracer, self._tracer = self._tracer, None
        if tracer is None:
            return
        with self._errors_reported(), self._resources:
            try:
                if write:
                    tracer.wait()
            finally:
                self._step.close()
                with silenced(2):
                    tracer.stop(self._temporary)
            if write:
                self._keep(Path(self._temporary))

    def _keep(self, temporary: Path) -> None:
        """Copies the files of a trace to their folder, in place of an older trace."""
        trace = self._folder / "plugins" / "profile" / f"steps-{self._begun}-{self._finished}"
        shutil.rmtree(trace, ignore_errors=True)  # TensorBoard also keeps there what it has computed from it.
        for file in filter(Path.is_file, temporary.rglob("*")):
            with atomic_path(trace / file.name) as partial:
                shutil.copyfile(file, partial)
        viewers = []
        if (trace / _PERFETTO_FILE).exists():
            viewers.append(f"https://ui.perfetto.dev opens {trace / _PERFETTO_FILE}")
        if any(trace.glob("*.xplane.pb")):
            viewers.append(f"TensorBoard with xprof opens {self._folder}")
        clear_status_line()
        self._say(f"Steps {self._begun:,} to {self._finished:,} are traced: {', and '.join(viewers)}")

    @contextlib.contextmanager
    def _errors_reported(self) -> Iterator[None]:
        """Reports an error of the profiler, after which nothing more is traced."""
        try:
            yield
        except Exception as error:
            self._last = self._first
            self._resources.close()
            clear_status_line()
            self._say(f"The steps are not traced, and the training continues: {error}")


class _TensorFlowTracer:
    def __init__(self) -> None:
        import tensorflow as tf

        self._tf = tf
        self._profiler = tf.profiler.experimental

    def start(self, folder: str) -> None:
        self._profiler.start(folder)

    def step(self, number: int) -> contextlib.AbstractContextManager:
        return self._profiler.Trace(_STEP, step_num=number, _r=1)

    def wait(self) -> None:
        # `tf.test.experimental.sync_devices` would ask the devices of other workers too, and fail.
        for kind in ("CPU", "GPU"):
            for number in range(len(self._tf.config.get_visible_devices(kind))):
                with self._tf.device(f"{kind}:{number}"):
                    self._tf.raw_ops.SyncDevice()

    def stop(self, folder: str) -> None:
        self._profiler.stop()


class _JaxTracer:
    def __init__(self) -> None:
        import jax

        self._jax = jax

    def start(self, folder: str) -> None:
        options = self._jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # Every call of a Python function would be an event.
        self._jax.profiler.start_trace(folder, create_perfetto_trace=True, profiler_options=options)

    def step(self, number: int) -> contextlib.AbstractContextManager:
        return self._jax.profiler.StepTraceAnnotation(_STEP, step_num=number)

    def wait(self) -> None:
        self._jax.block_until_ready(self._jax.live_arrays())

    def stop(self, folder: str) -> None:
        self._jax.profiler.stop_trace()


class _TorchTracer:
    def __init__(self) -> None:
        import torch

        self._torch = torch
        self._profiler = torch.profiler.profile()

    def start(self, folder: str) -> None:
        self._profiler.start()

    def step(self, number: int) -> contextlib.AbstractContextManager:
        return self._torch.profiler.record_function(f"{_STEP} {number}")

    def wait(self) -> None:
        if self._torch.cuda.is_available():
            self._torch.cuda.synchronize()

    def stop(self, folder: str) -> None:
        self._profiler.stop()
        self._profiler.export_chrome_trace(f"{folder}/{_PERFETTO_FILE}")


_TRACERS = {"tensorflow": _TensorFlowTracer, "jax": _JaxTracer, "torch": _TorchTracer}
