import io

import pytest
from fake_ilsvrc import CLASSES, FakeIlsvrc

from keras_alexnet.data import class_mappings, find, map_file
from keras_alexnet.data.preparation import PreparationConfig, prepare_data
from keras_alexnet.data.scanning import data_set, synset_mapping, val_labels
from keras_alexnet.errors import UserError

MARK = b"\xef\xbb\xbf"
IMAGES = [f"/val/ILSVRC2012_val_0000000{number}.JPEG" for number in (1, 2)]
IDS = ["n01440764", "n02119789"]


def labels(path):
    problems = []
    found = val_labels.validation_labels(str(path), IMAGES, IDS, problems)
    return found, problems


READERS = {
    "map.txt": (b"/a.png\t0\r\n/b.png\t1\r\n", lambda path: list(map_file.read_map(path).paths)),
    "id first.txt": (b"n02085620\t0\r\nn01440764\t1\r\n", class_mappings.read_class_mappings),
    "label first.txt": (b"0\tn02085620\r\n1\tn01440764\r\n", class_mappings.read_class_mappings),
    "names.txt": (b"n2\t0\ttench\nn1\t1\tcat", lambda path: class_mappings.read_class_names(path, ["n1", "n2"])),
    "synsets.txt": (b"n2 tench\r\nn1 cat", lambda path: synset_mapping.read_synset_names(path, ["n1", "n2"], [], [])),
    "solution.csv": (
        b"ImageId,PredictionString\r\nILSVRC2012_val_00000002,n01440764 1 2 3 4\r\n"
        b"ILSVRC2012_val_00000001,n02119789 1 2 3 4\r\n",
        labels,
    ),
    "ground_truth.txt": (b"1\r\n449\r\n", labels),
    "val_annotations.txt": (
        b"ILSVRC2012_val_00000001.JPEG\tn02119789\t0\t1\r\nILSVRC2012_val_00000002.JPEG\tn01440764\t0\t1\r\n",
        labels,
    ),
    "paths": (b"/none/a.png\r\n/none/b.png", lambda path: find.find_images("-", io.BytesIO(path.read_bytes()))),
}


@pytest.mark.parametrize("name", READERS)
def test_a_byte_order_mark_changes_nothing_and_utf16_is_named(tmp_path, name):
    text, read = READERS[name]
    path = tmp_path / name
    path.write_bytes(text)
    expected = read(path)
    assert expected
    path.write_bytes(MARK + text)
    assert read(path) == expected
    path.write_bytes(text.decode().encode("utf-16"))
    with pytest.raises(UserError, match=r"is not UTF-8 text, but probably UTF-16"):
        read(path)


def test_utf16_without_a_mark_is_named(tmp_path):
    (tmp_path / "list.txt").write_bytes("n1\t0\n".encode("utf-16-le"))
    for read in (class_mappings.read_class_mappings, map_file.read_map):
        with pytest.raises(UserError, match=r"list\.txt is not UTF-8 text, but probably UTF-16.*iconv"):
            read(tmp_path / "list.txt")


def test_the_ground_truth_follows_the_names_of_images_in_any_folders(tmp_path):
    (tmp_path / "truth.txt").write_text("1\n449\n")
    images = ["/val/a/ILSVRC2012_val_00000002.JPEG", "/val/b/ILSVRC2012_val_00000001.JPEG"]
    found, labels = val_labels.validation_labels(str(tmp_path / "truth.txt"), images, IDS, [])
    assert dict(zip(found, labels, strict=True)) == {0: 0, 1: 1}


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


def test_a_class_list_that_gives_labels_has_each_class_once(tmp_path):
    """A second label of a class would win without a word."""
    tree = FakeIlsvrc(tmp_path)
    (tmp_path / "list.txt").write_text(f"{CLASSES[0]}\t0\n{CLASSES[1]}\t1\n{CLASSES[0]}\u200b\t2\n")
    config = PreparationConfig(
        val_dir=str(tree.val),
        val_labels=str(tree.annotations),
        classmappings=str(tmp_path / "list.txt"),
        output_dir=str(tmp_path / "data"),
    )
    with pytest.raises(UserError, match=rf"{CLASSES[0]} and {CLASSES[0]}.u200b"):
        prepare_data(config)


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
    config = PreparationConfig(imagenet_dir=str(source), output_dir=str(tmp_path / "data"))
    found, _ = prepare_data(config)
    assert sorted(found.val.labels) == [0, 0, 1]
    assert found.class_names == [f"name of {class_id}" for class_id in found.classes]
