"""Images and labels of folders: which are found, in which order, and what is wrong with them."""

import contextlib
import os

import pytest
from fake_ilsvrc import CLASSES, GOLDFISH, SHARK, TENCH, FakeIlsvrc

from keras_alexnet.data.scanning import data_set, image_folders
from keras_alexnet.data.scanning.annotations import annotated_label
from keras_alexnet.errors import UserError

VAL_1 = "ILSVRC2012_val_00000001"


@pytest.fixture
def tree(tmp_path):
    return FakeIlsvrc(tmp_path / "imagenet")


def problems_of(tree, **changes):
    """The problems that a scan reports, a line each."""
    folders = {"train_dir": tree.train, "val_dir": tree.val, "val_labels": tree.annotations} | changes
    with pytest.raises(UserError) as raised:
        data_set.scan_image_folders(**folders)
    summary, *problems = str(raised.value).splitlines()
    assert summary.startswith("the images cannot be used as they are")
    return [problem.strip() for problem in problems]


def rows_of(images):
    return list(zip(images.paths, images.labels, strict=True))


def training_rows(train_dir):
    problems = []
    classes, images = image_folders.scan_training(train_dir, problems, [])
    assert problems == []
    return classes, [(os.path.relpath(path, train_dir), label) for path, label in rows_of(images)]


def make_files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_classes_are_sorted_by_code_points(tmp_path):
    # By path alone a-b would come before a, and by most locales é before z.
    make_files(tmp_path, *(f"{name}/0001.jpg" for name in ("é", "z", "a-b", "a", "Y", "10", "9")))
    classes, rows = training_rows(tmp_path)
    assert classes == ["10", "9", "Y", "a", "a-b", "z", "é"]
    assert rows == [(f"{name}/0001.jpg", label) for label, name in enumerate(classes)]


def test_order_on_disk_does_not_matter(tree, monkeypatch):
    found = data_set.scan_image_folders(tree.train, tree.val, tree.annotations)
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: contextlib.nullcontext(reversed(list(real(folder)))))
    assert data_set.scan_image_folders(tree.train, tree.val, tree.annotations) == found


def test_only_names_as_ilsvrc_has_them_say_what_the_class_is(tmp_path):
    files = ["cat/1.jpg", "cat/cat_black_1.jpg", "cat_black/cat_black_1.jpg", "dog/1.jpg", "dog/cat_1.jpg", "3/7_1.png"]
    make_files(tmp_path, *files)
    assert [name for name, _ in training_rows(tmp_path)[1]] == sorted(files)


def test_validation_labels_come_from_class_folders(tree, tmp_path):
    make_files(tmp_path / "val", f"{SHARK}/b.JPEG", f"{SHARK}/a.png", f"{TENCH}/z.jpg", ".git/x.jpg", "loose.jpg")
    found = data_set.scan_image_folders(tree.train, tmp_path / "val", "")
    names = [(f"{TENCH}/z.jpg", 0), (f"{SHARK}/a.png", 2), (f"{SHARK}/b.JPEG", 2)]
    assert rows_of(found.val) == [(f"{tmp_path}/val/{name}", label) for name, label in names]
    assert not any("has the training images too" in note for note in found.notes)
    (note, *_) = data_set.scan_image_folders(tmp_path / "val", tmp_path / "val" / ".", "").notes[-1:]
    assert "has the training images too" in note


def split_names(train_dir, fraction, seed=0):
    """The names of the training and of the validation images."""
    found = data_set.scan_image_folders(train_dir, None, None, val_fraction=fraction, split_seed=seed)
    for images in (found.train, found.val):
        assert rows_of(images) == sorted(rows_of(images), key=lambda row: (row[1], row[0]))
        assert [found.classes[label] for label in images.labels] == [path.split("/")[-2] for path in images.paths]
    return tuple([os.path.relpath(path, train_dir) for path in images.paths] for images in (found.train, found.val))


