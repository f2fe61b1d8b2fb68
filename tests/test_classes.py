"""Which classes a model and data have: the files that list them, their names, and ids that look alike."""

from pathlib import Path

import pytest

from keras_alexnet.data.class_file import check_classes, class_file, read_classes, write_classes
from keras_alexnet.data.class_ids import escaped, similar
from keras_alexnet.data.class_mappings import CLASS_NAMES, read_class_mappings, read_class_names, write_class_names
from keras_alexnet.data.class_names import find_classes
from keras_alexnet.data.data_dir import write_data_dir
from keras_alexnet.data.image_map import ImageMap
from keras_alexnet.data.scanning import data_set
from keras_alexnet.errors import UserError

IDS = ["n01440764", "n01443537", "n01484850", "n01491361"]
NAMES = ["tench, Tinca tinca", "goldfish, <b>Carassius</b>\tauratus", "鳥", ""]
COMPOSED, DECOMPOSED = "cr\u00e8me", "cre\u0300me"


@pytest.fixture
def data(tmp_path):
    images = ImageMap(["/a.jpg"], [0])
    write_data_dir(tmp_path / "data", images, images, IDS, NAMES)
    return tmp_path / "data"


def test_the_class_file_stands_next_to_the_model():
    assert class_file("models/alexnet.v1.5.keras") == Path("models/alexnet.v1.5.classes.txt")
    assert class_file("/a.keras/alexnet.onnx") == Path("/a.keras/alexnet.onnx.classes.txt")


def test_class_ids_of_any_characters_and_their_names_come_back(tmp_path):
    model = tmp_path / "model.keras"
    assert find_classes(model) is None
    ids = ["caf\udce9", "a class\twith a tab", "鳥", "n4"]
    write_classes(model, ids, NAMES)
    assert read_class_mappings(tmp_path / "model.classes.txt") == ids
    assert (find_classes(model).ids, find_classes(model).names) == (ids, NAMES)
    # Without names, those of an earlier model go.
    write_classes(model, IDS)
    assert [path.name for path in tmp_path.iterdir()] == ["model.classes.txt"]
    assert (find_classes(model).ids, find_classes(model).names) == (IDS, [""] * 4)


def test_a_damaged_class_file_is_reported(tmp_path):
    message = r"model\.classes\.txt(?s:.*)lists the classes of .*model\.keras.*or remove"
    for content in (b"", b"n01\t0\nn02\t0\n", b"\x00\xff" * 40):
        (tmp_path / "model.classes.txt").write_bytes(content)
        with pytest.raises(UserError, match=message):
            check_classes(tmp_path / "model.keras", IDS, "data")
    (tmp_path / "best.classes.txt").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=r"cannot read .*best\.classes\.txt: No such file"):
        read_classes(tmp_path / "best.keras")


@pytest.mark.parametrize(
    ("of_data", "message"),
    [
        (IDS[:3], r"model\.keras has 4 classes, but data/c\.txt has 3\."),
        ([IDS[0], IDS[2], IDS[1], IDS[3]], r"in another order: label 1 is n01443537 in .*, but n01484850 in data/c"),
        ([*IDS[:2], "n9", IDS[3]], r"other classes than the data: label 2 is n01484850 in .*, but n9 in data"),
        ([*IDS[:3], f"{IDS[3]}\u200b"], r"only look the same: label 3 is n01491361 in .*, but n01491361\\u200b in"),
    ],
)
def test_classes_that_disagree_are_reported(tmp_path, of_data, message):
    model = tmp_path / "model.keras"
    check_classes(model, of_data, "a model without a class file")
    write_classes(model, IDS)
    check_classes(model, tuple(IDS), "the same classes")
    with pytest.raises(UserError, match=message):
        check_classes(model, of_data, "data/c.txt")


def test_names_stand_next_to_the_data(data, tmp_path):
    for source in ({"data_dir": str(data)}, {"classmappings": str(data / "classmappings.txt")}):
        classes = find_classes(tmp_path / "m.keras", **source)
        assert (classes.ids, classes.names) == (IDS, NAMES)
        assert classes.describe(0) == "n01440764  tench, Tinca tinca"
    write_classes(tmp_path / "model.keras", IDS[::-1])
    with pytest.raises(UserError, match="in another order"):
        find_classes(tmp_path / "model.keras", data_dir=str(data))


def test_names_of_other_classes_are_passed_over(data, tmp_path):
    for content in (b"", b"n01440764\t0\ttench\nn9\t1\tx\n", b"\xff", b"n01440764\t0\nn01443537\t1\n"):
        (data / CLASS_NAMES).write_bytes(content)
        assert find_classes(tmp_path / "m.keras", data_dir=str(data)).names == [""] * 4


def test_names_belong_to_their_ids_in_any_order_and_with_windows_line_ends(tmp_path):
    write_class_names(tmp_path / "names", ["n0", *IDS], ["other", *NAMES])
    (tmp_path / "names").write_bytes((tmp_path / "names").read_bytes().replace(b"\n", b"\r\n"))
    assert read_class_names(tmp_path / "names", IDS[::-1]) == NAMES[::-1]


# Ids that look alike.


def test_what_cannot_be_seen_is_escaped():
    assert escaped(COMPOSED) == COMPOSED
    assert escaped(DECOMPOSED) == r"cre\u0300me"
    assert escaped("big\u00a0cat\u200b ") == r"big\xa0cat\u200b\x20"
    hindi = "\u0915\u093f\u0924\u093e\u092c\u094d"  # needs its signs
    assert escaped(hindi) == hindi


def test_what_an_unknown_class_may_stand_for():
    assert similar(DECOMPOSED, ["tarte", COMPOSED]).endswith("differ only in Unicode normal form)")
    assert similar("cat\u200b", ["cat"]) == r" ('cat\u200b' and 'cat' differ only in spaces or invisible characters)"
    assert similar("Cat", ["cat"]).endswith("differ only in case)")
    assert similar("stra\u00dfe", ["strasse", "cat"]) == ""


def test_class_folders_that_look_the_same_are_reported_with_escapes(tmp_path):
    for name in (f"train/{COMPOSED}", f"train/{DECOMPOSED}", "train/tarte", "val/tarte "):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "1.jpg").touch()
    with pytest.raises(UserError) as raised:
        data_set.scan_image_folders(tmp_path / "train", tmp_path / "val", "")
    assert rf"train/cre\u0300me and {tmp_path}/train/{COMPOSED} differ only in Unicode normal form" in str(raised.value)
    assert r"is not one of the 3 classes ('tarte\x20' and 'tarte' differ only in spaces" in str(raised.value)
