"""A training run from map files to `model.keras`."""

import contextlib
import gc
from collections.abc import Callable
from pathlib import Path

import keras

from keras_alexnet.data.image_map import ImageMap
from keras_alexnet.model_file import model_sizes
from keras_alexnet.system import compilation_cache
from keras_alexnet.system.keras_settings import keras_defaults
from keras_alexnet.system.lock import exclusive
from keras_alexnet.system.process_pool import cpu_count
from keras_alexnet.system.progress import say
from keras_alexnet.training.build import architecture, build_model, build_network
from keras_alexnet.training.callbacks import StepWatch
from keras_alexnet.training.checkpoint import Checkpoint, Progress, assign, restore, variable_arrays
from keras_alexnet.training.config import TrainConfig
from keras_alexnet.training.devices.base import Devices, check_batch_size, check_same_settings
from keras_alexnet.training.devices.choice import choose_devices
from keras_alexnet.training.interruption import StopRequest
from keras_alexnet.training.memory import explained_memory
from keras_alexnet.training.messages import epoch_message, result_message, start_message, stop_message
from keras_alexnet.training.metrics import error_rates
from keras_alexnet.training.outputs import RunOutputs
from keras_alexnet.training.profile import StepProfiler, check_profile_steps
from keras_alexnet.training.run_files import MODEL_FILE, PROFILE_FOLDER
from keras_alexnet.training.run_folder import find_checkpoint, is_finished
from keras_alexnet.training.schedule import rate_in_epoch
from keras_alexnet.training.setup import open_data, run_identity, steps_in_epoch


