"""Maps, class lists, and the folder that holds them."""

import os
import pickle
import random
import subprocess
from pathlib import Path

import numpy as np
import pytest
from map_files import write_map

from keras_alexnet.data import class_mappings, data_dir, map_file
from keras_alexnet.data.image_map import ImageMap, raise_if_missing
from keras_alexnet.errors import UserError

FILES = ("train_map.txt", "val_map.txt", "classmappings.txt")


def read(folder, text: bytes, **options) -> ImageMap:
    (folder / "map.txt").write_bytes(text)
    return map_file.read_map(folder / "map.txt", **options)


def test_map_round_trip(tmp_path):
    rows = [("/data/a.JPEG", 0), ("/data/with space, é.JPEG", 999), (os.fsdecode(b"/data/../caf\xe9.png"), 3)]
    write_map(tmp_path / "map.txt", iter(rows))
    text = "/data/a.JPEG\t0\n/data/with space, é.JPEG\t999\n".encode() + b"/data/../caf\xe9.png\t3\n"
    assert (tmp_path / "map.txt").read_bytes() == text
    images = map_file.read_map(tmp_path / "map.txt", num_classes=1000)
    assert list(zip(images.paths, images.labels, strict=True)) == rows
    assert images.paths[1:] == [path for path, _ in rows[1:]]
    assert images.encoded_paths([2, 0]) == [b"/data/../caf\xe9.png", b"/data/a.JPEG"]
    assert pickle.loads(pickle.dumps(images)) == images
    assert images.take(np.arange(len(images)) == 1) == images.take([1])


def test_the_fingerprint_is_that_of_the_same_images_elsewhere(tmp_path):
    original = read(tmp_path, b"/data/train/a/1.png\t0\n/data/train/a/2.png\t0\n/data/train/b/1.png\t1\n").fingerprint
    for moved in (
        b"/mnt/disk 2/x/a/1.png\t0\n/mnt/disk 2/x/a/2.png\t0\n/mnt/disk 2/x/b/1.png\t1\n",
        b"key\t.../a/1.png\t0\r\nkey\t.../a/2.png\t0\r\n\r\nkey\t.../b/1.png\t01",
    ):
        assert read(tmp_path, moved).fingerprint == original, moved
    for other in (
        b"/data/train/a/1.png\t0\n/data/train/a/2.png\t0\n/data/train/b/1.png\t2\n",
        b"/data/train/a/1.png\t0\n/data/train/a/3.png\t0\n/data/train/b/1.png\t1\n",
        b"/data/train/a/1.png\t0\n/data/train/b/1.png\t1\n/data/train/a/2.png\t0\n",
        b"/data/train/a/1.png\t0\n/data/train/a/2.png\t0\n/data/trainb/1.png\t1\n",
    ):
        assert read(tmp_path, other).fingerprint != original, other


@pytest.mark.parametrize("piece", [1, 30])
def test_maps_are_read_in_pieces(tmp_path, monkeypatch, piece):
    """The folder that all paths share is known at the end only: those of the first pieces may share a deeper one."""
    monkeypatch.delattr(map_file, "_checked_rows")  # It would read line by line, which is slow.
    names = [f"/data/train/{folder}/{n}.png" for folder in ("a/deep", "a/deeper", "b") for n in range(4)]
    for paths in (names, [*names, "/else/x.png"], [*names, "relative.png"]):
        text = "".join(f"{path}\t{label}\n" for label, path in enumerate(paths)).encode()
        whole = read(tmp_path, text)
        with monkeypatch.context() as patch:
            patch.setattr(map_file, "_PIECE", piece)
            in_pieces = [read(tmp_path, text), read(tmp_path, text.replace(b"\n", b"\r\n"))]
        for images in in_pieces:
            assert list(images.paths) == [os.path.join(tmp_path, path) for path in paths]
            assert list(images.labels) == list(range(len(paths)))
            assert images.fingerprint == whole.fingerprint


