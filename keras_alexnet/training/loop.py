"""A training run from map files to `model.keras`."""

import itertools
import os
from dataclasses import dataclass
from pathlib import Path

import keras

from keras_alexnet.atomic import atomic_path, write_text
from keras_alexnet.data.maps import (
    CLASS_MAPPINGS,
    TRAIN_MAP,
    VAL_MAP,
    ImageMap,
    raise_if_missing,
    read_class_mappings,
    read_map,
)
from keras_alexnet.data.pipeline import (
    DataWait,
    batch_rows,
    find_unreadable,
    padded_evaluation_dataset,
    steps_per_pass,
    training_dataset,
)
from keras_alexnet.errors import UserError
from keras_alexnet.lock import exclusive
from keras_alexnet.model import build_alexnet, set_precision
from keras_alexnet.training.callbacks import EpochRecord, StepWatch, write_history
from keras_alexnet.training.checkpoint import Checkpoint, check_identity, load_newest_checkpoint, restore
from keras_alexnet.training.config import TrainConfig
from keras_alexnet.training.distribution import Devices, check_batch_size, choose_devices
from keras_alexnet.training.evaluation import (
    READ_AHEAD,
    compile_model,
    explained_errors,
    rows_ahead,
)
from keras_alexnet.training.optimizer import SGDWithL2
from keras_alexnet.training.schedule import step_schedule

MODEL_FILE = "model.keras"


@dataclass(frozen=True)
class TrainingData:
    """What `prepare` wrote: both maps, and the class ids in label order."""

    train: ImageMap
    validation: ImageMap
    classes: list[str]


def read_training_data(data_dir: str | os.PathLike) -> TrainingData:
    """Reads the three files of `data_dir`; raises `UserError` where one is missing or does not fit the others."""
    folder = Path(data_dir)
    classes = read_class_mappings(folder / CLASS_MAPPINGS)
    return TrainingData(
        train=read_map(folder / TRAIN_MAP, len(classes)),
        validation=read_map(folder / VAL_MAP, len(classes)),
        classes=classes,
    )


def train(config: TrainConfig, *, restart: bool = False) -> list[dict]:
    """Trains, validating after each epoch; goes on after the last finished epoch of a run in the same folder.

    Writes to `config.output_dir`: `flags.txt` at the start, `history.csv` and `checkpoint/` after each epoch, and
    `model.keras` at the end.

    Args:
        config: the settings.
        restart: throw away the run that the folder holds.

    Returns:
        The history: a dict an epoch, as in `history.csv`.

    Raises:
        UserError: anything in the data, the settings or the folder that the user can mend, or a loss not finite.
    """
    data = read_training_data(config.data_dir)
    for image_map in (data.train, data.validation):
        raise_if_missing(image_map)
    pass_steps = steps_per_pass(len(data.train), config.batch_size)
    devices = choose_devices(config.strategy)
    check_batch_size(config.batch_size, devices.num_replicas)
    with exclusive(config.output_dir):
        return _train_in_folder(config, data, config.steps_per_epoch or pass_steps, devices, restart)


def save_model(model: keras.Model, path: str | os.PathLike) -> None:
    """Saves network and weights in float32, without the optimizer or any class of this package; whole or not at all."""
    set_precision(model, "float32")
    # A model of the same layers that was never compiled: Keras saves the optimizer of one that was.
    with atomic_path(path) as partial:
        keras.Model(model.input, model.output, name=model.name).save(partial)


