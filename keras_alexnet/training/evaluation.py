"""The error rates of a model."""

import math

import keras

from keras_alexnet.data.maps import ImageMap, raise_if_missing
from keras_alexnet.data.pipeline import padded_evaluation_dataset
from keras_alexnet.data.source import evaluation_errors
from keras_alexnet.errors import UserError
from keras_alexnet.progress import StatusLine
from keras_alexnet.training.distribution import leave_gpus_to_the_backend
from keras_alexnet.training.metrics import compile_model, error_rates
from keras_alexnet.training.model_file import model_sizes


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
    with evaluation_errors(image_map, batch_size, batch=lambda: watch.batch):
        results = scored.evaluate(dataset, verbose=0, return_dict=True, callbacks=[watch])
    rates = error_rates(results, len(image_map))
    if not math.isfinite(rates["loss"]):
        raise UserError(
            f"the loss is {rates['loss']}: the model gives logits that are not finite, so its errors mean nothing. "
            "Its training diverged, or its file is damaged; evaluate another model."
        )
    return {"examples": len(image_map)} | rates


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
