"""Making the map files of an ILSVRC2012 tree, beside a plain script.

Runs `python -m keras_alexnet.prepare` on a tree in ILSVRC2012's layout that is generated for it: half of the files are
training images in a folder per class, a quarter validation images, a quarter their annotations. Beside it runs a script
as one would write it for oneself: os.scandir and xml.etree.ElementTree, sorted names, no checks. Each is a process of
its own, so a side's seconds contain the start of Python, and writes train_map.txt, val_map.txt and classmappings.txt
into a new folder each time. The benchmark fails if these differ by a byte.

The files have just been written, and a first round is not counted, so everything is read from the page cache on both
sides: a disk's time to find the files comes on top of either. Shown as well is what `prepare` spends its time on, part
by part, measured through its functions; its files are flushed to the disk, as the plain script's are not.

Needs nothing installed beyond the package. 200,000 files take about 1 GB, and are removed at the end.
"""

import argparse
import inspect
import io
import itertools
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from benchmarks import common
from keras_alexnet.data import class_mappings, data_dir, map_file
from keras_alexnet.data.scanning import image_folders
from keras_alexnet.errors import UserError, raise_if_any
from keras_alexnet.system.progress import WorkProgress

QUICK = {"files": 5_000, "repeats": 1}

OURS, PLAIN = "keras_alexnet.prepare", "scandir + ElementTree"

_TRAIN, _VAL, _ANNOTATIONS = "Data/CLS-LOC/train", "Data/CLS-LOC/val", "Annotations/CLS-LOC/val"
_WRITTEN = (map_file.TRAIN_MAP, map_file.VAL_MAP, class_mappings.CLASS_MAPPINGS)

# As ILSVRC2012's are, with their tabs.
_ANNOTATION = """<annotation>
	<folder>val</folder>
	<filename>{stem}</filename>
	<source>
		<database>ILSVRC_2012</database>
	</source>
	<size>
		<width>500</width>
		<height>375</height>
		<depth>3</depth>
	</size>
	<segmented>0</segmented>
{objects}</annotation>
"""
_OBJECT = """	<object>
		<name>{class_id}</name>
		<pose>Unspecified</pose>
		<truncated>0</truncated>
		<difficult>0</difficult>
		<bndbox>
			<xmin>111</xmin>
			<ymin>108</ymin>
			<xmax>441</xmax>
			<ymax>193</ymax>
		</bndbox>
	</object>
"""


