"""The records of a run: `history.csv`, `run.json`, and points for TensorBoard."""

import contextlib
import csv
import datetime
import io
import json
from collections.abc import Iterator
from pathlib import Path

import keras

from keras_alexnet.errors import UserError
from keras_alexnet.system import machine
from keras_alexnet.system.atomic import make_folder, write_text
from keras_alexnet.system.file_names import to_utf8
from keras_alexnet.system.gpu import leave_gpus_to_the_backend
from keras_alexnet.system.process_pool import cpu_count
from keras_alexnet.training.config import TrainConfig
from keras_alexnet.training.run_files import RUN_FILE, TENSORBOARD_FOLDER


def write_history(path: Path, history: list[dict]) -> None:
    """Writes the finished epochs as CSV, atomically; without any there is no file."""
    if not history:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    # The first rows of a run that an older version started may lack columns.
    writer = csv.DictWriter(text, fieldnames=list(history[-1]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(path, text.getvalue())


def read_run_file(folder: Path) -> dict:
    """What `run.json` holds; an empty dict where it is missing or corrupted, since it can be written again."""
    try:
        run = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return run if isinstance(run, dict) else {}


class RunRecord:
    """Keeps `run.json` in a run's folder.

    Args:
        folder: the run's.
        config: its settings.
        identity: what makes it the run that it is, the data's fingerprints among them.
        devices: a description of what it computes on.
        first_step: finished steps at this start.
    """

    def __init__(self, folder: Path, config: TrainConfig, identity: dict, devices: str, first_step: int):
        self._folder = folder
        before = read_run_file(folder) if first_step else {}
        start = {
            "time": _now(),
            "step": first_step,
            "devices": devices,
            "cores": cpu_count(),
            "processor": machine.processor(),
            "versions": machine.versions(),
            "commit": machine.commit(),
        }
        self._facts = {
            "seed": config.seed,
            "backend": keras.backend.backend(),
            "identity": identity,
            "starts": [*before.get("starts", []), start],
            "model_steps": before.get("model_steps"),
        }

    def write(self, history: list[dict], steps: int, seconds: float, model_steps: int | None = None) -> None:
        """Writes the file.

        Args:
            history: rows of the finished epochs.
            steps: finished steps.
            seconds: spent on the run, over all its starts.
            model_steps: those behind the weights in `model.keras`, if it has just been written.
        """
        if model_steps is not None:
            self._facts["model_steps"] = model_steps
        errors = [{name: row[name] for name in row if name == "epoch" or name.startswith("val_")} for row in history]
        facts = self._facts | {
            "steps": steps,
            "epochs": len(history),
            "wall_seconds": round(seconds, 1),
            "last": errors[-1] if errors else None,
            "best": min(errors, key=lambda row: row["val_top1_error"]) if errors else None,
            "written": _now(),
        }
        write_text(self._folder / RUN_FILE, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")


class TensorBoard:
    """Points of a run for TensorBoard, over the finished steps."""

    def __init__(self, folder: Path):
        # TensorFlow writes the files under any backend, and takes its time to be imported.
        import tensorflow as tf

        leave_gpus_to_the_backend()
        self._tf = tf
        self._folder = folder / TENSORBOARD_FOLDER
        with self._explained():
            make_folder(self._folder)  # TensorFlow would make it without regard to the umask.
            # TensorFlow encodes names of files as UTF-8 under every locale.
            self._writer = tf.summary.create_file_writer(to_utf8(str(self._folder)))

    def write(self, steps: int, values: dict[str, float], group: str) -> None:
        """Adds a point to the curve `group`/name of each value."""
        # `tf.summary.scalar` would need the package tensorboard, which only those who look at the curves need.
        summary = self._tf.compat.v1.Summary
        points = [summary.Value(tag=f"{group}/{name}", simple_value=value) for name, value in values.items()]
        with self._explained():
            with self._writer.as_default():
                self._tf.summary.experimental.write_raw_pb(summary(value=points).SerializeToString(), step=steps)
            self._writer.flush()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except self._tf.errors.OpError as error:
            raise UserError(
                f"cannot write {self._folder}: {error.message.splitlines()[0]}. Free some space, or make it "
                "writable, or continue without --tensorboard."
            ) from None


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
