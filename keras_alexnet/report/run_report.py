"""The report that ends a training run."""

from pathlib import Path

from keras_alexnet.data.class_names import classes_of_model
from keras_alexnet.data.image_map import ImageMap
from keras_alexnet.inference.evaluation import predict_map
from keras_alexnet.model_file import load_model
from keras_alexnet.report.content import sha256_of
from keras_alexnet.report.files import REPORT_FILE
from keras_alexnet.report.write import write_report
from keras_alexnet.training.run_files import MODEL_FILE, REPORT_FOLDER


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
    # The page tells the digest of the model that it is about.
    return page.exists() and sha256_of(folder / MODEL_FILE) in page.read_text(encoding="utf-8")
