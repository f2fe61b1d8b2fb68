"""ILSVRC2012 as people have it: the same maps, whatever it is packed in."""

import hashlib
import os
import tarfile
from pathlib import Path

import archives
import pytest
from archives import prepare as call
from drawn_images import draw, encode

from keras_alexnet.data import class_mappings, map_file
from keras_alexnet.data.scanning import official_archives
from keras_alexnet.data.scanning.ilsvrc2012_classes import CLASS_IDS, CLASS_IDS_BY_ILSVRC2012_ID
from keras_alexnet.errors import UserError

CLASSES = CLASS_IDS[:3]
# The bytes of the images, which most tests do not decode.
TRAIN = {f"{name}/{name}_{n}.JPEG": f"{name} {n}".encode() for n in (10, 7, 8, 3) for name in reversed(CLASSES)}
VAL = {f"ILSVRC2012_val_0000000{n}.JPEG": f"validation image {n}".encode() for n in (3, 1, 4, 2)}
# Neither in order nor those of the ILSVRC2012_IDs.
LABEL_OF = dict(zip(sorted(VAL), (2, 0, 1, 0), strict=True))

KAGGLE = {f"Data/CLS-LOC/train/{name}": data for name, data in TRAIN.items()}
KAGGLE |= {f"Data/CLS-LOC/val/{name}": data for name, data in VAL.items()}
ANNOTATIONS = {
    f"Annotations/CLS-LOC/val/{Path(name).stem}.xml": f"<a><object><name>{CLASSES[label]}</name></object></a>".encode()
    for name, label in LABEL_OF.items()
}
HEADER = "ImageId,PredictionString\n"
ROWS = [f"{Path(name).stem},{CLASSES[label]} 1 2 3 4 {CLASSES[0]} 5 6 7 8 \n" for name, label in LABEL_OF.items()]
SOLUTION = {"LOC_val_solution.csv": (HEADER + "".join(reversed(ROWS))).encode()}
ZIP = Path("imagenet-object-localization-challenge.zip")
GROUND_TRUTH = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
IDS = "".join(f"{CLASS_IDS_BY_ILSVRC2012_ID.index(CLASSES[label]) + 1}\n" for label in LABEL_OF.values()).encode()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working directory, in which `prepare` makes the folder `data` of the maps."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def unpack(files, folder="."):
    for name, data in files.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def kaggle_tree():
    unpack(KAGGLE | ANNOTATIONS)
    Path("Data/CLS-LOC/val/@eaDir").mkdir()


def kaggle_folder_above():
    unpack(KAGGLE | dict.fromkeys(ANNOTATIONS, b"not XML: the csv is read first"), "ILSVRC")
    unpack(SOLUTION)


def kaggle_zip(labels=None):
    unpack({} if labels else SOLUTION)
    files = {f"ILSVRC/{name}": data for name, data in KAGGLE.items()}
    files |= {"ILSVRC/ImageSets/CLS-LOC/train_cls.txt": b""}
    files |= {f"ILSVRC/Data/CLS-LOC/train/{CLASSES[0]}/._{CLASSES[0]}_3.JPEG": b"of a Mac"}
    archives.write_deflated_zip(ZIP, files | (labels or {}))


def kaggle_zip_with_its_labels():
    kaggle_zip(SOLUTION)


def kaggle_zip_with_annotations():
    kaggle_zip({f"ILSVRC/{name}": text for name, text in ANNOTATIONS.items()})


def official_tars(train=TRAIN, val=VAL):
    archives.write_tar_of_tars(Path("ILSVRC2012_img_train.tar"), train)
    archives.write_tar(Path("ILSVRC2012_img_val.tar"), val)
    with tarfile.open("ILSVRC2012_devkit_t12.tar.gz", "w:gz") as devkit:
        archives.add(devkit, GROUND_TRUTH, IDS)


def inner_tars_and_an_unpacked_devkit():
    archives.write_tar_of_tars(Path("all.tar"), TRAIN)
    with tarfile.open("all.tar") as archive:
        archive.extractall("train", filter="data")
    # One of them unpacked.
    os.remove(f"train/{CLASSES[1]}.tar")
    unpack({name: data for name, data in TRAIN.items() if name.startswith(CLASSES[1])}, "train")
    unpack(VAL, "val")
    unpack({GROUND_TRUTH: IDS})


def folders_of_classes():
    unpack(TRAIN, "train")
    unpack({f"{CLASSES[LABEL_OF[name]]}/{name}": data for name, data in VAL.items()}, "val")


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


