"""Checks before long work whether a report can be written. No framework is imported."""

import importlib.util
import os

from keras_alexnet.errors import UserError
from keras_alexnet.system.atomic import check_folder, check_target
from keras_alexnet.training.config import TrainConfig
from keras_alexnet.training.run_files import REPORT_FILES, REPORT_FOLDER

_PACKAGES = ("plotly", "jinja2")


def check_packages() -> None:
    """Raises `UserError` where what a report needs is not installed."""
    missing = [package for package in _PACKAGES if not importlib.util.find_spec(package)]
    if missing:
        raise UserError(
            f"a report needs {' and '.join(missing)}, not installed here: pip install 'keras_alexnet[report]'"
        )


def check_report(folder: str | os.PathLike) -> None:
    """Checks whether a report can be written to `folder`, and writes nothing.

    Raises:
        UserError: packages are missing, or the folder cannot be written to.
    """
    check_packages()
    check_folder(folder)
    for name in REPORT_FILES:
        check_target(os.path.join(folder, name))


def check_run_report(config: TrainConfig) -> None:
    """As `check_report`, for the report that a run is to end with, if it is to."""
    if not config.report:
        return
    if config.synthetic_data:
        raise UserError("report is on, but a run on synthetic data keeps no model to report on. Leave out --report.")
    check_report(os.path.join(config.output_dir, REPORT_FOLDER))
