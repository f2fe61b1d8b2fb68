"""Top-1 and top-5 error of a model on the images of a map, each exactly once.

    python -m keras_alexnet.evaluate --model=saved_models/alexnet/model.keras --data_dir=data

The classes of --data_dir are compared with those that stand beside the model, in model.classes.txt, if it is there.
"""

import json
import os

from absl import flags

from keras_alexnet import cli
from keras_alexnet.atomic import check_target, write_text
from keras_alexnet.data.class_file import check_classes
from keras_alexnet.data.crops import RESIZES, check_crops
from keras_alexnet.data.maps import CLASS_MAPPINGS, VAL_MAP, read_class_mappings, read_map
from keras_alexnet.errors import UserError


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string(
        "model", "saved_models/alexnet/model.keras", "The .keras file to evaluate.", flag_values=flag_values
    )
    flags.DEFINE_string("data_dir", "data", "Folder with val_map.txt and classmappings.txt.", flag_values=flag_values)
    flags.DEFINE_string("map_file", None, "Evaluate on this map instead of data_dir's.", flag_values=flag_values)
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
    flags.DEFINE_string(
        "metrics_file",
        None,
        "Also write examples, top1_error, top5_error (fractions), loss, resize and crops to this JSON file.",
        flag_values=flag_values,
    )


def main(values: flags.FlagValues, arguments: list[str]) -> None:
    """Evaluates, prints the errors and writes them where asked to."""
    cli.reject_positional(arguments)
    if values.batch_size < 1:
        raise UserError(f"batch_size is {values.batch_size}; expected at least 1.")
    check_crops(values.resize, values.crops)
    if values.metrics_file:
        check_target(values.metrics_file)
    num_classes = None
    if values.map_file is None:
        class_mappings = os.path.join(values.data_dir, CLASS_MAPPINGS)
        classes = read_class_mappings(class_mappings)
        check_classes(values.model, classes, class_mappings)
        num_classes = len(classes)
    image_map = read_map(values.map_file or os.path.join(values.data_dir, VAL_MAP), num_classes)

    with cli.quiet_framework_start():
        from keras_alexnet.training.evaluation import evaluate_model
        from keras_alexnet.training.model_file import load_model, model_sizes
    model = load_model(values.model)
    _, model_classes = model_sizes(model)
    if num_classes not in (None, model_classes):
        raise UserError(
            f"{values.model} has {model_classes} classes, but {values.data_dir} has {num_classes}. "
            "Evaluate a model on the classes that it was trained on."
        )
    results = evaluate_model(model, image_map, values.batch_size, resize=values.resize, crops=values.crops)
    print(
        f"top-1 error {100 * results['top1_error']:.3f} %\n"
        f"top-5 error {100 * results['top5_error']:.3f} %\n"
        f"loss        {results['loss']:.4f}\n"
        f"images      {results['examples']:,}"
    )
    if values.metrics_file:
        write_text(
            values.metrics_file, json.dumps(results | {"resize": values.resize, "crops": values.crops}, indent=2) + "\n"
        )


if __name__ == "__main__":
    cli.run(main, define_flags, __doc__)
