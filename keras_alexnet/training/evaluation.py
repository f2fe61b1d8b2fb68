"""The error rates of a model."""

import contextlib
import math
from collections.abc import Callable, Iterator

import keras
import tensorflow as tf

from keras_alexnet.data.maps import ImageMap, raise_if_missing
from keras_alexnet.data.pipeline import find_unreadable, padded_evaluation_dataset
from keras_alexnet.errors import UserError
from keras_alexnet.progress import StatusLine
from keras_alexnet.training.distribution import leave_gpus_to_the_backend

# Batches in which an image that cannot be read is looked for. The input tells of it in its turn, however far it has
# read; Keras and the strategies ask for a few batches ahead.
READ_AHEAD = 6


def compile_model(model: keras.Model, optimizer: keras.optimizers.Optimizer | None = None) -> None:
    """Compiles with cross-entropy of the logits as the loss, and the metrics that `error_rates` reads.

    Args:
        model: gives logits.
        optimizer: for training; evaluation needs none.
    """
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        # Weighted, so that padding does not count. Keras's own mean of the loss would count it.
        weighted_metrics=[
            keras.metrics.SparseCategoricalAccuracy(name="top1_accuracy"),
            keras.metrics.SparseTopKCategoricalAccuracy(k=min(5, model.output_shape[-1]), name="top5_accuracy"),
            keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="cross_entropy"),
        ],
    )


def error_rates(results: dict, num_images: int, prefix: str = "") -> dict[str, float]:
    """`top1_error`, `top5_error` (exact fractions of `num_images`) and `loss`, out of Keras's results or logs."""
    rates = {}
    for name in ("top1", "top5"):
        # The accuracy is a float32; the number of right images behind it is whole.
        num_right = round(float(results[f"{prefix}{name}_accuracy"]) * num_images)
        rates[f"{name}_error"] = (num_images - num_right) / num_images
    return rates | {"loss": float(results[f"{prefix}cross_entropy"])}


def load_model(path: str) -> keras.Model:
    """Loads a `.keras` file for evaluation; raises `UserError` for a file that is not one."""
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"cannot load the model {path}: {reason} Expected a .keras file, such as the model.keras that "
            "python -m keras_alexnet.fit writes."
        ) from None


def evaluate_model(model: keras.Model, image_map: ImageMap, batch_size: int = 256) -> dict:
    """Scores a model on the centre crop of every image of a map, each exactly once.

    Args:
        model: from (batch, side, side, 3) RGB pixels of 0 to 255 to logits (batch, num_classes).
        image_map: images, and labels below the model's number of classes.
        batch_size: images at a time.

    Returns:
        `examples` (their number), `top1_error` and `top5_error` (fractions) and `loss` (mean cross-entropy).

    Raises:
        UserError: a model of other inputs or outputs, labels that it does not have, or an image that cannot be read.
    """
    image_size, num_classes = model_sizes(model)
    leave_gpus_to_the_backend()
    if max(image_map.labels) >= num_classes:
        raise UserError(
            f"{image_map.source} has labels up to {max(image_map.labels)}, but the model has {num_classes} classes "
            f"(labels 0 to {num_classes - 1}). Evaluate it on the data that it was trained for."
        )
    raise_if_missing(image_map)
    # The same layers: the caller's model stays compiled as it is.
    scored = keras.Model(model.input, model.output)
    compile_model(scored)
    batch_size = min(batch_size, len(image_map))
    watch = _EvaluationProgress(len(image_map), batch_size)
    dataset = padded_evaluation_dataset(image_map, batch_size, image_size=image_size)
    with explained_errors(lambda: find_unreadable(image_map, rows_ahead(watch.batch, batch_size, len(image_map)))):
        results = scored.evaluate(dataset, verbose=0, return_dict=True, callbacks=[watch])
    rates = error_rates(results, len(image_map))
    if not math.isfinite(rates["loss"]):
        raise UserError(
            f"the loss is {rates['loss']}: the model gives logits that are not finite, so its errors mean nothing. "
            "Its training diverged, or its file is damaged; evaluate another model."
        )
    return {"examples": len(image_map)} | rates


@contextlib.contextmanager
def explained_errors(find: Callable[[], UserError | None]) -> Iterator[None]:
    """Turns TensorFlow's errors into the user's mistake behind them: `find` looks for an image that cannot be read."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        raise UserError(f"out of memory. Use a lower --batch_size. ({str(error).splitlines()[0]})") from None
    except tf.errors.OpError:
        unreadable = find()
        if unreadable is None:
            raise
        raise unreadable from None


def rows_ahead(batch: int, batch_size: int, num_images: int) -> range:
    """The rows that evaluation may be reading while it computes `batch`: the input is a few batches ahead."""
    return range(batch * batch_size, min((batch + READ_AHEAD) * batch_size, num_images))


def model_sizes(model: keras.Model) -> tuple[int, int]:
    """Image size and number of classes; raises `UserError` for a model that does not classify square RGB images."""
    input_shape, output_shape = getattr(model, "input_shape", None), getattr(model, "output_shape", None)
    match input_shape, output_shape:
        case (_, int(height), int(width), 3), (_, int(num_classes)) if height == width:
            return height, num_classes
    raise UserError(
        f"the model takes inputs of shape {input_shape} and gives {output_shape}; expected square RGB "
        "images (batch, size, size, 3) and logits (batch, classes). Give a model of keras_alexnet."
    )


class _EvaluationProgress(keras.callbacks.Callback):
    def __init__(self, num_images: int, batch_size: int):
        super().__init__()
        self.batch = 0
        self._num_images = num_images
        self._batch_size = batch_size
        self._line = StatusLine()

    def on_test_batch_begin(self, batch: int, logs=None) -> None:
        self.batch = batch
        if batch and self._line.due():
            self._line.show(f"evaluated {batch * self._batch_size:,} of {self._num_images:,} images")

    def on_test_end(self, logs=None) -> None:
        self._line.clear()
