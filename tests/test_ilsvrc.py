import os

import pytest
from fake_ilsvrc import CLASSES, GOLDFISH, NAMES, SHARK, TENCH, FakeIlsvrc

from keras_alexnet.data.scanning import data_set, image_folders
from keras_alexnet.errors import UserError

VAL_1 = "ILSVRC2012_val_00000001"


@pytest.fixture
def tree(tmp_path):
    return FakeIlsvrc(tmp_path / "imagenet")


def problems_of(tree, **changes):
    """The problems that a scan tells, a line each."""
    folders = {"train_dir": tree.train, "val_dir": tree.val, "val_labels": tree.annotations} | changes
    with pytest.raises(UserError) as raised:
        data_set.scan_image_folders(**folders)
    summary, *problems = str(raised.value).splitlines()
    assert summary.startswith("the images cannot be used as they are")
    return [problem.strip() for problem in problems]


def training_names(train_dir):
    problems = []
    classes, images = image_folders.scan_training(train_dir, problems, [])
    assert problems == []
    return classes, [
        (os.path.relpath(path, train_dir), label) for path, label in zip(images.paths, images.labels, strict=True)
    ]


def make_files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_training_images_are_sorted_by_class_and_name(tree):
    classes, rows = training_names(tree.train)
    assert classes == CLASSES
    assert rows == [
        (f"{class_id}/{class_id}_{number}.JPEG", label) for label, class_id in enumerate(CLASSES) for number in (10, 7)
    ]


def test_classes_are_sorted_by_code_points(tmp_path):
    # By path alone a-b would come before a, and by most locales é before z.
    make_files(tmp_path, *(f"{name}/0001.jpg" for name in ("é", "z", "a-b", "a", "Y", "10", "9")))
    classes, rows = training_names(tmp_path)
    assert classes == ["10", "9", "Y", "a", "a-b", "z", "é"]
    assert rows == [(f"{name}/0001.jpg", label) for label, name in enumerate(classes)]


def test_order_on_disk_does_not_matter(tree, monkeypatch):
    found = data_set.scan_image_folders(tree.train, tree.val, tree.annotations)
    real = os.scandir

    class Reversed:
        def __init__(self, folder):
            with real(folder) as entries:
                self.entries = list(entries)[::-1]

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(os, "scandir", Reversed)
    assert data_set.scan_image_folders(tree.train, tree.val, tree.annotations) == found


def test_suffixes_hidden_and_other_files(tmp_path):
    images = ["a.jpg", "b.JPEG", "c.Png", "d.bmp", "e.GIF", "f.webp", "g.tar.jpg"]
    others = [".hidden.jpg", "notes.txt", "jpg", "h.jpg.part", "Thumbs.db", ".hidden/i.jpg"]
    make_files(tmp_path, *(f"cat/{name}" for name in images + others), ".git/k.jpg", "l.jpg")
    assert training_names(tmp_path) == (["cat"], [(f"cat/{name}", 0) for name in images])


def test_same_names_in_every_class_are_fine(tmp_path):
    make_files(tmp_path, *(f"{name}/{image}.jpg" for name in ("cat", "dog") for image in ("0001", "my_cat_1", "_")))
    assert len(training_names(tmp_path)[1]) == 6


def test_class_ids_that_begin_alike_and_numbers_are_fine(tmp_path):
    make_files(tmp_path, "cat/cat_1.jpg", "cat/cat_black_1.jpg", "cat_black/cat_black_1.jpg", "3/7_1.png", "7/7_2.png")
    assert len(training_names(tmp_path)[1]) == 5


def test_class_folders_that_differ_only_in_case_are_told(tree):
    make_files(tree.train, "Cat/1.jpg", "cAT/1.jpg", "cat/1.jpg", "cats/1.jpg", "CATS/1.jpg")
    problems = problems_of(tree)
    assert [problem.partition(" differ only in case")[0] for problem in problems] == [
        f"class folders {tree.train}/Cat and {tree.train}/cAT",
        f"class folders {tree.train}/cAT and {tree.train}/cat",
        f"class folders {tree.train}/CATS and {tree.train}/cats",
    ]


def rows_of(images):
    return list(zip(images.paths, images.labels, strict=True))


