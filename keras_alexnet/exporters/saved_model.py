"""Writes a network as TensorFlow's SavedModel, a folder that is written atomically."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import keras
import tensorflow as tf

from keras_alexnet.errors import UserError
from keras_alexnet.system.atomic import partial_path, remove, sync_folder
from keras_alexnet.system.file_names import to_utf8

_CONTENTS = {"saved_model.pb", "fingerprint.pb", "variables", "assets", "assets.extra"}


def write_saved_model(model: keras.Model, folder: Path) -> None:
    """Writes a Keras model of images, float32, of any batch size: its function `serve`, also as "serving_default".

    `keras.Model.export` calls the logits output_0, and writes every weight twice, as does an archive that tracks the
    model: what the function uses is written without that.
    """
    archive = keras.export.ExportArchive()
    archive.add_endpoint(
        "serve",
        lambda image: {"logits": model(image, training=False)},
        input_signature=[tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name="image")],
    )
    # TensorFlow encodes names of files as UTF-8 under every locale.
    archive.write_out(to_utf8(folder), verbose=False)


@contextlib.contextmanager
def atomic_saved_model(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a folder next to `path` to write to; on success it takes the name `path`, in place of an older SavedModel.

    On an exception it is removed and the older one stays as it was. What a killed process leaves behind is hidden
    (`.partial-…`), and the next write to the same folder removes it.

    Raises:
        UserError: `path` is something else than a SavedModel or an empty folder, its parent cannot be made or written,
            or the disk is full.
    """
    path = Path(os.path.realpath(path))  # A link stays one.
    _check_target(path)
    with partial_path(path) as partial:
        partial.mkdir(parents=True)
        yield partial
        for written in (*partial.rglob("*"), partial):
            if written.is_dir():
                sync_folder(written)
            else:
                with open(written, "rb+") as file:
                    os.fsync(file.fileno())
        _replace(partial, path)
        sync_folder(path.parent)


def _check_target(path: Path) -> None:
    if not path.exists():
        return
    if not path.is_dir():
        raise UserError(f"cannot write {path}: it is a file, and a SavedModel is a folder. Choose another name.")
    names = {entry.name for entry in path.iterdir()}
    if names and not {"saved_model.pb"} <= names <= _CONTENTS:
        raise UserError(
            f"cannot write {path}: the folder contains something other than a SavedModel, such as "
            f"{min(names - _CONTENTS or names)}, which "
            "would be lost. Choose the name of a new folder."
        )


def _replace(partial: Path, path: Path) -> None:
    """Moves a folder to a name that an older one may have, which is put aside meanwhile."""
    # Not a partial name: if this process is killed between the two renames, no other write may remove it.
    old = path.with_name(f".replaced-{path.name}")
    if path.is_dir():
        remove(old)
        path.rename(old)
    try:
        partial.rename(path)
    except BaseException:
        if old.is_dir():
            old.rename(path)
        raise
    remove(old)
