"""A training run from map files to `model.keras`."""

import contextlib
import gc
import math
import time
from collections.abc import Callable
from pathlib import Path

import keras

from keras_alexnet.data.class_file import read_classes, write_classes
from keras_alexnet.data.image_map import ImageMap
from keras_alexnet.data.order import steps_per_pass
from keras_alexnet.model_file import model_sizes, save_model
from keras_alexnet.system import compilation_cache
from keras_alexnet.system.atomic import write_text
from keras_alexnet.system.keras_settings import keras_defaults
from keras_alexnet.system.lock import exclusive
from keras_alexnet.system.process_pool import cpu_count
from keras_alexnet.system.progress import duration, say
from keras_alexnet.training.build import architecture, build_model, build_network
from keras_alexnet.training.callbacks import StepWatch
from keras_alexnet.training.checkpoint import (
    Progress,
    assign,
    restore,
    save_checkpoint,
    variable_arrays,
)
from keras_alexnet.training.config import TrainConfig
from keras_alexnet.training.devices.base import Devices, check_batch_size, check_same_settings
from keras_alexnet.training.devices.choice import choose_devices
from keras_alexnet.training.interruption import StopRequest
from keras_alexnet.training.memory import explained_memory
from keras_alexnet.training.metrics import error_rates
from keras_alexnet.training.profile import StepProfiler, check_profile_steps
from keras_alexnet.training.record import RunRecord, TensorBoard, write_history
from keras_alexnet.training.run_files import (
    BEST_MODEL_FILE,
    CHECKPOINT_FOLDER,
    FLAGS_FILE,
    HISTORY_FILE,
    MODEL_FILE,
    PROFILE_FOLDER,
)
from keras_alexnet.training.run_folder import discard_run, find_checkpoint, is_finished
from keras_alexnet.training.schedule import rate_in_epoch


@keras_defaults()
def train(
    config: TrainConfig, *, restart: bool = False, write_report: Callable[[Path, ImageMap, int], Path] | None = None
) -> list[dict]:
    """Trains, validating after each epoch; goes on at the step where a run in the same folder stopped.

    Writes to `config.output_dir`: `flags.txt` and `run.json` at the start, `checkpoint/` as often as
    `config.checkpoint_minutes` says, `history.csv`, `best.keras` and the points for TensorBoard after each epoch, and
    `model.keras` at the end; with each model its class file. Ctrl-C, SIGTERM and SIGHUP save a checkpoint after the
    step at hand, and end then.

    Args:
        config: the settings; `config.report` is for `report.train`, which passes `write_report`.
        restart: throw away the run that the folder holds.
        write_report: ends a finished run: called with its folder, its validation images and the batch size, writes the
            report unless the folder has one on this model, and returns its page.

    Returns:
        The history: a dict an epoch, as in `history.csv`.

    Raises:
        UserError: anything in the data, the settings or the folder that the user can mend, or a loss not finite.
        KeyboardInterrupt: Ctrl-C, when all is saved.
        SystemExit: SIGTERM or SIGHUP, when all is saved; with status 143 or 129.
    """
    data = open_data(config)
    steps_per_epoch = steps_in_epoch(config, data)
    check_profile_steps(config, steps_per_epoch)
    with choose_devices(config.strategy, deterministic=config.deterministic) as devices:
        check_batch_size(config.batch_size, devices.num_replicas)
        check_same_settings(devices, run_identity(config, data), config.epochs, config.log_every, restart)
        with exclusive(config.output_dir) if devices.is_chief else contextlib.nullcontext():
            try:
                return _Run(config, data, steps_per_epoch, devices, write_report).train(restart)
            finally:
                gc.collect()  # Keras's models are cycles of references.


def open_data(config: TrainConfig):
    """The images that the settings name, read as far as it takes to find mistakes: `TrainingData`, or synthetic."""
    if config.synthetic_data:
        from keras_alexnet.data.synthetic import SyntheticData

        return SyntheticData(config.batch_size)
    # TensorFlow reads images; synthetic ones do without it under the other backends.
    from keras_alexnet.data.source import read_training_data

    data = read_training_data(config.data_dir)
    data.raise_if_missing()
    return data