@pytest.mark.parametrize("val_labels", ["", None])
def test_validation_labels_come_from_class_folders(tree, tmp_path, val_labels):
    make_files(tmp_path / "val", f"{SHARK}/b.JPEG", f"{SHARK}/a.png", f"{TENCH}/z.jpg", ".git/x.jpg", "loose.jpg")
    found = data_set.scan_image_folders(tree.train, tmp_path / "val", val_labels)
    names = [(f"{TENCH}/z.jpg", 0), (f"{SHARK}/a.png", 2), (f"{SHARK}/b.JPEG", 2)]
    assert rows_of(found.val) == [(f"{tmp_path}/val/{name}", label) for name, label in names]
    assert found.classes == CLASSES
    assert len(found.train) == 6


def test_problems_of_validation_class_folders_are_told(tree, tmp_path):
    make_files(tmp_path / "val", f"{TENCH}/{SHARK}_1.JPEG", "tench/1.jpg", "unknown/notes.txt", f"{SHARK}/notes.txt")
    problems = problems_of(tree, val_dir=tmp_path / "val", val_labels="")
    assert [problem.partition(":")[0] for problem in problems] == [
        f"validation folder {tmp_path}/val/tench is not one of the 3 classes",
        f"validation folder {tmp_path}/val/unknown is not one of the 3 classes",
        f"{tmp_path}/val/{TENCH}/{SHARK}_1.JPEG is named as an image of class {SHARK} but is in the folder of {TENCH}",
        f"class folder {tmp_path}/val/{SHARK} has no images, but 1 .txt file (such as "
        f"{tmp_path}/val/{SHARK}/notes.txt)",
    ]


def test_validation_folder_without_class_folders_is_told(tree):
    (problem,) = problems_of(tree, val_labels="")
    assert problem.startswith(f"validation folder {tree.val} has no class folders, but 3 images outside")
    assert "--val_dir" in problem
    (problem,) = problems_of(tree, val_dir=tree.root / "none", val_labels="")
    assert problem.startswith(f"validation folder {tree.root}/none: No such file or directory")


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
    make_files(tmp_path, *(f"ant/{number}.jpg" for number in range(10)))
    with_ants = split_names(tmp_path, 0.2)[1]
    assert [name for name in with_ants if not name.startswith("ant/")] == val
    # Not the same numbers in every class.
    assert len({name.split("/")[1] for name in with_ants}) > 2
    (tmp_path / "moved").mkdir()
    for name in ("ant", "cat", "dög"):
        os.rename(tmp_path / name, tmp_path / "moved" / name)
    assert split_names(tmp_path / "moved", 0.2)[1] == with_ants


@pytest.mark.parametrize(
    ("count", "fraction", "expected"),
    [
        (1, 0.5, 0),
        (1, 0.99, 0),
        (2, 0.01, 1),
        (2, 0.99, 1),
        (3, 0.5, 2),
        (14, 0.1, 1),
        (15, 0.1, 2),
        (50, 0.29, 15),  # 14.5, but 50 * 0.29 < 14.5
        (100, 0.999, 99),
        (100, 1e-05, 1),
    ],
)
def test_size_of_a_split(tmp_path, count, fraction, expected):
    make_files(tmp_path, "others/1.jpg", "others/2.jpg", *(f"cat/{number}.jpg" for number in range(count)))
    train, val = split_names(tmp_path, fraction)
    assert sum(name.startswith("cat/") for name in val) == expected
    assert sum(name.startswith("cat/") for name in train) == count - expected


def test_split_of_single_images_is_told(tmp_path):
    make_files(tmp_path, "cat/1.jpg", "dog/1.jpg")
    with pytest.raises(
        UserError, match=rf"\(1 problem\):\n  no class of {tmp_path} has more than one image, .*--val_dir"
    ):
        split_names(tmp_path, 0.5)
    with pytest.raises(UserError, match=r"\(1 problem\):\n  training folder .* No such file"):
        split_names(tmp_path / "none", 0.5)


