"""Evaluates a model on the images of a map."""

import keras
import numpy as np

from keras_alexnet.data.crops import check_crops
from keras_alexnet.data.image_map import ImageMap, check_map, raise_if_missing
from keras_alexnet.data.pipeline import padded_evaluation_dataset
from keras_alexnet.data.unreadable import evaluation_errors
from keras_alexnet.errors import UserError, integer_setting
from keras_alexnet.inference.outputs import Outputs
from keras_alexnet.inference.predictions import Predictions, concatenate, predictions_of
from keras_alexnet.model_file import model_sizes
from keras_alexnet.system.progress import WorkProgress


def evaluate_model(
    model: keras.Model, image_map: ImageMap, batch_size: int = 256, *, preprocessing: str = "cntk", crops: int = 1
) -> dict:
    """Scores a model on every image of a map, each exactly once.

    Args and errors are those of `predict_map`.

    Returns:
        `examples` (their number), `top1_error`, `top1_accuracy`, `top5_error` and `top5_accuracy` (fractions) and
        `loss` (mean cross-entropy).
    """
    return predict_map(model, image_map, batch_size, preprocessing=preprocessing, crops=crops).metrics()


def predict_map(
    model: keras.Model, image_map: ImageMap, batch_size: int = 256, *, preprocessing: str = "cntk", crops: int = 1
) -> Predictions:
    """The predictions of a model for every image of a map, in the map's order.

    Args:
        model: from (batch, side, side, 3) RGB pixels of 0 to 255 to logits (batch, num_classes).
        image_map: images, and labels below the model's number of classes.
        batch_size: crops per batch; with ten crops per image, a tenth as many images, at least one.
        preprocessing: "cntk", "caffe" or "torchvision": see `data.transforms.evaluation_image`.
        crops: 1 for the center crop, or 10 for the four corner crops, the center crop and their horizontal flips. The
            prediction is then the mean of the ten softmax outputs (Krizhevsky et al., 2012, section 4.1).

    Raises:
        UserError: a model of other inputs or outputs, or whose logits are not finite, labels that it does not have, an
            image that cannot be read, an unknown `preprocessing` or `crops`, or a model of images too large for it.
    """
    image_size, num_classes = model_sizes(model)
    check_crops(preprocessing, crops, image_size)
    check_map(image_map)
    batch_size = integer_setting("batch_size", batch_size, 1)
    if not len(image_map):
        raise UserError(f"{image_map.source} has no images to evaluate the model on.")
    if min(image_map.labels) < 0:
        raise UserError(f"{image_map.source} has the label {min(image_map.labels)}; expected 0 or above.")
    if max(image_map.labels) >= num_classes:
        raise UserError(
            f"{image_map.source} has labels up to {max(image_map.labels)}, but the model has {num_classes} classes "
            f"(labels 0 to {num_classes - 1}). Evaluate it on the data that it was trained for."
        )
    raise_if_missing(image_map)
    outputs = Outputs(model, crops)
    total = len(image_map)
    batch_size = min(max(batch_size // crops, 1), total)
    dataset = padded_evaluation_dataset(
        image_map, batch_size, image_size=image_size, preprocessing=preprocessing, crops=crops
    )
    batches: list[Predictions] = []
    with (
        outputs.explained_memory(batch_size),
        WorkProgress() as progress,
        evaluation_errors(image_map, batch_size, batch=lambda: len(batches)),
    ):
        for images, labels, weights in dataset.as_numpy_iterator():
            count = int(np.count_nonzero(weights))
            batches.append(predictions_of(outputs(images, count), labels[:count]))
            progress(min(len(batches) * batch_size, total), total, "images evaluated")
    return concatenate(batches)
