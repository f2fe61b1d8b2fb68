"""What happens around the steps of `fit`: progress, the record of epochs, and the watch over the loss."""

import csv
import io
import math
import time
from pathlib import Path

import keras

from keras_alexnet.atomic import write_text
from keras_alexnet.data.pipeline import DataWait
from keras_alexnet.errors import UserError
from keras_alexnet.progress import StatusLine, duration
from keras_alexnet.training.checkpoint import Progress, save_checkpoint
from keras_alexnet.training.config import TrainConfig
from keras_alexnet.training.evaluation import error_rates
from keras_alexnet.training.schedule import rate_in_epoch

_DIVERGED = (
    "the training diverged. Begin anew with a lower --learning_rate, and with --restart or another --output_dir."
)


class StepWatch(keras.callbacks.Callback):
    """Shows a line of progress, and stops on a loss that is not finite.

    It looks at the metrics only when a line is due: reading them waits for the device, and `on_train_batch_end`, which
    this class leaves alone, would make Keras wait at every step.
    """

    def __init__(self, epochs: int, steps_per_epoch: int, batch_size: int, first_epoch: int, wait: DataWait):
        super().__init__()
        self._wait = wait
        self._epochs = epochs
        self._steps_per_epoch = steps_per_epoch
        self._batch_size = batch_size
        self._line = StatusLine()
        self._epoch = first_epoch
        self.batch = 0  # of the epoch, or of its validation: the one that is being computed
        self.validating = False

    @property
    def step(self) -> int:
        """The training step of the run that is being computed, from 0."""
        return self._epoch * self._steps_per_epoch + self.batch

    def on_epoch_begin(self, epoch: int, logs=None) -> None:
        self._epoch = epoch
        self.batch = 0
        self._begin = time.monotonic()
        self._waited_before = self._wait.seconds
        self._checked = 0
        self.training_seconds = 0.0
        self.data_wait = 0.0  # the share of the training's time in which there was no data
        self.validating = False

    def on_train_batch_begin(self, batch: int, logs=None) -> None:
        self.batch = batch
        if batch and self._line.due():
            if keras.backend.backend() == "jax":
                self.model.jax_state_sync()
            results = self.model.get_metrics_result()
            self._check_loss(results, batch)
            seconds = time.monotonic() - self._begin
            num_images = batch * self._batch_size
            left = seconds / batch * (self._steps_per_epoch - batch)
            rates = error_rates(results, num_images)
            errors = "/".join(f"{100 * rates[name]:.1f}" for name in ("top1_error", "top5_error"))
            # Short, as terminals are 80 columns wide.
            self._line.show(
                f"epoch {self._epoch + 1}/{self._epochs}  {batch:,}/{self._steps_per_epoch:,}  "
                f"loss {rates['loss']:.3f}  error {errors} %  "
                f"{num_images / seconds:,.0f} img/s ({100 * self._waited_share(seconds):.0f} % wait)  "
                f"{duration(left)} left"
            )

    def on_test_begin(self, logs=None) -> None:
        # The metrics are still those of the training.
        self._check_loss(self.model.get_metrics_result(), self._steps_per_epoch)
        self.training_seconds = time.monotonic() - self._begin
        self.data_wait = self._waited_share(self.training_seconds)
        self.batch = 0
        self.validating = True

    def on_test_batch_begin(self, batch: int, logs=None) -> None:
        self.batch = batch
        if batch and self._line.due():
            self._line.show(f"epoch {self._epoch + 1}/{self._epochs}  validating, batch {batch:,}")

    def on_test_end(self, logs=None) -> None:
        self._line.clear()

    def seconds(self) -> float:
        """Since the epoch began."""
        return time.monotonic() - self._begin

    def _waited_share(self, seconds: float) -> float:
        # The input runs a little ahead of the training, so its clock may too.
        return min((self._wait.seconds - self._waited_before) / seconds, 1.0)

    def _check_loss(self, results: dict, batches: int) -> None:
        """Raises `UserError` where the mean loss over the first `batches` of the epoch is not finite."""
        loss = float(results["cross_entropy"])
        if not math.isfinite(loss):
            before = self._epoch * self._steps_per_epoch
            raise UserError(
                f"the loss is {loss}, since a step between {before + self._checked + 1:,} and {before + batches:,} "
                f"(epoch {self._epoch + 1}): {_DIVERGED}"
            )
        self._checked = batches


class EpochRecord(keras.callbacks.Callback):
    """At the end of an epoch: prints its errors, writes `history.csv` and a checkpoint."""

    def __init__(
        self,
        config: TrainConfig,
        steps_per_epoch: int,
        num_validation_images: int,
        identity: dict,
        history: list[dict],
        watch: StepWatch,
    ):
        super().__init__()
        self._config = config
        self._steps_per_epoch = steps_per_epoch
        self._num_validation_images = num_validation_images
        self._identity = identity
        self._watch = watch
        self.history = list(history)

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        config, watch = self._config, self._watch
        num_images = self._steps_per_epoch * config.batch_size
        training = error_rates(logs, num_images)
        validation = error_rates(logs, self._num_validation_images, "val_")
        if not math.isfinite(validation["loss"]):
            # The loss of a step is that before its update, so the last step's damage shows only here.
            raise UserError(f"the validation loss is {validation['loss']} after epoch {epoch + 1}: {_DIVERGED}")
        row = {
            "epoch": epoch + 1,
            "steps": (epoch + 1) * self._steps_per_epoch,
            "learning_rate": rate_in_epoch(epoch, config.learning_rate, config.lr_drop_epochs, config.lr_drop_factor),
            **training,
            **{f"val_{name}": value for name, value in validation.items()},
            "images_per_second": round(num_images / watch.training_seconds, 1),
            "data_wait": round(watch.data_wait, 4),
            "seconds": round(watch.seconds(), 1),
        }
        self.history.append(row)
        progress = Progress(epoch + 1, row["steps"], self._identity, self.history)
        save_checkpoint(Path(config.output_dir) / "checkpoint", self.model, progress)
        # After the checkpoint, which has these rows too: what is in history.csv is never lost.
        write_history(Path(config.output_dir) / "history.csv", self.history)
        print(
            f"epoch {epoch + 1}/{config.epochs}  {_rates_text(training)}  validation: {_rates_text(validation)}  "
            f"{row['images_per_second']:,.0f} img/s  {100 * row['data_wait']:.0f} % waiting for data  "
            f"{duration(row['seconds'])}",
            flush=True,
        )


def write_history(path: Path, history: list[dict]) -> None:
    """Writes the finished epochs as CSV, whole or not at all."""
    text = io.StringIO()
    # A run that an older version began may lack columns in its first rows.
    writer = csv.DictWriter(text, fieldnames=list(history[-1]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(path, text.getvalue())


def _rates_text(rates: dict[str, float]) -> str:
    return (
        f"loss {rates['loss']:.3f}  top-1 error {100 * rates['top1_error']:.1f} %  "
        f"top-5 error {100 * rates['top5_error']:.1f} %"
    )