def test_validation_labels_come_from_the_annotations(tree):
    problems = []
    images = image_folders.scan_validation(tree.val, tree.annotations, CLASSES, problems, [])
    assert problems == []
    rows = [(os.path.basename(path), label) for path, label in zip(images.paths, images.labels, strict=True)]
    assert rows == [(f"ILSVRC2012_val_{number:08d}.JPEG", label) for number, label in ((1, 2), (2, 0), (3, 1))]


def test_links_are_followed_and_written_as_they_are(tree, tmp_path):
    make_files(tmp_path, "store/x.bin", "store/n01514668/n01514668_1.JPEG")
    (tree.train / TENCH / "n01440764_1.JPEG").symlink_to(tmp_path / "store/x.bin")
    (tree.train / "n01514668").symlink_to(tmp_path / "store/n01514668")
    (tmp_path / "link").symlink_to(tree.root)
    classes, rows = training_names(tmp_path / "link/Data/CLS-LOC/train")
    assert classes == [*CLASSES, "n01514668"]
    assert rows[0] == (f"{TENCH}/n01440764_1.JPEG", 0)
    assert rows[-1] == ("n01514668/n01514668_1.JPEG", 3)
    assert (
        image_folders.scan_training(tmp_path / "link/Data/CLS-LOC/train", [], [])[1]
        .paths[0]
        .startswith(f"{tmp_path}/link/")
    )


def test_relative_folders_give_absolute_paths(tree, monkeypatch):
    monkeypatch.chdir(tree.train.parent)
    found = data_set.scan_image_folders("train/../train/", "./val", "../../Annotations/CLS-LOC/val")
    assert found.train.paths[0] == f"{tree.train}/{TENCH}/{TENCH}_10.JPEG"
    assert found.val.paths[0] == f"{tree.val}/{VAL_1}.JPEG"


def test_progress_counts_folders_and_annotations(tree):
    calls = []
    data_set.scan_image_folders(tree.train, tree.val, tree.annotations, progress=lambda *call: calls.append(call))
    counted = [(number, 3) for number in (1, 2, 3)]
    assert calls == [(*c, "class folders") for c in counted] + [(*c, "annotations") for c in counted]


def test_class_names(tree):
    path = tree.add_names()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\nn09999999 of no folder\r\n")
    assert data_set.scan_image_folders(tree.train, tree.val, tree.annotations, path).class_names == NAMES


def test_missing_and_unreadable_class_names_are_reported(tree):
    path = tree.add_names()
    path.write_text(f"{TENCH} tench\n{GOLDFISH}\n")
    found = data_set.scan_image_folders(tree.train, tree.val, tree.annotations, path)
    assert found.class_names is None
    assert found.notes == [
        f"Note: no class names, as {path} has none for 2 of the 3 classes, such as {GOLDFISH}",
    ]
    (problem,) = problems_of(tree, synset_mapping=tree.root)
    assert problem.startswith(f"cannot read {tree.root}: Is a directory; expected lines of '<class id> <names>'")


@pytest.mark.parametrize("folder", ["train_dir", "val_dir", "val_labels"])
def test_missing_folders_are_told(tree, folder, tmp_path):
    (problem,) = problems_of(tree, **{folder: tmp_path / "none"})
    assert f"{tmp_path}/none" in problem
    assert "No such file or directory; expected a folder" in problem or "does not exist" in problem
    assert "correct the path" in problem or "--val_labels" in problem


@pytest.mark.parametrize(
    ("argument", "problem"),
    [
        ("train_dir", "{} is a text file"),
        ("val_dir", "{} is a text file"),
        ("val_labels", "{} gives no labels: expected a folder"),
    ],
)
def test_other_files_in_place_of_folders_are_told(tree, argument, problem):
    (tree.root / "file").write_text("other")
    folders = {"train_dir": tree.train, "val_dir": tree.val, "val_labels": tree.annotations}
    with pytest.raises(UserError, match=problem.format(f"{tree.root}/file")):
        data_set.scan_image_folders(**folders | {argument: tree.root / "file"})


def test_training_folder_without_class_folders_is_told(tree, tmp_path):
    make_files(tmp_path, "flat/a.jpg", "flat/.git/b.jpg")
    (problem,) = problems_of(tree, train_dir=tmp_path / "flat")
    assert problem.startswith(f"training folder {tmp_path}/flat has no class folders, but 1 image outside")
    assert "--train_dir" in problem


