"""Writes the map files that training reads: which image has which label, and which class each label is.

  python -m keras_alexnet.prepare --imagenet_dir=/data/ILSVRC --output_dir=data

  python -m keras_alexnet.prepare --train_dir=/data/train --val_dir=/data/val \\
      --val_annotations_dir=/data/val_annotations --output_dir=data

The training folder holds one folder of images per class; a label is the position of a class in the sorted names of
these folders. The validation folder holds images; the class of each stands in an XML annotation, as in ILSVRC2012.

Writes to --output_dir, once everything has been found in order:

  train_map.txt      <absolute path> TAB <label>, an image a line, by class
  val_map.txt        the same for the validation images
  classmappings.txt  <class id> TAB <label>, in label order
  classnames.txt     <class id> TAB <label> TAB <names>, if LOC_synset_mapping.txt lies in --imagenet_dir or in one of
                     the three folders above the training folder; else an older one is removed
"""

import os
import shlex
import time

from absl import flags

from keras_alexnet import cli
from keras_alexnet.data import ilsvrc, maps
from keras_alexnet.errors import UserError
from keras_alexnet.progress import ScanProgress


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string(
        "imagenet_dir",
        None,
        "ILSVRC2012 as unpacked: the folder that has Data/CLS-LOC/train, Data/CLS-LOC/val and Annotations/CLS-LOC/val.",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "train_dir",
        None,
        "The training images, a folder per class. Without it: Data/CLS-LOC/train of --imagenet_dir.",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "val_dir",
        None,
        "The validation images. Without it: Data/CLS-LOC/val of --imagenet_dir.",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "val_annotations_dir",
        None,
        "An XML file per validation image. Without it: Annotations/CLS-LOC/val of --imagenet_dir.",
        flag_values=flag_values,
    )
    flags.DEFINE_string("output_dir", "data", "The folder to write to; it is made if need be.", flag_values=flag_values)


def main(values: flags.FlagValues, arguments: list[str]) -> None:
    """Scans, writes, and tells what was found."""
    cli.reject_positional(arguments)
    started = time.perf_counter()
    train_dir, val_dir, annotations_dir = _folders(values)
    with ScanProgress() as progress:
        found = ilsvrc.scan(train_dir, val_dir, annotations_dir, _synset_mapping(values, train_dir), progress)
    train_map, val_map, *class_lists = maps.write_data_dir(
        values.output_dir, found.train, found.val, found.classes, found.class_names
    )
    print(f"{len(found.train):,} training images of {len(found.classes):,} classes: {train_map}")
    print(f"{len(found.val):,} validation images: {val_map}")
    print(f"{len(found.classes):,} classes: {', '.join(class_lists)}")
    print(f"{time.perf_counter() - started:.1f} s")
    present = set(found.val.labels)
    absent = [class_id for label, class_id in enumerate(found.classes) if label not in present]
    if absent:
        shown = ", ".join(absent[:5]) + (", …" if len(absent) > 5 else "")
        print(f"Note: no validation images for {len(absent):,} of the {len(found.classes):,} classes: {shown}")
    recipe = "fit_imagenet" if len(found.train) > 100_000 else "fit_small"
    print(
        f"Next: python -m keras_alexnet.fit --flagfile=flags/{recipe}.flags --data_dir={shlex.quote(values.output_dir)}"
    )


def _folders(values: flags.FlagValues) -> list[str]:
    parts = {
        "train_dir": "Data/CLS-LOC/train",
        "val_dir": "Data/CLS-LOC/val",
        "val_annotations_dir": "Annotations/CLS-LOC/val",
    }
    missing = [f"--{name}" for name in parts if not values[name].value]
    if missing and not values.imagenet_dir:
        raise UserError(f"where are the images? Give --imagenet_dir=FOLDER (ILSVRC2012), or {', '.join(missing)}.")
    return [values[name].value or os.path.join(values.imagenet_dir, part) for name, part in parts.items()]


def _synset_mapping(values: flags.FlagValues, train_dir: str) -> str | None:
    """ILSVRC's list of class names, if it lies where ILSVRC has it."""
    folders = [values.imagenet_dir] if values.imagenet_dir else []
    above = os.path.abspath(train_dir)
    for _ in range(3):
        above = os.path.dirname(above)
        folders.append(above)
    candidates = (os.path.join(folder, ilsvrc.SYNSET_MAPPING) for folder in folders)
    return next((path for path in candidates if os.path.exists(path)), None)


if __name__ == "__main__":
    cli.run(main, define_flags, __doc__)
