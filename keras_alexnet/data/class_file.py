"""The class file of a model: `model.classes.txt` next to `model.keras` lists which class each of its labels is.

Next to other files it bears their whole name, as in `model.onnx.classes.txt`: they may have another order than the
`.keras` file of that name. It has the form of classmappings.txt. `model.classnames.txt`, in the form of classnames.txt,
adds names for people, where there are any. Importing this needs the standard library alone.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from keras_alexnet.data.class_ids import alike_key, escaped
from keras_alexnet.data.class_mappings import read_class_mappings, write_class_mappings, write_class_names
from keras_alexnet.errors import UserError


def class_file(model_path: str | os.PathLike) -> Path:
    """The path of a model's class file: its own, with `.classes.txt` in place of `.keras`, or behind another name."""
    return _next_to(model_path, ".classes.txt")


def names_file(model_path: str | os.PathLike) -> Path:
    """The path of the names of a model's classes, as `class_file`, with `.classnames.txt`."""
    return _next_to(model_path, ".classnames.txt")


def write_classes(model_path: str | os.PathLike, classes: Sequence[str], names: Sequence[str] | None = None) -> None:
    """Writes the class file of a model, the ids in label order, and the names if there are any; each atomically.

    Without names, a file of them that is there already is removed: it may be of other classes.
    """
    if names is None:
        names_file(model_path).unlink(missing_ok=True)
    else:
        write_class_names(names_file(model_path), classes, names)
    write_class_mappings(class_file(model_path), classes)


def read_classes(model_path: str | os.PathLike) -> list[str] | None:
    """Reads the class ids of a model in label order; None if it has no class file.

    Raises:
        UserError: the file cannot be read, or has another form than classmappings.txt.
    """
    path = class_file(model_path)
    if not os.path.lexists(path):
        return None
    try:
        return read_class_mappings(path)
    except UserError as error:
        raise UserError(
            f"{error}\nThe file lists the classes of {model_path}: copy the classmappings.txt of the data that the "
            f"model was trained on there, or remove {path} to go without it."
        ) from None


def check_classes(model_path: str | os.PathLike, classes: Sequence[str], source: str | os.PathLike) -> None:
    """Compares the classes of a model with those of data, which `source` has; passes if the model has no class file.

    Raises:
        UserError: they differ in number, in order or in themselves, or the class file is damaged.
    """
    of_model = read_classes(model_path)
    if of_model is None or of_model == list(classes):
        return
    if len(of_model) != len(classes):
        raise UserError(
            f"{model_path} has {len(of_model):,} classes, but {source} has {len(classes):,}. Evaluate a model on the "
            "classes that it was trained on."
        )
    label = next(label for label, pair in enumerate(zip(of_model, classes, strict=True)) if pair[0] != pair[1])
    example = (
        f"label {label} is {escaped(of_model[label])} in {class_file(model_path)}, but {escaped(classes[label])} in "
        f"{source}"
    )
    if sorted(of_model) == sorted(classes):
        raise UserError(
            f"{model_path} has the classes of the data in another order: {example}. (CNTK's labels follow the order of "
            "the folders on the machine that prepared them.) Evaluate the model on maps of its own order, or convert "
            "it again with --classmappings."
        )
    if list(map(alike_key, of_model)) == list(map(alike_key, classes)):
        raise UserError(
            f"{model_path} has the classes of the data under names that only look the same: {example}. Correct one of "
            "the two files."
        )
    raise UserError(
        f"{model_path} has other classes than the data: {example}. Evaluate a model on the classes that it was trained "
        "on."
    )


def _next_to(model_path: str | os.PathLike, ending: str) -> Path:
    path = Path(model_path)
    if not path.name:
        raise UserError(f"the model is {os.fspath(model_path)!r}; expected the name of a file.")
    return path.with_name((path.stem if path.suffix == ".keras" else path.name) + ending)
