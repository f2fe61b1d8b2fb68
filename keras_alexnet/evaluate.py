"""Top-1 and top-5 error of a model on the images of a map, each exactly once.

    python -m keras_alexnet.evaluate --model=saved_models/alexnet/model.keras --data_dir=data
    python -m keras_alexnet.evaluate --model=saved_models/alexnet/model.keras --data_dir=data --report_dir=report

The report is a page, report.html, with the errors, the curves of the training, the results of each class, the confusion
matrix, the worst mistakes, the calibration and the filters; and tables for programs.

The classes of --data_dir are compared with those that stand beside the model, in model.classes.txt, if it is there.
"""

import json
import os

from absl import flags

from keras_alexnet import cli
from keras_alexnet.data.class_names import find_classes
from keras_alexnet.data.crops import RESIZES, check_batch_size, check_crops
from keras_alexnet.data.map_file import VAL_MAP, read_map
from keras_alexnet.errors import UserError
from keras_alexnet.report.check import check_report
from keras_alexnet.system.atomic import check_writable, write_text
from keras_alexnet.system.progress import say


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the command's flags."""
    cli.define_compilation_cache(flag_values)
    cli.define_path(
        "model", "saved_models/alexnet/model.keras", "The .keras file to evaluate.", flag_values=flag_values
    )
    cli.define_path("data_dir", "data", "Folder with val_map.txt and classmappings.txt.", flag_values=flag_values)
    cli.define_path("map_file", None, "Evaluate on this map instead of data_dir's.", flag_values=flag_values)
    flags.DEFINE_integer("batch_size", 256, "Images, or crops of them, at a time; at least 1.", flag_values=flag_values)
    flags.DEFINE_enum(
        "resize",
        "square",
        list(RESIZES),
        "The square in the middle of an image that the model sees. "
        + "; ".join(f"{name}: {meaning}" for name, meaning in RESIZES.items())
        + ". Take what the model was trained for.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "crops",
        1,
        "1: that square alone. 10: the mean of the predictions for squares of its size in the four corners and in the "
        "middle, and for these mirrored.",
        flag_values=flag_values,
    )
    cli.define_path(
        "metrics_file",
        None,
        "Also write the results to this JSON file: examples, top1_error, top1_accuracy, top5_error, top5_accuracy "
        "(fractions), loss, resize and crops.",
        flag_values=flag_values,
    )
    cli.define_path(
        "report_dir",
        None,
        "Also write a report to this folder: report.html, per_class.csv, confusion.npz and predictions.csv.",
        flag_values=flag_values,
    )


def main(values: flags.FlagValues, arguments: list[str]) -> None:
    """Evaluates, prints the errors and writes them where asked to."""
    cli.reject_positional(arguments)
    check_batch_size(values.batch_size)
    check_crops(values.resize, values.crops)
    if values.metrics_file:
        check_writable(values.metrics_file)
    if values.report_dir:
        check_report(values.report_dir)
    if not values.map_file:
        classes = find_classes(values.model, data_dir=values.data_dir)
        num_classes = len(classes)
    else:
        # A map alone does not tell its classes; those beside the model have their names in a report.
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
    cut = {"resize": values.resize, "crops": values.crops}
    predictions = predict_map(model, image_map, values.batch_size, **cut)
    results = predictions.error_rates()
    printed = say(
        f"top-1 error {100 * results['top1_error']:.3f}% (accuracy {100 * results['top1_accuracy']:.3f}%)\n"
        f"top-5 error {100 * results['top5_error']:.3f}% (accuracy {100 * results['top5_accuracy']:.3f}%)\n"
        f"loss        {results['loss']:.4f}\n"
        f"images      {results['examples']:,}"
    )
    if values.metrics_file:
        write_text(values.metrics_file, json.dumps(results | cut, indent=2) + "\n")
    if values.report_dir:
        page = write_report(
            values.report_dir,
            model,
            predictions,
            image_map,
            model_path=values.model,
            classes=classes if classes and len(classes) == model_classes else None,
            settings=cut,
        )
        say(f"report      {page}")
    if not printed and not values.metrics_file:
        raise UserError("the results could not be printed. Give --metrics_file=FILE to have them in a file.")


if __name__ == "__main__":
    cli.run(main, define_flags, __doc__)