def test_every_way_of_reading_gives_the_same(tmp_path):
    """Files as `prepare` writes them are read in one go, others line by line, such as those with a blank line."""
    rng = random.Random(7)
    names = ["/a", "/b c", "/é", "", "/@", "/a.zip@/b"]
    marks = ["\t", "", " ", "\t\t", "\r", "\n", "\x00"]
    labels = ["0", "24", "25", "007", "", "-1", ":", "A", "1.0", "٣", "²", "9" * 9, "0" * 9 + "1", "9" * 30]
    ends = ["\n", "\r\n", "\r", "\t", ""]
    outcomes = set()
    for _ in range(600):
        # Most lines are good, so that most files have one fault.
        line = [rng.choices(parts, [30] + [1] * (len(parts) - 1), k=3) for parts in (names, marks, labels, ends)]
        text = "".join(map("".join, zip(*line, strict=True))) + "\n" * rng.randrange(2)
        results = []
        for ending in ("", "\n"):
            try:
                images = read(tmp_path, (text + ending).encode(), num_classes=25)
                results.append((list(images.paths), list(images.labels)))
            except UserError as error:
                results.append(str(error))
        assert results[0] == results[1], text
        outcomes.add(type(results[0]))
    assert outcomes == {str, tuple}


def test_bad_lines_are_counted_and_the_first_ten_shown(tmp_path):
    lines = ["/a\t4", "/data/b.JPEG 3", "/b\tthree", "/b\t²", "/b\t5", "/b\t" + "9" * 5000, *["\t3"] * 1229]
    with pytest.raises(UserError) as raised:
        read(tmp_path, "\n".join(lines).encode(), num_classes=5)
    first, *problems = str(raised.value).splitlines()
    assert first.startswith(f"{tmp_path}/map.txt: expected lines of <path> TAB <integer label>; correct it or write it")
    assert first.endswith("(1,234 problems):")
    for problem in (
        "line 2: no TAB between path and label: '/data/b.JPEG 3'",
        "line 3: label 'three' is not an integer of 0 or above",
        "line 4: label '²'",
        "line 5: label 5 is outside the 5 classes",
        "line 6: label 99999",
        "line 7: no TAB",
    ):
        assert problems.pop(0).startswith(f"  {problem}")
    assert problems[4:] == ["  … and 1,224 more"]


def test_maps_that_have_no_rows_or_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(UserError, match="label 2147483648 is outside"):
        read(tmp_path, b"/a\t2147483648\n")
    for text in (b"", b"\n\n"):
        with pytest.raises(UserError, match=r"map\.txt has no images: expected .*prepare"):
            read(tmp_path, text)
    with pytest.raises(UserError, match=r"cannot read .*none\.txt: No such file.*keras_alexnet\.prepare"):
        map_file.read_map(tmp_path / "none.txt")


def test_relative_paths_begin_at_the_maps_folder(tmp_path, monkeypatch):
    (tmp_path / "é data").mkdir()
    monkeypatch.chdir(tmp_path)
    images = read(Path("é data"), b"a.png\t0\n../val/c.png\t0\n.../train/d.png\t0\n/e.png\t0\ncaf\xe9.png\t0\n")
    monkeypatch.chdir("/")  # It makes no difference.
    folder = f"{tmp_path}/é data"
    expected = [
        f"{folder}/a.png",
        f"{tmp_path}/val/c.png",
        f"{folder}/train/d.png",
        "/e.png",
        f"{folder}/caf\udce9.png",
    ]
    assert list(images.paths) == expected
    assert images.encoded_paths(range(5)) == [os.fsencode(path) for path in expected]


def test_sequence_ids_of_cntk_are_passed_over(tmp_path):
    images = read(tmp_path, b"17\t/a b\t0\n/c\t1\n\t/d\t2\n")
    assert (list(images.paths), list(images.labels)) == (["/a b", "/c", "/d"], [0, 1, 2])
    with pytest.raises(UserError, match="line 1: no TAB between path and label"):
        read(tmp_path, b"17\t\t0\n")


def test_maps_from_windows_are_read_as_cntk_reads_them(tmp_path):
    text = b"...\\val\\0.png\t0\r\n...\\val\\1.png\t0\r\n"
    images = read(tmp_path, b"\xef\xbb\xbf" + text)
    assert list(images.paths) == [f"{tmp_path}/val/0.png", f"{tmp_path}/val/1.png"]
    assert images.fingerprint == read(tmp_path, text.replace(b"\\", b"/")).fingerprint
    # Backslashes in the names of files stay.
    (tmp_path / r"a\b.png").touch()
    assert read(tmp_path, b"a\\b.png\t0\nc.png\t1\n").paths[0] == rf"{tmp_path}/a\b.png"
    assert read(tmp_path, b"/gone/a\\b.png\t0\nc.png\t1\n").paths[0] == r"/gone/a\b.png"