def test_class_folder_without_images_is_told(tree):
    make_files(tree.train, "n01514668/notes.txt")
    (problem,) = problems_of(tree)
    assert problem.startswith(
        f"class folder {tree.train}/n01514668 has no images, but 1 .txt file (such as {tree.train}/n01514668/notes.txt)"
    )


def test_validation_folder_without_images_is_told(tree):
    (tree.root / "empty").mkdir()
    (problem,) = problems_of(tree, val_dir=tree.root / "empty")
    assert problem.startswith(f"validation folder {tree.root}/empty has no images: expected ")


@pytest.mark.parametrize("target", ["none.JPEG", "loop.JPEG"])
def test_broken_image_links_are_told(tree, target):
    (tree.train / TENCH / "loop.JPEG").symlink_to(target)
    (problem,) = problems_of(tree)
    assert f"{tree.train}/{TENCH}/loop.JPEG" in problem
    assert "is a broken link" in problem or "Too many levels of symbolic links" in problem


def test_image_in_two_class_folders_is_told(tree):
    make_files(tree.train, f"{GOLDFISH}/{TENCH}_7.JPEG")
    (problem,) = problems_of(tree)
    assert problem.startswith(
        f"{tree.train}/{GOLDFISH}/{TENCH}_7.JPEG is named as an image of class {TENCH} but is in the folder of "
        f"{GOLDFISH}: move it"
    )


def test_names_of_images_tell_nothing_in_other_trees(tmp_path):
    make_files(tmp_path, "cat/1.jpg", "dog/1.jpg", "dog/cat_and_dog.jpg", "dog/dog_1.jpg")
    problems = []
    classes, found = image_folders.scan_training(str(tmp_path), problems, [])
    assert (classes, list(found.labels), problems) == (["cat", "dog"], [0, 1, 1, 1], [])


def test_image_without_annotation_is_told(tree):
    make_files(tree.val, "extra.png")
    (problem,) = problems_of(tree)
    assert problem.startswith(f"{tree.val}/extra.png has no annotation: expected {tree.annotations}/extra.xml; add it")


def test_two_images_of_one_annotation_are_told(tree):
    make_files(tree.val, f"{VAL_1}.png")
    (problem,) = problems_of(tree)
    assert problem.startswith(f"{tree.val}/{VAL_1}.png and {tree.val}/{VAL_1}.JPEG share one annotation, {VAL_1}.xml")


def test_problem_of_an_annotation_is_told(tree):
    tree.annotate(VAL_1, TENCH, SHARK)
    (problem,) = problems_of(tree)
    assert problem.startswith(f"{tree.annotations}/{VAL_1}.xml names several classes")


@pytest.mark.parametrize("mark", ["\t", "\n", "\r"])
@pytest.mark.parametrize("place", ["image", "class", "above", "val image", "above val"])
def test_tab_and_line_breaks_in_paths_are_told(tree, tmp_path, mark, place):
    bad = f"b{mark}d"
    changes = {}
    if place == "image":
        make_files(tree.train, f"{TENCH}/{bad}.JPEG")
    elif place == "class":
        make_files(tree.train, f"{bad}/1.JPEG", f"{bad}/2.JPEG")
    elif place == "above":
        changes = {"train_dir": FakeIlsvrc(tmp_path / bad / "imagenet").train}
    elif place == "above val":
        changes = {"val_dir": FakeIlsvrc(tmp_path / bad / "imagenet").val}
    else:
        make_files(tree.val, f"{bad}.JPEG")
        tree.annotate(bad, TENCH)
    (problem,) = problems_of(tree, **changes)
    assert repr(bad)[1:-1] in problem
    assert "has a TAB or a line break in its name, which a map file cannot hold: rename it" in problem


def test_all_problems_are_told_at_once(tree):
    (tree.train / "n01514668").mkdir()
    tree.annotate(VAL_1, "n99999999")
    assert len(problems_of(tree)) == 2
    make_files(tree.val, *(f"{number}.png" for number in range(20)))
    problems = problems_of(tree)
    assert problems[10:] == ["… and 12 more"]
