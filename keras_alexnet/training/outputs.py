"""Writes what a run leaves in its directory."""

import time
from pathlib import Path

import keras

from keras_alexnet.data.class_file import write_classes
from keras_alexnet.model_file import save_model
from keras_alexnet.system.atomic import write_text
from keras_alexnet.system.process_pool import cpu_count
from keras_alexnet.training.build import architecture
from keras_alexnet.training.checkpoint import Progress, save_checkpoint, variable_arrays
from keras_alexnet.training.config import TrainConfig
from keras_alexnet.training.devices.base import Devices
from keras_alexnet.training.record import RunRecord, TensorBoard, write_history
from keras_alexnet.training.run_files import BEST_MODEL_FILE, CHECKPOINT_FOLDER, FLAGS_FILE, HISTORY_FILE, MODEL_FILE
from keras_alexnet.training.run_folder import discard_run

_SPEED = ("images_per_second", "data_wait")


class RunOutputs:
    """Checkpoints, models, history, `run.json` and the points for TensorBoard of a run.

    Every worker has one, since all take part in copying the metrics; only the chief writes.

    Args:
        config: the settings.
        identity: the run's, from `setup.run_identity`.
        data: the training data, which knows the classes.
        devices: those of the run.
        progress: where the run stands.

    Attributes:
        folder: the output directory.
        history: a row per finished epoch.
        keeps_weights: whether models and checkpoints are written.
    """

    def __init__(self, config: TrainConfig, identity: dict, data, devices: Devices, progress: Progress):
        self.folder = Path(config.output_dir)
        self.history = list(progress.history)
        # Synthetic images teach nothing. And to save a model, Keras would import TensorFlow.
        self.keeps_weights = not config.synthetic_data
        self._config = config
        self._identity = identity
        self._data = data
        self._devices = devices
        self._began = time.monotonic() - progress.total_seconds

    def open(self, model: keras.Model, network: keras.Model, first_step: int, restart: bool) -> None:
        """Starts the records of a run of a model and its compute form; `restart` discards the existing run first."""
        self._model, self._network = model, network
        if not self._devices.is_chief:
            return
        if restart:
            discard_run(self.folder)
        write_text(self.folder / FLAGS_FILE, self._config.flagfile())
        write_history(self.folder / HISTORY_FILE, self.history)
        self._record = RunRecord(self.folder, self._config, self._identity, self._devices.description, first_step)
        self._record.write(self.history, first_step, self._seconds())
        self._tensorboard = TensorBoard(self.folder) if self._config.tensorboard else None

    def arrays(self) -> dict:
        """Copies what a checkpoint holds. All workers take part in the metrics; only the chief needs the rest."""
        return variable_arrays(self._network, "" if self._devices.is_chief else "metrics")

    def write_checkpoint(self, arrays: dict, step: int, epoch_seconds: float, epoch_wait: float) -> None:
        """Writes a checkpoint after `step` steps, with the time spent in the unfinished epoch, and `run.json`."""
        if not self._devices.is_chief:
            return
        progress = Progress(
            steps=step,
            history=self.history,
            identity=self._identity,
            cores=cpu_count(),
            epoch_seconds=epoch_seconds,
            epoch_wait=epoch_wait,
            total_seconds=self._seconds(),
            architecture=architecture(self._config, self._model),
        )
        if self.keeps_weights:
            save_checkpoint(self.folder / CHECKPOINT_FOLDER, arrays, progress)
        self._record.write(self.history, step, progress.total_seconds)

    def end_epoch(self, row: dict[str, float], arrays: dict, epoch_seconds: float, epoch_wait: float) -> None:
        """Records the results of an epoch, and saves the best model and a checkpoint of `arrays`."""
        best = min((before["val_top1_error"] for before in self.history), default=float("inf"))
        self.history.append(row)
        if not self._devices.is_chief:
            return
        # In this order nothing is lost by an interruption between two of them: what comes before the checkpoint is
        # written again if that is missing, and what comes after it when the run resumes.
        if self._tensorboard:
            self._write_points(row)
        if row["val_top1_error"] < best and self.keeps_weights:
            self._save_model(BEST_MODEL_FILE)
        self.write_checkpoint(arrays, row["steps"], epoch_seconds, epoch_wait)
        write_history(self.folder / HISTORY_FILE, self.history)

    def save_result(self) -> None:
        """Saves the final model."""
        if self._devices.is_chief and self.keeps_weights:
            self._save_model(MODEL_FILE)
            steps = self.history[-1]["steps"]
            self._record.write(self.history, steps, self._seconds(), model_steps=steps)

    def log(self, steps: int, rates: dict[str, float], images_per_second: float, data_wait: float) -> None:
        """Adds points of the steps so far in the epoch to TensorBoard's curves."""
        if self._devices.is_chief and self._tensorboard:
            self._tensorboard.write(steps, rates, "training")
            self._tensorboard.write(steps, dict(zip(_SPEED, (images_per_second, data_wait), strict=True)), "speed")

    def _write_points(self, row: dict[str, float]) -> None:
        rates = [name.removeprefix("val_") for name in row if name.startswith("val_")]
        self._tensorboard.write(row["steps"], {name: row[name] for name in (*rates, "learning_rate")}, "epoch")
        self._tensorboard.write(row["steps"], {name: row[f"val_{name}"] for name in rates}, "validation")
        self._tensorboard.write(row["steps"], {name: row[name] for name in _SPEED}, "speed")

    def _save_model(self, name: str) -> None:
        """Saves the classes first: no model is written without them."""
        write_classes(self.folder / name, self._data.classes, self._data.class_names)
        with self._devices.alone():
            save_model(self._model, self.folder / name, self._config.precision)

    def _seconds(self) -> float:
        return time.monotonic() - self._began
