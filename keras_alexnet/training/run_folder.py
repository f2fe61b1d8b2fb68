"""The output directory of a run: what is in it, and whether a run may resume there."""

import shutil
from pathlib import Path

from keras_alexnet.data.class_file import class_file, names_file
from keras_alexnet.errors import UserError
from keras_alexnet.system.process_pool import cpu_count
from keras_alexnet.system.progress import say
from keras_alexnet.training.checkpoint import Checkpoint, Progress, check_identity, load_newest_checkpoint
from keras_alexnet.training.devices.base import Devices
from keras_alexnet.training.record import read_run_file
from keras_alexnet.training.run_files import (
    BEST_MODEL_FILE,
    CHECKPOINT_FOLDER,
    FLAGS_FILE,
    HISTORY_FILE,
    MODEL_FILE,
    PROFILE_FOLDER,
    REPORT_FILES,
    REPORT_FOLDER,
    RUN_FILE,
    TENSORBOARD_FOLDER,
)


def find_checkpoint(folder: Path, identity: dict, devices: Devices, warn=say) -> Checkpoint | None:
    """Returns the checkpoint to resume from, None for a new run.

    Args:
        folder: the run's; all workers have to see the same.
        identity: what makes the run what it is.
        devices: those of the run.
        warn: called with what the user should know, but cannot fix.

    Raises:
        UserError: the folder holds something else, or the workers see different ones.
    """
    checkpoint = load_newest_checkpoint(folder / CHECKPOINT_FOLDER, warn)
    steps = checkpoint.progress.steps if checkpoint else -1
    most, least = devices.agree([steps, -steps])
    if most != -least:
        raise UserError(
            f"the workers do not see the same checkpoint in {folder}: worker {devices.worker} sees "
            + (f"one of step {steps:,}" if checkpoint else "none")
            + f", and the newest of all is of step {int(most):,}. Use an --output_dir that all workers share."
        )
    if checkpoint:
        check_identity(checkpoint, identity)
        if checkpoint.progress.cores != cpu_count():
            warn(
                f"The run used {checkpoint.progress.cores} CPU cores and resumes with {cpu_count()}: sums are rounded "
                "in another order, so results may differ in their last bits from those of an uninterrupted run."
            )
    elif devices.is_chief:
        # Synthetic runs keep only their history, and the next one may replace it.
        for name in (MODEL_FILE, *([] if identity["synthetic_data"] else [HISTORY_FILE])):
            if (folder / name).exists():
                raise UserError(
                    f"{folder} holds a {name} but no checkpoint to resume from. Choose another --output_dir, or pass "
                    "--restart to replace what is there."
                )
    return checkpoint


def is_finished(folder: Path, progress: Progress, epochs: int, steps_per_epoch: int) -> bool:
    """Whether a run of `epochs` has its result: an interruption may have come between its last checkpoint and that.

    Raises:
        UserError: it is beyond these epochs already.
    """
    if progress.epochs < epochs:
        return False
    if (folder / MODEL_FILE).exists() and read_run_file(folder).get("model_steps") == progress.steps:
        return True
    begun = -(-progress.steps // steps_per_epoch)
    if begun > epochs:
        raise UserError(
            f"{folder} holds a run that has reached step {progress.steps:,}, in epoch {begun}. Pass "
            f"--epochs={begun} or more."
        )
    return False


def discard_run(folder: Path) -> None:
    """Removes what a run leaves behind, and nothing else.

    Its checkpoints go first and its model last, so that no run resumes from half of it after an interruption.
    """
    for pattern in (
        f"{CHECKPOINT_FOLDER}/step-*.npz",
        f"{CHECKPOINT_FOLDER}/.partial-*",
        f"{TENSORBOARD_FOLDER}/events.out.tfevents.*",
        *(f"{REPORT_FOLDER}/{name}" for name in (*REPORT_FILES, ".partial-*")),
        f"{PROFILE_FOLDER}/steps-*.trace.json.gz",  # of older versions
        f"{PROFILE_FOLDER}/plugins/profile/steps-*/*",  # what TensorBoard has computed there, too
        ".partial-*",
        BEST_MODEL_FILE,
        class_file(BEST_MODEL_FILE).name,
        names_file(BEST_MODEL_FILE).name,
        FLAGS_FILE,
        RUN_FILE,
        HISTORY_FILE,
        class_file(MODEL_FILE).name,
        names_file(MODEL_FILE).name,
        MODEL_FILE,
    ):
        for path in folder.glob(pattern):
            try:
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            except OSError as error:
                raise UserError(f"cannot remove {path}: {error.strerror}. Choose another --output_dir.") from None