@pytest.mark.parametrize("pack", LAYOUTS)
def test_every_layout_gives_the_same_images_in_the_same_order(folder, pack):
    """Also where the maps are moved together with the images."""
    pack()
    call("--imagenet_dir=.", "--relative_paths")
    data = folder.rename(folder.with_name(f"{folder.name}_moved")) / "data"
    found = map_file.read_map(data / "train_map.txt")
    assert found.read_many(range(len(found))) == [TRAIN[name] for name in sorted(TRAIN)]
    assert list(found.labels) == [label for label in range(3) for _ in range(4)]
    found = map_file.read_map(data / "val_map.txt")
    # In folders of classes they are sorted by class.
    names = sorted(VAL, key=lambda name: (LABEL_OF[name] if pack is folders_of_classes else 0, name))
    assert found.read_many(range(len(found))) == [VAL[name] for name in names]
    assert list(found.labels) == [LABEL_OF[name] for name in names]
    assert class_mappings.read_class_mappings(data / "classmappings.txt") == list(CLASSES)


def test_an_index_is_written_and_one_of_older_maps_removed(folder, monkeypatch):
    official_tars()
    call("--imagenet_dir=.")
    with monkeypatch.context() as patch:
        patch.setattr("keras_alexnet.data.archives.index.read_archive", None)
        assert map_file.read_map("data/train_map.txt").read(0) == TRAIN[sorted(TRAIN)[0]]
    kaggle_tree()
    call("--imagenet_dir=.")
    assert not list((folder / "data").glob("*.npz"))


@pytest.mark.parametrize("listed", [False, True])
def test_validation_images_alone(capsys, listed):
    if listed:
        folders_of_classes()
        classes = [*CLASSES[::-1], "another"]
        class_mappings.write_class_mappings("list.txt", classes)
        arguments = ["--val_dir=val", "--val_annotations_dir=", "--classmappings=list.txt"]
    else:
        official_tars()
        os.remove("ILSVRC2012_img_train.tar")
        classes, arguments = list(CLASS_IDS), ["--imagenet_dir=."]
    call(*arguments)
    assert "Next: python -m keras_alexnet.evaluate" in capsys.readouterr().out
    assert class_mappings.read_class_mappings("data/classmappings.txt") == classes
    found = map_file.read_map("data/val_map.txt")
    label_of = {VAL[name]: classes.index(CLASSES[label]) for name, label in LABEL_OF.items()}
    assert [label_of[data] for data in found.read_many(range(4))] == list(found.labels)
    assert not os.path.exists("data/train_map.txt")
    unpack({"data/train_map.txt": b""})
    with pytest.raises(UserError, match=r"data/train_map.txt may have other classes"):
        call(*arguments)


@pytest.mark.parametrize(("write", "top"), [(archives.write_tar_of_tars, ""), (archives.write_zip, "top/")])
def test_archives_with_a_folder_per_class(write, top):
    write(Path("train"), {f"{top}{name}": data for name, data in TRAIN.items()})
    unpack(TRAIN, "val")
    call("--train_dir=train", "--val_dir=val", "--val_annotations_dir=")
    found, expected = (map_file.read_map(f"data/{part}_map.txt") for part in ("train", "val"))
    assert found.read_many(range(12)) == expected.read_many(range(12))
    assert found.labels == expected.labels


def test_a_class_whose_name_begins_with_that_of_another():
    archives.write_zip(Path("a.zip"), {"cat/1.jpg": b"1", "cat_black/1.jpg": b"2"})
    call("--train_dir=a.zip", "--val_dir=a.zip", "--val_annotations_dir=")
    found = map_file.read_map("data/train_map.txt")
    assert (list(found.labels), found.read_many(range(len(found)))) == ([0, 1], [b"1", b"2"])


@pytest.mark.parametrize(("packed", "labels"), [(True, "val.tar@/ann"), (False, "val.tar/ann")])
def test_annotations_beside_the_images_are_not_left_out(capsys, packed, labels):
    unpack(TRAIN, "train")
    files = {f"images/{name}": data for name, data in VAL.items()} | {"notes.txt": b""}
    files |= {f"ann/{Path(name).name}": text for name, text in ANNOTATIONS.items()}
    write = archives.write_tar if packed else lambda path, files: unpack(files, path)
    write(Path("val.tar"), files)
    call("--train_dir=train", "--val_dir=val.tar", f"--val_labels={labels}")
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("Left out of "))
    assert ": 1 .txt file (" in line
    assert ".xml" not in line
    assert list(map_file.read_map("data/val_map.txt").labels) == list(LABEL_OF.values())


def assert_refused(expected_text, *arguments):
    with pytest.raises(UserError, match=expected_text):
        call(*arguments)
    assert not os.path.exists("data/val_map.txt")


