"""A trained network for other runtimes, as ONNX, TensorFlow SavedModel or LiteRT; each checked before it is kept."""

import contextlib
import dataclasses
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np

from keras_alexnet.errors import SettingError, UserError, first_line
from keras_alexnet.exporters.formats import QUANTIZATIONS, export_kind
from keras_alexnet.exporters.runtimes import PACKAGES, load_exported
from keras_alexnet.model_file import model_sizes
from keras_alexnet.system.atomic import atomic_path
from keras_alexnet.system.log_suppression import silenced

# Of the largest logit. Other orders of summation make 3e-6 of it, a wrong constant 1e-3 and more.
_TOLERANCE = 1e-4
_BATCHES = (1, 3, 28)  # Any batch size must do.


@dataclasses.dataclass(frozen=True)
class ExportCheck:
    """What was written, and how its logits compare with those of Keras.

    Attributes:
        path: the file or folder.
        kind: one of the values of `EXPORT_KINDS`.
        size: in bytes.
        runtime: what it was run with, such as "onnxruntime 1.32.0"; None if that is not installed, and then
            what follows is not known.
        images: how many synthetic images it was given.
        difference: the largest difference of a logit, as a fraction of the largest logit of Keras.
        same_class: how many of the images have the same largest logit.
    """

    path: str
    kind: str
    size: int
    runtime: str | None
    images: int = 0
    difference: float | None = None
    same_class: int | None = None

    def describe(self) -> str:
        """The outcome in one line."""
        if self.runtime is None:
            return f"not checked: {PACKAGES[self.kind]} is not installed (pip install 'keras_alexnet[export]')."
        return (
            f"checked with {self.runtime}: logits differ from those of Keras by at most {self.difference:.1e} of the "
            f"largest, and the best class is the same for {self.same_class} of {self.images} synthetic images."
        )


def export_model(model: keras.Model, path: str | os.PathLike, *, quantize: str = "none") -> ExportCheck:
    """Writes a network in the format that the name asks for, and runs it in the runtime that the format is meant for.

    All of them take "image", float32 (batch, side, side, 3) RGB pixels of 0 to 255, and give "logits", float32 (batch,
    classes). The file is kept if its logits are those of Keras, or if its runtime is not installed.

    Args:
        model: of `build_alexnet`; for a SavedModel, any network of images. It is not changed.
        path: the file or folder; an older export of that name is replaced.
        quantize: one of `QUANTIZATIONS`, for LiteRT: what the weights are stored in. Its differences are reported, not
            judged.

    Raises:
        UserError: an unknown suffix or quantization, a name that something else has, another backend than TensorFlow, a
            model that the format cannot hold, logits that differ, or a failure to write. Nothing is written then.
    """
    kind = export_kind(path)
    _check_arguments(model, path, kind, quantize)
    from keras_alexnet.exporters.saved_model import atomic_saved_model

    side, _ = model_sizes(model)
    place = atomic_saved_model(path) if kind == "SavedModel" else atomic_path(path)
    with place as partial, _float32_products():
        images = _synthetic_images(sum(_BATCHES), side)
        expected = keras.ops.convert_to_numpy(model(images, training=False))
        if not np.isfinite(expected).all():
            raise UserError("the model produced NaN or Inf logits: its weights are corrupted. Use another model.")
        with _quiet():
            _write(model, kind, partial, quantize)
            outcome = _run(kind, partial, images, path)
        size = sum(file.stat().st_size for file in (partial, *partial.rglob("*")) if file.is_file())
        if outcome is None:
            return ExportCheck(os.fspath(path), kind, size, runtime=None)
        runtime, logits = outcome
        return _compare(ExportCheck(os.fspath(path), kind, size, runtime), logits, expected, quantize)


