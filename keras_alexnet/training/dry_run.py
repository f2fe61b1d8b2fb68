"""Checks in seconds what a run needs, and estimates its cost."""

import shutil
import sys
import time
from pathlib import Path

import keras

from keras_alexnet.errors import UserError
from keras_alexnet.model_file import model_sizes
from keras_alexnet.system.atomic import check_folder
from keras_alexnet.system.keras_settings import keras_defaults
from keras_alexnet.system.machine import total_bytes
from keras_alexnet.system.progress import duration, say
from keras_alexnet.training.build import build_model, build_network
from keras_alexnet.training.config import TrainConfig
from keras_alexnet.training.devices.base import Devices, check_batch_size, check_same_settings
from keras_alexnet.training.devices.choice import choose_devices
from keras_alexnet.training.memory import explained_memory, gpu_bytes, peak_gpu_bytes
from keras_alexnet.training.profile import check_profile_steps
from keras_alexnet.training.run_folder import find_checkpoint, is_finished
from keras_alexnet.training.setup import open_data, run_identity, steps_in_epoch

# A checkpoint holds weights and momentum buffers, and the two newest are kept while one more is written.
_WEIGHTS_ON_DISK = 3 * 2 + 2
_MAX_STEPS, _MAX_SECONDS = 50, 2.0


@keras_defaults()
def dry_run(config: TrainConfig, *, restart: bool = False) -> None:
    """Tries what `train` with these settings needs, and writes nothing.

    It reads the maps, the first and the last images, and the checkpoint to resume from; runs a few steps and a batch of
    validation with new weights; checks that the output directory is writable; and prints the steps and estimates of
    time, memory and disk use.

    Raises:
        UserError: what would stop the run; for its report, see `report.check`.
    """
    data = open_data(config)
    steps_per_epoch = steps_in_epoch(config, data)
    check_profile_steps(config, steps_per_epoch)
    folder = Path(config.output_dir)
    with choose_devices(config.strategy, deterministic=config.deterministic) as devices:
        check_batch_size(config.batch_size, devices.num_replicas)
        check_same_settings(devices, run_identity(config, data), config.epochs, restart)
        # TensorFlow reads them, and workers and hidden GPUs have to be set up before it computes anything.
        data.check_first_and_last()
        report = say if devices.is_chief else lambda *_: None
        checkpoint = None if restart else find_checkpoint(folder, run_identity(config, data), devices, report)
        steps_done = epochs_done = 0
        if checkpoint:
            if is_finished(folder, checkpoint.progress, config.epochs, steps_per_epoch):
                report(f"Training is complete after {checkpoint.progress.epochs} epochs. Nothing is left to do.")
                return
            steps_done, epochs_done = checkpoint.progress.steps, checkpoint.progress.epochs
        writable = check_folder(folder)
        with devices.scope():
            model = build_model(config, data.num_classes)
        with explained_memory(model, config.batch_size, devices.num_replicas, devices.platform):
            with devices.scope():
                network = build_network(model, config, steps_per_epoch, devices)
            step_seconds, validation_seconds = _try_steps(network, config, data, devices)

        if config.cache == "auto" and config.epochs - epochs_done > 1:
            _, line = data.with_caches(devices.num_workers)
            if line:
                report(line)
        steps = config.epochs * steps_per_epoch - steps_done
        num_validations = config.epochs - epochs_done
        batches = -(-data.num_validation // config.batch_size)
        seconds = steps * step_seconds + num_validations * batches * validation_seconds
        disk = _WEIGHTS_ON_DISK * 4 * model.count_params()
        free = shutil.disk_usage(writable).free
        report(
            f"Images      {data.num_training:,} to train on, {data.num_validation:,} to validate on, "
            f"{data.num_classes:,} classes\n"
            f"Network     {model.count_params():,} parameters, {config.precision}\n"
            f"Devices     {devices.description}\n"
            + (f"Checkpoint  the run resumes after step {steps_done:,}\n" if steps_done else "")
            + f"Steps       {steps:,} of {config.batch_size} images ({config.epochs} epochs of {steps_per_epoch:,}), "
            f"and {num_validations:,} validations\n"
            f"Throughput  {config.batch_size / step_seconds:,.0f} images/s in a few steps\n"
            f"Time        about {duration(seconds)}, if images are read as fast as that\n"
            f"Memory      {_memory()}\n"
            f"Disk        {disk / 1e9:.1f} GB in {folder}, {free / 1e9:,.1f} GB are free"
        )
        if free < disk:
            raise UserError(
                f"{folder} needs {disk / 1e9:.1f} GB, and only {free / 1e9:.1f} GB are free. Free space, or choose "
                "another --output_dir."
            )
        report("Nothing was written. The run can start.")


def _try_steps(network: keras.Model, config: TrainConfig, data, devices: Devices) -> tuple[float, float]:
    """Seconds of a training step and of a batch of validation."""
    image_size, _ = model_sizes(network)
    share = {"worker": devices.worker, "num_workers": devices.num_workers, "image_size": image_size}
    batches = data.training_batches(config.batch_size, seed=config.seed, first_step=0, **share)
    with (
        data.training_errors(config.batch_size, seed=config.seed, step=lambda: 0),
        devices.feed(batches) as feed,
    ):
        timer = _StepTimer(devices)
        network.fit(feed, steps_per_epoch=_MAX_STEPS, shuffle=False, verbose=0, callbacks=[timer])
        step_seconds = timer.seconds()
    batches = data.validation_batches(config.batch_size, **share)
    with data.validation_errors(config.batch_size, batch=lambda: 0):
        for _ in range(2):  # The first is compiled.
            with devices.feed(batches) as feed:
                start = time.perf_counter()
                network.evaluate(feed, steps=1, verbose=0)
    return step_seconds, time.perf_counter() - start


class _StepTimer(keras.callbacks.Callback):
    """Times the steps after the first, which is compiled and waits for the input to start, and ends them in seconds."""

    def __init__(self, devices: Devices):
        super().__init__()
        self._devices = devices
        self._steps = 0

    def on_train_batch_begin(self, batch: int, logs=None) -> None:
        if batch == 1:
            self._start = time.perf_counter()
        if batch:
            self._steps += 1
            # The slowest worker counts, as all have to end at the same step.
            (seconds,) = self._devices.agree([time.perf_counter() - self._start])
            self.model.stop_training = seconds > _MAX_SECONDS

    def on_train_end(self, logs=None) -> None:
        self._end = time.perf_counter()

    def seconds(self) -> float:
        return (self._end - self._start) / self._steps


def _memory() -> str:
    """The peak memory use of this process, and what the machine has."""
    try:
        import resource
    except ImportError:  # Windows.
        return "unknown on this system"
    unit = 1 if sys.platform == "darwin" else 1024
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    text = f"peak {used / 1e9:.1f} GB in these steps"
    if total := total_bytes():
        text += f" of {total / 1e9:.1f} GB"
    if peak := peak_gpu_bytes():
        text += f"; first GPU: peak {peak / 1e9:.1f} GB"
        if of_gpu := gpu_bytes():
            text += f" of {of_gpu / 1e9:.1f} GB, so the batch fits"
    return text
