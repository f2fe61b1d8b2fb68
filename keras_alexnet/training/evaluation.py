"""The error rates of a model."""

import math

import keras
from keras import ops

from keras_alexnet.data.crops import check_crops
from keras_alexnet.data.maps import ImageMap, raise_if_missing
from keras_alexnet.data.pipeline import padded_evaluation_dataset
from keras_alexnet.data.source import evaluation_errors
from keras_alexnet.errors import UserError
from keras_alexnet.progress import StatusLine
from keras_alexnet.training.distribution import leave_gpus_to_the_backend
from keras_alexnet.training.metrics import compile_model, error_rates
from keras_alexnet.training.model_file import model_sizes


def evaluate_model(
    model: keras.Model, image_map: ImageMap, batch_size: int = 256, *, resize: str = "square", crops: int = 1
) -> dict:
    """Scores a model on every image of a map, each exactly once.

    Args:
        model: from (batch, side, side, 3) RGB pixels of 0 to 255 to logits (batch, num_classes).
        image_map: images, and labels below the model's number of classes.
        batch_size: crops at a time: with ten of each image, so many images at a time as have no more crops than
            that, or one.
        resize: which part of an image the model sees, a key of `data.crops.RESIZES`: "square" (CNTK's), "warp256"
            (Caffe's) or "shorter256" (torchvision's), as told at `data.transforms.evaluation_image`.
        crops: 1 for the square in the middle of that, or 10: the corners too, and all of them mirrored. The prediction
            is then the mean of the ten softmax outputs (Krizhevsky et al., 2012, section 4.1).

    Returns:
        `examples` (their number), `top1_error` and `top5_error` (fractions) and `loss` (mean cross-entropy).

    Raises:
        UserError: a model of other inputs or outputs, labels that it does not have, an image that cannot be read, an
            unknown `resize` or `crops`, or a model of images too large for it.
    """
    image_size, num_classes = model_sizes(model)
    check_crops(resize, crops, image_size)
    leave_gpus_to_the_backend()
    if max(image_map.labels) >= num_classes:
        raise UserError(
            f"{image_map.source} has labels up to {max(image_map.labels)}, but the model has {num_classes} classes "
            f"(labels 0 to {num_classes - 1}). Evaluate it on the data that it was trained for."
        )
    raise_if_missing(image_map)
    # The same layers: the caller's model stays compiled as it is.
    scored = keras.Model(model.input, model.output) if crops == 1 else _mean_over_crops(model, crops)
    compile_model(scored)
    batch_size = min(max(batch_size // crops, 1), len(image_map))
    watch = _EvaluationProgress(len(image_map), batch_size)
    dataset = padded_evaluation_dataset(image_map, batch_size, image_size=image_size, resize=resize, crops=crops)
    with evaluation_errors(image_map, batch_size, batch=lambda: watch.batch):
        results = scored.evaluate(dataset, verbose=0, return_dict=True, callbacks=[watch])
    rates = error_rates(results, len(image_map))
    if not math.isfinite(rates["loss"]):
        raise UserError(
            f"the loss is {rates['loss']}: the model gives logits that are not finite, so its errors mean nothing. "
            "Its training diverged, or its file is damaged; evaluate another model."
        )
    return {"examples": len(image_map)} | rates


def _mean_over_crops(model: keras.Model, crops: int) -> keras.Model:
    """From the crops of each image, (batch, crops, side, side, 3), to the logarithms of their mean probabilities.

    These are logits, whose softmax is the mean of the softmax outputs.
    """
    side, num_classes = model_sizes(model)
    inputs = keras.Input((crops, side, side, 3))
    logits = model(ops.reshape(inputs, (-1, side, side, 3)))
    logits = ops.reshape(ops.cast(logits, "float32"), (-1, crops, num_classes))
    # The logarithm of a sum of exponentials, since a mean of small probabilities may be 0 in float32.
    return keras.Model(inputs, ops.logsumexp(ops.log_softmax(logits), axis=1) - math.log(crops))


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