@dataclass(frozen=True)
class Tree:
    """A generated ILSVRC2012: its folder, and how much of what it has. Each validation image has an annotation."""

    folder: str
    classes: int
    training_images: int
    validation_images: int

    @property
    def files(self) -> int:
        """Images and annotations."""
        return self.training_images + 2 * self.validation_images


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this benchmark."""
    parser.add_argument(
        "--files",
        type=common.at_least_1,
        default=200_000,
        help="files of the tree, 100 training images a class up to 1,000 classes (%(default)s)",
    )
    parser.add_argument(
        "--folder",
        default=tempfile.gettempdir(),
        help="where to put the tree meanwhile, and what the sides write (%(default)s)",
    )


def run(options: argparse.Namespace) -> dict:
    """Generates the tree, measures both sides and the parts of `prepare`, prints and returns the figures."""
    if options.files < 4:
        raise UserError(f"--files is {options.files}, expected at least 4.")
    with common.temporary_folder(options.folder) as folder:
        tree = generate(os.path.join(folder, "ILSVRC"), options.files)
        print(
            f"{tree.files:,} files: {tree.training_images:,} training images of {tree.classes:,} classes, "
            f"{tree.validation_images:,} validation images, as many annotations"
        )
        written: dict[str, dict[str, bytes]] = {}
        sides = {name: _side(name, tree, folder, written) for name in (OURS, PLAIN)}
        seconds = common.take_turns(sides, options.repeats)
        parts = common.take_turns(_parts(tree, folder), options.repeats)
    rates = {name: [tree.files / value for value in values] for name, values in seconds.items()}
    common.print_sides(seconds, "s")
    common.print_sides(rates, "files/s")
    for name, found in written.items():
        train, val, classes = (found[map_file].count(b"\n") for map_file in _WRITTEN)
        print(f"{name} lists {train:,} training and {val:,} validation images of {classes:,} classes")
    print(f"parts of {OURS}:")
    common.print_sides(parts, "s")
    ratio = statistics.median(rates[OURS]) / statistics.median(rates[PLAIN])
    print(f"{OURS} does {ratio:.2f} of {PLAIN}")
    return {
        "files": tree.files,
        "classes": tree.classes,
        "training_images": tree.training_images,
        "validation_images": tree.validation_images,
        "repeats": options.repeats,
        "sides": [
            {
                "name": name,
                "seconds": common.spread(seconds[name]),
                "files_per_second": common.spread(rates[name]),
                "listed": {map_file: found[map_file].count(b"\n") for map_file in _WRITTEN},
            }
            for name, found in written.items()
        ],
        "parts": [{"name": name, "seconds": common.spread(values)} for name, values in parts.items()],
        "ratio": ratio,
    }


def generate(folder: str, files: int) -> Tree:
    """Writes a tree of so many files, or up to three fewer. Its images are real JPEGs, but small: no side opens them.

    Raises:
        UserError: it cannot be written.
    """
    tree = Tree(folder, min(1_000, max(1, files // 200)), files // 4 * 2, files // 4)
    try:
        with WorkProgress() as progress:
            for number, (path, content) in enumerate(_contents(tree), 1):
                # Not links to one file: those would have one inode, which is in some cache after the first.
                with open(path, "wb") as file:
                    file.write(content)
                progress(number, tree.files, "files written")
        # What is still being written would disturb the sides, and have `prepare` wait when it flushes its own files.
        os.sync()
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename or folder}: {error.strerror}. Give a --folder with room for {files:,} files."
        ) from None
    return tree


def _contents(tree: Tree) -> Iterator[tuple[str, bytes]]:
    """The path and content of each file. The folder of a path is made before."""
    buffer = io.BytesIO()
    Image.effect_noise((8, 8), 50).convert("RGB").save(buffer, "JPEG")
    jpeg = buffer.getvalue()
    class_ids = [f"n{1_440_764 + 13_007 * label:08}" for label in range(tree.classes)]
    train, val, annotations = (os.path.join(tree.folder, part) for part in (_TRAIN, _VAL, _ANNOTATIONS))
    for label, class_id in enumerate(class_ids):
        os.makedirs(os.path.join(train, class_id))
        for number in range(label, tree.training_images, tree.classes):
            yield f"{train}/{class_id}/{class_id}_{number}.JPEG", jpeg
    os.makedirs(val)
    os.makedirs(annotations)
    rng = random.Random(0)
    for number in range(1, tree.validation_images + 1):
        stem = f"ILSVRC2012_val_{number:08}"
        objects = _OBJECT.format(class_id=rng.choice(class_ids)) * rng.choice((1, 1, 2))
        yield f"{val}/{stem}.JPEG", jpeg
        yield f"{annotations}/{stem}.xml", _ANNOTATION.format(stem=stem, objects=objects).encode()


def plain_script(imagenet_dir: str, output_dir: str) -> None:
    """The other side, whole: run from its source, since importing this module would cost it what it does not need."""
    import os
    import xml.etree.ElementTree as ET

    train_dir = os.path.abspath(os.path.join(imagenet_dir, "Data/CLS-LOC/train"))
    val_dir = os.path.abspath(os.path.join(imagenet_dir, "Data/CLS-LOC/val"))
    annotations_dir = os.path.join(imagenet_dir, "Annotations/CLS-LOC/val")

    classes = sorted(entry.name for entry in os.scandir(train_dir) if entry.is_dir())
    label_of = {class_id: label for label, class_id in enumerate(classes)}
    with open(os.path.join(output_dir, "classmappings.txt"), "w", encoding="utf-8") as file:
        for class_id, label in label_of.items():
            file.write(f"{class_id}\t{label}\n")

    with open(os.path.join(output_dir, "train_map.txt"), "w", encoding="utf-8") as file:
        for class_id, label in label_of.items():
            for path in sorted(entry.path for entry in os.scandir(os.path.join(train_dir, class_id))):
                file.write(f"{path}\t{label}\n")

    with open(os.path.join(output_dir, "val_map.txt"), "w", encoding="utf-8") as file:
        for name in sorted(entry.name for entry in os.scandir(val_dir)):
            annotation = os.path.join(annotations_dir, name.replace(".JPEG", ".xml"))
            class_id = ET.parse(annotation).find("object/name").text
            file.write(f"{os.path.join(val_dir, name)}\t{label_of[class_id]}\n")


def _side(name: str, tree: Tree, folder: Path, written: dict[str, dict[str, bytes]]) -> Callable[[], float]:
    """A turn of `name`: runs it, puts what it wrote into `written`, and compares that with what others wrote."""

    def turn() -> float:
        with tempfile.TemporaryDirectory(dir=folder) as output_dir:
            seconds = common.seconds_of(lambda: _run_process(name, _command(name, tree, output_dir)))()
            written[name] = {}
            for map_file in _WRITTEN:
                with open(os.path.join(output_dir, map_file), "rb") as file:
                    written[name][map_file] = file.read()
        raise_if_different(written)
        return seconds

    return turn


def _command(name: str, tree: Tree, output_dir: str) -> list[str]:
    if name == OURS:
        return ["-m", "keras_alexnet.prepare", f"--imagenet_dir={tree.folder}", f"--output_dir={output_dir}"]
    script = f"import sys\n{inspect.getsource(plain_script)}\n{plain_script.__name__}(*sys.argv[1:])\n"
    return ["-c", script, tree.folder, output_dir]


def _run_process(name: str, arguments: list[str]) -> None:
    process = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, errors="backslashreplace")
    if process.returncode:
        last = process.stderr.strip().splitlines()[-1:] or [f"exit status {process.returncode}"]
        raise UserError(f"{name} writes no maps: {last[0].strip()}")


def raise_if_different(written: dict[str, dict[str, bytes]]) -> None:
    """Compares the files that the sides wrote.

    Args:
        written: by the side's name the contents of its files, by their names.

    Raises:
        UserError: they differ; tells the first line that does.
    """
    (first, expected), *others = written.items()
    for name, found in others:
        for file in expected:
            if found[file] != expected[file]:
                lines = (found_by[file].splitlines(keepends=True) for found_by in (expected, found))
                pairs = enumerate(itertools.zip_longest(*lines, fillvalue=b""), 1)
                number, (of_first, of_other) = next((n, pair) for n, pair in pairs if pair[0] != pair[1])
                raise UserError(
                    f"the sides wrote different {file}: line {number} is {os.fsdecode(of_first)!r} of {first}, "
                    f"{os.fsdecode(of_other)!r} of {name}."
                )


def _parts(tree: Tree, folder: Path) -> dict[str, Callable[[], float]]:
    """What `prepare` does one after the other, each timed by itself, the last three in this process."""
    train_dir, val_dir, annotations_dir = (os.path.join(tree.folder, part) for part in (_TRAIN, _VAL, _ANNOTATIONS))
    problems: list[str] = []
    classes, train = image_folders.scan_training(train_dir, problems)
    val = image_folders.scan_validation(val_dir, annotations_dir, classes, problems)
    raise_if_any(problems, "the generated tree is not as expected")

    def write() -> float:
        with tempfile.TemporaryDirectory(dir=folder) as output_dir:
            return common.seconds_of(lambda: data_dir.write_data_dir(output_dir, train, val, classes))()

    return {
        "start of Python, imports": common.seconds_of(
            lambda: _run_process(OURS, ["-c", "import keras_alexnet.prepare"])
        ),
        "training images": common.seconds_of(lambda: image_folders.scan_training(train_dir, problems)),
        "validation images, annotations": common.seconds_of(
            lambda: image_folders.scan_validation(val_dir, annotations_dir, classes, problems)
        ),
        "writing and flushing": write,
    }