@pytest.mark.parametrize("root", [b"d:/Data", rb"\\server\share"])
def test_absolute_paths_of_windows_are_refused_with_what_to_replace(tmp_path, root):
    with pytest.raises(UserError, match=r"Replace .* with the folder that has these images") as raised:
        read(tmp_path, root + b"\\train\\cat\\1.png\t0\n" + root + b"\\train\\dog\\1.png\t1\n")
    # The advice works.
    (expression,) = [line for line in str(raised.value).splitlines() if "sed" in line]
    command = expression.removesuffix(" > NEW.txt").replace("OLD.txt", str(tmp_path / "map.txt"))
    changed = subprocess.run(command, shell=True, capture_output=True, text=True, check=True).stdout
    assert changed == "/NEW/FOLDER/cat/1.png\t0\n/NEW/FOLDER/dog/1.png\t1\n"


def test_missing_images_are_named_unless_some_are_there(tmp_path):
    images = read(tmp_path, b"".join(b"%d.png\t0\n" % number for number in range(1000)))
    with pytest.raises(UserError, match=rf"(?s)map.txt are missing: none of 100 .*\n  {tmp_path}/10.png\n.*mounted\?"):
        raise_if_missing(images)
    (tmp_path / "990.png").touch()
    raise_if_missing(images)
    # Whether an image exists that cannot be reached is not known.
    (tmp_path / "loop").symlink_to("loop")
    raise_if_missing(ImageMap([str(tmp_path / "loop")], [0]))
    with pytest.raises(UserError, match=r"  /data/train.zip@/n1/a.jpg\nThe archive /data/train.zip does not exist\."):
        raise_if_missing(read(tmp_path, b"/data/train.zip@/n1/a.jpg\t0\n"))


def read_classes(folder, text: str) -> list[str]:
    (folder / "classes.txt").write_text(text)
    return class_mappings.read_class_mappings(folder / "classes.txt")


def test_class_mappings_in_any_order_are_read(tmp_path):
    assert read_classes(tmp_path, "b\t1\r\nc\t2\r\na\t0") == ["a", "b", "c"]
    assert read_classes(tmp_path, "2\tc\n0\ta\n1\tb\n") == ["a", "b", "c"]
    # Where both columns could be labels, the second one is.
    assert read_classes(tmp_path, "1\t0\n2\t1\n0\t2\n") == ["1", "2", "0"]
    assert read_classes(tmp_path, "0\t10\n1\t7\n2\t-1\n") == ["10", "7", "-1"]
    classes = ["n01440764", os.fsdecode(b"caf\xe9 cr\xe8me")]
    class_mappings.write_class_mappings(tmp_path / "classes.txt", classes)
    assert class_mappings.read_class_mappings(tmp_path / "classes.txt") == classes


@pytest.mark.parametrize(
    ("text", "expected_text"),
    [
        ("a\t0\nb 1\nc\t2\n", r"each label from 0 to 2 once; .*\(1 problem\):\n  line 2: 'b 1'"),
        ("a\t0\n\t1\nc\t2\n", r"\(1 problem\):\n  line 2: "),
        ("0\t0\n1\t2\n2\t2\n", r"\(1 problem\):\n  line 2: '1\\t2'"),
        ("1\tb\n0\ta\n3\td\n3\tc\n9\te\n", r"\(2 problems\):\n  line 3: .*\n  line 5: "),
        ("", r"classes\.txt is empty: expected .*prepare"),
    ],
)
def test_class_mappings_that_do_not_have_each_label_once_are_refused(tmp_path, text, expected_text):
    with pytest.raises(UserError, match=expected_text):
        read_classes(tmp_path, text)


def test_a_failing_write_changes_no_file(tmp_path, monkeypatch):
    older = dict.fromkeys([*FILES, "classnames.txt"], "older")
    for name, text in older.items():
        (tmp_path / name).write_text(text)
    real, calls = os.fsync, []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    images = ImageMap(["/a", "/b"], [0, 1])
    with pytest.raises(UserError, match=r"cannot write .*\.txt: No space left"):
        data_dir.write_data_dir(tmp_path, images, images, ["n1", "n2"], ["one", "two"])
    assert {name: (tmp_path / name).read_text() for name in os.listdir(tmp_path)} == older
