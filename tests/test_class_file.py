from pathlib import Path

import pytest

from keras_alexnet.data.class_file import check_classes, class_file, read_classes, write_classes
from keras_alexnet.data.class_mappings import read_class_mappings
from keras_alexnet.errors import UserError

CLASSES = ["n01440764", "n01443537", "n01484850", "n01491361"]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("models/model.keras", "models/model.classes.txt"),
        ("best.keras", "best.classes.txt"),
        ("/a.keras/alexnet.onnx", "/a.keras/alexnet.onnx.classes.txt"),
        ("alexnet.tflite", "alexnet.tflite.classes.txt"),
        ("alexnet.v1.5.keras", "alexnet.v1.5.classes.txt"),
        ("alexnet.v1.5", "alexnet.v1.5.classes.txt"),
        ("saved_model", "saved_model.classes.txt"),
        (".keras", ".keras.classes.txt"),
    ],
)
def test_it_stands_beside_the_model(model, expected):
    assert class_file(model) == Path(expected)


def test_it_has_the_form_of_classmappings(tmp_path):
    model = tmp_path / "model.keras"
    assert read_classes(model) is None
    write_classes(model, CLASSES)
    assert [path.name for path in tmp_path.iterdir()] == ["model.classes.txt"]
    assert (tmp_path / "model.classes.txt").read_text().startswith("n01440764\t0\nn01443537\t1\n")
    assert read_class_mappings(tmp_path / "model.classes.txt") == CLASSES
    assert read_classes(str(model)) == CLASSES


def test_ids_of_any_characters_come_back(tmp_path):
    classes = ["caf\udce9", "a class\twith a tab", "鳥"]
    write_classes(tmp_path / "model.keras", classes)
    assert read_classes(tmp_path / "model.keras") == classes


@pytest.mark.parametrize("content", [b"", b"n01\t0\nn02\t0\n", b"n01 0\n", b"\x00\xff" * 40])
def test_a_damaged_file_is_told(tmp_path, content):
    (tmp_path / "model.classes.txt").write_bytes(content)
    for use in (read_classes, lambda model: check_classes(model, CLASSES, "data")):
        with pytest.raises(
            UserError, match=r"model\.classes\.txt(?s:.*)lists the classes of .*model\.keras.*or remove"
        ):
            use(tmp_path / "model.keras")


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    (tmp_path / "model.classes.txt").mkdir()
    with pytest.raises(UserError, match=r"cannot read .*model\.classes\.txt: Is a directory"):
        read_classes(tmp_path / "model.keras")
    (tmp_path / "best.classes.txt").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=r"cannot read .*best\.classes\.txt: No such file"):
        read_classes(tmp_path / "best.keras")


def test_it_is_written_whole_or_not_at_all(tmp_path):
    model = tmp_path / "model.keras"
    write_classes(model, CLASSES)
    with pytest.raises(AttributeError):
        write_classes(model, iter_and_fail())
    assert read_classes(model) == CLASSES
    assert [path.name for path in tmp_path.iterdir()] == ["model.classes.txt"]


def iter_and_fail():
    yield "n01"
    raise AttributeError


def test_the_same_classes_pass_and_so_does_a_model_without_a_class_file(tmp_path):
    check_classes(tmp_path / "model.keras", CLASSES, "data")
    write_classes(tmp_path / "model.keras", CLASSES)
    check_classes(tmp_path / "model.keras", CLASSES, "data")
    check_classes(tmp_path / "model.keras", tuple(CLASSES), "data")


def test_classes_that_disagree_are_told(tmp_path):
    model = tmp_path / "model.keras"
    write_classes(model, CLASSES)
    with pytest.raises(UserError, match=r"model\.keras has 4 classes, but data/c\.txt has 3\."):
        check_classes(model, CLASSES[:3], "data/c.txt")

    swapped = [CLASSES[0], CLASSES[2], CLASSES[1], CLASSES[3]]
    with pytest.raises(
        UserError,
        match=r"in another order: label 1 is n01443537 in .*model\.classes\.txt, but n01484850 in data/c\.txt\. "
        r"\(CNTK's labels .*--classmappings",
    ):
        check_classes(model, swapped, "data/c.txt")

    others = [*CLASSES[:2], "n9", CLASSES[3]]
    with pytest.raises(
        UserError, match=r"other classes than the data: label 2 is n01484850 in .*, but n9 in data"
    ) as e:
        check_classes(model, others, "data/c.txt")
    assert "order" not in str(e.value)
