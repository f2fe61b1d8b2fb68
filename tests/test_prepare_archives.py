"""ILSVRC2012 as people have it: the same maps, whatever it is packed in."""

import hashlib
import os
import tarfile
from pathlib import Path

import archives
import pytest
from archives import prepare as call
from conftest import write_images

from keras_alexnet.data import class_mappings, map_file
from keras_alexnet.data.scanning import official_archives
from keras_alexnet.data.scanning.ilsvrc2012_classes import CLASS_IDS, CLASS_IDS_BY_ILSVRC2012_ID
from keras_alexnet.errors import UserError

CLASSES = CLASS_IDS[:3]
# Of validation images 1 to 4, labels that are neither in order nor those of the ILSVRC2012_IDs.
VAL_LABELS = (2, 0, 1, 0)
HEADER = "ImageId,PredictionString\n"  # of Kaggle's labels


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """The bytes of training images by `<class>/<name>`, and of validation images by name."""
    folder = tmp_path_factory.mktemp("images")
    data = [Path(path).read_bytes() for path, _ in write_images(folder / "a", 16, seed=1)]
    train = {
        f"{class_id}/{class_id}_{number}.JPEG": data.pop() for number in (10, 7, 8, 3) for class_id in reversed(CLASSES)
    }
    val = {f"ILSVRC2012_val_0000000{number}.JPEG": data.pop() for number in (3, 1, 4, 2)}
    return train, val


