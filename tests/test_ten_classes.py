from pathlib import Path

import numpy as np
from drawn_images import encode
from ten_classes import select_classes

from keras_alexnet.data.class_names import classes_of_data
from keras_alexnet.data.map_file import read_map
from keras_alexnet.data.preparation import PreparationConfig, prepare_data


def test_the_first_classes_become_a_tree_that_prepare_takes(tmp_path):
    """Four classes of Tiny ImageNet's layout, of which two are kept; the order in its lists is not the sorted one."""
    source = tmp_path / "tiny-imagenet-200"
    ids = ["n04", "n02", "n03", "n01"]
    (source / "val/images").mkdir(parents=True)
    rows = []
    for number, class_id in enumerate(ids):
        (source / f"train/{class_id}/images").mkdir(parents=True)
        for index in range(3):
            image(source / f"train/{class_id}/images/{class_id}_{index}.JPEG", number)
        image(source / f"val/images/val_{number}.JPEG", number)
        rows.append(f"val_{number}.JPEG\t{class_id}\t0\t0\t62\t62\n")
    (source / "wnids.txt").write_text("\n".join(ids))
    (source / "words.txt").write_text("".join(f"{class_id}\tname of {class_id}\n" for class_id in ids))
    (source / "val/val_annotations.txt").write_text("".join(rows))

    select_classes(source, tmp_path / "two", 2)
    prepare_data(PreparationConfig(imagenet_dir=str(tmp_path / "two"), output_dir=str(tmp_path / "data")))

    classes = classes_of_data(tmp_path / "data/classmappings.txt")
    assert (classes.ids, classes.names) == (["n01", "n02"], ["name of n01", "name of n02"])
    assert list(read_map(tmp_path / "data/train_map.txt").labels) == [0, 0, 0, 1, 1, 1]
    val_map = read_map(tmp_path / "data/val_map.txt")
    assert {Path(path).name: label for path, label in zip(val_map.paths, val_map.labels, strict=True)} == {
        "val_1.JPEG": 1,
        "val_3.JPEG": 0,
    }


def image(path: Path, value: int) -> None:
    path.write_bytes(encode(np.full((64, 64, 3), 40 * value, np.uint8), "JPEG"))
