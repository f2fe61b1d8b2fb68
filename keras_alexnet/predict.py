"""Classifies images, or extracts their features.

    python -m keras_alexnet.predict --model=saved_models/alexnet/model.keras photo.jpg holidays/ 'more/*.png'
    find photos -name '*.jpg' | python -m keras_alexnet.predict --format=json - > predictions.jsonl
    python -m keras_alexnet.predict --features=relu7 --output=features.npz photos/

Images are files, directories (searched recursively), quoted patterns, <archive>@/<file or folder> inside a zip or tar,
or - to read a list of paths from standard input. Unreadable images are reported on stderr and skipped (exit status 1).
"""

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TextIO

from absl import flags

from keras_alexnet import cli
from keras_alexnet.data.class_file import class_file, names_file
from keras_alexnet.data.class_names import Classes, find_classes
from keras_alexnet.data.crops import PREPROCESSINGS, check_crops
from keras_alexnet.data.find import find_images
from keras_alexnet.data.image_search import LeftOut
from keras_alexnet.errors import UserError, integer_setting
from keras_alexnet.inference.listing import FORMATS, entry_writer, header
from keras_alexnet.system.atomic import atomic_path, check_writable
from keras_alexnet.system.file_names import to_utf8
from keras_alexnet.system.log_suppression import silenced_but_python
from keras_alexnet.system.progress import WorkProgress, columns, printable, say, use_color, write_stderr

