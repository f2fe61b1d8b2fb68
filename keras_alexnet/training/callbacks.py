"""What happens between the steps of `fit` and `evaluate`."""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import keras

from keras_alexnet.errors import UserError
from keras_alexnet.system.progress import StatusLine, compose, say
from keras_alexnet.training.config import TrainConfig
from keras_alexnet.training.devices.base import Devices
from keras_alexnet.training.interruption import StopRequest, stop
from keras_alexnet.training.metrics import error_rates
from keras_alexnet.training.progress_line import Pace, training_line, validation_line

_DIVERGED = (
    "the training diverged. Start over with a lower --learning_rate, and with --restart or another --output_dir."
)
# Workers agree on what is due about that often, as each time costs them a message.
_AGREEMENT_SECONDS = 1.0


class StepWatch(keras.callbacks.Callback):
    """Shows progress, saves checkpoints, and stops on a request or on a loss that is not finite.

    It looks at the metrics only when a line is due: reading them waits for the device. Defining `on_train_batch_end`
    would make Keras wait at every step. On several workers, all do each of these at the same
    step, since reading metrics takes all of them.

    Args:
        config: the settings.
        steps_per_epoch: steps of an epoch.
        first_step: the step of the run to begin at.
        devices: those of the run.
        stop_request: asked before each step.
        waited: gives the seconds in which there was no data, so far.
        save: writes a checkpoint of the position in the attributes.
        log: takes (finished steps of the run, error rates, images per second, share of data wait) of log_every steps.

    Attributes:
        epoch: the one that is being computed, from 0.
        batch: of the epoch, or of its validation: the one that is being computed.
        validating: whether the training of the epoch is done.
        stopped: whether it has ended the run on request.
    """

    def __init__(
        self,
        config: TrainConfig,
        steps_per_epoch: int,
        first_step: int,
        devices: Devices,
        stop_request: StopRequest,
        waited: Callable[[], float],
        save: Callable[[], None],
        log: Callable[[int, dict, float, float], None],
    ):
        super().__init__()
        self._config = config
        self._steps_per_epoch = steps_per_epoch
        self._devices = devices
        self._stop_request = stop_request
        self._waited = waited
        self._save = save
        self._log = log
        self._line = StatusLine()
        self._seen = self._next_agreement = 0
        self._last_agreement = (time.monotonic(), 0)
        self._validation_seconds = 0.0  # for what is known of it
        self.epoch, self.batch = divmod(first_step, steps_per_epoch)
        self.validating = self.stopped = False
        self.saved()

    @property
    def step(self) -> int:
        """The training step of the run that is being computed, from 0: as many are finished."""
        return self.epoch * self._steps_per_epoch + (self._steps_per_epoch if self.validating else self.batch)

    def begin_epoch(self, epoch: int, first_batch: int, seconds: float, waited: float) -> None:
        """To be called before an epoch, with the time that was spent on it before the run was interrupted."""
        self.epoch, self.batch, self._first_batch = epoch, first_batch, first_batch
        self.validating = False
        self._checked = first_batch
        self._pace = Pace()
        self._begin = time.monotonic() - seconds
        self._waited_before = self._waited() - waited

    def end_training(self, results: dict) -> dict[str, float]:
        """To be called after an epoch's training with its metrics; returns the error rates."""
        self._check_loss(results, self._steps_per_epoch)
        self.training_seconds, self.training_wait = self._clock()
        self.batch = 0
        self.validating = True
        return error_rates(results, self._steps_per_epoch * self._config.batch_size)

    def clocks(self) -> tuple[float, float]:
        """Seconds spent on the training of this epoch, and of these without data."""
        return (self.training_seconds, self.training_wait) if self.validating else self._clock()

    def epoch_seconds(self) -> float:
        """Seconds spent on this epoch."""
        return time.monotonic() - self._begin

    def saved(self) -> None:
        """To be called after a checkpoint of the current step: the next one is due `checkpoint_minutes` from now."""
        self._saved_step = self.step
        self._next_save = time.monotonic() + 60 * self._config.checkpoint_minutes

    def on_train_batch_begin(self, batch: int, logs=None) -> None:
        self.batch = self._first_batch + batch
        due = self._due()
        logging = self._config.log_every and self.batch % self._config.log_every == 0
        if batch and (due.line or logging):
            self._report(line=due.line, log=logging)
        self._pace.begin_step(batch)
        self._save_or_stop(due)

    def on_test_begin(self, logs=None) -> None:
        self._pace = Pace()

    def on_test_batch_begin(self, batch: int, logs=None) -> None:
        self.batch = batch
        due = self._due()
        if batch and due.line and self._devices.is_chief:
            self._show_validation()
        self._pace.begin_step(batch)
        self._save_or_stop(due)

    def on_test_end(self, logs=None) -> None:
        num_batches = self.batch + 1
        self._validation_seconds = num_batches * self._pace.step_seconds(num_batches)
        self._line.clear()

    def _due(self) -> "_Due":
        self._seen += 1
        if self._seen < self._next_agreement:
            return _Due()
        now = time.monotonic()
        chief = self._devices.is_chief
        due = _Due(self._stop_request.signal, chief and now >= self._next_save, chief and self._line.due())
        if self._devices.num_workers == 1:
            return due
        before, seen_before = self._last_agreement
        seconds_a_step = (now - before) / max(self._seen - seen_before, 1)
        *agreed, seconds_a_step = self._devices.agree([*due, seconds_a_step])
        self._last_agreement = (now, self._seen)
        self._next_agreement = self._seen + max(1, int(_AGREEMENT_SECONDS / seconds_a_step))
        return _Due(int(agreed[0]), bool(agreed[1]), bool(agreed[2]))

    def _save_or_stop(self, due: "_Due") -> None:
        # Validation changes nothing that a checkpoint holds.
        if (due.checkpoint or due.signal) and self.step != self._saved_step:
            self._line.clear()
            if not self.validating:
                self._check_loss(self._results(), self.batch)
            self._save()
            self.saved()
        if due.signal:
            self._devices.agree([0.0])  # All wait here until the chief has saved.
            self.stopped = True
            stop(due.signal)

    def _report(self, line: bool, log: bool) -> None:
        results = self._results()
        self._check_loss(results, self.batch)
        num_images = self.batch * self._config.batch_size
        rates = error_rates(results, num_images)
        seconds, waited = self._clock()
        images_per_second, data_wait = num_images / seconds, waited / seconds
        if log:
            self._log(self.step, rates, images_per_second, data_wait)
        if not self._devices.is_chief:
            return
        finished = self.batch - self._first_batch
        step_seconds = self._pace.step_seconds(finished)
        epoch_eta = step_seconds * (self._steps_per_epoch - self.batch)
        run_eta = self._run_eta(
            epoch_eta + self._validation_seconds, step_seconds * self._steps_per_epoch, self._validation_seconds
        )
        parts = training_line(
            (self.epoch + 1, self._config.epochs),
            (self.batch, self._steps_per_epoch),
            rates,
            self.model.output_shape[-1],
            images_per_second,
            data_wait,
            epoch_eta,
            run_eta if finished > 1 else None,
        )
        if log:
            self._line.clear()
            say(compose(parts))
        if line:
            self._line.show(parts, self.batch / self._steps_per_epoch)

    def _show_validation(self) -> None:
        num_batches = self.params.get("steps")
        batch_seconds = self._pace.step_seconds(self.batch)
        epoch_eta = run_eta = None
        if num_batches:
            epoch_eta = batch_seconds * (num_batches - self.batch)
            if self.batch > 1:
                run_eta = self._run_eta(epoch_eta, self.training_seconds, batch_seconds * num_batches)
        self._line.show(
            validation_line(
                (self.epoch + 1, self._config.epochs),
                (self.batch, num_batches),
                self._config.batch_size / batch_seconds,
                epoch_eta,
                run_eta,
            ),
            self.batch / num_batches if num_batches else None,
        )

    def _run_eta(self, epoch_eta: float, training_seconds: float, validation_seconds: float) -> float:
        """Seconds until the end of the run: of this epoch, and of each of the others as long as this one takes."""
        return epoch_eta + (self._config.epochs - self.epoch - 1) * (training_seconds + validation_seconds)

    def _results(self) -> dict:
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        return self.model.get_metrics_result()

    def _clock(self) -> tuple[float, float]:
        return time.monotonic() - self._begin, self._waited() - self._waited_before

    def _check_loss(self, results: dict, batches: int) -> None:
        """Raises `UserError` where the mean loss over the first `batches` of the epoch is not finite."""
        loss = float(results["cross_entropy"])
        if not math.isfinite(loss):
            before = self.epoch * self._steps_per_epoch
            raise UserError(
                f"the loss is {loss}, since a step between {before + self._checked + 1:,} and {before + batches:,} "
                f"(epoch {self.epoch + 1}): {_DIVERGED}"
            )
        self._checked = batches

    def check_validation_loss(self, loss: float) -> None:
        """Raises `UserError` where it is not finite: a step's loss is that before its update, the last step's too."""
        if not math.isfinite(loss):
            raise UserError(f"the validation loss is {loss} after epoch {self.epoch + 1}: {_DIVERGED}")


class _Due(NamedTuple):
    """What has to happen before this step: stop for a signal (its number), save a checkpoint, show a line."""

    signal: int = 0
    checkpoint: bool = False
    line: bool = False
