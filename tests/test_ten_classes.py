from pathlib import Path

from PIL import Image
from ten_classes import select_classes

from keras_alexnet.data.class_names import classes_of_data
from keras_alexnet.data.map_file import read_map
from keras_alexnet.data.preparation import PreparationConfig, prepare_data


def test_the_first_classes_become_a_tree_that_prepare_takes(tmp_path):
    """Four classes of Tiny ImageNet's layout, of which two are kept; the order in its lists is not the sorted one."""
    source = tmp_path / "tiny-imagenet-200"
    ids = ["n04", "n02", "n03", "n01"]
    (source / "val/images").mkdir(parents=True)
    for class_id in ids:
        (source / f"train/{class_id}/images").mkdir(parents=True)
        for name in (f"train/{class_id}/images/{class_id}_0.JPEG", f"val/images/val_{class_id}.JPEG"):
            Image.new("RGB", (64, 64)).save(source / name)
    (source / "wnids.txt").write_text("\n".join(ids))
    (source / "words.txt").write_text("".join(f"{class_id}\tname of {class_id}\n" for class_id in ids))
    rows = [f"val_{class_id}.JPEG\t{class_id}\t0\t0\t62\t62\n" for class_id in ids]
    (source / "val/val_annotations.txt").write_text("".join(rows))

    select_classes(source, tmp_path / "two", 2)
    prepare_data(PreparationConfig(imagenet_dir=str(tmp_path / "two"), output_dir=str(tmp_path / "data")))

    classes = classes_of_data(tmp_path / "data/classmappings.txt")
    assert (classes.ids, classes.names) == (["n01", "n02"], ["name of n01", "name of n02"])
    for name in ("train_map.txt", "val_map.txt"):
        image_map = read_map(tmp_path / "data" / name)
        pairs = zip(image_map.paths, image_map.labels, strict=True)
        assert {Path(path).stem.removeprefix("val_")[:3]: label for path, label in pairs} == {"n01": 0, "n02": 1}