# Positions in the list of paths, and an array with a row for each of them.
Batches = Iterator[tuple[list[int], "numpy.ndarray"]]  # noqa: F821


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the command's flags."""
    cli.define_compilation_cache(flag_values)

    def path(name: str, default: str | None, help_text: str) -> None:
        cli.define_path(name, default, help_text, flag_values)

    path("model", "saved_models/alexnet/model.keras", "The .keras file to use.")
    path(
        "data_dir",
        None,
        "Directory with the classmappings.txt of the model's classes, and optionally classnames.txt. Default: the "
        "class file next to the model, such as model.classes.txt.",
    )
    path("classmappings", None, "A class list to use instead of --data_dir.")
    flags.DEFINE_integer("top_k", 5, "Top predictions to print; at least 1.", flag_values=flag_values)
    flags.DEFINE_enum(
        "format",
        None,
        list(FORMATS),
        "table: readable text; json: one object per line and image; csv: one row per predicted class. Default: "
        "according to the suffix of --output, .jsonl, .json or .csv; otherwise table.",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "features",
        None,
        "Write the outputs of this layer, such as relu7, to --output instead of classes. An unknown name lists all.",
        flag_values=flag_values,
    )
    path("output", None, "Write to this file instead of standard output (-). For features: .npz or .csv.")
    flags.DEFINE_enum(
        "preprocessing",
        "cntk",
        list(PREPROCESSINGS),
        "How each image is cropped and resized; see evaluate.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "crops",
        1,
        "10: average the predictions, or the features, over the four corner crops, the center crop and their flips.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer("batch_size", 32, "Crops per batch; at least 1.", flag_values=flag_values)


def main(values: flags.FlagValues, arguments: list[str]) -> None:
    """Predicts, and fails at the end if some images were unreadable."""
    _check(values, arguments)
    classes = None
    if not values.features:
        classes = find_classes(values.model, data_dir=values.data_dir, classmappings=values.classmappings)
    num_skipped = 0

    def skip(path: str, reason: str) -> None:
        nonlocal num_skipped
        num_skipped += 1
        progress.clear()
        write_stderr(f"cannot read {printable(path)}: {reason}\n")

    with WorkProgress() as progress:
        left_out = LeftOut()
        paths, problems = find_images(arguments, left_out=left_out)
        if left_out:
            write_stderr(f"Left out: {printable(left_out.describe())}\n")
        if not paths and not problems:
            raise UserError("standard input lists no images. Expected one path per line.")
        _check_output(values, paths)
        for problem in problems:
            skip(*problem)
        if paths:
            with cli.quiet_framework_start(values.compilation_cache):
                from keras_alexnet.inference.files import FileOutputs
                from keras_alexnet.model_file import load_model, model_sizes
            model = load_model(values.model)
            _check_number(classes, model_sizes(model)[1], values.model)
            outputs = FileOutputs(
                model, values.batch_size, layer=values.features, preprocessing=values.preprocessing, crops=values.crops
            )
            # libjpeg prints messages of its own about corrupted images.
            with silenced_but_python():
                batches = outputs(paths, skip)
                if values.features:
                    _write_features(values, outputs.shape, paths, batches, progress)
                else:
                    _write_classes(values, classes, paths, batches, progress)
    if num_skipped:
        total = len(paths) + len(problems)
        rest = "The others were processed." if num_skipped < total else "Nothing was processed."
        raise UserError(f"{num_skipped:,} of {total:,} images could not be read; see above. {rest}")


def _check(values: flags.FlagValues, arguments: list[str]) -> None:
    if not arguments:
        raise UserError(
            "no images are given. Name files, directories, quoted patterns, or - for a list of paths on standard input."
        )
    integer_setting("top_k", values.top_k, 1)
    integer_setting("batch_size", values.batch_size, 1)
    check_crops(values.preprocessing, values.crops)
    if values.output == "-":
        values.output = None
    if values.data_dir and values.classmappings:
        raise UserError("both --data_dir and --classmappings are given. Use one of them.")
    if values.features:
        from keras_alexnet.inference.feature_file import check_name

        if not values.output:
            raise UserError("--features writes to a file: add --output=features.npz, or .csv.")
        check_name(values.output)
        unused = [name for name in ("format", "top_k", "data_dir", "classmappings") if values[name].present]
        if unused:
            raise UserError(f"--{unused[0]} applies to classes, and --features writes none. Leave out one of the two.")
    elif values.format is None:
        suffix = os.path.splitext(values.output or "")[1].lower()
        values.format = {".csv": "csv", ".json": "json", ".jsonl": "json"}.get(suffix, "table")
    if values.output:
        check_writable(values.output)


def _check_output(values: flags.FlagValues, paths: list[str]) -> None:
    """Refuses to replace a file that is read."""
    if not values.output:
        return
    output = os.path.realpath(values.output)
    for path in (values.model, class_file(values.model), names_file(values.model), *paths):
        if output == os.path.realpath(path):
            raise UserError(f"--output is {values.output}, which is also an input. Choose another file.")


def _check_number(classes: Classes | None, num_classes: int, model: str) -> None:
    if classes and len(classes) != num_classes:
        raise UserError(
            f"{model} has {num_classes:,} classes, but {classes.source} has {len(classes):,}. Pass the class list of "
            "the data that the model was trained on."
        )


def _write_features(
    values: flags.FlagValues, shape: tuple[int, ...], paths: list[str], batches: Batches, progress: WorkProgress
) -> None:
    from keras_alexnet.inference.feature_file import feature_file

    with feature_file(values.output, values.features, shape) as file:
        for positions, features in batches:
            file.write([paths[position] for position in positions], features)
            progress(positions[-1] + 1, len(paths), "images")
    progress.clear()
    shape = "×".join(map(str, (file.count, *shape)))
    say(f"{values.features} of {file.count:,} images, {shape}: {values.output}")


def _write_classes(
    values: flags.FlagValues, classes: Classes | None, paths: list[str], batches: Batches, progress: WorkProgress
) -> None:
    from keras_alexnet.inference.predictions import best_classes

    with _opened(values.output, values.format) as file:
        on_terminal = file.isatty()
        # A table on the terminal is in the encoding of its locale; all else is UTF-8.
        name = str if values.format == "table" and not values.output else to_utf8
        if classes:
            classes = replace(classes, ids=list(map(name, classes.ids)))
        entry = entry_writer(
            values.format,
            classes,
            color=use_color(file),
            blocks=_has_blocks(file.encoding),
            width=columns(file) if on_terminal else None,
        )
        file.write(header(values.format))
        count = 0
        for positions, logarithms in batches:
            best = best_classes(logarithms, values.top_k)
            for position, row, labels in zip(positions, logarithms, best, strict=True):
                file.write(entry(name(paths[position]), [(int(label), math.exp(row[label])) for label in labels]))
            count += len(positions)
            file.flush()
            if not on_terminal:
                progress(positions[-1] + 1, len(paths), "images")
        if values.output and not count:
            raise UserError(f"none of the images could be read; {values.output} was not written.")


@contextlib.contextmanager
def _opened(output: str | None, kind: str) -> Iterator[TextIO]:
    """Standard output, or the file, written atomically; names that are not UTF-8 keep their bytes."""
    if not output:
        if sys.stdout is None:
            raise UserError("standard output is closed. Use --output=FILE.")
        if kind == "csv":
            sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
        yield sys.stdout
        return
    with (
        atomic_path(output) as partial,
        open(partial, "w", encoding="utf-8", errors="surrogateescape", newline="\n") as file,
    ):
        yield file


def _has_blocks(encoding: str) -> bool:
    try:
        "█".encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


_GROUPS = {
    "Model": "model data_dir classmappings",
    "Preprocessing": "preprocessing crops",
    "Devices": "batch_size compilation_cache",
    "Output": "top_k format features=LAYER output",
}
COMMAND = cli.Command(main, define_flags, __doc__, _GROUPS, "IMAGE …")

if __name__ == "__main__":
    cli.run(COMMAND)
