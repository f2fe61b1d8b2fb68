import hashlib
import os

import pytest

from keras_alexnet.data import maps
from keras_alexnet.errors import UserError

FILES = ("train_map.txt", "val_map.txt", "classmappings.txt")


def test_map_round_trip(tmp_path):
    rows = [("/data/a.JPEG", 0), ("/data/with space, é.JPEG", 999), ("relative/b.png", 3)]
    maps.write_map(tmp_path / "map.txt", iter(rows))
    text = "/data/a.JPEG\t0\n/data/with space, é.JPEG\t999\nrelative/b.png\t3\n".encode()
    assert (tmp_path / "map.txt").read_bytes() == text
    images = maps.read_map(tmp_path / "map.txt", num_classes=1000)
    assert list(zip(images.paths, images.labels, strict=True)) == rows
    assert len(images) == 3
    assert images.fingerprint == hashlib.sha256(text).hexdigest()
    assert images.source == str(tmp_path / "map.txt")


def test_names_that_are_not_utf8_survive(tmp_path):
    name = b"/data/caf\xe9.JPEG"
    maps.write_map(tmp_path / "map.txt", [(os.fsdecode(name), 1)])
    assert (tmp_path / "map.txt").read_bytes() == name + b"\t1\n"
    (path,) = maps.read_map(tmp_path / "map.txt").paths
    assert os.fsencode(path) == name


@pytest.mark.parametrize(
    "text", [b"/a\t1\r\n/b\t2\r\n", b"/a\t1\n/b\t2", b"/a\t1\n\n/b\t2\n\n"], ids=["crlf", "no last line end", "blank"]
)
def test_other_line_ends_are_read(tmp_path, text):
    (tmp_path / "map.txt").write_bytes(text)
    images = maps.read_map(tmp_path / "map.txt")
    assert (list(images.paths), list(images.labels)) == (["/a", "/b"], [1, 2])


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/data/b.JPEG 3", r"line 2: no TAB between path and label: '/data/b\.JPEG 3'"),
        ("\t3", "line 2: "),
        ("/b\tthree", "line 2: label 'three' is not an integer of 0 or above"),
        ("/b\t", "line 2: label '' is not an integer"),
        ("/b\t1.0", "line 2: label '1.0' is not an integer"),
        ("/b\t²", "line 2: label '²' is not an integer"),
        ("/b\t-1", "line 2: label '-1' is not an integer of 0 or above"),
        ("/b\t5", r"line 2: label 5 is outside the 5 classes \(0 to 4\)"),
        ("/b\t" + "9" * 5000, "line 2: label 9{77}… is outside the 5 classes"),
    ],
)
def test_bad_map_lines_are_told(tmp_path, line, told):
    (tmp_path / "map.txt").write_text(f"/a\t4\n{line}\n/c\t0\n", encoding="utf-8")
    with pytest.raises(UserError, match=told) as raised:
        maps.read_map(tmp_path / "map.txt", num_classes=5)
    first, *rest = str(raised.value).splitlines()
    assert first.startswith(f"{tmp_path}/map.txt: expected lines of <path> TAB <integer label>")
    assert first.endswith("write it anew with python -m keras_alexnet.prepare (1 problem):")
    assert len(rest) == 1


def test_label_too_large_for_any_model_is_told(tmp_path):
    (tmp_path / "map.txt").write_text(f"/a\t{2**31}\n")
    with pytest.raises(UserError, match="label 2147483648 is outside"):
        maps.read_map(tmp_path / "map.txt")


def test_ten_bad_lines_are_shown_and_all_are_counted(tmp_path):
    (tmp_path / "map.txt").write_text("bad\n" * 1234)
    with pytest.raises(UserError) as raised:
        maps.read_map(tmp_path / "map.txt")
    lines = str(raised.value).splitlines()
    assert lines[0].endswith("(1,234 problems):")
    assert lines[10].startswith("  line 10: ")
    assert lines[11:] == ["  … and 1,224 more"]


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_empty_map_is_told(tmp_path, text):
    (tmp_path / "map.txt").write_text(text)
    with pytest.raises(UserError, match=r"map\.txt has no images: expected .*prepare"):
        maps.read_map(tmp_path / "map.txt")


