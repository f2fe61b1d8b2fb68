"""Converts AlexNets of Caffe, CNTK, ONNX and torchvision to Keras; exports to ONNX, SavedModel and LiteRT.

    python -m keras_alexnet.convert --input=bvlc_alexnet.caffemodel --output=saved_models/bvlc.keras
    python -m keras_alexnet.convert --input=torchvision --output=saved_models/torchvision.keras
    python -m keras_alexnet.convert --input=AlexNet.model --classmappings=classes.txt --output=saved_models/cntk.keras
    python -m keras_alexnet.convert --input=saved_models/bvlc.keras --output=bvlc.onnx

The format of the input is detected from its contents: .caffemodel (both encodings), CNTK's .model and .dnn (trainer
checkpoints too), .onnx, torchvision's state dict as .safetensors or in a PyTorch checkpoint (.pth, .ckpt), or .keras.
That of the output follows from its suffix: .keras, .onnx, .tflite (LiteRT), or none for a SavedModel folder. Nothing in
a file is executed. The model takes RGB pixels of 0 to 255 and gives logits, whatever the input was.
"""

import os
from pathlib import Path

from absl import flags

from keras_alexnet import cli
from keras_alexnet.data.class_file import class_file, read_classes, write_classes
from keras_alexnet.data.class_names import classes_of_data, classes_of_model
from keras_alexnet.errors import UserError
from keras_alexnet.exporters.formats import QUANTIZATIONS, export_kind
from keras_alexnet.importers import download, formats
from keras_alexnet.importers.preprocessing import CHANNEL_ORDERS, Preprocessing
from keras_alexnet.importers.published import PUBLISHED
from keras_alexnet.system.atomic import check_target
from keras_alexnet.system.progress import say


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the command's flags."""

    def path(name: str, help_text: str) -> None:
        cli.define_path(name, None, help_text, flag_values)

    path(
        "input",
        "The file to convert; required. Also an address, https://…, or the name of a published model: "
        f"{', '.join(PUBLISHED)}; downloads are kept in Keras's cache ($KERAS_HOME or ~/.keras).",
    )
    flags.DEFINE_string("sha256", None, "Expected SHA-256 checksum of the input.", flag_values=flag_values)
    path("output", "The file to write, or a SavedModel's folder; required.")
    path("deploy", "A .prototxt that describes the layers of a .caffemodel, if the file itself does not.")
    flags.DEFINE_list(
        "mean",
        None,
        "Mean of the three channels, in the file's order, which the model subtracts from pixels of 0 to 255. "
        "Defaults where the file does not say it: 104,117,123 for Caffe, 114 for CNTK, and torchvision's; ONNX may "
        "need it.",
        flag_values=flag_values,
    )
    path(
        "mean_file",
        "A mean image of Caffe (.binaryproto, .npy), whose mean per channel is subtracted; or that (.npy).",
    )
    flags.DEFINE_list(
        "std",
        None,
        "Divisor of each channel after the mean is subtracted; 255,255,255 for a network that takes 0 to 1 and scales "
        "them itself.",
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "channel_order",
        None,
        list(CHANNEL_ORDERS),
        "Order of the file's channels. Default: rgb for torchvision, bgr for Caffe and CNTK; ONNX models may need it.",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "weights_key",
        None,
        "Which weights of a PyTorch checkpoint to convert, if it has several: a key on the way to them, such as ema.",
        flag_values=flag_values,
    )
    path(
        "classmappings",
        "The classes and labels that the network was trained with, such as CNTK's class file, in either column order: "
        "the model gets them sorted, as the maps of python -m keras_alexnet.prepare have them. (If both columns are "
        "numbers, the second one is the label.)",
    )
    flags.DEFINE_enum(
        "quantize",
        "none",
        list(QUANTIZATIONS),
        "For .tflite: the weights as float16 (half the size), or as int8 (a quarter), with activations in float.",
        flag_values=flag_values,
    )


