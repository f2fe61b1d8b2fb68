"""Predicts the classes of image files, or extracts the outputs of a layer."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_alexnet.data.crops import check_crops
from keras_alexnet.data.image_map import ImageMap
from keras_alexnet.data.pipeline import readable_images, unlabeled_map
from keras_alexnet.data.unreadable import why_unreadable
from keras_alexnet.errors import UserError, integer_setting
from keras_alexnet.inference.outputs import Outputs
from keras_alexnet.inference.predictions import log_softmax
from keras_alexnet.model_file import model_sizes
from keras_alexnet.system.log_suppression import silenced_but_python

# Called with a path and the reason why it cannot be read.
Skip = Callable[[str, str], None]


def predict_images(
    model: keras.Model,
    paths: ImageMap | Iterable[str | os.PathLike],
    batch_size: int = 32,
    *,
    preprocessing: str = "cntk",
    crops: int = 1,
) -> np.ndarray:
    """The probabilities of all classes for image files.

    Args:
        model: from (batch, side, side, 3) RGB pixels of 0 to 255 to logits (batch, num_classes).
        paths: images in any format that Pillow reads, or a map of them.
        batch_size, preprocessing, crops: as for `evaluate_model`.

    Returns:
        float32 (len(paths), num_classes).

    Raises:
        UserError: a file that cannot be read, or a model of other inputs or outputs.
    """
    return np.exp(_collected(FileOutputs(model, batch_size, preprocessing=preprocessing, crops=crops), paths)).astype(
        np.float32
    )


def extract_features(
    model: keras.Model,
    paths: ImageMap | Iterable[str | os.PathLike],
    layer: str = "relu7",
    batch_size: int = 32,
    *,
    preprocessing: str = "cntk",
    crops: int = 1,
) -> np.ndarray:
    """The outputs of a layer for image files; with ten crops, their mean.

    Args and errors are those of `predict_images`; an unknown `layer` is one as well.

    Returns:
        float32 (len(paths), …), as "relu7" of the full network: (len(paths), 4096).
    """
    return _collected(FileOutputs(model, batch_size, layer=layer, preprocessing=preprocessing, crops=crops), paths)


class FileOutputs:
    """The outputs of a network for image files, batch by batch.

    Args:
        model: from (batch, side, side, 3) RGB pixels of 0 to 255 to logits (batch, num_classes).
        batch_size: crops per batch.
        layer: the layer whose outputs to return; None for the logarithms of the class probabilities.
        preprocessing, crops: as for `evaluate_model`.

    Attributes:
        shape: of the output of an image.

    Raises:
        UserError: a model of other inputs or outputs, or an unknown layer.
    """

    def __init__(
        self,
        model: keras.Model,
        batch_size: int,
        *,
        layer: str | None = None,
        preprocessing: str = "cntk",
        crops: int = 1,
    ):
        self._image_size, _ = model_sizes(model)
        check_crops(preprocessing, crops, self._image_size)
        batch_size = integer_setting("batch_size", batch_size, 1)
        self._outputs = Outputs(model, crops, layer)
        self._is_logits = layer is None
        self._batch_size = max(batch_size // crops, 1)
        self._settings: dict[str, Any] = {"preprocessing": preprocessing, "crops": crops}
        self.shape = self._outputs.shape

    def __call__(self, paths: ImageMap | Sequence[str], skip: Skip) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yields the outputs of the readable files, in order.

        Args:
            paths: the files, or a map of them.
            skip: called for each unreadable file, in order.

        Yields:
            The positions in `paths` of a batch's files, and (batch, …): float64 logarithms, or float32 values.

        Raises:
            UserError: the model gives logits that are not finite.
        """
        image_map = unlabeled_map(paths)
        batch_size = min(self._batch_size, len(image_map))
        position = 0
        images_of = readable_images(image_map, batch_size, image_size=self._image_size, **self._settings)
        with self._outputs.explained_memory(batch_size):
            for positions, images in images_of.as_numpy_iterator():
                count = len(images)
                # A smaller batch would be compiled once more.
                padding = np.zeros((batch_size - count, *images.shape[1:]), np.uint8)
                outputs = self._outputs(np.concatenate([images, padding]) if len(padding) else images, count)
                position = _report_skipped(image_map, position, positions, skip)
                yield positions.tolist(), log_softmax(outputs) if self._is_logits else outputs
        _report_skipped(image_map, position, [len(image_map)], skip)


def _report_skipped(image_map: ImageMap, position: int, positions: Sequence[int], skip: Skip) -> int:
    """Reports the files from `position` on that are not among `positions`; returns the position after these."""
    for found in positions:
        for missing in range(position, found):
            skip(image_map.paths[missing], why_unreadable(image_map, missing) or "TensorFlow cannot read it")
        position = found + 1
    return position


def _collected(outputs: FileOutputs, paths: ImageMap | Iterable[str | os.PathLike]) -> np.ndarray:
    image_map = unlabeled_map(paths)
    values = None
    with silenced_but_python():
        for positions, batch in outputs(image_map, _refuse):
            if values is None:
                values = np.empty((len(image_map), *outputs.shape), batch.dtype)
            values[positions] = batch
    return values


def _refuse(path: str, reason: str) -> None:
    raise UserError(f"cannot read the image {path}: {reason}. Leave it out, or replace it with an intact image.")
