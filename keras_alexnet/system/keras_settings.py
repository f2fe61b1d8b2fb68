"""Keras's global settings: which backend they select, and a scope in which they have no influence on results.

They come from environment variables, from the file keras.json, which any earlier Keras may have written, and from calls
of `keras.config`. No framework is imported before it is needed.
"""

import contextlib
import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path

from keras_alexnet.errors import UserError
from keras_alexnet.system.shared_context import shared_by_threads

_BACKENDS = ("tensorflow", "jax", "torch")
# Keras stops at the import where keras.json has other values, and does not name the file.
_VALID = {
    "floatx": lambda value: value in ("float16", "float32", "float64"),
    "epsilon": lambda value: isinstance(value, float),
    "image_data_format": lambda value: value in ("channels_last", "channels_first"),
}


def select_backend() -> str:
    """Returns the backend that Keras will use: of KERAS_BACKEND, else of keras.json, else TensorFlow.

    Raises:
        UserError: the backend is unknown or not installed, or Keras would not accept keras.json.
    """
    path = _config_path()
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        config = {}  # As Keras does.
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}. Correct or remove it.") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} does not contain a JSON object. Correct the file or remove it.")
    for name, is_valid in _VALID.items():
        if name in config and not is_valid(config[name]):
            raise UserError(
                f"{name} is {config[name]!r} in {path}, which Keras rejects. Correct the file or remove it."
            )
    if backend := os.environ.get("KERAS_BACKEND"):
        source = "KERAS_BACKEND"
    else:
        backend, source = config.get("backend", "tensorflow"), f"the backend in {path}"
    remedy = "" if source == "KERAS_BACKEND" else " Or set KERAS_BACKEND, which overrides the file."
    if backend not in _BACKENDS:
        raise UserError(f"{source} is {backend!r}; expected one of {', '.join(_BACKENDS)}.{remedy}")
    if not importlib.util.find_spec(backend):
        raise UserError(
            f"{source} is {backend}, which is not installed: pip install 'keras_alexnet[{backend}]'{remedy}"
        )
    return backend


@contextlib.contextmanager
def keras_defaults() -> Iterator[None]:
    """Sets what Keras's global settings may change in a network and its training to Keras's own defaults meanwhile.

    These are the default dtype and dtype policy (float32), and limits to the epochs and steps of `fit`. All but the
    policy are those of the process, so other threads see them too.
    """
    import keras

    policy = keras.config.dtype_policy()
    with _process_defaults():
        keras.config.set_dtype_policy("float32")
        try:
            yield
        finally:
            keras.config.set_dtype_policy(policy)


@shared_by_threads
@contextlib.contextmanager
def _process_defaults() -> Iterator[None]:
    import keras

    floatx = keras.config.floatx()
    max_epochs, max_steps = keras.config.max_epochs(), keras.config.max_steps_per_epoch()
    keras.config.set_floatx("float32")
    keras.config.set_max_epochs(None)
    keras.config.set_max_steps_per_epoch(None)
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_max_epochs(max_epochs)
        keras.config.set_max_steps_per_epoch(max_steps)


def _config_path() -> Path:
    """The path of keras.json, found as in keras/src/backend/config.py."""
    folder = os.environ.get("KERAS_HOME")
    if folder is None:
        home = os.path.expanduser("~")
        folder = os.path.join(home if os.access(home, os.W_OK) else "/tmp", ".keras")
    return Path(os.path.expanduser(os.path.join(folder, "keras.json")))
