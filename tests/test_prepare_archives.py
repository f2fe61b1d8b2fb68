"""ILSVRC2012 as people have it: the same maps, whatever it is packed in."""

import hashlib
import os
import tarfile
import zipfile
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


def write_solution(folder):
    rows = [
        f"ILSVRC2012_val_0000000{n},{CLASSES[label]} 1 2 3 4 {CLASSES[0]} 5 6 7 8 "
        for n, label in enumerate(VAL_LABELS, 1)
    ]
    (folder / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *reversed(rows)]) + "\n")


def ground_truth():
    return "".join(f"{CLASS_IDS_BY_ILSVRC2012_ID.index(CLASSES[label]) + 1}\n" for label in VAL_LABELS).encode()


def write_devkit(folder):
    with tarfile.open(folder / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as devkit:
        archives.add(devkit, "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", ground_truth())


def write_annotations(folder):
    for number, label in enumerate(VAL_LABELS, 1):
        path = folder / f"Annotations/CLS-LOC/val/ILSVRC2012_val_0000000{number}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"<annotation><object><name>{CLASSES[label]}</name></object></annotation>")


def kaggle_tree(folder, train, val):
    unpack(folder / "Data/CLS-LOC/train", train)
    unpack(folder / "Data/CLS-LOC/val", val)
    write_annotations(folder)


def kaggle_tree_with_a_stray_folder(folder, train, val):
    kaggle_tree(folder, train, val)
    (folder / "Data/CLS-LOC/val/@eaDir").mkdir()


def kaggle_folder_above(folder, train, val):
    (folder / "ILSVRC").mkdir()
    kaggle_tree(folder / "ILSVRC", train, val)
    for path in (folder / "ILSVRC/Annotations/CLS-LOC/val").iterdir():
        path.write_text("not XML: the csv is read first")
    write_solution(folder)


def kaggle_zip(folder, train, val):
    with zipfile.ZipFile(folder / "imagenet-object-localization-challenge.zip", "w") as archive:
        for part, files in (("train", train), ("val", val)):
            for name, data in files.items():
                archive.writestr(f"ILSVRC/Data/CLS-LOC/{part}/{name}", data, zipfile.ZIP_DEFLATED)
        archive.writestr("ILSVRC/ImageSets/CLS-LOC/train_cls.txt", "")
        archive.writestr(f"ILSVRC/Data/CLS-LOC/train/{CLASSES[0]}/._{CLASSES[0]}_3.JPEG", "of a Mac")
    write_solution(folder)


def kaggle_zip_with_its_labels(folder, train, val):
    write_solution(folder)
    with zipfile.ZipFile(folder / "imagenet-object-localization-challenge.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for part, files in (("train", train), ("val", val)):
            for name, data in files.items():
                archive.writestr(f"ILSVRC/Data/CLS-LOC/{part}/{name}", data)
        archive.write(folder / "LOC_val_solution.csv", "LOC_val_solution.csv")
    os.remove(folder / "LOC_val_solution.csv")


def kaggle_zip_with_annotations(folder, train, val):
    kaggle_zip_with_its_labels(folder, train, val)
    write_annotations(folder)
    name = folder / "imagenet-object-localization-challenge.zip"
    with zipfile.ZipFile(name) as old, zipfile.ZipFile(folder / "new", "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in old.namelist()[:-1]:
            archive.writestr(entry, old.read(entry))
        for path in (folder / "Annotations/CLS-LOC/val").iterdir():
            archive.write(path, f"ILSVRC/{path.relative_to(folder)}")
            path.unlink()
    (folder / "new").rename(name)


def folders_of_classes(folder, train, val):
    unpack(folder / "train", train)
    unpack(folder / "val", {f"{CLASSES[VAL_LABELS[int(name[-6]) - 1]]}/{name}": data for name, data in val.items()})


def official_tars(folder, train, val):
    archives.write_tar_of_tars(folder / "ILSVRC2012_img_train.tar", train)
    archives.write_tar(folder / "ILSVRC2012_img_val.tar", val)
    write_devkit(folder)


def inner_tars_and_an_unpacked_devkit(folder, train, val):
    archives.write_tar_of_tars(folder / "all.tar", train)
    (folder / "train").mkdir()
    with tarfile.open(folder / "all.tar") as archive:
        for member in archive:
            (folder / "train" / member.name).write_bytes(archive.extractfile(member).read())
    # One of them unpacked.
    os.remove(folder / "train" / f"{CLASSES[1]}.tar")
    unpack(folder / "train", {name: data for name, data in train.items() if name.startswith(CLASSES[1])})
    unpack(folder / "val", val)
    unpack(folder, {"ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": ground_truth()})


LAYOUTS = [
    kaggle_tree,
    kaggle_tree_with_a_stray_folder,
    kaggle_folder_above,
    kaggle_zip,
    kaggle_zip_with_its_labels,
    kaggle_zip_with_annotations,
    official_tars,
    inner_tars_and_an_unpacked_devkit,
    folders_of_classes,
]


@pytest.mark.parametrize("pack", LAYOUTS)
@pytest.mark.parametrize("relative", [False, True])
def test_every_layout_gives_the_same_images_in_the_same_order(images, tmp_path, capsys, pack, relative):
    train, val = images
    pack(tmp_path, train, val)
    call(f"--imagenet_dir={tmp_path}", f"--output_dir={tmp_path}/out", f"--relative_paths={relative}")
    assert "Found " in capsys.readouterr().out
    folder = tmp_path
    if relative:
        folder = tmp_path.rename(tmp_path.with_name(f"{tmp_path.name}_moved"))
    found = map_file.read_map(folder / "out/train_map.txt")
    assert found.read_many(range(len(found))) == [train[name] for name in sorted(train)]
    assert list(found.labels) == [label for label in range(3) for _ in range(4)]
    found = map_file.read_map(folder / "out/val_map.txt")
    # In folders of classes they are sorted by class.
    names = sorted(val, key=lambda name: (VAL_LABELS[int(name[-6]) - 1] if pack is folders_of_classes else 0, name))
    assert found.read_many(range(len(found))) == [val[name] for name in names]
    assert list(found.labels) == [VAL_LABELS[int(name[-6]) - 1] for name in names]
    assert class_mappings.read_class_mappings(folder / "out/classmappings.txt") == list(CLASSES)


def test_names_of_classes_are_found_in_the_archive(images, tmp_path):
    train, val = images
    kaggle_zip_with_its_labels(tmp_path, train, val)
    with zipfile.ZipFile(tmp_path / "imagenet-object-localization-challenge.zip", "a") as archive:
        archive.writestr(
            "LOC_synset_mapping.txt", "".join(f"{class_id} name of {class_id}\n" for class_id in CLASS_IDS)
        )
    call(f"--imagenet_dir={tmp_path}", f"--output_dir={tmp_path}/out")
    assert class_mappings.read_class_names(tmp_path / "out/classnames.txt", CLASSES) == [
        f"name of {name}" for name in CLASSES
    ]


@pytest.mark.parametrize("labels", ["devkit", "csv", "folders", "tree of a list"])
def test_validation_images_alone(images, tmp_path, capsys, labels):
    _, val = images
    arguments = [f"--imagenet_dir={tmp_path}"]
    if labels in ("devkit", "csv"):
        archives.write_tar(tmp_path / "ILSVRC2012_img_val.tar", val)
        write_devkit(tmp_path) if labels == "devkit" else write_solution(tmp_path)
    else:
        folders_of_classes(tmp_path / "a", {}, val)
        arguments = [f"--val_dir={tmp_path}/a/val", "--val_annotations_dir="]
    expected = list(CLASS_IDS)
    if labels == "tree of a list":
        expected = [*CLASSES[::-1], "another"]
        (tmp_path / "list.txt").write_text("".join(f"{name}\t{label}\n" for label, name in enumerate(expected)))
        arguments.append(f"--classmappings={tmp_path}/list.txt")
    call(*arguments, f"--output_dir={tmp_path}/out")
    assert "Next: python -m keras_alexnet.evaluate" in capsys.readouterr().out
    assert class_mappings.read_class_mappings(tmp_path / "out/classmappings.txt") == expected
    found = map_file.read_map(tmp_path / "out/val_map.txt")
    label_of = {val[name]: expected.index(CLASSES[VAL_LABELS[int(name[-6]) - 1]]) for name in val}
    assert [label_of[data] for data in found.read_many(range(4))] == list(found.labels)
    assert not (tmp_path / "out/train_map.txt").exists()
    (tmp_path / "out/train_map.txt").touch()
    with pytest.raises(UserError, match=r"out/train_map.txt may have other classes"):
        call(*arguments, f"--output_dir={tmp_path}/out")


def test_folders_of_other_classes_need_a_list(images, tmp_path):
    unpack(tmp_path, {f"val/cat/{name}": data for name, data in images[1].items()})
    with pytest.raises(UserError, match=r"val/cat is not one of the 1,000 classes: .* --classmappings"):
        call(f"--val_dir={tmp_path}/val", "--val_annotations_dir=", f"--output_dir={tmp_path}/out")
    with pytest.raises(UserError, match=r"--classmappings is for shards and for validation images alone"):
        (tmp_path / "list.txt").write_text("cat\t0\n")
        call(
            f"--train_dir={tmp_path}/val",
            "--val_fraction=0.5",
            f"--classmappings={tmp_path}/list.txt",
            f"--output_dir={tmp_path}/out",
        )


def test_an_index_is_written_and_one_of_older_maps_removed(images, tmp_path, monkeypatch):
    train, val = images
    official_tars(tmp_path, train, val)
    call(f"--imagenet_dir={tmp_path}", f"--output_dir={tmp_path}/out")
    with monkeypatch.context() as patch:
        patch.setattr("keras_alexnet.data.archives.index.read_archive", None)
        assert map_file.read_map(tmp_path / "out/train_map.txt").read(0) == train[sorted(train)[0]]
    kaggle_tree(tmp_path, train, val)
    call(f"--imagenet_dir={tmp_path}", f"--output_dir={tmp_path}/out")
    assert not list((tmp_path / "out").glob("*.npz"))


@pytest.mark.parametrize("write", list(archives.LAYOUTS.values()), ids=list(archives.LAYOUTS))
def test_archives_with_a_folder_per_class(images, tmp_path, write):
    train, _ = images
    write(
        tmp_path / "train",
        {f"top/{name}" if write is archives.write_zip else name: data for name, data in train.items()},
    )
    (tmp_path / "val").mkdir()
    unpack(tmp_path / "val", train)
    call(
        f"--train_dir={tmp_path}/train",
        f"--val_dir={tmp_path}/val",
        "--val_annotations_dir=",
        f"--output_dir={tmp_path}/out",
    )
    found, expected = (map_file.read_map(tmp_path / f"out/{part}_map.txt") for part in ("train", "val"))
    assert found.read_many(range(len(found))) == expected.read_many(range(len(expected)))
    assert found.labels == expected.labels
    call(f"--train_dir={tmp_path}/train@/", "--val_fraction=0.25", f"--output_dir={tmp_path}/split")
    for part, count in (("train", 9), ("val", 3)):
        found = map_file.read_map(tmp_path / f"split/{part}_map.txt")
        names = [path.rpartition("/")[2] for path in found.paths]
        assert len(names) == count
        assert found.read_many(range(count)) == [train[f"{name.partition('_')[0]}/{name}"] for name in names]


def test_archived_images_are_checked_and_resized(images, tmp_path):
    train, val = images
    bad = sorted(train)[1]
    official_tars(tmp_path, train | {bad: train[bad][:100]}, val)
    arguments = (f"--imagenet_dir={tmp_path}", f"--output_dir={tmp_path}/out")
    with pytest.raises(UserError, match=rf"ILSVRC2012_img_train.tar@/{bad.replace('/', '.tar/')}: truncated"):
        call(*arguments, "--check_images")
    call(*arguments, "--skip_bad_images")
    found = map_file.read_map(tmp_path / "out/train_map.txt")
    assert found.read_many(range(11)) == [train[name] for name in sorted(train) if name != bad]
    copies = []
    for _ in range(2):
        call(*arguments, "--skip_bad_images", "--resize_shorter_side=32", f"--resized_dir={tmp_path}/small")
        assert (
            map_file.read_map(tmp_path / "out/train_map.txt").paths[0] == f"{tmp_path}/small/train/{sorted(train)[0]}"
        )
        copies.append(os.stat(tmp_path / "small/train" / sorted(train)[0]).st_ino)
    assert copies[0] == copies[1]  # Not written again.
    archives.write_tar(
        tmp_path / "odd.tar", dict.fromkeys(("../x.jpg", "../y.jpg", "n1/x.jpg", "n1/y.jpg"), min(val.values()))
    )
    with pytest.raises(UserError, match=r"'..'"):
        call(
            f"--train_dir={tmp_path}/odd.tar",
            "--val_fraction=0.5",
            "--resize_shorter_side=32",
            f"--resized_dir={tmp_path}/other",
            f"--output_dir={tmp_path}/odd",
        )


def test_official_archives_are_compared_with_what_is_published(images, tmp_path, monkeypatch, capsys):
    official_tars(tmp_path, *images)
    arguments = (f"--imagenet_dir={tmp_path}", f"--output_dir={tmp_path}/out", "--check_archives")
    with pytest.raises(UserError, match=r"_img_train.tar is not as .*: expected 147,897,477,120 bytes, found"):
        call(*arguments)
    published = {}
    for name, entry in official_archives._PUBLISHED.items():
        path = tmp_path / name
        md5 = hashlib.md5(path.read_bytes()).hexdigest()
        published[name] = official_archives._Published(entry.size and path.stat().st_size, md5)
    monkeypatch.setattr(official_archives, "_PUBLISHED", published)
    call(*arguments)
    assert "As published: " in capsys.readouterr().out
    damaged = tmp_path / "ILSVRC2012_img_val.tar"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"_img_val.tar is not as .*: expected the MD5 sum [0-9a-f]{32}, found "):
        call(*arguments)
    (tmp_path / "all").mkdir()
    folders_of_classes(tmp_path / "all", *images)
    with pytest.raises(UserError, match=r"none of them is among what is read"):
        call(f"--imagenet_dir={tmp_path}/all", f"--output_dir={tmp_path}/out", "--check_archives")


def test_an_archive_packed_again_is_told(tmp_path):
    archives.write_zip(tmp_path / "imagenet-object-localization-challenge.zip", {"a/imagenet.tar.gz": b"\x1f\x8b"})
    with pytest.raises(UserError, match=r"or unpack a/imagenet.tar.gz from it"):
        call(f"--imagenet_dir={tmp_path}", "--val_annotations_dir=", f"--output_dir={tmp_path}/out")


def test_labels_that_do_not_fit_are_told(images, tmp_path):
    train, val = images
    official_tars(tmp_path, train, val)
    arguments = (f"--imagenet_dir={tmp_path}", f"--output_dir={tmp_path}/out")
    for name, text, problem in (
        ("short.txt", b"1\n2\n", "has labels of 2 images, but there are 4"),
        ("wild.txt", b"1\n2\n3\n1001\n", "is damaged: expected ILSVRC2012_IDs"),
        (
            "rows.csv",
            b"ImageId,PredictionString\nILSVRC2012_val_00000001,n1 1 2 3 4\n",
            r"names class n1 for .*_00000001",
        ),
        ("none.csv", b"ImageId,PredictionString\n", "ILSVRC2012_val_00000001.JPEG has no row in"),
        ("other.csv", b"a,b\n", "is not a LOC_val_solution.csv: expected a header"),
        ("other.gz", b"a", "gives no labels: expected a folder of XML annotations"),
    ):
        (tmp_path / name).write_bytes(text)
        with pytest.raises(UserError, match=problem):
            call(*arguments, f"--val_labels={tmp_path}/{name}")
    with pytest.raises(UserError, match=r"none does not exist"):
        call(*arguments, f"--val_labels={tmp_path}/none")
    with pytest.raises(UserError, match=r"--val_labels and --val_annotations_dir are both given"):
        call(*arguments, f"--val_labels={tmp_path}/rows.csv", f"--val_annotations_dir={tmp_path}")
    assert not (tmp_path / "out/train_map.txt").exists()


def test_a_folder_without_imagenet_is_told(tmp_path):
    with pytest.raises(
        UserError, match=r"there is no ILSVRC2012 in .*: expected Data/CLS-LOC/train, or imagenet-object"
    ):
        call(f"--imagenet_dir={tmp_path}", f"--output_dir={tmp_path}/out")
    with pytest.raises(UserError, match=r"/none does not exist: pass the folder"):
        call(f"--imagenet_dir={tmp_path}/none", f"--output_dir={tmp_path}/out")
    (tmp_path / "ILSVRC2012_img_train.tar").touch()
    with pytest.raises(UserError, match=r"has .*/ILSVRC2012_img_train.tar, but no validation images: "):
        call(f"--imagenet_dir={tmp_path}", f"--output_dir={tmp_path}/out")


# The first five images of ILSVRC2012's validation set, in the order of the sorted class ids.
def test_known_labels():
    ids = (490, 361, 171, 822, 297)
    assert [CLASS_IDS.index(CLASS_IDS_BY_ILSVRC2012_ID[number - 1]) for number in ids] == [65, 970, 230, 809, 516]
    assert len(set(CLASS_IDS)) == 1000
