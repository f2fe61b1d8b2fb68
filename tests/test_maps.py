import os
import pickle
import random
import subprocess
import sys
from array import array
from pathlib import Path

import pytest
from map_files import write_map

from keras_alexnet.data import class_mappings, data_dir, map_file
from keras_alexnet.data.image_map import ImageMap, raise_if_missing
from keras_alexnet.errors import UserError

FILES = ("train_map.txt", "val_map.txt", "classmappings.txt")


def test_map_round_trip(tmp_path):
    rows = [("/data/a.JPEG", 0), ("/data/with space, é.JPEG", 999), ("/data/../b.png", 3)]
    write_map(tmp_path / "map.txt", iter(rows))
    text = "/data/a.JPEG\t0\n/data/with space, é.JPEG\t999\n/data/../b.png\t3\n".encode()
    assert (tmp_path / "map.txt").read_bytes() == text
    images = map_file.read_map(tmp_path / "map.txt", num_classes=1000)
    assert list(zip(images.paths, images.labels, strict=True)) == rows
    assert len(images) == 3
    assert images.source == str(tmp_path / "map.txt")


def fingerprint(folder, text: bytes) -> str:
    (folder / "map.txt").write_bytes(text)
    return map_file.read_map(folder / "map.txt").fingerprint


def test_the_fingerprint_is_that_of_the_same_images_elsewhere(tmp_path):
    original = fingerprint(tmp_path, b"/data/train/a/1.png\t0\n/data/train/a/2.png\t0\n/data/train/b/1.png\t1\n")
    for moved in (
        b"/mnt/disk 2/x/a/1.png\t0\n/mnt/disk 2/x/a/2.png\t0\n/mnt/disk 2/x/b/1.png\t1\n",
        b"a/1.png\t0\na/2.png\t0\nb/1.png\t1\n",
        b"/1/a/1.png\t0\r\n/1/a/2.png\t0\r\n/1/b/1.png\t1",
        b"key\t.../a/1.png\t0\nkey\t.../a/2.png\t0\n\nkey\t.../b/1.png\t01\n",
    ):
        assert fingerprint(tmp_path, moved) == original, moved
    for other in (
        b"/data/train/a/1.png\t0\n/data/train/a/2.png\t0\n/data/train/b/1.png\t2\n",
        b"/data/train/a/1.png\t0\n/data/train/a/3.png\t0\n/data/train/b/1.png\t1\n",
        b"/data/train/a/1.png\t0\n/data/train/b/1.png\t1\n/data/train/a/2.png\t0\n",
        b"/data/train/a/1.png\t0\n/data/train/a/2.png\t0\n",
        b"/data/train/a/1.png\t0\n/data/train/a/2.png\t0\n/data/trainb/1.png\t1\n",
    ):
        assert fingerprint(tmp_path, other) != original, other


def test_the_fingerprint_of_a_large_map_has_all_its_lines(tmp_path):
    lines = [b"/data/class/%d.png\t0\n" % number for number in range(400_000)]
    original = fingerprint(tmp_path, b"".join(lines))
    assert fingerprint(tmp_path, b"".join(line.replace(b"/data", b"/other/place") for line in lines)) == original
    for changed in (1, 250_000, 399_999):
        other = [*lines[:changed], b"/data/class/x.png\t0\n", *lines[changed + 1 :]]
        assert fingerprint(tmp_path, b"".join(other)) != original


@pytest.mark.parametrize("piece", [1, 7, 30, 64])
def test_maps_are_read_in_pieces(tmp_path, monkeypatch, piece):
    """The folder that all paths share is known at the end only: those of the first pieces may share a deeper one."""
    names = [f"/data/train/{folder}/{n}.png" for folder in ("a/deep", "a/deeper", "b") for n in range(4)]
    for paths in (names, [*names, "/else/x.png"], [*names, "relative.png"]):
        write_map(tmp_path / "map.txt", [(path, 1) for path in paths])
        whole = map_file.read_map(tmp_path / "map.txt")
        with monkeypatch.context() as patch:
            patch.setattr(map_file, "_PIECE", piece)
            images = map_file.read_map(tmp_path / "map.txt")
        assert list(images.paths) == [os.path.join(tmp_path, path) for path in paths]
        assert images.fingerprint == whole.fingerprint


def test_names_that_are_not_utf8_survive(tmp_path):
    name = b"/data/caf\xe9.JPEG"
    write_map(tmp_path / "map.txt", [(os.fsdecode(name), 1)])
    assert (tmp_path / "map.txt").read_bytes() == name + b"\t1\n"
    (path,) = map_file.read_map(tmp_path / "map.txt").paths
    assert os.fsencode(path) == name


