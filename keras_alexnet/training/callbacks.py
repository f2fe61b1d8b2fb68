"""What happens around the steps of `fit`: progress, the record of epochs, and the watch over the loss."""

import csv
import io
import math
import time
from pathlib import Path

import keras

from keras_alexnet.atomic import write_text
from keras_alexnet.errors import UserError
from keras_alexnet.progress import StatusLine
from keras_alexnet.training.checkpoint import Progress, save_checkpoint
from keras_alexnet.training.config import TrainConfig
from keras_alexnet.training.schedule import rate_in_epoch


class StepWatch(keras.callbacks.Callback):
    """Shows a line of progress, and stops on a loss that is not finite.

    It looks at the metrics only when a line is due: reading them waits for the device, and `on_train_batch_end`, which
    this class leaves alone, would make Keras wait at every step.
    """

    def __init__(
        self, epochs: int, steps_per_epoch: int, batch_size: int, num_validation_images: int, first_epoch: int
    ):
        super().__init__()
        self._epochs = epochs
        self._steps_per_epoch = steps_per_epoch
        self._batch_size = batch_size
        self._num_validation_images = num_validation_images
        self._line = StatusLine()
        self._epoch = first_epoch
        self.batch = 0  # the step within the epoch, or the validation batch, that is being computed
        self.validating = False

    @property
    def step(self) -> int:
        """The step of the run that is being computed, from 0."""
        return self._epoch * self._steps_per_epoch + self.batch

    def on_epoch_begin(self, epoch: int, logs=None) -> None:
        self._epoch = epoch
        self._begin = time.monotonic()
        self._checked = 0
        self.training_seconds = 0.0
        self.validating = False

    def on_train_batch_begin(self, batch: int, logs=None) -> None:
        self.batch = batch
        if batch and self._line.due():
            if keras.backend.backend() == "jax":
                self.model.jax_state_sync()
            results = self.model.get_metrics_result()
            self.check_loss(float(results["loss"]))
            seconds = time.monotonic() - self._begin
            left = seconds / batch * (self._steps_per_epoch - batch)
            self._line.show(
                f"epoch {self._epoch + 1}/{self._epochs}  step {batch:,}/{self._steps_per_epoch:,}  "
                f"{errors_text(results)}  {batch * self._batch_size / seconds:,.0f} img/s  "
                f"{_duration(left)} left in this epoch"
            )

    def on_test_begin(self, logs=None) -> None:
        self.training_seconds = time.monotonic() - self._begin
        self.validating = True

    def on_test_batch_begin(self, batch: int, logs=None) -> None:
        self.batch = batch
        if batch and self._line.due():
            self._line.show(
                f"epoch {self._epoch + 1}/{self._epochs}  validated {batch * self._batch_size:,} of "
                f"{self._num_validation_images:,} images"
            )

    def on_test_end(self, logs=None) -> None:
        self._line.clear()

    def check_loss(self, loss: float) -> None:
        """Raises `UserError` on a mean loss over the epoch so far that is not finite."""
        first = self._epoch * self._steps_per_epoch + 1
        if not math.isfinite(loss):
            self._line.clear()
            raise UserError(
                f"the loss is {loss}, since a step between {first + self._checked:,} and {first + self.batch:,} "
                f"(epoch {self._epoch + 1}): the training diverged. Use a lower --learning_rate; the last "
                "checkpoint is from before."
            )
        self._checked = self.batch

    def seconds(self) -> float:
        """Since the epoch began."""
        return time.monotonic() - self._begin


class EpochRecord(keras.callbacks.Callback):
    """At the end of an epoch: prints its errors, writes `history.csv` and a checkpoint."""

    def __init__(
        self, config: TrainConfig, steps_per_epoch: int, identity: dict, history: list[dict], watch: StepWatch
    ):
        super().__init__()
        self._config = config
        self._steps_per_epoch = steps_per_epoch
        self._identity = identity
        self._watch = watch
        self.history = list(history)

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        self._watch.check_loss(logs["loss"])
        config, watch = self._config, self._watch
        row = {
            "epoch": epoch + 1,
            "steps": (epoch + 1) * self._steps_per_epoch,
            "learning_rate": rate_in_epoch(epoch, config.learning_rate, config.lr_drop_epochs, config.lr_drop_factor),
            **_errors(logs),
            **{f"val_{name}": value for name, value in _errors(logs, "val_").items()},
            "images_per_second": round(self._steps_per_epoch * config.batch_size / watch.training_seconds, 1),
            "seconds": round(watch.seconds(), 1),
        }
        self.history.append(row)
        write_history(Path(config.output_dir) / "history.csv", self.history)
        progress = Progress(epoch + 1, row["steps"], self._identity, self.history)
        save_checkpoint(Path(config.output_dir) / "checkpoint", self.model, progress)
        print(
            f"epoch {epoch + 1}/{config.epochs}  {errors_text(logs)}  validation: {errors_text(logs, 'val_')}  "
            f"{row['images_per_second']:,.0f} img/s  {_duration(row['seconds'])}",
            flush=True,
        )


def write_history(path: Path, history: list[dict]) -> None:
    """Writes the finished epochs as CSV, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(path, text.getvalue())


def errors_text(results: dict, prefix: str = "") -> str:
    """loss and errors for people, from Keras's logs."""
    errors = _errors(results, prefix)
    return (
        f"loss {errors['loss']:.3f}  top-1 error {100 * errors['top1_error']:.1f} %  "
        f"top-5 error {100 * errors['top5_error']:.1f} %"
    )


def _errors(results: dict, prefix: str = "") -> dict[str, float]:
    """Loss and error fractions out of Keras's logs, whose metrics are accuracies."""
    return {
        "loss": float(results[f"{prefix}loss"]),
        "top1_error": 1 - float(results[f"{prefix}top1_accuracy"]),
        "top5_error": 1 - float(results[f"{prefix}top5_accuracy"]),
    }


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
