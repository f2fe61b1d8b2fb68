"""The report that ends a training run."""

from pathlib import Path

from keras_alexnet.data.class_names import classes_of_model
from keras_alexnet.data.maps import ImageMap
from keras_alexnet.errors import UserError
from keras_alexnet.inference.evaluation import predict_map
from keras_alexnet.reporting.check import check_packages
from keras_alexnet.reporting.files import REPORT_FILE
from keras_alexnet.reporting.report import write_report
from keras_alexnet.training.config import TrainConfig
from keras_alexnet.training.model_file import load_model
from keras_alexnet.training.run_files import MODEL_FILE, REPORT_FOLDER


def check_run_report(config: TrainConfig) -> None:
    """Raises `UserError` where a run could not end with a report."""
    if config.synthetic_data:
        raise UserError("report is on, but a run on synthetic data keeps no model to report on. Leave out --report.")
    check_packages()


def write_run_report(folder: Path, validation: ImageMap, batch_size: int) -> Path:
    """Writes the report on the finished run in `folder`, on its validation images; returns the path of the page."""
    path = folder / MODEL_FILE
    model = load_model(str(path))
    return write_report(
        folder / REPORT_FOLDER,
        model,
        predict_map(model, validation, batch_size),
        validation,
        model_path=path,
        classes=classes_of_model(path),
        settings={"resize": "square", "crops": 1},
    )


def has_run_report(folder: Path) -> bool:
    """Whether the run in `folder` has a report on its model as it is."""
    page = folder / REPORT_FOLDER / REPORT_FILE
    return page.exists() and page.stat().st_mtime >= (folder / MODEL_FILE).stat().st_mtime
