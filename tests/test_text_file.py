"""Text files that people may have edited on any system: lists of images, labels and classes."""

import io

import pytest
from fake_ilsvrc import CLASSES, FakeIlsvrc

from keras_alexnet.data import class_mappings, find, map_file
from keras_alexnet.data.preparation import PreparationConfig, prepare_data
from keras_alexnet.data.scanning import data_set, val_labels
from keras_alexnet.errors import UserError

IMAGES = ["/val/a/ILSVRC2012_val_00000002.JPEG", "/val/b/ILSVRC2012_val_00000001.JPEG"]
IDS = ["n01440764", "n02119789"]
LABELS = [(0, 0), (1, 1)]  # The first image is of the first class.


def labels(path):
    problems = []
    found, labels = val_labels.validation_labels(str(path), IMAGES, IDS, problems)
    assert problems == []
    return sorted(zip(found, labels, strict=True))


READERS = {
    "map.txt": (b"/a.png\t0\r\n/b.png\t1\r\n", lambda path: list(map_file.read_map(path).labels), [0, 1]),
    "classes.txt": (b"n02\t0\r\nn01\t1\r\n", class_mappings.read_class_mappings, ["n02", "n01"]),
    "solution.csv": (
        b"ImageId,PredictionString\r\nILSVRC2012_val_00000002,n01440764 1 2 3 4\r\n"
        b"ILSVRC2012_val_00000001,n02119789 1 2 3 4\r\n",
        labels,
        LABELS,
    ),
    # In the order of the images' names, whatever folders they are in.
    "ground_truth.txt": (b"1\r\n449\r\n", labels, LABELS),
    "val_annotations.txt": (
        b"ILSVRC2012_val_00000001.JPEG\tn02119789\t0\t1\r\nILSVRC2012_val_00000002.JPEG\tn01440764\t0\t1\r\n",
        labels,
        LABELS,
    ),
    "paths": (
        b"/none/a.png\r\n/none/b.png",
        lambda path: [name for name, _ in find.find_images("-", io.BytesIO(path.read_bytes()))[1]],
        ["/none/a.png", "/none/b.png"],
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_marks_and_line_ends_change_nothing_and_utf16_is_named(tmp_path, name):
    text, read, expected = READERS[name]
    path = tmp_path / name
    for data in (text, b"\xef\xbb\xbf" + text, text.replace(b"\r\n", b"\r")):
        if name == "paths" and b"\n" not in data:
            continue  # Lists of paths come from find, and its names may have a CR.
        path.write_bytes(data)
        assert read(path) == expected
    path.write_bytes(text.decode().encode("utf-16"))
    with pytest.raises(UserError, match=r"is not UTF-8 text, but probably UTF-16.*iconv"):
        read(path)


def test_utf16_without_a_mark_is_named(tmp_path):
    (tmp_path / "list.txt").write_bytes("n1\t0\n".encode("utf-16-le"))
    with pytest.raises(UserError, match=r"list\.txt is not UTF-8 text, but probably UTF-16"):
        map_file.read_map(tmp_path / "list.txt")


def test_labels_of_tiny_imagenet_are_found(tmp_path):
    tree = FakeIlsvrc(tmp_path)
    (tree.val / "images").mkdir()
    for path in tree.val.glob("*.JPEG"):
        path.rename(tree.val / "images" / path.name)
    lines = [f"{path.name}\t{CLASSES[1]}\t0\t0\t9\t9\n" for path in (tree.val / "images").iterdir()]
    (tree.val / "val_annotations.txt").write_text("".join(lines))
    found = data_set.scan_image_folders(tree.train, tree.val, tree.val / "val_annotations.txt")
    assert list(found.val.labels) == [1, 1, 1]
    assert found.notes == [f"3 images come from subfolders, such as {tree.val}/images"]
    with pytest.raises(UserError, match=r"val_annotations\.txt lists the classes .* pass it as --val_labels"):
        data_set.scan_image_folders(tree.train, tree.val, "")


def test_tiny_imagenet_may_have_its_validation_images_in_class_folders(tmp_path):
    """As scripts for PyTorch arrange them, which leave val_annotations.txt behind."""
    tree = FakeIlsvrc(tmp_path)
    source = tree.train.parent
    for number, path in enumerate(sorted(tree.val.glob("*.JPEG"))):
        folder = tree.val / CLASSES[number % 2] / "images"
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / path.name)
    (tree.val / "val_annotations.txt").write_text("a.JPEG\tn1\t0\t0\t9\t9\n")
    (source / "words.txt").write_text("".join(f"{class_id}\tname of {class_id}\n" for class_id in CLASSES))
    found, _ = prepare_data(PreparationConfig(imagenet_dir=str(source), output_dir=str(tmp_path / "data")))
    assert sorted(found.val.labels) == [0, 0, 1]
    assert found.class_names == [f"name of {class_id}" for class_id in found.classes]


def test_a_class_list_that_gives_labels_has_each_class_once(tmp_path):
    """A second label of a class would win without a word."""
    (tmp_path / "list.txt").write_text(f"{CLASSES[0]}\t0\n{CLASSES[1]}\t1\n{CLASSES[0]}\u200b\t2\n")
    folders = {"val_dir": str(tmp_path), "val_labels": str(tmp_path), "output_dir": str(tmp_path / "data")}
    with pytest.raises(UserError, match=rf"{CLASSES[0]} and {CLASSES[0]}.u200b"):
        prepare_data(PreparationConfig(classmappings=str(tmp_path / "list.txt"), **folders))


def test_names_of_images_match_in_either_form_of_unicode(tmp_path):
    (tmp_path / "val.txt").write_text("caf\u00e9.jpg\tn01440764\nna\u0131\u0308ve.jpg\tn02119789\n", encoding="utf-8")
    images, problems = ["/val/cafe\u0301.jpg", "/val/na\u0131\u0308ve.jpg"], []
    found = val_labels.validation_labels(str(tmp_path / "val.txt"), images, IDS, problems)
    assert (problems, list(found[1])) == ([], [0, 1])
