"""A small ILSVRC2012, made on the fly. Its images are empty: the scan opens none."""

import os
import random
from pathlib import Path

TENCH, GOLDFISH, SHARK = CLASSES = ["n01440764", "n01443537", "n01484850"]
NAMES = ["tench, Tinca tinca", "goldfish, Carassius auratus", "great white shark, white shark"]


class FakeIlsvrc:
    """The folders of an ILSVRC2012 with three classes, two training images each, and a validation image per class."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.train = root / "Data/CLS-LOC/train"
        self.val = root / "Data/CLS-LOC/val"
        self.annotations = root / "Annotations/CLS-LOC/val"
        files = [self.train / class_id / f"{class_id}_{number}.JPEG" for class_id in CLASSES for number in (7, 10)]
        files += [self.val / f"ILSVRC2012_val_{number:08d}.JPEG" for number in (1, 2, 3)]
        # Folders list files in any order; the maps must not depend on it.
        random.Random(5).shuffle(files)
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        self.annotations.mkdir(parents=True)
        for number, class_id in zip((1, 2, 3), (SHARK, TENCH, GOLDFISH), strict=True):
            self.annotate(f"ILSVRC2012_val_{number:08d}", class_id)

    def annotate(self, stem: str, *class_ids: str) -> None:
        """Writes the annotation of a validation image, with an object per class id."""
        objects = "".join(f"<object><name>{class_id}</name></object>" for class_id in class_ids)
        text = f"<annotation><filename>{stem}</filename><size><width>500</width></size>{objects}</annotation>"
        (self.annotations / f"{stem}.xml").write_text(text)

    def add_names(self, folder: Path | None = None) -> Path:
        """Writes LOC_synset_mapping.txt."""
        path = (folder or self.root) / "LOC_synset_mapping.txt"
        path.write_text("".join(f"{class_id} {names}\n" for class_id, names in zip(CLASSES, NAMES, strict=True)))
        return path

    @property
    def train_map(self) -> bytes:
        """What train_map.txt has to hold, byte by byte."""
        return b"".join(
            os.fsencode(f"{self.train}/{class_id}/{class_id}_{number}.JPEG\t{label}\n")
            for label, class_id in enumerate(CLASSES)
            for number in ("10", "7")
        )

    @property
    def val_map(self) -> bytes:
        """What val_map.txt has to hold, byte by byte."""
        labels = ((1, 2), (2, 0), (3, 1))
        return b"".join(
            os.fsencode(f"{self.val}/ILSVRC2012_val_{number:08d}.JPEG\t{label}\n") for number, label in labels
        )