def _train_in_folder(
    config: TrainConfig, data: TrainingData, steps_per_epoch: int, devices: Devices, restart: bool
) -> list[dict]:
    folder = Path(config.output_dir)
    model_path = folder / MODEL_FILE
    identity = config.identity() | {
        "backend": keras.backend.backend(),
        "training images": _identity_of(data.train),
        "validation images": _identity_of(data.validation),
        "classes": len(data.classes),
    }
    if restart:
        _throw_away(folder)
    checkpoint = load_newest_checkpoint(folder / "checkpoint")
    if checkpoint:
        check_identity(checkpoint, identity)
    elif model_path.exists():
        raise UserError(
            f"{folder} holds a {MODEL_FILE} but no checkpoint to go on from. Choose another --output_dir, or give "
            "--restart to replace the model."
        )
    first_epoch = checkpoint.progress.epochs if checkpoint else 0
    history = checkpoint.progress.history if checkpoint else []
    if first_epoch >= config.epochs and _is_model_of(model_path, checkpoint):
        print(f"This run is finished: {first_epoch} epochs. Give more --epochs to go on, or --restart to begin anew.")
        return history

    write_text(folder / "flags.txt", config.flagfile())
    keras.utils.set_random_seed(config.seed)
    with devices.scope:
        model = build_alexnet(len(data.classes), preset=config.preset, dropout=config.dropout)
        set_precision(model, config.precision)
        compile_model(model, _optimizer(config, steps_per_epoch))
        if checkpoint:
            restore(model, checkpoint)
            write_history(folder / "history.csv", history)
    print(
        f"{len(data.train):,} training and {len(data.validation):,} validation images of {len(data.classes):,} "
        f"classes, {model.count_params():,} parameters, {config.precision}, {devices.description}\n"
        f"{config.epochs} epochs of {steps_per_epoch:,} steps of {config.batch_size} images"
        + (f"; going on after epoch {first_epoch}" if first_epoch else ""),
        flush=True,
    )
    if first_epoch < config.epochs:
        history = _fit(model, config, data, steps_per_epoch, first_epoch, identity, history)
    save_model(model, model_path)
    print(f"Finished. The model is {model_path}", flush=True)
    return history


def _identity_of(image_map: ImageMap) -> str:
    return f"{len(image_map):,} (SHA-256 of the map {image_map.fingerprint[:16]}…)"


def _is_model_of(model_path: Path, checkpoint: Checkpoint) -> bool:
    """Whether the model was saved after the checkpoint; one of an earlier stage of the run is not its result."""
    return model_path.exists() and model_path.stat().st_mtime_ns >= checkpoint.path.stat().st_mtime_ns


def _throw_away(folder: Path) -> None:
    """Removes what a run leaves behind, and nothing else."""
    for pattern in (
        MODEL_FILE,
        "history.csv",
        "flags.txt",
        "checkpoint/step-*.npz",
        ".partial-*",
        "checkpoint/.partial-*",
    ):
        for path in folder.glob(pattern):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise UserError(f"cannot remove {path}: {error.strerror}. Choose another --output_dir.") from None


def _optimizer(config: TrainConfig, steps_per_epoch: int) -> SGDWithL2:
    schedule = step_schedule(config.learning_rate, config.lr_drop_epochs, config.lr_drop_factor, steps_per_epoch)
    return SGDWithL2(schedule, momentum=config.momentum, l2=config.weight_decay)


def _fit(
    model: keras.Model,
    config: TrainConfig,
    data: TrainingData,
    steps_per_epoch: int,
    first_epoch: int,
    identity: dict,
    history: list[dict],
) -> list[dict]:
    first_step = first_epoch * steps_per_epoch
    batch_size = config.batch_size
    wait = DataWait()
    watch = StepWatch(config.epochs, steps_per_epoch, batch_size, first_epoch, wait)
    record = EpochRecord(config, steps_per_epoch, len(data.validation), identity, history, watch)

    def find() -> UserError | None:
        if watch.validating:
            return find_unreadable(data.validation, rows_ahead(watch.batch, batch_size, len(data.validation)))
        # Behind the last batches of an epoch, validation may have begun to read.
        steps = range(watch.step, watch.step + READ_AHEAD)
        rows = (batch_rows(len(data.train), batch_size, config.seed, step) for step in steps)
        return find_unreadable(data.train, itertools.chain.from_iterable(rows)) or find_unreadable(
            data.validation, rows_ahead(0, batch_size, len(data.validation))
        )

    with explained_errors(find):
        model.fit(
            wait.measure(training_dataset(data.train, batch_size, seed=config.seed, first_step=first_step)),
            validation_data=padded_evaluation_dataset(data.validation, batch_size),
            initial_epoch=first_epoch,
            epochs=config.epochs,
            steps_per_epoch=steps_per_epoch,
            shuffle=False,
            verbose=0,
            callbacks=[watch, record],
        )
    return record.history