def _check_arguments(model: keras.Model, path: str | os.PathLike, kind: str | None, quantize: str) -> None:
    if kind is None:
        raise UserError(
            f"cannot write {path}: the suffix is unknown. Expected .onnx for ONNX, .tflite for LiteRT, or a name "
            "without suffix for the folder of a SavedModel."
        )
    if quantize not in QUANTIZATIONS:
        raise SettingError("quantize", f"is {quantize!r}; expected one of {', '.join(QUANTIZATIONS)}.")
    if quantize != "none" and kind != "LiteRT":
        raise UserError(
            f"cannot write {path} with quantize {quantize}: only LiteRT has it. Choose a name that ends in .tflite."
        )
    if keras.backend.backend() != "tensorflow":
        raise UserError(
            f"cannot export with the {keras.backend.backend()} backend of Keras: the writers are those of TensorFlow. "
            "Set KERAS_BACKEND=tensorflow."
        )
    for layer in getattr(model, "layers", []):
        if layer.compute_dtype in ("float16", "bfloat16"):
            raise UserError(
                f"cannot export a model that computes in {layer.compute_dtype}, as its layer {layer.name} does. Call "
                'keras_alexnet.model.set_precision(model, "float32") before.'
            )


def _write(model: keras.Model, kind: str, path: Path, quantize: str) -> None:
    from keras_alexnet.exporters.litert import write_litert
    from keras_alexnet.exporters.onnx import write_onnx
    from keras_alexnet.exporters.saved_model import write_saved_model

    try:
        if kind == "ONNX":
            write_onnx(model, path)
        elif kind == "LiteRT":
            write_litert(model, path, quantize)
        else:
            write_saved_model(model, path)
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:  # The converters raise errors of many kinds.
        raise UserError(f"cannot write the model as {kind}: {first_line(error)}") from error


def _run(kind: str, partial: Path, images: np.ndarray, path: str | os.PathLike) -> tuple[str, np.ndarray] | None:
    """The name of the runtime and the logits that it gives; None if it is not installed."""
    try:
        loaded = load_exported(kind, partial)
        if loaded is None:
            return None
        runtime, function = loaded
        batches = np.split(images, np.cumsum(_BATCHES)[:-1])
        return runtime, np.concatenate([function(batch) for batch in batches])
    except (OSError, MemoryError):
        raise
    except Exception as error:  # The runtimes raise errors of many kinds.
        raise UserError(f"{path} is not written: {PACKAGES[kind]} cannot run it: {first_line(error)}") from error


def _compare(check: ExportCheck, logits: np.ndarray, expected: np.ndarray, quantize: str) -> ExportCheck:
    difference = float(np.abs(logits - expected).max() / (np.abs(expected).max() or 1))
    if not (difference <= _TOLERANCE if quantize == "none" else np.isfinite(difference)):
        wanted = f"at most {_TOLERANCE}" if quantize == "none" else "a finite number"
        raise UserError(
            f"{check.path} is not written: in {check.runtime} its logits differ from those of Keras by "
            f"{difference:.1e} of the largest, expected {wanted}, so it would be another network. Try other versions "
            f"of {PACKAGES[check.kind]} and of Keras, or another format."
        )
    same_class = int((logits.argmax(axis=1) == expected.argmax(axis=1)).sum())
    return dataclasses.replace(check, images=len(logits), difference=difference, same_class=same_class)


def _synthetic_images(count: int, side: int) -> np.ndarray:
    """(count, side, side, 3) float32 of 0 to 255, always the same: noise, and waves of color, in turn."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (count, side, side, 3))
    x = np.linspace(0, 1, side)[:, None]
    for image in images[1::2]:
        across, down, phase = rng.uniform(0, 12, (3, 3))
        image[:] = 127.5 + 127.5 * np.sin(across * x + down * x[:, None] + phase)
    return images.astype("float32")


@contextlib.contextmanager
def _float32_products() -> Iterator[None]:
    """Has GPUs multiply in float32: they take TensorFloat-32, which is off by 1e-3, for it."""
    from tensorflow.config import experimental

    was_enabled = experimental.tensor_float_32_execution_enabled()
    experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        experimental.enable_tensor_float_32_execution(was_enabled)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drops the output of converters and runtimes; their errors come as exceptions."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with silenced(1), silenced(2), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