def test_archived_images_are_checked_and_resized(folder):
    bad, jpeg = sorted(TRAIN)[1], encode(draw(60, 40), "JPEG")
    official_tars(dict.fromkeys(TRAIN, jpeg) | {bad: jpeg[:100]}, dict.fromkeys(VAL, jpeg))
    problem = rf"ILSVRC2012_img_train.tar@/{bad.replace('/', '.tar/')}: truncated"
    assert_refused(problem, "--imagenet_dir=.", "--check_images")
    call("--imagenet_dir=.", "--skip_bad_images")
    assert len(map_file.read_map("data/train_map.txt")) == 11
    copy = folder / "small/train" / sorted(TRAIN)[0]
    files = set()
    for _ in range(2):
        call("--imagenet_dir=.", "--skip_bad_images", "--resize_shorter_side=32", "--resized_dir=small")
        assert map_file.read_map("data/train_map.txt").paths[0] == str(copy)
        files.add(copy.stat().st_ino)
    assert len(files) == 1  # Not written again.


def test_copies_of_archived_images_stay_in_their_folder():
    archives.write_tar(Path("odd.tar"), {"../x.jpg": b"", "n1/x.jpg": b""})
    resize = ("--resize_shorter_side=32", "--resized_dir=copies")
    assert_refused(r"'..'", "--train_dir=odd.tar", "--val_dir=odd.tar", "--val_annotations_dir=", *resize)


def test_official_archives_are_compared_with_what_is_published(monkeypatch, capsys):
    official_tars()
    arguments = ("--imagenet_dir=.", "--check_archives")
    assert_refused(r"_img_train.tar is not as .*: expected 147,897,477,120 bytes, found", *arguments)
    published = {}
    for name in official_archives._PUBLISHED:
        data = Path(name).read_bytes()
        published[name] = official_archives._Published(len(data), hashlib.md5(data).hexdigest())
    monkeypatch.setattr(official_archives, "_PUBLISHED", published)
    call(*arguments)
    assert "As published: " in capsys.readouterr().out
    os.remove("data/val_map.txt")
    with open("ILSVRC2012_img_val.tar", "r+b") as damaged:
        damaged.seek(-1, os.SEEK_END)
        damaged.write(b"x")
    assert_refused(r"_img_val.tar is not as .*: expected the MD5 sum [0-9a-f]{32}, found ", *arguments)
    folders_of_classes()
    folders = ("--train_dir=train", "--val_dir=val", "--val_annotations_dir=")
    assert_refused(r"none of them is among what is read", "--check_archives", *folders)


def test_labels_that_do_not_fit_are_refused():
    official_tars()
    for name, text, expected_text in (
        ("short.txt", "1\n2\n", "has labels of 2 images, but there are 4"),
        ("wild.txt", "1\n2\n3\n1001\n", "is damaged: expected ILSVRC2012_IDs"),
        ("rows.csv", f"{HEADER}ILSVRC2012_val_00000001,n1 1 2 3 4\n", r"names class n1 for .*_00000001"),
        ("none.csv", HEADER, "ILSVRC2012_val_00000001.JPEG has no row in"),
        ("other.csv", "a,b\n", "is not a LOC_val_solution.csv: expected a header"),
        ("other.gz", "a", "gives no labels: expected a folder of XML annotations"),
    ):
        Path(name).write_text(text)
        assert_refused(expected_text, "--imagenet_dir=.", f"--val_labels={name}")
    assert_refused("none does not exist", "--imagenet_dir=.", "--val_labels=none")
    assert_refused("are both given", "--imagenet_dir=.", "--val_labels=none", "--val_annotations_dir=none")


def test_what_is_missing_in_a_folder_is_named():
    assert_refused(r"no ILSVRC2012 in .*: expected Data/CLS-LOC/train, or imagenet-obj", "--imagenet_dir=.")
    assert_refused(r"none does not exist: pass the folder", "--imagenet_dir=none")
    Path("ILSVRC2012_img_train.tar").touch()
    assert_refused(r"has .*/ILSVRC2012_img_train.tar, but no validation images: ", "--imagenet_dir=.")
    archives.write_zip(ZIP, {"a/imagenet.tar.gz": b"\x1f\x8b"})
    assert_refused(r"or unpack a/imagenet.tar.gz from it", "--imagenet_dir=.", "--val_annotations_dir=")


def test_folders_of_other_classes_need_a_list():
    unpack(VAL, "val/cat")
    folders = ("--val_dir=val", "--val_annotations_dir=")
    assert_refused(r"val/cat is not one of the 1,000 classes: .* --classmappings", *folders)
    class_mappings.write_class_mappings("list.txt", ["cat"])
    expected_text = "--classmappings is for shards and for validation images alone"
    assert_refused(expected_text, "--train_dir=val", "--val_fraction=0.5", "--classmappings=list.txt")


# The first five images of ILSVRC2012's validation set, in the order of the sorted class ids.
def test_known_labels():
    ids = (490, 361, 171, 822, 297)
    assert [CLASS_IDS.index(CLASS_IDS_BY_ILSVRC2012_ID[number - 1]) for number in ids] == [65, 970, 230, 809, 516]
    assert len(set(CLASS_IDS)) == 1000
