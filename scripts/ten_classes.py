"""Makes the ten-class data set of this project's measured tables: the first ten classes of Tiny ImageNet.

Tiny ImageNet (Stanford CS231n; tiny-imagenet-200.zip) has 64×64 crops of ILSVRC2012 photographs. Its first ten classes,
by sorted wordnet id, are 5,000 training and 500 validation images.

    python scripts/ten_classes.py tiny-imagenet-200 data/ten_classes_images
    python -m keras_alexnet.prepare --imagenet_dir=data/ten_classes_images --output_dir=data/ten_classes
"""

import argparse
import csv
import shutil
from pathlib import Path

NUM_CLASSES = 10


def select_classes(source: Path, target: Path, num_classes: int = NUM_CLASSES) -> None:
    """Copies the first classes of Tiny ImageNet to a new folder, in ILSVRC2012's layout.

    Args:
        source: the unpacked `tiny-imagenet-200`.
        target: the folder to create, with `Data/CLS-LOC/train/<id>/`, `Data/CLS-LOC/val/`, `LOC_val_solution.csv` and
            `LOC_synset_mapping.txt`.
        num_classes: how many of the sorted class ids to keep.

    Raises:
        FileNotFoundError: `source` has another layout.
        FileExistsError: `target` exists.
    """
    ids = sorted((source / "wnids.txt").read_text().split())[:num_classes]
    names = dict(line.split("\t") for line in (source / "words.txt").read_text().splitlines())
    annotations = [line.split("\t") for line in (source / "val/val_annotations.txt").read_text().splitlines()]
    validation = {name: (class_id, box) for name, class_id, *box in annotations if class_id in ids}

    images = target / "Data/CLS-LOC"
    (images / "val").mkdir(parents=True)
    for class_id in ids:
        shutil.copytree(source / "train" / class_id / "images", images / "train" / class_id)
    with open(target / "LOC_val_solution.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["ImageId", "PredictionString"])
        for name, (class_id, box) in validation.items():
            shutil.copy(source / "val/images" / name, images / "val")
            rows.writerow([Path(name).stem, " ".join([class_id, *box])])
    (target / "LOC_synset_mapping.txt").write_text("".join(f"{class_id} {names[class_id]}\n" for class_id in ids))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the unpacked tiny-imagenet-200")
    parser.add_argument("target", type=Path, help="the folder to create")
    arguments = parser.parse_args()
    select_classes(arguments.source, arguments.target)