@pytest.mark.parametrize("read", [maps.read_map, maps.read_class_mappings])
def test_missing_file_and_folder_are_told(tmp_path, read):
    with pytest.raises(UserError, match=r"cannot read .*none\.txt: No such file.*keras_alexnet\.prepare"):
        read(tmp_path / "none.txt")
    with pytest.raises(UserError, match=r"cannot read .*Is a directory"):
        read(tmp_path)


def test_class_mappings_round_trip(tmp_path):
    classes = ["n01440764", "n01443537", os.fsdecode(b"caf\xe9 cr\xe8me")]
    maps.write_class_mappings(tmp_path / "classes.txt", classes)
    assert (tmp_path / "classes.txt").read_bytes() == b"n01440764\t0\nn01443537\t1\ncaf\xe9 cr\xe8me\t2\n"
    assert maps.read_class_mappings(tmp_path / "classes.txt") == classes


@pytest.mark.parametrize("text", [b"a\t0\r\nb\t1\r\n", b"a\t0\nb\t1"])
def test_class_mappings_with_other_line_ends_are_read(tmp_path, text):
    (tmp_path / "classes.txt").write_bytes(text)
    assert maps.read_class_mappings(tmp_path / "classes.txt") == ["a", "b"]


@pytest.mark.parametrize("line", ["b", "b 1", "b\tone", "b\t2", "b\t-1", "b\t01", "\t1", ""])
def test_bad_class_mapping_lines_are_told(tmp_path, line):
    (tmp_path / "classes.txt").write_text(f"a\t0\n{line}\nc\t2\n")
    with pytest.raises(UserError, match=r"(?s)classes\.txt: expected lines of .*prepare \(1 problem\):\n  line 2: "):
        maps.read_class_mappings(tmp_path / "classes.txt")


def test_empty_class_mappings_are_told(tmp_path):
    (tmp_path / "classes.txt").touch()
    with pytest.raises(UserError, match=r"classes\.txt is empty: expected .*prepare"):
        maps.read_class_mappings(tmp_path / "classes.txt")


@pytest.fixture
def images():
    return maps.ImageMap(["/a", "/b"], [0, 1])


def test_data_dir_holds_all_files(tmp_path, images):
    output_dir = tmp_path / "new" / "data"
    paths = maps.write_data_dir(output_dir, images, maps.ImageMap(["/v"], [1]), ["n1", "n2"], ["one", "two, deux"])
    assert paths == [os.path.join(output_dir, name) for name in (*FILES, "classnames.txt")]
    assert {name: (output_dir / name).read_bytes() for name in os.listdir(output_dir)} == {
        "train_map.txt": b"/a\t0\n/b\t1\n",
        "val_map.txt": b"/v\t1\n",
        "classmappings.txt": b"n1\t0\nn2\t1\n",
        "classnames.txt": b"n1\t0\tone\nn2\t1\ttwo, deux\n",
    }


def test_names_of_other_classes_are_removed(tmp_path, images):
    (tmp_path / "classnames.txt").write_text("n9\t0\told\n")
    maps.write_data_dir(tmp_path, images, images, ["n1", "n2"])
    assert sorted(os.listdir(tmp_path)) == sorted(FILES)


def test_names_that_cannot_be_removed_are_told(tmp_path, images):
    (tmp_path / "classnames.txt").mkdir()
    with pytest.raises(UserError, match=r"classnames\.txt may belong to other classes: remove it"):
        maps.write_data_dir(tmp_path, images, images, ["n1", "n2"])


@pytest.mark.parametrize("failing", [0, 1, 2, 3])
def test_a_failing_write_changes_no_file(tmp_path, images, monkeypatch, failing):
    older = {*FILES, "classnames.txt"}
    for name in older:
        (tmp_path / name).write_text("older")
    real, calls = os.fsync, []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) == failing + 1:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UserError, match=r"cannot write .*\.txt: No space left"):
        maps.write_data_dir(tmp_path, images, images, ["n1", "n2"], ["one", "two"])
    assert {name: (tmp_path / name).read_text() for name in os.listdir(tmp_path)} == dict.fromkeys(older, "older")