def unpack(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def solution():
    rows = [
        f"ILSVRC2012_val_0000000{n},{CLASSES[label]} 1 2 3 4 {CLASSES[0]} 5 6 7 8 "
        for n, label in enumerate(VAL_LABELS, 1)
    ]
    return {"LOC_val_solution.csv": (HEADER + "\n".join(reversed(rows))).encode()}


def annotations():
    return {
        f"Annotations/CLS-LOC/val/ILSVRC2012_val_0000000{number}.xml": (
            f"<annotation><object><name>{CLASSES[label]}</name></object></annotation>".encode()
        )
        for number, label in enumerate(VAL_LABELS, 1)
    }


def ground_truth():
    return "".join(f"{CLASS_IDS_BY_ILSVRC2012_ID.index(CLASSES[label]) + 1}\n" for label in VAL_LABELS).encode()


def write_devkit(folder):
    with tarfile.open(folder / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as devkit:
        archives.add(devkit, "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", ground_truth())


def kaggle_tree(folder, train, val):
    unpack(folder / "Data/CLS-LOC/train", train)
    unpack(folder / "Data/CLS-LOC/val", val)
    (folder / "Data/CLS-LOC/val/@eaDir").mkdir()
    unpack(folder, annotations())


def kaggle_folder_above(folder, train, val):
    kaggle_tree(folder / "ILSVRC", train, val)
    unpack(folder / "ILSVRC", dict.fromkeys(annotations(), b"not XML: the csv is read first"))
    unpack(folder, solution())


def write_kaggle_zip(folder, train, val, others):
    files = {f"ILSVRC/Data/CLS-LOC/train/{name}": data for name, data in train.items()}
    files |= {f"ILSVRC/Data/CLS-LOC/val/{name}": data for name, data in val.items()}
    files |= {"ILSVRC/ImageSets/CLS-LOC/train_cls.txt": b""}
    files |= {f"ILSVRC/Data/CLS-LOC/train/{CLASSES[0]}/._{CLASSES[0]}_3.JPEG": b"of a Mac"}
    archives.write_deflated_zip(folder / "imagenet-object-localization-challenge.zip", files | others)


def kaggle_zip(folder, train, val):
    write_kaggle_zip(folder, train, val, {})
    unpack(folder, solution())


def kaggle_zip_with_its_labels(folder, train, val):
    write_kaggle_zip(folder, train, val, solution())


def kaggle_zip_with_annotations(folder, train, val):
    write_kaggle_zip(folder, train, val, {f"ILSVRC/{name}": text for name, text in annotations().items()})


def folders_of_classes(folder, train, val):
    unpack(folder / "train", train)
    unpack(folder / "val", {f"{CLASSES[VAL_LABELS[int(name[-6]) - 1]]}/{name}": data for name, data in val.items()})


def official_tars(folder, train, val):
    archives.write_tar_of_tars(folder / "ILSVRC2012_img_train.tar", train)
    archives.write_tar(folder / "ILSVRC2012_img_val.tar", val)
    write_devkit(folder)


def inner_tars_and_an_unpacked_devkit(folder, train, val):
    archives.write_tar_of_tars(folder / "all.tar", train)
    with tarfile.open(folder / "all.tar") as archive:
        archive.extractall(folder / "train", filter="data")
    # One of them unpacked.
    os.remove(folder / "train" / f"{CLASSES[1]}.tar")
    unpack(folder / "train", {name: data for name, data in train.items() if name.startswith(CLASSES[1])})
    unpack(folder / "val", val)
    unpack(folder, {"ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": ground_truth()})


LAYOUTS = [
    kaggle_tree,
    kaggle_folder_above,
    kaggle_zip,
    kaggle_zip_with_its_labels,
    kaggle_zip_with_annotations,
    official_tars,
    inner_tars_and_an_unpacked_devkit,
    folders_of_classes,
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working directory, in which `prepare` makes the folder `data` of the maps."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assert_refused(expected_text, *arguments):
    with pytest.raises(UserError, match=expected_text):
        call(*arguments)
    assert not os.path.exists("data/val_map.txt")


@pytest.mark.parametrize("pack", LAYOUTS)
def test_every_layout_gives_the_same_images_in_the_same_order(images, folder, capsys, pack):
    """Also where the maps are moved together with the images."""
    train, val = images
    pack(folder, train, val)
    call(f"--imagenet_dir={folder}", "--relative_paths")
    assert "Found " in capsys.readouterr().out
    data = folder.rename(folder.with_name(f"{folder.name}_moved")) / "data"
    found = map_file.read_map(data / "train_map.txt")
    assert found.read_many(range(len(found))) == [train[name] for name in sorted(train)]
    assert list(found.labels) == [label for label in range(3) for _ in range(4)]
    found = map_file.read_map(data / "val_map.txt")
    # In folders of classes they are sorted by class.
    names = sorted(val, key=lambda name: (VAL_LABELS[int(name[-6]) - 1] if pack is folders_of_classes else 0, name))
    assert found.read_many(range(len(found))) == [val[name] for name in names]
    assert list(found.labels) == [VAL_LABELS[int(name[-6]) - 1] for name in names]
    assert class_mappings.read_class_mappings(data / "classmappings.txt") == list(CLASSES)


def test_an_index_is_written_and_one_of_older_maps_removed(images, folder, monkeypatch):
    train, val = images
    official_tars(folder, train, val)
    call("--imagenet_dir=.")
    with monkeypatch.context() as patch:
        patch.setattr("keras_alexnet.data.archives.index.read_archive", None)
        assert map_file.read_map("data/train_map.txt").read(0) == train[sorted(train)[0]]
    kaggle_tree(folder, train, val)
    call("--imagenet_dir=.")
    assert not list((folder / "data").glob("*.npz"))


@pytest.mark.parametrize("listed", [False, True])
def test_validation_images_alone(images, folder, capsys, listed):
    _, val = images
    if listed:
        folders_of_classes(folder, {}, val)
        classes = [*CLASSES[::-1], "another"]
        class_mappings.write_class_mappings("list.txt", classes)
        arguments = ["--val_dir=val", "--val_annotations_dir=", "--classmappings=list.txt"]
    else:
        archives.write_tar(folder / "ILSVRC2012_img_val.tar", val)
        write_devkit(folder)
        classes, arguments = list(CLASS_IDS), ["--imagenet_dir=."]
    call(*arguments)
    assert "Next: python -m keras_alexnet.evaluate" in capsys.readouterr().out
    assert class_mappings.read_class_mappings("data/classmappings.txt") == classes
    found = map_file.read_map("data/val_map.txt")
    label_of = {val[name]: classes.index(CLASSES[VAL_LABELS[int(name[-6]) - 1]]) for name in val}
    assert [label_of[data] for data in found.read_many(range(4))] == list(found.labels)
    assert not os.path.exists("data/train_map.txt")
    (folder / "data/train_map.txt").touch()
    with pytest.raises(UserError, match=r"data/train_map.txt may have other classes"):
        call(*arguments)


def test_folders_of_other_classes_need_a_list(images, folder):
    unpack(folder, {f"val/cat/{name}": data for name, data in images[1].items()})
    expected_text = r"val/cat is not one of the 1,000 classes: .* --classmappings"
    assert_refused(expected_text, "--val_dir=val", "--val_annotations_dir=")
    class_mappings.write_class_mappings("list.txt", ["cat"])
    expected_text = "--classmappings is for shards and for validation images alone"
    assert_refused(expected_text, "--train_dir=val", "--val_fraction=0.5", "--classmappings=list.txt")


@pytest.mark.parametrize(("write", "top"), [(archives.write_tar_of_tars, ""), (archives.write_zip, "top/")])
def test_archives_with_a_folder_per_class(images, folder, write, top):
    train, _ = images
    write(folder / "train", {f"{top}{name}": data for name, data in train.items()})
    unpack(folder / "val", train)
    call("--train_dir=train", "--val_dir=val", "--val_annotations_dir=")
    found, expected = (map_file.read_map(f"data/{part}_map.txt") for part in ("train", "val"))
    assert found.read_many(range(12)) == expected.read_many(range(12))
    assert found.labels == expected.labels
    call("--train_dir=train@/", "--val_fraction=0.25")
    for part, count in (("train", 9), ("val", 3)):
        found = map_file.read_map(f"data/{part}_map.txt")
        names = [path.rpartition("/")[2] for path in found.paths]
        assert found.read_many(range(count)) == [train[f"{name.partition('_')[0]}/{name}"] for name in names]


def test_archived_images_are_checked_and_resized(images, folder):
    train, val = images
    bad = sorted(train)[1]
    official_tars(folder, train | {bad: train[bad][:100]}, val)
    problem = rf"ILSVRC2012_img_train.tar@/{bad.replace('/', '.tar/')}: truncated"
    assert_refused(problem, "--imagenet_dir=.", "--check_images")
    call("--imagenet_dir=.", "--skip_bad_images")
    found = map_file.read_map("data/train_map.txt")
    assert found.read_many(range(11)) == [train[name] for name in sorted(train) if name != bad]
    copy = folder / "small/train" / sorted(train)[0]
    files = set()
    for _ in range(2):
        call("--imagenet_dir=.", "--skip_bad_images", "--resize_shorter_side=32", "--resized_dir=small")
        assert map_file.read_map("data/train_map.txt").paths[0] == str(copy)
        files.add(copy.stat().st_ino)
    assert len(files) == 1  # Not written again.


def test_copies_of_archived_images_stay_in_their_folder(images, folder):
    archives.write_tar(folder / "odd.tar", dict.fromkeys(("../x.jpg", "n1/x.jpg"), min(images[1].values())))
    resize = ("--resize_shorter_side=32", "--resized_dir=copies")
    assert_refused(r"'..'", "--train_dir=odd.tar", "--val_dir=odd.tar", "--val_annotations_dir=", *resize)


def test_official_archives_are_compared_with_what_is_published(images, folder, monkeypatch, capsys):
    official_tars(folder, *images)
    arguments = ("--imagenet_dir=.", "--check_archives")
    assert_refused(r"_img_train.tar is not as .*: expected 147,897,477,120 bytes, found", *arguments)
    published = {}
    for name, entry in official_archives._PUBLISHED.items():
        md5 = hashlib.md5((folder / name).read_bytes()).hexdigest()
        published[name] = official_archives._Published(entry.size and (folder / name).stat().st_size, md5)
    monkeypatch.setattr(official_archives, "_PUBLISHED", published)
    damaged = folder / "ILSVRC2012_img_val.tar"
    sound = damaged.read_bytes()
    damaged.write_bytes(sound[:-1] + b"x")
    assert_refused(r"_img_val.tar is not as .*: expected the MD5 sum [0-9a-f]{32}, found ", *arguments)
    damaged.write_bytes(sound)
    call(*arguments)
    assert "As published: " in capsys.readouterr().out
    folders_of_classes(folder / "all", *images)
    with pytest.raises(UserError, match=r"none of them is among what is read"):
        call("--imagenet_dir=all", "--check_archives")


def test_labels_that_do_not_fit_are_refused(images, folder):
    official_tars(folder, *images)
    for name, text, expected_text in (
        ("short.txt", "1\n2\n", "has labels of 2 images, but there are 4"),
        ("wild.txt", "1\n2\n3\n1001\n", "is damaged: expected ILSVRC2012_IDs"),
        ("rows.csv", f"{HEADER}ILSVRC2012_val_00000001,n1 1 2 3 4\n", r"names class n1 for .*_00000001"),
        ("none.csv", HEADER, "ILSVRC2012_val_00000001.JPEG has no row in"),
        ("other.csv", "a,b\n", "is not a LOC_val_solution.csv: expected a header"),
        ("other.gz", "a", "gives no labels: expected a folder of XML annotations"),
    ):
        (folder / name).write_text(text)
        assert_refused(expected_text, "--imagenet_dir=.", f"--val_labels={name}")
    assert_refused("none does not exist", "--imagenet_dir=.", "--val_labels=none")
    assert_refused("are both given", "--imagenet_dir=.", "--val_labels=none", "--val_annotations_dir=none")


def test_what_is_missing_in_a_folder_is_named(folder):
    assert_refused(r"no ILSVRC2012 in .*: expected Data/CLS-LOC/train, or imagenet-obj", "--imagenet_dir=.")
    assert_refused(r"none does not exist: give the folder", "--imagenet_dir=none")
    (folder / "ILSVRC2012_img_train.tar").touch()
    assert_refused(r"has .*/ILSVRC2012_img_train.tar, but no validation images: ", "--imagenet_dir=.")
    archives.write_zip(folder / "imagenet-object-localization-challenge.zip", {"a/imagenet.tar.gz": b"\x1f\x8b"})
    assert_refused(r"or unpack a/imagenet.tar.gz from it", "--imagenet_dir=.", "--val_annotations_dir=")


# The first five images of ILSVRC2012's validation set, in the order of the sorted class ids.
def test_known_labels():
    ids = (490, 361, 171, 822, 297)
    assert [CLASS_IDS.index(CLASS_IDS_BY_ILSVRC2012_ID[number - 1]) for number in ids] == [65, 970, 230, 809, 516]
    assert len(set(CLASS_IDS)) == 1000