def test_split_takes_the_same_images_everywhere(tmp_path):
    make_files(tmp_path, *(f"{name}/{number}.jpg" for name in ("cat", "dög") for number in range(10)))
    train, val = split_names(tmp_path, 0.2)
    # Fixed for good: a data set that is prepared again must not mix its validation images into training.
    assert val == ["cat/1.jpg", "cat/5.jpg", "dög/2.jpg", "dög/3.jpg"]
    assert sorted(train + val) == sorted(f"{name}/{number}.jpg" for name in ("cat", "dög") for number in range(10))
    assert split_names(tmp_path, 0.2, seed=1)[1] != val
    # Neither another class nor another place changes it.
    make_files(tmp_path / "moved", *train, *val, *(f"ant/{number}.jpg" for number in range(10)))
    with_ants = split_names(tmp_path / "moved", 0.2)[1]
    assert [name for name in with_ants if not name.startswith("ant/")] == val


@pytest.mark.parametrize(("count", "fraction", "expected"), [(2, 0.01, 1), (2, 0.99, 1), (15, 0.1, 2), (50, 0.29, 15)])
def test_size_of_a_split(tmp_path, count, fraction, expected):
    """The last one is 14.5, but 50 * 0.29 is less."""
    make_files(tmp_path, *(f"cat/{number}.jpg" for number in range(count)))
    train, val = split_names(tmp_path, fraction)
    assert (len(train), len(val)) == (count - expected, expected)


def test_single_images_cannot_be_split(tmp_path):
    make_files(tmp_path, "cat/1.jpg", "dog/1.jpg")
    with pytest.raises(UserError, match=rf"\(1 problem\):\n  no class of {tmp_path} has more than one image"):
        split_names(tmp_path, 0.5)


def test_links_are_followed_and_written_as_they_are(tree, tmp_path):
    make_files(tmp_path, "store/x.bin", "store/n01514668/n01514668_1.JPEG")
    (tree.train / TENCH / "n01440764_1.JPEG").symlink_to(tmp_path / "store/x.bin")
    (tree.train / "n01514668").symlink_to(tmp_path / "store/n01514668")
    (tmp_path / "link").symlink_to(tree.root)
    classes, images = image_folders.scan_training(tmp_path / "link/Data/CLS-LOC/train", [], [])
    train = f"{tmp_path}/link/Data/CLS-LOC/train"
    assert classes == [*CLASSES, "n01514668"]
    assert rows_of(images)[0] == (f"{train}/{TENCH}/n01440764_1.JPEG", 0)
    assert rows_of(images)[-1] == (f"{train}/n01514668/n01514668_1.JPEG", 3)


def test_class_names_are_left_out_if_one_is_missing(tree):
    path = tree.add_names()
    path.write_text(f"{TENCH} tench\n{GOLDFISH}\n")
    found = data_set.scan_image_folders(tree.train, tree.val, tree.annotations, path)
    assert found.class_names is None
    assert found.notes == [f"Note: no class names, as {path} has none for 2 of the 3 classes, such as {GOLDFISH}"]
    (problem,) = problems_of(tree, synset_mapping=tree.root)
    assert problem.startswith(f"cannot read {tree.root}: Is a directory; expected lines of '<class id> <names>'")


def test_problems_of_training_images_are_named(tree):
    train = tree.train
    (train / "empty").mkdir()
    make_files(train, "others/notes.txt", f"{GOLDFISH}/{TENCH}_7.JPEG", "Cat/1.jpg", "cat/1.jpg")
    (train / TENCH / "gone.JPEG").symlink_to("none.JPEG")
    (train / TENCH / "loop.JPEG").symlink_to("loop.JPEG")
    (train / "lost").symlink_to("unmounted")
    found = "\n".join(sorted(problems_of(tree)))
    for expected in (
        f"class folder {train}/empty has no images: expected ",
        f"class folder {train}/others has no images, but 1 .txt file (such as {train}/others/notes.txt)",
        f"{train}/{GOLDFISH}/{TENCH}_7.JPEG is named as an image of class {TENCH} but is in the folder of {GOLDFISH}",
        f"class folders {train}/Cat and {train}/cat differ only in case",
        f"{train}/{TENCH}/gone.JPEG is a broken link: expected an image",
        f"{train}/lost is a broken link: expected a class",
        f"{train}/{TENCH}/loop.JPEG: Too many levels of symbolic links",
    ):
        assert expected in found
    assert len(found.splitlines()) == 7


def test_links_to_other_classes_are_named(tree):
    (tree.train / "twice").symlink_to(TENCH)
    (tree.train / "above").symlink_to(".")
    found = "\n".join(problems_of(tree))
    assert f"{tree.train}/twice and {tree.train}/{TENCH} are the same folder: expected one folder per class" in found
    assert f"{tree.train}/above and {tree.train} are the same folder: expected one folder per class" in found


