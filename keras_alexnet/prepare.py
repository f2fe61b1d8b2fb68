"""Writes map files, which list images and classes for training, from folders or archives of images.

  python -m keras_alexnet.prepare --imagenet_dir=/data/ILSVRC --output_dir=data

This folder holds ILSVRC2012 as Kaggle's tree or zip, as the official archives (ILSVRC2012_img_train.tar,
ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz), or as shards of WebDataset or TFRecord. Archives need not be
unpacked: the maps name images inside them as <archive>@/<entry>, and training reads them in place. Without
training images, only the validation images are prepared, for evaluate. Or pass each part separately, as a folder or an
archive:

  python -m keras_alexnet.prepare --train_dir=/data/train --val_dir=/data/val \\
      --val_annotations_dir=/data/val_annotations --output_dir=data

The training folder contains one folder of images per class; a label is the position of a class in the sorted names of
these folders. The validation folder contains images; --val_labels lists the class of each: LOC_val_solution.csv, the
devkit or a folder of XML annotations, as in ILSVRC2012.

Images of your own need no annotations. If the validation folder holds a folder per class as well:

  python -m keras_alexnet.prepare --train_dir=/data/train --val_dir=/data/val --val_annotations_dir="" --output_dir=data

If there is one folder of images per class and nothing else, a tenth of each class becomes the validation images:

  python -m keras_alexnet.prepare --train_dir=/data/flowers --val_fraction=0.1 --output_dir=data

With --relative_paths and an --output_dir next to or above the images, all of it can be moved or mounted elsewhere.

--check_images decodes every image and lists those that cannot be used. Copies whose shorter side has 256 pixels are
read several times as fast. Writing them checks the images as well; after an interruption, run the same command again.
--resized_format=tar writes one tar of them per split; --resized_format=pixels writes such tars of decoded pixels, which
need no decoding in training, and take ten times the space (about 335 GB for all of ImageNet):

  python -m keras_alexnet.prepare --imagenet_dir=/data/ILSVRC --output_dir=data \\
      --resize_shorter_side=256 --resized_dir=/data/ILSVRC_256 --skip_bad_images

Writes to --output_dir, once the whole tree has been checked:

  train_map.txt      <absolute path> TAB <label>, one image per line, by class
  val_map.txt        the same for the validation images
  *_map.index.npz    where the images are in their archives, if they are in archives
  classmappings.txt  <class id> TAB <label>, in label order
  classnames.txt     <class id> TAB <label> TAB <names>, if there is a LOC_synset_mapping.txt in --imagenet_dir or
                     up to four folders above the training images
  bad_images.tsv     <absolute path> TAB <unusable or odd> TAB <problems>, if the images are checked
"""

import dataclasses
import shlex
import time
from collections.abc import Callable

from absl import flags

from keras_alexnet import cli
from keras_alexnet.data.preparation import PreparationConfig, prepare_data
from keras_alexnet.data.resizing.files import FORMATS
from keras_alexnet.data.scanning.data_set import DataSet
from keras_alexnet.system.progress import say