@pytest.mark.parametrize(
    "text", [b"/a\t1\r\n/b\t2\r\n", b"/a\t1\n/b\t2", b"/a\t1\n\n/b\t2\n\n"], ids=["crlf", "no last line end", "blank"]
)
def test_other_line_ends_are_read(tmp_path, text):
    (tmp_path / "map.txt").write_bytes(text)
    images = map_file.read_map(tmp_path / "map.txt")
    assert (list(images.paths), list(images.labels)) == (["/a", "/b"], [1, 2])


@pytest.mark.parametrize(
    ("line", "expected_text"),
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
def test_bad_map_lines_are_told(tmp_path, line, expected_text):
    (tmp_path / "map.txt").write_text(f"/a\t4\n{line}\n/c\t0\n", encoding="utf-8")
    with pytest.raises(UserError, match=expected_text) as raised:
        map_file.read_map(tmp_path / "map.txt", num_classes=5)
    first, *rest = str(raised.value).splitlines()
    assert first.startswith(f"{tmp_path}/map.txt: expected lines of <path> TAB <integer label>")
    assert first.endswith("write it again with python -m keras_alexnet.prepare (1 problem):")
    assert len(rest) == 1


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
            (tmp_path / "map.txt").write_text(text + ending, newline="")
            try:
                images = map_file.read_map(tmp_path / "map.txt", num_classes=25)
                results.append((list(images.paths), list(images.labels)))
            except UserError as error:
                results.append(str(error))
        assert results[0] == results[1], text
        outcomes.add(type(results[0]))
    assert outcomes == {str, tuple}


def test_long_map(tmp_path, monkeypatch):
    """Longer than the pieces in which it is read, in one go."""
    rows = [(f"/data/{number:0>200}.JPEG", number % 1000) for number in range(25_000)]
    write_map(tmp_path / "map.txt", rows)
    assert (tmp_path / "map.txt").stat().st_size > 5_000_000
    with monkeypatch.context() as patch:
        patch.delattr(map_file, "_checked_rows")
        images = map_file.read_map(tmp_path / "map.txt", num_classes=1000)
        (tmp_path / "crlf.txt").write_bytes((tmp_path / "map.txt").read_bytes().replace(b"\n", b"\r\n"))
        crlf = map_file.read_map(tmp_path / "crlf.txt", num_classes=1000)
    assert list(zip(images.paths, images.labels, strict=True)) == rows
    assert (crlf.paths, crlf.labels) == (images.paths, images.labels)
    with pytest.raises(UserError, match=r"line 1000: label 999 is outside the 999 classes .*\n  line 2000: "):
        map_file.read_map(tmp_path / "map.txt", num_classes=999)


def test_long_map_takes_little_memory(tmp_path):
    row = "/data/imagenet/ILSVRC/Data/CLS-LOC/train/n01440764/n01440764_10026.JPEG\t{}\n"
    (tmp_path / "map.txt").write_text("".join(row.format(number % 1000) for number in range(300_000)))
    program = """
import resource, sys
import numpy
from keras_alexnet.data import class_mappings, data_dir, map_file
from keras_alexnet.data.image_map import ImageMap, raise_if_missing
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
images = map_file.read_map(sys.argv[1])
print(len(images), (peak() - before) // (1024 * 1024 if sys.platform == "darwin" else 1024))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "map.txt"], capture_output=True, text=True, check=True
    )
    length, megabytes = map(int, done.stdout.split())
    assert length == 300_000
    # The file has 22 MB, and a string per path would take 40.
    assert megabytes < 55


def test_paths_are_a_sequence(tmp_path):
    rows = [(f"/{name}", label) for label, name in enumerate("abcde")]
    write_map(tmp_path / "map.txt", rows)
    images = map_file.read_map(tmp_path / "map.txt")
    paths = [path for path, _ in rows]
    assert isinstance(images.labels, array)
    assert list(images.paths) == paths
    assert images.paths[-1] == "/e"
    assert images.paths[1:3] == ["/b", "/c"]
    assert "/d" in images.paths
    assert images == map_file.read_map(tmp_path / "map.txt")
    assert images.paths == paths
    assert images.paths != [*paths[:4], "/f"]
    assert images.paths != paths[:4]
    assert pickle.loads(pickle.dumps(images)) == images
    with pytest.raises(IndexError):
        images.paths[5]


@pytest.mark.parametrize("from_file", [True, False])
def test_encoded_paths_are_what_the_file_system_takes(tmp_path, from_file):
    paths = ["/a", "/é", os.fsdecode(b"/caf\xe9"), "/d"]
    images = ImageMap(paths, range(4))
    if from_file:
        write_map(tmp_path / "map.txt", zip(paths, range(4), strict=True))
        images = map_file.read_map(tmp_path / "map.txt")
    assert images.encoded_paths([2, 0, 1, 2]) == [b"/caf\xe9", b"/a", "/é".encode(), b"/caf\xe9"]
    assert images.encoded_paths(iter(range(2, 4))) == [b"/caf\xe9", b"/d"]


def test_relative_paths_begin_at_the_maps_folder(tmp_path, monkeypatch):
    lines = ["a.png", "train/b.png", "../val/c.png", ".../train/d.png", "/e.png", os.fsdecode(b"caf\xe9.png")]
    (tmp_path / "é data").mkdir()
    write_map(tmp_path / "é data/map.txt", [(line, 0) for line in lines])
    monkeypatch.chdir(tmp_path)
    images = map_file.read_map(Path("é data/map.txt"))
    # A later change of the working directory makes no difference.
    monkeypatch.chdir("/")
    folder = f"{tmp_path}/é data"
    expected = [f"{folder}/a.png", f"{folder}/train/b.png", f"{tmp_path}/val/c.png", f"{folder}/train/d.png", "/e.png"]
    expected.append(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png"))
    assert list(images.paths) == expected
    assert images.encoded_paths(range(6)) == [os.fsencode(path) for path in expected]


def test_maps_from_windows_are_read_as_cntk_reads_them(tmp_path):
    lines = [rf"...\val\{number}.png" for number in range(3)]
    text = "".join(f"{line}\t0\r\n" for line in lines)
    (tmp_path / "map.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    images = map_file.read_map(tmp_path / "map.txt")
    assert list(images.paths) == [f"{tmp_path}/val/{number}.png" for number in range(3)]
    assert images.fingerprint == fingerprint(tmp_path, text.replace("\\", "/").encode())


def test_backslashes_in_names_of_files_stay(tmp_path):
    (tmp_path / r"a\b.png").touch()
    write_map(tmp_path / "map.txt", [(r"a\b.png", 0), ("c.png", 1)])
    assert map_file.read_map(tmp_path / "map.txt").paths[0] == rf"{tmp_path}/a\b.png"
    write_map(tmp_path / "map.txt", [(r"/gone/a\b.png", 0), ("c.png", 1)])
    assert map_file.read_map(tmp_path / "map.txt").paths[0] == r"/gone/a\b.png"


@pytest.mark.parametrize("root", ["C:\\Data", "d:/Data", r"\\server\share"])
def test_absolute_paths_of_windows_are_refused_with_what_to_replace(tmp_path, root):
    write_map(tmp_path / "map.txt", [(rf"{root}\train\{name}\1.png", 0) for name in ("cat", "dog")])
    with pytest.raises(UserError) as raised:
        map_file.read_map(tmp_path / "map.txt")
    folder = root.replace("/", "\\") + r"\train"
    assert f"Replace {folder} with the folder that has these images" in str(raised.value)
    # The advice works.
    (expression,) = [line for line in str(raised.value).splitlines() if "sed" in line]
    command = expression.removesuffix(" > NEW.txt").replace("OLD.txt", str(tmp_path / "map.txt"))
    changed = subprocess.run(command, shell=True, capture_output=True, text=True, check=True).stdout
    assert changed == "/NEW/FOLDER/cat/1.png\t0\n/NEW/FOLDER/dog/1.png\t0\n"


def test_a_missing_archive_is_named(tmp_path):
    (tmp_path / "map.txt").write_text("/a@b/c.jpg\t0\n/data/train.zip@/n1/a.jpg\t0\n")
    image_map = map_file.read_map(tmp_path / "map.txt")
    assert image_map.paths == ["/a@b/c.jpg", "/data/train.zip@/n1/a.jpg"]
    (tmp_path / "map.txt").write_text("/data/train.zip@/n1/a.jpg\t0\n")
    with pytest.raises(UserError, match=r"  /data/train.zip@/n1/a.jpg\nThe archive /data/train.zip does not exist\."):
        raise_if_missing(map_file.read_map(tmp_path / "map.txt"))


def test_sequence_ids_of_cntk_are_passed_over(tmp_path):
    (tmp_path / "map.txt").write_text("17\t/a b\t0\n/c\t1\n\t/d\t2\n")
    images = map_file.read_map(tmp_path / "map.txt")
    assert (list(images.paths), list(images.labels)) == (["/a b", "/c", "/d"], [0, 1, 2])
    (tmp_path / "map.txt").write_text("17\t\t0\n")
    with pytest.raises(UserError, match="line 1: no TAB between path and label"):
        map_file.read_map(tmp_path / "map.txt")


def numbered_map(folder, count):
    """A map of `count` images, none of which is there yet."""
    write_map(folder / "map.txt", [(f"{number}.png", 0) for number in range(count)])
    return map_file.read_map(folder / "map.txt")


@pytest.mark.parametrize("count", [1, 99, 100, 101, 1234])
def test_missing_images_are_told(tmp_path, count):
    with pytest.raises(UserError) as raised:
        raise_if_missing(numbered_map(tmp_path, count))
    first, *shown, present, last = str(raised.value).splitlines()
    assert present == f"Of the first path, only {tmp_path} exists."
    assert first.startswith(f"the images of {tmp_path}/map.txt are missing: none of {min(count, 100)} ")
    step = max(count / 100, 1)
    several = [f"  {tmp_path}/{int(n * step)}.png" for n in range(3)] + ["  …"]
    assert shown == (several if count > 3 else [f"  {tmp_path}/0.png"])
    assert last.startswith("Is their disk mounted? If they have been moved, run python -m keras_alexnet.prepare again")


@pytest.mark.parametrize("present", [0, 990])
def test_some_images_where_expected_are_enough(tmp_path, present):
    images = numbered_map(tmp_path, 1000)
    (tmp_path / f"{present}.png").touch()
    raise_if_missing(images)
    raise_if_missing(ImageMap(list(images.paths), images.labels))


def test_images_that_cannot_be_reached_are_not_called_missing(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    raise_if_missing(ImageMap([str(tmp_path / "loop")], [0]))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="none of 1 that"):
        raise_if_missing(ImageMap([str(tmp_path / "file/a.png")], [0]))


def test_label_too_large_for_any_model_is_told(tmp_path):
    (tmp_path / "map.txt").write_text(f"/a\t{2**31}\n")
    with pytest.raises(UserError, match="label 2147483648 is outside"):
        map_file.read_map(tmp_path / "map.txt")


def test_ten_bad_lines_are_shown_and_all_are_counted(tmp_path):
    (tmp_path / "map.txt").write_text("bad\n" * 1234)
    with pytest.raises(UserError) as raised:
        map_file.read_map(tmp_path / "map.txt")
    lines = str(raised.value).splitlines()
    assert lines[0].endswith("(1,234 problems):")
    assert lines[10].startswith("  line 10: ")
    assert lines[11:] == ["  … and 1,224 more"]


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_empty_map_is_told(tmp_path, text):
    (tmp_path / "map.txt").write_text(text)
    with pytest.raises(UserError, match=r"map\.txt has no images: expected .*prepare"):
        map_file.read_map(tmp_path / "map.txt")


@pytest.mark.parametrize("read", [map_file.read_map, class_mappings.read_class_mappings])
def test_missing_file_and_folder_are_told(tmp_path, read):
    with pytest.raises(UserError, match=r"cannot read .*none\.txt: No such file.*keras_alexnet\.prepare"):
        read(tmp_path / "none.txt")
    with pytest.raises(UserError, match=r"cannot read .*Is a directory"):
        read(tmp_path)


def test_class_mappings_round_trip(tmp_path):
    classes = ["n01440764", "n01443537", os.fsdecode(b"caf\xe9 cr\xe8me")]
    class_mappings.write_class_mappings(tmp_path / "classes.txt", classes)
    assert (tmp_path / "classes.txt").read_bytes() == b"n01440764\t0\nn01443537\t1\ncaf\xe9 cr\xe8me\t2\n"
    assert class_mappings.read_class_mappings(tmp_path / "classes.txt") == classes


@pytest.mark.parametrize("text", [b"a\t0\r\nb\t1\r\n", b"a\t0\nb\t1"])
def test_class_mappings_with_other_line_ends_are_read(tmp_path, text):
    (tmp_path / "classes.txt").write_bytes(text)
    assert class_mappings.read_class_mappings(tmp_path / "classes.txt") == ["a", "b"]


@pytest.mark.parametrize(
    "lines",
    [
        ["b\t1", "c\t2", "a\t0"],
        ["0\ta", "1\tb", "2\tc"],
        ["2\tc", "0\ta", "1\tb"],
    ],
    ids=["shuffled", "CNTK", "CNTK shuffled"],
)
def test_class_mappings_in_other_orders_are_read(tmp_path, lines):
    (tmp_path / "classes.txt").write_text("\n".join(lines))
    assert class_mappings.read_class_mappings(tmp_path / "classes.txt") == ["a", "b", "c"]


def test_numbers_as_class_ids(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("1\t0\n2\t1\n0\t2\n")
    assert class_mappings.read_class_mappings(path) == ["1", "2", "0"]
    path.write_text("0\t10\n1\t7\n2\t-1\n")
    assert class_mappings.read_class_mappings(path) == ["10", "7", "-1"]
    # Not the labels 0, 1, 2 of the classes 0, 2, 2.
    path.write_text("0\t0\n1\t2\n2\t2\n")
    with pytest.raises(UserError, match=r"label from 0 to 2 once; .*\(1 problem\):\n  line 2: '1\\t2'"):
        class_mappings.read_class_mappings(path)


def test_bad_lines_of_cntk_class_mappings_are_told(tmp_path):
    (tmp_path / "classes.txt").write_text("1\tb\n0\ta\n3\td\n3\tc\n9\te\n")
    with pytest.raises(UserError, match=r"label from 0 to 4 once; .*\(2 problems\):\n  line 3: .*\n  line 5: "):
        class_mappings.read_class_mappings(tmp_path / "classes.txt")


@pytest.mark.parametrize("line", ["b", "b 1", "b\tone", "b\t2", "b\t-1", "b\t01", "\t1", ""])
def test_bad_class_mapping_lines_are_told(tmp_path, line):
    (tmp_path / "classes.txt").write_text(f"a\t0\n{line}\nc\t2\n")
    with pytest.raises(UserError, match=r"(?s)classes\.txt: expected lines of .*prepare \(1 problem\):\n  line 2: "):
        class_mappings.read_class_mappings(tmp_path / "classes.txt")


def test_empty_class_mappings_are_told(tmp_path):
    (tmp_path / "classes.txt").touch()
    with pytest.raises(UserError, match=r"classes\.txt is empty: expected .*prepare"):
        class_mappings.read_class_mappings(tmp_path / "classes.txt")


@pytest.fixture
def images():
    return ImageMap(["/a", "/b"], [0, 1])


def test_data_dir_holds_all_files(tmp_path, images):
    output_dir = tmp_path / "new" / "data"
    paths = data_dir.write_data_dir(output_dir, images, ImageMap(["/v"], [1]), ["n1", "n2"], ["one", "two, deux"])
    assert paths == [os.path.join(output_dir, name) for name in (*FILES, "classnames.txt")]
    assert {name: (output_dir / name).read_bytes() for name in os.listdir(output_dir)} == {
        "train_map.txt": b"/a\t0\n/b\t1\n",
        "val_map.txt": b"/v\t1\n",
        "classmappings.txt": b"n1\t0\nn2\t1\n",
        "classnames.txt": b"n1\t0\tone\nn2\t1\ttwo, deux\n",
    }


def test_names_of_other_classes_are_removed(tmp_path, images):
    (tmp_path / "classnames.txt").write_text("n9\t0\told\n")
    data_dir.write_data_dir(tmp_path, images, images, ["n1", "n2"])
    assert sorted(os.listdir(tmp_path)) == sorted(FILES)


def test_names_that_cannot_be_removed_are_told(tmp_path, images):
    (tmp_path / "classnames.txt").mkdir()
    with pytest.raises(UserError, match=r"classnames\.txt may belong to other classes: remove it"):
        data_dir.write_data_dir(tmp_path, images, images, ["n1", "n2"])


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
        data_dir.write_data_dir(tmp_path, images, images, ["n1", "n2"], ["one", "two"])
    assert {name: (tmp_path / name).read_text() for name in os.listdir(tmp_path)} == dict.fromkeys(older, "older")


def test_data_dir_with_relative_paths(tmp_path):
    # The link is not resolved, though its target lies elsewhere.
    (tmp_path / "elsewhere/deep").mkdir(parents=True)
    (tmp_path / "train").symlink_to(tmp_path / "elsewhere/deep")
    train = ImageMap([f"{tmp_path}/train/cat/a.png", f"{tmp_path}/train/cat/b.png", "/c.png"], [0, 0, 1])
    val = ImageMap([f"{tmp_path}/data/d.png", f"{tmp_path}/data/dog/e.png"], [0, 1])
    data_dir.write_data_dir(tmp_path / "data", train, val, ["cat", "dog"], relative_paths=True)
    lines = (tmp_path / "data/train_map.txt").read_text().splitlines()
    assert lines[:2] == ["../train/cat/a.png\t0", "../train/cat/b.png\t0"]
    assert lines[2] == f"{os.path.relpath('/c.png', tmp_path / 'data')}\t1"
    for images, name in ((train, map_file.TRAIN_MAP), (val, map_file.VAL_MAP)):
        assert map_file.read_map(tmp_path / "data" / name).paths == images.paths
