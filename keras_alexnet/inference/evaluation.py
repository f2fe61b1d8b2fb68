"""The error rates of a model on the images of a map."""

import keras
import numpy as np

from keras_alexnet.data.crops import check_batch_size, check_crops
from keras_alexnet.data.image_map import ImageMap, raise_if_missing
from keras_alexnet.data.pipeline import padded_evaluation_dataset
from keras_alexnet.data.unreadable import evaluation_errors
from keras_alexnet.errors import UserError
from keras_alexnet.inference.outputs import Outputs
from keras_alexnet.inference.predictions import Predictions, joined, predictions_of
from keras_alexnet.model_file import model_sizes
from keras_alexnet.system.progress import WorkProgress
from keras_alexnet.training.devices.platform import leave_gpus_to_the_backend


def evaluate_model(
    model: keras.Model, image_map: ImageMap, batch_size: int = 256, *, resize: str = "square", crops: int = 1
) -> dict:
    """Scores a model on every image of a map, each exactly once.

    Args and errors are those of `predict_map`.

    Returns:
        `examples` (their number), `top1_error`, `top1_accuracy`, `top5_error` and `top5_accuracy` (fractions) and
        `loss` (mean cross-entropy).
    """
    return predict_map(model, image_map, batch_size, resize=resize, crops=crops).error_rates()


def predict_map(
    model: keras.Model, image_map: ImageMap, batch_size: int = 256, *, resize: str = "square", crops: int = 1
) -> Predictions:
    """What a model says of every image of a map, in the map's order.

    Args:
        model: from (batch, side, side, 3) RGB pixels of 0 to 255 to logits (batch, num_classes).
        image_map: images, and labels below the model's number of classes.
        batch_size: crops at a time: with ten of each image, so many images at a time as have no more crops than
            that, or one.
        resize: which part of an image the model sees, a key of `data.crops.RESIZES`: "square" (CNTK's), "warp256"
            (Caffe's) or "shorter256" (torchvision's), as told at `data.transforms.evaluation_image`.
        crops: 1 for the square in the middle of that, or 10: the corners too, and all of them mirrored. The prediction
            is then the mean of the ten softmax outputs (Krizhevsky et al., 2012, section 4.1).

    Raises:
        UserError: a model of other inputs or outputs, or whose logits are not finite, labels that it does not have, an
            image that cannot be read, an unknown `resize` or `crops`, or a model of images too large for it.
    """
    image_size, num_classes = model_sizes(model)
    check_crops(resize, crops, image_size)
    check_batch_size(batch_size)
    if not len(image_map):
        raise UserError(f"{image_map.source} has no images to evaluate the model on.")
    leave_gpus_to_the_backend()
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
    dataset = padded_evaluation_dataset(image_map, batch_size, image_size=image_size, resize=resize, crops=crops)
    batches: list[Predictions] = []
    with (
        outputs.explained_memory(batch_size),
        WorkProgress() as progress,
        evaluation_errors(image_map, batch_size, batch=lambda: len(batches)),
    ):
        for images, labels, weights in dataset.as_numpy_iterator():
            count = np.count_nonzero(weights)
            batches.append(predictions_of(outputs(images, count), labels[:count]))
            progress(min(len(batches) * batch_size, total), total, "images evaluated")
    return joined(batches)
