"""The lines that a run prints on stdout."""

import math

import keras

from keras_alexnet.data.class_file import read_classes
from keras_alexnet.presets import PRESETS, describe
from keras_alexnet.system.progress import duration
from keras_alexnet.training.build import architecture
from keras_alexnet.training.checkpoint import Progress
from keras_alexnet.training.config import TrainConfig
from keras_alexnet.training.top_k import informative_ranks


def start_message(
    config: TrainConfig, data, model: keras.Model, devices: str, steps_per_epoch: int, progress: Progress
) -> str:
    """What is trained on what, and from where a run resumes."""
    trained = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    frozen = f", {trained:,} of them trained" if config.freeze_through else ""
    lines = [
        f"{data.num_training:,} training and {data.num_validation:,} validation images of {data.num_classes:,} "
        f"classes, {model.count_params():,} parameters{frozen}, {config.precision}, {devices}",
        f"{config.epochs} epochs of {steps_per_epoch:,} steps of {config.batch_size} images",
    ]
    if progress.steps:
        lines[-1] += f"; resuming after epoch {progress.epochs}"
        if first_batch := progress.steps - progress.epochs * steps_per_epoch:
            lines[-1] += f" and {first_batch:,} steps"
    if data.num_classes == 1:
        lines.append("Note: there is only one class, so there is nothing to learn")
    if config.preset != TrainConfig.preset and describe(PRESETS[config.preset]) != architecture(config, model):
        lines.append(f"Note: the network is that of {config.initial_model}; --preset={config.preset} has no effect")
    if config.initial_model and not config.synthetic_data and not progress.steps:
        classes = read_classes(config.initial_model)
        if classes and len(classes) == data.num_classes and classes != data.classes:
            lines.append(f"Note: fc8 is initialized from {config.initial_model}, which was trained on other classes")
    return "\n".join(lines)


def epoch_message(row: dict[str, float], epochs: int, num_classes: int) -> str:
    """The results of an epoch, from its row of the history: top-1/top-5."""

    def rates(name: str) -> str:
        return "/".join(f"{100 * row[name.format(k)]:.1f}" for k in informative_ranks(num_classes)) + "%"

    return (
        f"epoch {row['epoch']}/{epochs}  loss {row['loss']:.3f}  error {rates('top{}_error')}  validation: "
        f"loss {row['val_loss']:.3f}  error {rates('val_top{}_error')}  accuracy {rates('val_top{}_accuracy')}  "
        f"{row['images_per_second']:,.0f} images/s  data wait {100 * row['data_wait']:.0f}%  {duration(row['seconds'])}"
    )


def result_message(row: dict[str, float], num_classes: int) -> str:
    """The results of a finished run, from the last row of its history."""
    rates = ", ".join(
        f"top-{k} error {100 * row[f'val_top{k}_error']:.2f}% (accuracy {100 - 100 * row[f'val_top{k}_error']:.2f}%)"
        for k in informative_ranks(num_classes)
    )
    return f"Validation after epoch {row['epoch']}: loss {row['val_loss']:.4f}, {rates}"


def stop_message(step: int, epoch: int, saved: bool, restart: bool) -> str:
    """Where a signal ended a run, and how to resume it. `epoch` counts from 0."""
    if not step:
        return "Stopped before the first step. Run the same command again to start."
    position = f"after step {step:,}, in epoch {epoch + 1}"
    if not saved:
        return f"Stopped {position}."
    command = "the same command, without --restart," if restart else "the same command"
    return f"Stopped and saved {position}. Run {command} again to resume."
