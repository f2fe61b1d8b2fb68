"""The report that ends a training run."""

from pathlib import Path

from keras_alexnet.data.class_names import classes_of_model
from keras_alexnet.data.image_map import ImageMap
from keras_alexnet.inference.evaluation import predict_map
from keras_alexnet.model_file import load_model
from keras_alexnet.report.content import sha256_of
from keras_alexnet.report.write import write_report
from keras_alexnet.training.run_files import MODEL_FILE, REPORT_FILE, REPORT_FOLDER


def write_run_report(folder: Path, validation: ImageMap, batch_size: int) -> Path:
    """Writes the report on the finished run in `folder`, on its validation images; returns the path of the page.

    A report on the same model stays as it is.
    """
    path = folder / MODEL_FILE
    page = folder / REPORT_FOLDER / REPORT_FILE
    # The page contains the digest of the model that it is on.
    if page.exists() and sha256_of(path) in page.read_text(encoding="utf-8"):
        return page
    model = load_model(str(path))
    return write_report(
        page.parent,
        model,
        predict_map(model, validation, batch_size),
        validation,
        model_path=path,
        classes=classes_of_model(path),
        settings={"preprocessing": "cntk", "crops": 1},
    )