@keras_defaults()
def train(
    config: TrainConfig, *, restart: bool = False, write_report: Callable[[Path, ImageMap, int], Path] | None = None
) -> list[dict]:
    """Trains, validating after each epoch; resumes at the step where a run in the same directory stopped.

    Writes to `config.output_dir`: `flags.txt` and `run.json` at the start, `checkpoint/` as often as
    `config.checkpoint_minutes` says, `history.csv`, `best.keras` and the points for TensorBoard after each epoch, and
    `model.keras` at the end; with each model its class file. Ctrl-C, SIGTERM and SIGHUP finish the current step, save a
    checkpoint, and end the run.

    Args:
        config: the settings; `config.report` is for `report.train`, which passes `write_report`.
        restart: discard the run that the directory holds.
        write_report: ends a finished run: called with its directory, its validation images and the batch size, writes
            the report unless there is one on this model, and returns its page.

    Returns:
        The history: a dict per epoch, as in `history.csv`.

    Raises:
        UserError: anything in the data, the settings or the directory that the user can fix, or a loss not finite.
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


class _Run:
    """The parts of a run, for its methods."""

    def __init__(self, config: TrainConfig, data, steps_per_epoch: int, devices: Devices, write_report):
        self.config = config
        self.data = data
        self.steps_per_epoch = steps_per_epoch
        self.devices = devices
        self.write_report = write_report
        self.training_metrics: dict = {}  # of an epoch that is being validated
        self.reported_drop = False

    def train(self, restart: bool) -> list[dict]:
        folder, identity = Path(self.config.output_dir), run_identity(self.config, self.data)
        checkpoint = None if restart else find_checkpoint(folder, identity, self.devices, self._say)
        progress = checkpoint.progress if checkpoint else Progress(0, [], identity, cpu_count())
        self.outputs = RunOutputs(self.config, identity, self.data, self.devices, progress)
        finished = is_finished(folder, progress, self.config.epochs, self.steps_per_epoch)
        if not any(self.devices.agree([not finished])):
            self._say(
                f"Training is complete after {progress.epochs} epochs. Increase --epochs to continue, or pass "
                "--restart to start over."
            )
            self._report()
            return self.outputs.history

        self._build(checkpoint)
        del checkpoint  # Its arrays take as much memory as the weights and the momentum buffers.
        self._say(
            start_message(self.config, self.data, self.model, self.devices.description, self.steps_per_epoch, progress)
        )
        self._cache_images(progress)
        self.outputs.open(self.model, self.network, progress.steps, restart)
        with StopRequest() as stop_request:
            self.watch = StepWatch(
                self.config,
                self.steps_per_epoch,
                progress.steps,
                self.devices,
                stop_request,
                waited=lambda: self.devices.wait.seconds,
                save=self._save_checkpoint,
                log=self.outputs.log,
            )
            try:
                with self._explained_memory():
                    for epoch in range(progress.epochs, self.config.epochs):
                        self._run_epoch(epoch, progress)
            except (KeyboardInterrupt, SystemExit):
                if self.watch.stopped:
                    self._say(stop_message(self.watch.step, self.watch.epoch, self.outputs.keeps_weights, restart))
                raise
        self.outputs.save_result()
        if self.outputs.keeps_weights:
            self._say(result_message(self.outputs.history[-1], self.data.num_classes))
        self._say(f"Finished. The model is {folder / MODEL_FILE}" if self.outputs.keeps_weights else "Finished.")
        self._report()
        self.devices.agree([0.0])  # All wait here until the chief has saved.
        return self.outputs.history

    def _build(self, checkpoint: Checkpoint | None) -> None:
        with self.devices.scope():
            self.model = build_model(self.config, self.data.num_classes)
            with self._explained_memory():
                self.network = build_network(self.model, self.config, self.steps_per_epoch, self.devices)
                if checkpoint:
                    restore(self.network, checkpoint, architecture(self.config, self.model))

    def _explained_memory(self) -> contextlib.AbstractContextManager:
        devices = self.devices
        return explained_memory(self.model, self.config.batch_size, devices.num_replicas, devices.platform)

    def _report(self) -> None:
        if not (self.write_report and self.devices.is_chief):
            return
        try:
            with self.devices.alone():
                page = self.write_report(self.outputs.folder, self.data.validation, self.config.batch_size)
        except KeyboardInterrupt:
            self._say("The model is saved. Run the same command again to write the report.")
            raise
        self._say(f"The report is {page}")

    def _cache_images(self, progress: Progress) -> None:
        """Caches decoded images if that helps and they fit into memory."""
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
        return StepProfiler(self.outputs.folder / PROFILE_FOLDER, self.config.profile_steps, self.watch, self._say)

    def _end_epoch(self, epoch: int, training: dict[str, float], validation: dict[str, float]) -> None:
        """Prints and records the results, and saves."""
        config, watch = self.config, self.watch
        if self.data.has_dropped_images and not self.reported_drop:
            self.reported_drop = True
            self._say("Note: memory is low, so decoded images are no longer cached; they are decoded again")
        row = {
            "epoch": epoch + 1,
            "steps": (epoch + 1) * self.steps_per_epoch,
            "learning_rate": rate_in_epoch(epoch, config.learning_rate, config.lr_drop_epochs, config.lr_drop_factor),
            **training,
            **{f"val_{name}": value for name, value in validation.items()},
            "images_per_second": round(self.steps_per_epoch * config.batch_size / watch.training_seconds, 1),
            "data_wait": round(watch.training_wait / watch.training_seconds, 4),
            "seconds": round(watch.epoch_seconds(), 1),
        }
        compilation_cache.record()
        watch.begin_epoch(epoch + 1, 0, 0.0, 0.0)
        watch.saved()  # By all workers, who have to agree on what is due.
        self.outputs.end_epoch(row, self.outputs.arrays(), *watch.clocks())
        self._say(epoch_message(row, config.epochs, self.data.num_classes))

    def _save_checkpoint(self) -> None:
        """In the middle of an epoch, or of its validation."""
        arrays = self.outputs.arrays()
        if self.watch.validating:
            arrays |= self.training_metrics
        self.outputs.write_checkpoint(arrays, self.watch.step, *self.watch.clocks())

    def _say(self, text: str) -> None:
        if self.devices.is_chief:
            say(text)