def steps_in_epoch(config: TrainConfig, data) -> int:
    """Steps of an epoch; raises `UserError` where there are fewer images than a batch takes."""
    whole_pass = steps_per_pass(data.num_training, config.batch_size)
    return config.steps_per_epoch or whole_pass


def run_identity(config: TrainConfig, data) -> dict:
    """What makes a run what it is: settings, backend and data, by names for people."""
    return config.identity() | {"backend": keras.backend.backend()} | data.identity


class _Run:
    """The parts of a run that has a folder of its own."""

    def __init__(self, config: TrainConfig, data, steps_per_epoch: int, devices: Devices, write_report):
        self.config = config
        self.data = data
        self.steps_per_epoch = steps_per_epoch
        self.devices = devices
        self.write_report = write_report
        self.folder = Path(config.output_dir)
        self.identity = run_identity(config, data)
        # Synthetic images teach nothing. And to save a model, Keras would import TensorFlow.
        self.keeps_weights = not config.synthetic_data
        self.training_metrics: dict = {}  # of an epoch whose validation is going on

    def train(self, restart: bool) -> list[dict]:
        checkpoint = None if restart else find_checkpoint(self.folder, self.identity, self.devices, self._say)
        progress = checkpoint.progress if checkpoint else Progress(0, [], self.identity, cpu_count())
        self.history = list(progress.history)
        finished = is_finished(self.folder, progress, self.config.epochs, self.steps_per_epoch)
        if not any(self.devices.agree([not finished])):
            self._say(
                f"This run is finished: {progress.epochs} epochs. Give more --epochs to go on, or --restart to begin "
                "anew."
            )
            self._report()
            return self.history

        self._began = time.monotonic() - progress.total_seconds
        with self.devices.scope():
            self.model = build_model(self.config, self.data.num_classes)
            self.architecture = architecture(self.config, self.model)
            with self._explained_memory():
                self.network = build_network(self.model, self.config, self.steps_per_epoch, self.devices)
                if checkpoint:
                    restore(self.network, checkpoint, self.architecture)
        del checkpoint  # Its arrays take as much memory as the weights and the momenta.
        self._print_start(progress)
        self._cache_images(progress)
        if self.devices.is_chief:
            if restart:
                discard_run(self.folder)
            write_text(self.folder / FLAGS_FILE, self.config.flagfile())
            write_history(self.folder / HISTORY_FILE, self.history)
            self.record = RunRecord(
                self.folder, self.config, self.identity, self.devices.description, first_step=progress.steps
            )
            self.record.write(self.history, progress.steps, self._seconds())
            self.tensorboard = TensorBoard(self.folder) if self.config.tensorboard else None

        with StopRequest() as stop_request:
            self.watch = StepWatch(
                self.config,
                self.steps_per_epoch,
                progress.steps,
                self.devices,
                stop_request,
                waited=lambda: self.devices.wait.seconds,
                save=self._save_checkpoint,
                log=self._log,
            )
            try:
                with self._explained_memory():
                    for epoch in range(progress.epochs, self.config.epochs):
                        self._run_epoch(epoch, progress)
            except (KeyboardInterrupt, SystemExit):
                if self.watch.stopped:
                    self._print_stop(restart)
                raise
        if self.devices.is_chief and self.keeps_weights:
            self._save_model(MODEL_FILE)
            steps = len(self.history) * self.steps_per_epoch
            self.record.write(self.history, steps, self._seconds(), model_steps=steps)
        self._say(f"Finished. The model is {self.folder / MODEL_FILE}" if self.keeps_weights else "Finished.")
        self._report()
        self.devices.agree([0.0])  # All wait here until the chief has saved.
        return self.history

    def _explained_memory(self) -> contextlib.AbstractContextManager:
        devices = self.devices
        return explained_memory(self.model, self.config.batch_size, devices.num_replicas, devices.platform)

    def _report(self) -> None:
        if not (self.write_report and self.devices.is_chief):
            return
        try:
            with self.devices.alone():
                page = self.write_report(self.folder, self.data.validation, self.config.batch_size)
        except KeyboardInterrupt:
            self._say("The model is saved. Give the same command for the report.")
            raise
        self._say(f"The report is {page}")

    def _cache_images(self, progress: Progress) -> None:
        """Caches decoded images if that helps and they fit into memory."""
        self._reported_drop = False
        if self.config.cache == "auto" and self.config.epochs - progress.epochs > 1:
            self.data, line = self.data.with_caches(self.devices.num_workers)
            if line:
                self._say(line)

    def _run_epoch(self, epoch: int, progress: Progress) -> None:
        """Trains and validates; `progress` is where the run stood at its start."""
        config, network, watch = self.config, self.network, self.watch
        first_batch, seconds, waited = 0, 0.0, 0.0
        if epoch == progress.epochs:
            first_batch = progress.steps - epoch * self.steps_per_epoch
            seconds, waited = progress.epoch_seconds, progress.epoch_wait
        watch.begin_epoch(epoch, first_batch, seconds, waited)
        image_size, _ = model_sizes(network)
        share = {"worker": self.devices.worker, "num_workers": self.devices.num_workers, "image_size": image_size}

        if first_batch < self.steps_per_epoch:
            callbacks = [watch]
            if first_batch:
                # `fit` resets the metrics just before it calls this.
                metrics = variable_arrays(network, "metrics")
                callbacks.append(keras.callbacks.LambdaCallback(on_epoch_begin=lambda *_: assign(network, metrics)))
            step = epoch * self.steps_per_epoch + first_batch
            batches = self.data.training_batches(config.batch_size, seed=config.seed, first_step=step, **share)
            with (
                self.data.training_errors(config.batch_size, seed=config.seed, step=lambda: watch.step),
                self.devices.feed(batches) as feed,
                self._profiler() as profiler,
            ):
                network.fit(
                    feed,
                    initial_epoch=epoch,
                    epochs=epoch + 1,
                    steps_per_epoch=self.steps_per_epoch - first_batch,
                    shuffle=False,
                    verbose=0,
                    callbacks=[*callbacks, profiler] if profiler else callbacks,
                )
        training = watch.end_training(network.get_metrics_result())
        self.training_metrics = variable_arrays(network, "metrics")
        batches = self.data.validation_batches(config.batch_size, **share)
        with (
            self.data.validation_errors(config.batch_size, batch=lambda: watch.batch),
            self.devices.feed(batches) as feed,
        ):
            num_batches = -(-self.data.num_validation // config.batch_size)
            results = network.evaluate(feed, steps=num_batches, verbose=0, return_dict=True, callbacks=[watch])
        validation = error_rates(results, self.data.num_validation)
        watch.check_validation_loss(validation["loss"])
        self._end_epoch(epoch, training, validation)

    def _profiler(self) -> contextlib.AbstractContextManager[StepProfiler | None]:
        """The chief's, as that of any other worker would show the same."""
        if not (self.config.profile_steps and self.devices.is_chief):
            return contextlib.nullcontext()
        return StepProfiler(self.folder / PROFILE_FOLDER, self.config.profile_steps, self.watch, self._say)

    def _end_epoch(self, epoch: int, training: dict[str, float], validation: dict[str, float]) -> None:
        """Prints and records the errors, and saves."""
        config, watch = self.config, self.watch
        if self.data.has_dropped_images and not self._reported_drop:
            self._reported_drop = True
            self._say("Note: memory became scarce, so decoded images no longer stay in it; they are decoded again")
        num_images = self.steps_per_epoch * config.batch_size
        best = min((row["val_top1_error"] for row in self.history), default=float("inf"))
        row = {
            "epoch": epoch + 1,
            "steps": (epoch + 1) * self.steps_per_epoch,
            "learning_rate": rate_in_epoch(epoch, config.learning_rate, config.lr_drop_epochs, config.lr_drop_factor),
            **training,
            **{f"val_{name}": value for name, value in validation.items()},
            "images_per_second": round(num_images / watch.training_seconds, 1),
            "data_wait": round(watch.training_wait / watch.training_seconds, 4),
            "seconds": round(watch.epoch_seconds(), 1),
        }
        self.history.append(row)
        compilation_cache.record()
        watch.begin_epoch(epoch + 1, 0, 0.0, 0.0)
        watch.saved()  # By all workers, who have to agree on what is due.
        arrays = self._arrays()
        if not self.devices.is_chief:
            return
        # In this order nothing is lost by an interruption between two of them: what comes before the checkpoint is
        # written again if that is not there, and what comes after it when the run goes on.
        if self.tensorboard:
            self.tensorboard.write(row["steps"], training | {"learning_rate": row["learning_rate"]}, "epoch")
            self.tensorboard.write(row["steps"], validation, "validation")
            speed = {name: row[name] for name in ("images_per_second", "data_wait")}
            self.tensorboard.write(row["steps"], speed, "speed")
        if row["val_top1_error"] < best and self.keeps_weights:
            self._save_model(BEST_MODEL_FILE)
        self._write_checkpoint(arrays)
        write_history(self.folder / HISTORY_FILE, self.history)
        self._say(
            f"epoch {epoch + 1}/{config.epochs}  {_rates_text(training)}  validation: {_rates_text(validation)}  "
            f"{row['images_per_second']:,.0f} img/s  {100 * row['data_wait']:.0f} % waiting for data  "
            f"{duration(row['seconds'])}"
        )

    def _save_model(self, name: str) -> None:
        """Saves the classes first: no model is written without them."""
        write_classes(self.folder / name, self.data.classes, self.data.class_names)
        with self.devices.alone():
            save_model(self.model, self.folder / name, self.config.precision)

    def _save_checkpoint(self) -> None:
        """In the middle of an epoch, or of its validation."""
        arrays = self._arrays()
        if self.watch.validating:
            arrays |= self.training_metrics
        if self.devices.is_chief:
            self._write_checkpoint(arrays)

    def _arrays(self) -> dict:
        """What a checkpoint holds; all workers take part in the metrics, and only the chief needs the rest."""
        return variable_arrays(self.network, "" if self.devices.is_chief else "metrics")

    def _write_checkpoint(self, arrays: dict) -> None:
        epoch_seconds, epoch_wait = self.watch.clocks()
        progress = Progress(
            steps=self.watch.step,
            history=self.history,
            identity=self.identity,
            cores=cpu_count(),
            epoch_seconds=epoch_seconds,
            epoch_wait=epoch_wait,
            total_seconds=self._seconds(),
            architecture=self.architecture,
        )
        if self.keeps_weights:
            save_checkpoint(self.folder / CHECKPOINT_FOLDER, arrays, progress)
        self.record.write(self.history, progress.steps, progress.total_seconds)

    def _log(self, steps: int, rates: dict[str, float], images_per_second: float, waiting: float) -> None:
        if self.devices.is_chief and self.tensorboard:
            self.tensorboard.write(steps, rates, "training")
            self.tensorboard.write(steps, {"images_per_second": images_per_second, "data_wait": waiting}, "speed")

    def _print_start(self, progress: Progress) -> None:
        data, config = self.data, self.config
        trained = sum(math.prod(variable.shape) for variable in self.model.trainable_variables)
        frozen = f", {trained:,} of them trained" if config.freeze_through else ""
        first_batch = progress.steps - progress.epochs * self.steps_per_epoch
        going_on = f"; going on after epoch {progress.epochs}" if progress.steps else ""
        if first_batch:
            going_on += f" and {first_batch:,} steps"
        self._say(
            f"{data.num_training:,} training and {data.num_validation:,} validation images of {data.num_classes:,} "
            f"classes, {self.model.count_params():,} parameters{frozen}, {config.precision}, "
            f"{self.devices.description}\n"
            f"{config.epochs} epochs of {self.steps_per_epoch:,} steps of {config.batch_size} images{going_on}"
        )
        if data.num_classes == 1:
            self._say("Note: there is only one class, so there is nothing to learn")
        if config.initial_model and self.keeps_weights and not progress.steps:
            classes = read_classes(config.initial_model)
            if classes and len(classes) == data.num_classes and classes != data.classes:
                self._say(f"fc8 starts from that of {config.initial_model}, whose classes are others")

    def _print_stop(self, restart: bool) -> None:
        position = f"after step {self.watch.step:,}, in epoch {self.watch.epoch + 1}"
        if self.keeps_weights:
            again = "the same command, without --restart," if restart else "the same command"
            self._say(f"Stopped and saved {position}. Give {again} to go on.")
        else:
            self._say(f"Stopped {position}.")

    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _say(self, text: str) -> None:
        if self.devices.is_chief:
            say(text)


def _rates_text(rates: dict[str, float]) -> str:
    return (
        f"loss {rates['loss']:.3f}  top-1 error {100 * rates['top1_error']:.1f} %  "
        f"top-5 error {100 * rates['top5_error']:.1f} %"
    )
