import pytest

from keras_alexnet.data.class_file import write_classes
from keras_alexnet.data.class_mappings import CLASS_NAMES, read_class_names, write_class_names
from keras_alexnet.data.class_names import find_classes
from keras_alexnet.data.data_dir import write_data_dir
from keras_alexnet.data.image_map import ImageMap
from keras_alexnet.errors import UserError

IDS = ["n01440764", "n01443537"]
NAMES = ["tench, Tinca tinca", "goldfish, <b>Carassius</b>\tauratus"]


@pytest.fixture
def data(tmp_path):
    images = ImageMap(["/a.jpg"], [0])
    write_data_dir(tmp_path / "data", images, images, IDS, NAMES)
    return tmp_path / "data"


def test_names_lie_beside_the_data(data, tmp_path):
    for classes in (
        find_classes(tmp_path / "m.keras", data_dir=str(data)),
        find_classes(tmp_path / "m.keras", classmappings=str(data / "classmappings.txt")),
    ):
        assert (classes.ids, classes.names, len(classes)) == (IDS, NAMES, 2)
        assert classes.describe(0) == "n01440764  tench, Tinca tinca"


def test_names_lie_beside_the_model(tmp_path):
    model = tmp_path / "model.keras"
    assert find_classes(model) is None
    write_classes(model, IDS)
    assert find_classes(model).names == ["", ""]
    assert find_classes(model).describe(1) == "n01443537"
    write_classes(model, IDS, NAMES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.classes.txt", "model.classnames.txt"]
    assert find_classes(model).names == NAMES
    # Without names, those of an earlier model go.
    write_classes(model, IDS)
    assert [path.name for path in tmp_path.iterdir()] == ["model.classes.txt"]


@pytest.mark.parametrize(
    "content",
    [b"", b"n01440764\t0\ttench\n", b"n01440764\t0\ttench\nn9\t1\tx\n", b"\xff", b"n01440764\t0\nn01443537\t1\n"],
)
def test_names_of_other_classes_are_passed_over(data, tmp_path, content):
    (data / CLASS_NAMES).write_bytes(content)
    assert read_class_names(data / CLASS_NAMES, IDS) is None
    assert find_classes(tmp_path / "m.keras", data_dir=str(data)).names == ["", ""]


def test_names_belong_to_their_ids_in_any_order(tmp_path):
    write_class_names(tmp_path / "names", ["n0", *IDS], ["other", *NAMES])
    assert read_class_names(tmp_path / "names", IDS[::-1]) == NAMES[::-1]


def test_names_come_back_with_windows_line_ends_too(tmp_path):
    write_class_names(tmp_path / "names", IDS, NAMES)
    (tmp_path / "names").write_bytes((tmp_path / "names").read_bytes().replace(b"\n", b"\r\n"))
    assert read_class_names(tmp_path / "names", IDS) == NAMES
    assert read_class_names(tmp_path / "gone", IDS) is None


def test_classes_of_data_that_are_not_the_models_are_refused(data, tmp_path):
    write_classes(tmp_path / "model.keras", IDS[::-1])
    with pytest.raises(UserError, match="in another order"):
        find_classes(tmp_path / "model.keras", data_dir=str(data))
    with pytest.raises(UserError, match=r"cannot read .*gone/classmappings\.txt"):
        find_classes(tmp_path / "model.keras", data_dir=str(tmp_path / "gone"))