def test_problems_of_validation_images_are_named(tree, tmp_path):
    (problem,) = problems_of(tree, val_labels="")
    assert problem.startswith(f"validation folder {tree.val} has no class folders, but 3 images outside")
    make_files(tmp_path / "val", f"{TENCH}/{SHARK}_1.JPEG", "tench/1.jpg")
    assert [problem.partition(":")[0] for problem in problems_of(tree, val_dir=tmp_path / "val", val_labels="")] == [
        f"validation folder {tmp_path}/val/tench is not one of the 3 classes",
        f"{tmp_path}/val/{TENCH}/{SHARK}_1.JPEG is named as an image of class {SHARK} but is in the folder of {TENCH}",
    ]
    make_files(tree.val, "extra.png", f"{VAL_1}.png")
    tree.annotate(VAL_1, TENCH, SHARK)
    assert [problem.partition(":")[0] for problem in sorted(problems_of(tree))] == [
        f"{tree.annotations}/{VAL_1}.xml names several classes ({TENCH}, {SHARK})",
        f"{tree.val}/{VAL_1}.png and {tree.val}/{VAL_1}.JPEG share one annotation, {VAL_1}.xml",
        f"{tree.val}/extra.png has no annotation",
    ]


def test_a_map_cannot_hold_names_with_tabs_or_line_breaks(tree, tmp_path):
    make_files(tree.train, f"{TENCH}/b\nd.JPEG", "b\td/1.JPEG", "b\td/2.JPEG")
    other = FakeIlsvrc(tmp_path / "b\rd" / "imagenet")
    problems = problems_of(tree, val_dir=other.val) + problems_of(tree, train_dir=other.train)
    for problem, name in zip(problems, (r"b\td", r"b\nd", r"b\rd", r"b\rd"), strict=True):
        assert name in problem
        assert "has a TAB or a line break in its name, which a map file cannot hold: rename it" in problem


def label_of(annotation):
    """The label of an image with this annotation, and what is wrong with it."""
    problems = []
    return annotated_label(str(annotation), "val_1.JPEG", {"tench": 0, "goldfish": 1}, problems), problems


def objects(*class_ids):
    return "".join(f"<object><name>{class_id}</name><pose/></object>" for class_id in class_ids)


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16"])
def test_the_label_of_an_annotation_is_the_class_of_all_objects(tmp_path, encoding):
    others = "<source><name>tench</name></source>"
    text = f'<?xml version="1.0" encoding="{encoding}"?><annotation>{others}{objects("goldfish", " goldfish ")}'
    (tmp_path / "a.xml").write_text(f"{text}</annotation>", encoding)
    assert label_of(tmp_path / "a.xml") == (1, [])


# Ten times ten times ten … a gigabyte, were it expanded.
BOMB = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))


@pytest.mark.parametrize(
    ("text", "expected_text"),
    [
        ("<a/>", "names no class: expected objects"),
        (f"<a>{objects('tench', '  ')}</a>", "has an object without a name: "),
        (f"<a>{objects('tench', 'goldfish', 'tench')}</a>", "names several classes (goldfish, tench): "),
        (f"<a>{objects('newt')}</a>", "names class newt, which is not one of the classes: "),
        ("<a><object>", "is not XML as expected: no element found"),
        ('<?xml version="1.0" encoding="martian"?><a/>', "is not XML as expected: unknown encoding"),
        ('<?xml version="1.0" encoding="utf-7"?><a/>', "is not XML as expected: multi-byte encodings"),
        (f'<!DOCTYPE a [<!ENTITY e0 "x">{BOMB}]><a>&e9;</a>', "is not XML as expected: it defines entities"),
        (f"<a>{' ' * (1 << 20)}</a>", "is not XML as expected: it is larger than 1 MiB"),
    ],
)
def test_annotations_that_name_no_one_class_are_refused(tmp_path, text, expected_text):
    (tmp_path / "a.xml").write_text(text)
    label, (problem,) = label_of(tmp_path / "a.xml")
    assert label is None
    assert problem.startswith(f"{tmp_path}/a.xml {expected_text}")
    assert problem.endswith("correct it, or remove it and val_1.JPEG")
    assert label_of(tmp_path)[1][0].startswith(f"cannot read {tmp_path}: Is a directory; expected XML")
