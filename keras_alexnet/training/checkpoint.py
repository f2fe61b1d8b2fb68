"""Checkpoints: everything that a run needs to resume, in one file that is written atomically.

A checkpoint is an `.npz` of every variable of the model (weights and the seed states of dropout), of the optimizer and
of the metrics, with a JSON text of the run's position. The zip format's CRCs detect corrupted files.
"""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np

from keras_alexnet.errors import UserError
from keras_alexnet.system.atomic import atomic_path
from keras_alexnet.system.progress import say

_FORMAT = 3
_KEPT = 2
_STATE = "state.json"


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        steps: finished steps.
        history: one row per finished epoch, as in `history.csv`; the steps of the one after that may all be done, and
            its validation not.
        identity: the settings, data and backend that make the run what it is.
        cores: CPU cores that it computed on.
        epoch_seconds: spent on the training of the unfinished epoch.
        epoch_wait: of these, in which there was no data.
        total_seconds: spent on the run, over all its starts.
        architecture: of the network, in words; "" in checkpoints of older versions.
    """

    steps: int
    history: list[dict]
    identity: dict
    cores: int
    epoch_seconds: float = 0.0
    epoch_wait: float = 0.0
    total_seconds: float = 0.0
    architecture: str = ""

    @property
    def epochs(self) -> int:
        """Finished epochs."""
        return len(self.history)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read: the progress, and the arrays by variable."""

    path: Path
    progress: Progress
    arrays: dict[str, np.ndarray]


def variable_arrays(model: keras.Model, kind: str = "") -> dict[str, np.ndarray]:
    """Copies the variables of a compiled model to the host.

    It waits for the device. On several workers all of them have to call it, as metrics are summed up over them.

    Args:
        model: a compiled model.
        kind: "metrics" for these only.

    Returns:
        The arrays by the names that checkpoints have.
    """
    if keras.backend.backend() == "jax":
        model.jax_state_sync()
    return {name: _copied(variable) for name, variable in _variables(model).items() if name.startswith(kind)}


def save_checkpoint(folder: Path, arrays: dict[str, np.ndarray], progress: Progress) -> Path:
    """Writes a checkpoint of what `variable_arrays` gave, and removes all others but the one before."""
    path = folder / f"step-{progress.steps:09}.npz"
    state = json.dumps({"format": _FORMAT, **asdict(progress)}).encode()
    with atomic_path(path) as partial:
        np.savez(partial, **{_STATE: np.frombuffer(state, np.uint8)}, **arrays)
    # Newer ones were found corrupted when the run resumed from an older one.
    kept = [other for other in _paths(folder) if other <= path][-_KEPT:]
    for other in set(_paths(folder)) - set(kept):
        other.unlink(missing_ok=True)
    return path


def load_newest_checkpoint(folder: Path, warn=say) -> Checkpoint | None:
    """Reads the newest intact checkpoint of `folder`; None where there is none.

    Raises:
        UserError: a checkpoint that another version wrote, or all of them corrupted.
    """
    paths = _paths(folder)
    for path in reversed(paths):
        try:
            # Opened here, since NumPy leaves a corrupted file open that it opened itself.
            with open(path, "rb") as raw, np.load(raw) as file:
                arrays = {name: file[name] for name in file.files}
            state = json.loads(arrays.pop(_STATE).tobytes())
            version = state.pop("format")
            progress = Progress(**state) if version == _FORMAT else None
        except MemoryError:
            raise UserError(f"cannot read {path}: not enough memory. Free some memory and retry.") from None
        except Exception as error:  # Corruption shows as errors of many kinds.
            if isinstance(error, OSError) and error.errno:
                raise UserError(f"cannot read {path}: {error.strerror}. Fix this and try again.") from None
            warn(f"The checkpoint {path} is corrupted ({error}); trying the previous one.")
            continue
        if progress is None:
            age = "a newer version of keras_alexnet; update it" if version > _FORMAT else "an older version; use that"
            raise UserError(f"{path} was written by {age} to resume, or pass --restart to start over.")
        return Checkpoint(path, progress, arrays)
    if paths:
        raise UserError(f"no checkpoint in {folder} can be read. Pass --restart to start over.")
    return None


def restore(model: keras.Model, checkpoint: Checkpoint, architecture: str = "") -> None:
    """Sets every variable of a model that `build_variables` has been called for; metrics last until they are reset.

    Raises:
        UserError: the checkpoint is of a network of other shapes, or of another architecture.
    """
    before = checkpoint.progress.architecture
    if before and before != architecture:
        raise UserError(
            f"{checkpoint.path} is of another network:\n  {before} then,\n  {architecture} now.\n"
            "Use --restart to start over, or another --output_dir."
        )
    variables = _variables(model)
    shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
    saved = {name: array.shape for name, array in checkpoint.arrays.items()}
    if shapes != saved:
        odd = min(name for name in shapes.keys() | saved.keys() if shapes.get(name) != saved.get(name))
        raise UserError(
            f"{checkpoint.path} is of another network: {odd} has shape {saved.get(odd)} there, {shapes.get(odd)} here. "
            "Pass --restart to start over, or choose another --output_dir."
        )
    assign(model, checkpoint.arrays)


def assign(model: keras.Model, arrays: dict[str, np.ndarray]) -> None:
    """Sets the variables that `arrays` names."""
    variables = _variables(model)
    for name, array in arrays.items():
        variables[name].assign(array)


def build_variables(model: keras.Model) -> None:
    """Makes the variables of the optimizer and of the metrics, which Keras otherwise makes at the first step."""
    model.optimizer.build(model.trainable_variables)
    logits = np.zeros((1, model.output_shape[-1]), np.float32)
    labels, logits = keras.ops.zeros((1,), "int32"), keras.ops.convert_to_tensor(logits)
    # What is not built, Keras builds in `fit` and `evaluate`, of a batch that it takes for that and drops.
    model.compute_loss(None, labels, logits)
    model.compute_metrics(None, labels, logits)
    model.reset_metrics()


def check_identity(checkpoint: Checkpoint, identity: dict) -> None:
    """Raises `UserError` where settings, data or backend differ from those that the run started with."""
    old = checkpoint.progress.identity
    changed = [
        f"  {key}: {old.get(key)} then, {identity.get(key)} now"
        for key in {**identity, **old}
        if old.get(key) != identity.get(key)
    ]
    if changed:
        raise UserError(
            f"{checkpoint.path.parent.parent} holds another run:\n" + "\n".join(changed) + "\n"
            "Use the same settings to resume, another --output_dir for a new run, or --restart to discard this one."
        )


def _paths(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*.npz") if re.fullmatch(r"step-\d{9,}\.npz", path.name))


def _copied(variable: keras.Variable) -> np.ndarray:
    array = keras.ops.convert_to_numpy(variable)
    # TensorFlow has copied it; under JAX and PyTorch it shares the variable's memory.
    return array if array.flags.owndata else array.copy()


def _variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Variables by a name that is the same in every process: Keras numbers some of its own names as they come up."""
    return {
        f"{kind}/{i:02}": variable
        for kind, variables in (
            ("model", model.variables),
            ("optimizer", model.optimizer.variables),
            ("metrics", model.metrics_variables),
        )
        for i, variable in enumerate(variables)
    }
