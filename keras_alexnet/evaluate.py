"""Measures the top-1 and top-5 error and accuracy of a model on the images of a map, each exactly once.

    python -m keras_alexnet.evaluate --model=saved_models/alexnet/model.keras --data_dir=data
    python -m keras_alexnet.evaluate --model=saved_models/alexnet/model.keras --data_dir=data --report_dir=report

The report is an HTML page, report.html, with the errors, the training curves, the results of each class, the confusion
matrix, the most confident mistakes, the calibration and the filters; and tables in machine-readable form.

If a class file, model.classes.txt, is next to the model, its classes are compared with those of --data_dir.
"""

import json
import os

from absl import flags

from keras_alexnet import cli
from keras_alexnet.data.class_names import find_classes
from keras_alexnet.data.crops import PREPROCESSINGS, check_crops
from keras_alexnet.data.map_file import VAL_MAP, read_map
from keras_alexnet.errors import UserError, integer_setting
from keras_alexnet.report.check import check_report
from keras_alexnet.system.atomic import check_writable, write_text
from keras_alexnet.system.progress import say
from keras_alexnet.training.top_k import informative_ranks


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the command's flags."""
    cli.define_compilation_cache(flag_values)
    cli.define_path(
        "model", "saved_models/alexnet/model.keras", "The .keras file to evaluate.", flag_values=flag_values
    )
    cli.define_path("data_dir", "data", "Directory with val_map.txt and classmappings.txt.", flag_values=flag_values)
    cli.define_path("map_file", None, "Evaluate on this map instead of data_dir's.", flag_values=flag_values)
    flags.DEFINE_integer("batch_size", 256, "Crops per batch; at least 1.", flag_values=flag_values)
    flags.DEFINE_enum(
        "preprocessing",
        "cntk",
        list(PREPROCESSINGS),
        "How each image is cropped and resized. "
        + "; ".join(f"{name}: {meaning}" for name, meaning in PREPROCESSINGS.items())
        + ". Choose the preprocessing that the model was trained for.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "crops",
        1,
        "1: the center crop. 10: the mean of the predictions for the four corner crops, the center crop and their "
        "horizontal flips.",
        flag_values=flag_values,
    )
    cli.define_path(
        "metrics_file",
        None,
        "Also write the number of examples, top1_error, top1_accuracy, top5_error, top5_accuracy (fractions), loss and "
        "the settings to this JSON file.",
        flag_values=flag_values,
    )
    cli.define_path(
        "report_dir",
        None,
        "Also write a report to this directory: report.html, per_class.csv, confusion.npz and predictions.csv.",
        flag_values=flag_values,
    )


def main(values: flags.FlagValues, arguments: list[str]) -> None:
    """Evaluates, prints the results, and writes the files that were asked for."""
    cli.reject_positional(arguments)
    integer_setting("batch_size", values.batch_size, 1)
    check_crops(values.preprocessing, values.crops)
    if values.metrics_file:
        check_writable(values.metrics_file)
    if values.report_dir:
        check_report(values.report_dir)
    if not values.map_file:
        classes = find_classes(values.model, data_dir=values.data_dir)
        num_classes = len(classes)
    else:
        # A map does not name its classes. A report shows the names of those in the model's class file.
        classes = find_classes(values.model) if values.report_dir else None
        num_classes = None
    image_map = read_map(values.map_file or os.path.join(values.data_dir, VAL_MAP), num_classes)

    with cli.quiet_framework_start(values.compilation_cache):
        from keras_alexnet.inference.evaluation import predict_map
        from keras_alexnet.model_file import load_model, model_sizes

        if values.report_dir:
            from keras_alexnet.report.write import write_report
    model = load_model(values.model)
    _, model_classes = model_sizes(model)
    if num_classes not in (None, model_classes):
        raise UserError(
            f"{values.model} has {model_classes} classes, but {values.data_dir} has {num_classes}. "
            "Evaluate a model on the classes that it was trained on."
        )
    settings = {"preprocessing": values.preprocessing, "crops": values.crops}
    predictions = predict_map(model, image_map, values.batch_size, **settings)
    results = predictions.metrics()
    printed = say(_table(results, model_classes))
    if values.metrics_file:
        write_text(values.metrics_file, json.dumps(results | settings, indent=2) + "\n")
    if values.report_dir:
        page = write_report(
            values.report_dir,
            model,
            predictions,
            image_map,
            model_path=values.model,
            classes=classes if classes and len(classes) == model_classes else None,
            settings=settings,
        )
        say(f"report      {page}")
    if not printed and not values.metrics_file:
        raise UserError("the results could not be printed. Use --metrics_file=FILE to write them to a file.")


def _table(results: dict, num_classes: int) -> str:
    lines = [
        f"top-{k} error {100 * results[f'top{k}_error']:.3f}%  (accuracy {100 * results[f'top{k}_accuracy']:.3f}%)"
        for k in informative_ranks(num_classes)
    ]
    return "\n".join([*lines, f"loss        {results['loss']:.4f}", f"images      {results['examples']:,}"])


_GROUPS = {
    "Model": "model",
    "Data": "data_dir map_file",
    "Preprocessing": "preprocessing crops",
    "Devices": "batch_size compilation_cache",
    "Output": "metrics_file report_dir",
}
COMMAND = cli.Command(main, define_flags, __doc__, _GROUPS)

if __name__ == "__main__":
    cli.run(COMMAND)