def main(values: flags.FlagValues, arguments: list[str]) -> None:
    """Converts, and prints what was found and what became of it."""
    cli.reject_positional(arguments)
    for name in ("input", "output"):
        if not values[name].value:
            raise UserError(f"--{name} is missing: name the file to {'convert' if name == 'input' else 'write'}.")
    exported = export_kind(values.output)
    if exported is None and not values.output.lower().endswith(".keras"):
        raise UserError(
            f"--output is {values.output}; expected a name that ends in .keras, .onnx or .tflite, or the name of a "
            "folder, without suffix (or with / at its end), for a SavedModel."
        )
    if exported == "SavedModel" and os.path.basename(os.path.normpath(values.output)) in ("", ".", ".."):
        raise UserError(f"--output is {values.output}; expected the name of a folder that the SavedModel is to become.")
    if values.quantize != "none" and exported != "LiteRT":
        raise UserError(f"--quantize={values.quantize} is for .tflite files, and --output is {values.output}.")
    if not exported:
        check_target(values.output)
    preprocessing = _preprocessing(values)
    if exported:
        # Keras writes these through TensorFlow alone.
        os.environ["KERAS_BACKEND"] = "tensorflow"
    if download.is_remote(values.input):
        with cli.quiet_framework_start():
            import keras  # noqa: F401
    values.input = download.local_file(values.input, values.sha256)
    if not os.path.lexists(values.input):
        raise UserError(
            f"--input is {values.input}, which does not exist. Expected a model file, an address, or the name of a "
            f"published model: {', '.join(PUBLISHED)}."
        )
    formats.detect_format(values.input)

    with cli.quiet_framework_start():
        from keras_alexnet.importers.importer import import_model
        from keras_alexnet.model_file import save_model

        if exported:
            from keras_alexnet.exporters.exporter import export_model
    imported = import_model(
        values.input,
        deploy=values.deploy,
        preprocessing=preprocessing,
        weights_key=values.weights_key,
        classmappings=values.classmappings,
    )
    _check_class_file(values.output, imported.classes)
    say(imported.summary)
    written = values.output
    if exported:
        check = export_model(imported.model, values.output, quantize=values.quantize)
        written = f"{check.path}, {exported}, {check.size / 1e6:.1f} MB, {check.describe()}"
    else:
        save_model(imported.model, values.output)
    if imported.classes is not None:
        # After the model: one without a class file is never taken for one of other classes.
        write_classes(values.output, imported.classes, _names(values, imported.classes))
    say(f"Written  {written}")


def _preprocessing(values: flags.FlagValues) -> Preprocessing:
    mean = _numbers("mean", values.mean)
    if values.mean_file:
        from keras_alexnet.importers.caffe.mean import read_mean

        if mean is not None:
            raise UserError("both --mean and --mean_file are given. Use one of them.")
        image = read_mean(values.mean_file)
        if len(image) != 3:
            raise UserError(f"{values.mean_file} has {len(image)} channels. Expected three.")
        mean = tuple(image.mean((1, 2), dtype="float64").tolist())
    return Preprocessing(mean, _numbers("std", values.std), values.channel_order)


def _numbers(name: str, texts: list[str] | None) -> tuple[float, ...] | None:
    if texts is None:
        return None
    try:
        return tuple(map(float, texts))
    except ValueError:
        raise UserError(f"--{name} is {','.join(texts)}; expected three numbers, such as 104,117,123.") from None


def _names(values: flags.FlagValues, ids: list[str]) -> list[str] | None:
    """A name for each class, if there are names next to the input or next to the class mappings."""
    names: dict[str, str] = {}
    for classes in (
        classes_of_model(values.input),
        classes_of_data(values.classmappings) if values.classmappings else None,
    ):
        if classes:
            names.update((class_id, name) for class_id, name in zip(classes.ids, classes.names, strict=True) if name)
    return [names.get(class_id, "") for class_id in ids] if names else None


def _check_class_file(output: str, classes: list[str] | None) -> None:
    """Refuses to leave, or to write, a class file that would name the classes of another model."""
    namesake = Path(f"{os.path.normpath(output)}.keras")
    if classes is not None and namesake.exists() and read_classes(namesake) is None:
        raise UserError(
            f"the class file of {output} would also count as that of {namesake}, which has none. Choose another "
            "--output."
        )
    if (there := read_classes(output)) is not None and there != classes:
        known = "those of the new model are unknown" if classes is None else "the new model has different ones"
        raise UserError(
            f"{class_file(output)} already lists classes; {known}. Remove it if it belongs to the model that is "
            "replaced, choose another --output, or pass the classes as --classmappings."
        )


_GROUPS = {
    "Input": "input=PATH|ADDRESS|NAME sha256=DIGITS deploy weights_key=KEY classmappings",
    "Preprocessing": "mean=N,N,N mean_file std=N,N,N channel_order",
    "Output": "output quantize",
}
COMMAND = cli.Command(main, define_flags, __doc__, _GROUPS)

if __name__ == "__main__":
    cli.run(COMMAND)
