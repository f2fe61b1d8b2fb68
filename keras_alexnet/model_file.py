"""Models as `.keras` files."""

import inspect
import os
import zipfile

import keras
from keras import layers

from keras_alexnet.errors import UserError, first_line
from keras_alexnet.model import set_precision
from keras_alexnet.system.atomic import atomic_path


def save_model(model: keras.Model, path: str | os.PathLike, precision: str = "float32") -> None:
    """Saves network and weights in float32, without the optimizer or any class of this package, atomically.

    What belongs to the run, its precision and which layers are frozen, is left out of the file.

    Args:
        model: a model of `build_alexnet`.
        path: the file.
        precision: what the layers of `model` compute in, before and after.
    """
    frozen = [layer for layer in model.layers if not layer.trainable]
    for layer in frozen:
        layer.trainable = True
    set_precision(model, "float32")
    try:
        # A model of the same layers that was never compiled: Keras saves the optimizer of one that was.
        network = keras.Model(model.input, model.output, name=model.name)
        config = _without_defaults(network.get_config())
        network.get_config = lambda: config
        with atomic_path(path) as partial:
            network.save(partial)
    finally:
        set_precision(model, precision)
        for layer in frozen:
            layer.trainable = False


def _without_defaults(config: dict) -> dict:
    """The config of a functional model without arguments of layers that have Keras's defaults.

    Older versions of Keras refuse arguments that they do not know, such as Dense's `quantization_config`.
    """
    for entry in config["layers"]:
        if entry["module"] == "keras.layers":
            parameters = inspect.signature(getattr(layers, entry["class_name"])).parameters
            entry["config"] = {
                name: value
                for name, value in entry["config"].items()
                if name not in parameters or value != parameters[name].default
            }
    return config


def load_model(path: str | os.PathLike[str]) -> keras.Model:
    """Loads a `.keras` file, not compiled; raises `UserError` for a file that is not one."""
    try:
        with open(path, "rb") as file:
            # Of other files Keras would list at length what they could have been.
            if not zipfile.is_zipfile(file):
                raise ValueError("it is truncated or not a .keras file")
        return keras.models.load_model(path, compile=False)
    except MemoryError:
        raise UserError(f"not enough memory to load the model {path}. Free some memory and retry.") from None
    except Exception as error:
        reason = first_line(error)
        if isinstance(error, OSError) and error.strerror:
            reason = "there is no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise UserError(
            f"cannot load the model {path}: {reason}. Expected a .keras file, such as the model.keras that "
            "python -m keras_alexnet.fit writes. python -m keras_alexnet.convert makes one of a model of CNTK, Caffe, "
            "PyTorch or ONNX."
        ) from None


def model_sizes(model: keras.Model) -> tuple[int, int]:
    """Image size and number of classes; raises `UserError` for a model that does not classify square RGB images."""
    input_shape, output_shape = getattr(model, "input_shape", None), getattr(model, "output_shape", None)
    match input_shape, output_shape:
        case (_, int(height), int(width), 3), (_, int(num_classes)) if height == width:
            return height, num_classes
    raise UserError(
        f"the model takes inputs of shape {input_shape} and gives {output_shape}; expected square RGB "
        "images (batch, size, size, 3) and logits (batch, classes). Use a model of keras_alexnet."
    )
