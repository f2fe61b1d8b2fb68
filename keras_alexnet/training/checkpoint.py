"""Checkpoints: all that a run needs to go on, in one file that is whole or not there.

A checkpoint is an `.npz` of every variable of the model (weights and the seed states of dropout) and of the optimizer,
with a JSON text that says where the run stood. The zip format's CRCs tell a damaged one.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from keras_alexnet.atomic import atomic_path
from keras_alexnet.errors import UserError

_FORMAT = 1
_KEPT = 2
_STATE = "state.json"


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        epochs: finished epochs.
        steps: finished steps.
        identity: the settings, data and backend that make the run what it is.
        history: one row a finished epoch, as in `history.csv`.
    """

    epochs: int
    steps: int
    identity: dict
    history: list[dict]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read: the progress, and the arrays by variable."""

    path: Path
    progress: Progress
    arrays: dict[str, np.ndarray]


def save_checkpoint(folder: Path, model: keras.Model, progress: Progress) -> Path:
    """Writes a checkpoint and removes all but the newest two."""
    path = folder / f"step-{progress.steps:09}.npz"
    state = json.dumps({"format": _FORMAT, **vars(progress)}).encode()
    arrays = {name: np.asarray(keras.ops.convert_to_numpy(variable)) for name, variable in _variables(model).items()}
    with atomic_path(path) as partial:
        np.savez(partial, **{_STATE: np.frombuffer(state, np.uint8)}, **arrays)
    for old in _paths(folder)[:-_KEPT]:
        old.unlink(missing_ok=True)
    return path


def load_newest_checkpoint(folder: Path, warn=print) -> Checkpoint | None:
    """Reads the newest checkpoint of `folder` that is whole; None where there is none.

    Raises:
        UserError: a checkpoint that a newer version wrote, or all of them damaged.
    """
    paths = _paths(folder)
    for path in reversed(paths):
        try:
            # Opened here, since NumPy leaves a damaged file open that it opened itself.
            with open(path, "rb") as raw, np.load(raw) as file:
                arrays = {name: file[name] for name in file.files}
            state = json.loads(arrays.pop(_STATE).tobytes())
            version = state.pop("format")
            progress = Progress(**state) if version <= _FORMAT else None
        except Exception as error:  # Damage shows as errors of many kinds.
            warn(f"The checkpoint {path} is damaged ({error}); looking for the one before.")
            continue
        if progress is None:
            raise UserError(f"{path} was written by a newer version of keras_alexnet; update it to go on.")
        return Checkpoint(path, progress, arrays)
    if paths:
        raise UserError(f"no checkpoint in {folder} can be read. Use --restart to begin anew.")
    return None


def restore(model: keras.Model, checkpoint: Checkpoint) -> None:
    """Sets every variable of a compiled model and its optimizer."""
    model.optimizer.build(model.trainable_variables)
    variables = _variables(model)
    shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
    saved = {name: array.shape for name, array in checkpoint.arrays.items()}
    if shapes != saved:
        odd = min(name for name in shapes.keys() | saved.keys() if shapes.get(name) != saved.get(name))
        raise UserError(
            f"{checkpoint.path} is of another network: {odd} has shape {saved.get(odd)} there, {shapes.get(odd)} here. "
            "Use --restart to begin anew, or another --output_dir."
        )
    for name, variable in variables.items():
        variable.assign(checkpoint.arrays[name])


def check_identity(checkpoint: Checkpoint, identity: dict) -> None:
    """Refuses to go on with other settings, other data or another backend than the run began with."""
    old = checkpoint.progress.identity
    changed = [
        f"  {key}: {old.get(key)} then, {identity.get(key)} now" for key in identity if old.get(key) != identity[key]
    ]
    if changed:
        raise UserError(
            f"{checkpoint.path.parent.parent} holds another run:\n" + "\n".join(changed) + "\n"
            "Give the same settings to go on, another --output_dir for a new run, or --restart to throw that one away."
        )


def _paths(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*.npz") if re.fullmatch(r"step-\d{9,}\.npz", path.name))


def _variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Variables by a name that is the same in every process: Keras numbers some of its own names as they come up."""
    named = {f"model/{i:02}": variable for i, variable in enumerate(model.variables)}
    return named | {f"optimizer/{i:02}": variable for i, variable in enumerate(model.optimizer.variables)}