SMALL_BATCH_SIZE = 64  # of the recipe fit_small


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines a flag for each field of `PreparationConfig`, whose defaults they have."""
    default = PreparationConfig(output_dir="data")

    def define(function: Callable, name: str, help_text: str, *arguments, **limits) -> None:
        function(name, getattr(default, name), *arguments, help_text, flag_values=flag_values, **limits)

    define(
        cli.define_path,
        "imagenet_dir",
        "ILSVRC2012: the folder that has Data/CLS-LOC/train, Data/CLS-LOC/val and Annotations/CLS-LOC/val, or the one "
        "above it, or one with the archives of Kaggle or image-net.org.",
    )
    define(
        cli.define_path,
        "train_dir",
        "The training images, a folder per class; may be an archive. Default: those of --imagenet_dir.",
    )
    define(cli.define_path, "val_dir", "The validation images; may be an archive. Default: those of --imagenet_dir.")
    define(
        cli.define_path,
        "val_labels",
        "Classes of the validation images: LOC_val_solution.csv, the devkit (.tar.gz or unpacked) or its "
        "ILSVRC2012_validation_ground_truth.txt, a folder of XML annotations, or lines of <image> TAB <class>, such as "
        "val_annotations.txt. Default: the first of these that is in --imagenet_dir.",
    )
    define(
        cli.define_path,
        "classmappings",
        "The classes and their labels, as in classmappings.txt, for shards and for validation images alone. Without "
        "it: the classes that shards name, or else the 1,000 of ILSVRC2012.",
    )
    define(
        cli.define_path,
        "val_annotations_dir",
        "An XML file per validation image, as --val_labels. Given, but empty "
        '(--val_annotations_dir=""): the validation folder has a folder of images per class.',
        may_be_empty=True,
    )
    define(
        flags.DEFINE_float,
        "val_fraction",
        "Instead of a validation folder: the fraction of the images of each class of --train_dir to hold out; "
        "above 0, below 1. A class of two or more images has at least one in each split.",
    )
    define(
        flags.DEFINE_integer,
        "split_seed",
        "Seed of the validation split of --val_fraction, which is the same on every machine.",
    )
    define(
        flags.DEFINE_bool,
        "relative_paths",
        "Write paths relative to --output_dir, so that it can be moved together with the images.",
    )
    define(cli.define_path, "output_dir", "The folder to write to; created if it does not exist.")
    define(
        flags.DEFINE_bool,
        "check_archives",
        "First compare the official archives with their published sizes and MD5 sums, which reads them completely.",
    )
    define(
        flags.DEFINE_bool,
        "check_images",
        "Decode every image. bad_images.tsv lists those with problems; if any cannot be used, no maps are written.",
    )
    define(
        flags.DEFINE_bool, "skip_bad_images", "Check the images, and leave those that cannot be used out of the maps."
    )
    define(
        flags.DEFINE_integer,
        "resize_shorter_side",
        "Check the images, write a copy of each whose shorter side has this many pixels to --resized_dir, and "
        "list the copies in the maps. 256 suits AlexNet.",
        lower_bound=32,
        upper_bound=4096,
    )
    define(
        cli.define_path,
        "resized_dir",
        "The folder for the copies, separate from the images. Finished copies of an earlier run are kept.",
    )
    define(
        flags.DEFINE_enum,
        "resized_format",
        "How the copies are stored: one file each; one tar of the training and one of the validation images, which any "
        "file system takes easily; or decoded pixels in such tars (PPM), ten times as large, which training need not "
        "decode.",
        FORMATS,
    )
    define(
        flags.DEFINE_integer,
        "num_processes",
        "Processes that check and resize images; default: one per CPU.",
        lower_bound=1,
    )


def main(values: flags.FlagValues, arguments: list[str]) -> None:
    """Prepares the data and reports what was found."""
    cli.reject_positional(arguments)
    started = time.perf_counter()
    settings = {field.name: getattr(values, field.name) for field in dataclasses.fields(PreparationConfig)}
    data_set, files = prepare_data(PreparationConfig(**settings))
    _report(data_set, files)
    say(f"Finished in {time.perf_counter() - started:.1f} s")
    _report_oddities(data_set)
    data_dir = shlex.quote(values.output_dir)
    if not len(data_set.train):
        say(f"Next: python -m keras_alexnet.evaluate --model=MODEL --data_dir={data_dir}")
        return
    recipe = "fit_imagenet" if len(data_set.train) > 100_000 else "fit_small"
    batch_size = f" --batch_size={len(data_set.train)}" if len(data_set.train) < SMALL_BATCH_SIZE else ""
    say(f"Next: python -m keras_alexnet.fit --flagfile={recipe} --data_dir={data_dir}{batch_size}")


def _report(data_set: DataSet, files: list[str]) -> None:
    *train_map, val_map = files[: 2 if len(data_set.train) else 1]
    class_lists = files[len(train_map) + 1 :]
    if train_map:
        say(f"{len(data_set.train):,} training images of {len(data_set.classes):,} classes: {train_map[0]}")
    say(f"{len(data_set.val):,} validation images: {val_map}")
    say(f"{len(data_set.classes):,} classes: {', '.join(class_lists)}")


def _report_oddities(data_set: DataSet) -> None:
    present = set(data_set.val.labels)
    absent = [class_id for label, class_id in enumerate(data_set.classes) if label not in present]
    if absent:
        listed = ", ".join(absent[:5]) + (", …" if len(absent) > 5 else "")
        say(f"Note: no validation images for {len(absent):,} of the {len(data_set.classes):,} classes: {listed}")
    if len(data_set.classes) == 1:
        say("Note: there is only one class, so a network would have nothing to learn")


_GROUPS = {
    "Images": "imagenet_dir train_dir val_dir",
    "Classes": "val_labels val_annotations_dir classmappings",
    "Validation split": "val_fraction split_seed",
    "Checks": "check_archives check_images skip_bad_images",
    "Resized copies": "resize_shorter_side resized_dir resized_format",
    "Output": "output_dir relative_paths num_processes",
}
COMMAND = cli.Command(main, define_flags, __doc__, _GROUPS)

if __name__ == "__main__":
    cli.run(COMMAND)
