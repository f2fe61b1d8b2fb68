"""Shards of WebDataset and TFRecord: the same maps as from the tree of their images."""

import gzip
import json
from pathlib import Path

import archives
import pytest
from archives import prepare as call
from conftest import write_images

from keras_alexnet.data import map_file
from keras_alexnet.data.class_mappings import read_class_mappings, write_class_mappings
from keras_alexnet.data.scanning.ilsvrc2012_classes import CLASS_IDS
from keras_alexnet.data.scanning.shards import find_shards
from keras_alexnet.errors import UserError

LABELS = (1, 0, 2, 1, 0, 2, 2, 1)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """(name without suffix, label, bytes) of training images and of validation images, in the order of shards."""
    folder = tmp_path_factory.mktemp("images")
    data = [Path(path).read_bytes() for path, _ in write_images(folder / "a", 16, seed=2)]
    train = [(f"{CLASS_IDS[label]}_{9 - row}", label, data.pop()) for row, label in enumerate(LABELS)]
    val = [(f"ILSVRC2012_val_0000000{8 - row}", label, data.pop()) for row, label in enumerate(LABELS)]
    return train, val


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working directory, in which `prepare` makes the folder `data` of the maps."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_tree(folder, train, val):
    for part, images in (("train", train), ("val", val)):
        for name, label, data in images:
            path = folder / part / CLASS_IDS[label] / f"{name}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def webdataset_of_timm(folder, train, val):
    for part, images in (("train", train), ("validation", val)):
        samples = [{"__key__": name, "cls": b"%d" % label, "jpg": data} for name, label, data in images]
        archives.write_webdataset(folder / f"imagenet1k-{part}-0000.tar", samples[::2])
        archives.write_webdataset(folder / f"imagenet1k-{part}-0001.tar", samples[1::2])


def webdataset_with_json_and_folders(folder, train, val):
    for part, images in (("train", train), ("val", val)):
        (folder / part).mkdir()
        samples = [
            {"__key__": f"{CLASS_IDS[label]}/{name}", "jpeg": data, "json": json.dumps({"label": label}).encode()}
            for name, label, data in images
        ]
        archives.write_webdataset(folder / part / "000000.tar", samples)


def tfrecord_of_tensorflow_datasets(folder, train, val):
    for part, images in (("train", train), ("validation", val)):
        records = [{"image": data, "label": label, "file_name": f"{n}.JPEG".encode()} for n, label, data in images]
        for shard in range(2):
            path = folder / f"imagenet2012-{part}.tfrecord-{shard:05}-of-00002"
            archives.write_tfrecord(path, records[shard::2])


def tfrecord_for_tpus(folder, train, val):
    for part, images in (("train", train), ("validation", val)):
        (folder / part).mkdir()
        records = [
            {
                "image/encoded": data,
                "image/class/label": label + 1,
                "image/class/synset": CLASS_IDS[label].encode(),
                "image/class/text": b"tench, Tinca tinca " * 40,
                "image/filename": f"{name}.JPEG".encode(),
                "image/object/bbox/xmin": [0.25, 0.5],
                "image/object/number": 2**63 - 1,
            }
            for name, label, data in images
        ]
        for shard in range(2):
            archives.write_tfrecord(folder / part / f"{part}-{shard:05}-of-00002", records[shard::2])


LAYOUTS = [
    webdataset_of_timm,
    webdataset_with_json_and_folders,
    tfrecord_of_tensorflow_datasets,
    tfrecord_for_tpus,
]


@pytest.mark.parametrize("pack", LAYOUTS)
def test_shards_give_the_same_images_in_the_same_order_as_the_tree(images, folder, pack):
    (folder / "tree").mkdir()
    write_tree(folder / "tree", *images)
    (folder / "shards").mkdir()
    pack(folder / "shards", *images)
    call("--imagenet_dir=shards", "--output_dir=packed")
    call("--imagenet_dir=tree", "--output_dir=plain")
    found, expected = (map_file.read_map(f"{data}/train_map.txt", 3) for data in ("packed", "plain"))
    assert found.read_many(range(8)) == expected.read_many(range(8))
    assert found.labels == expected.labels
    # A validation image is in no folder of its class in shards: it is sorted by its name.
    found = map_file.read_map("packed/val_map.txt", 3)
    by_name = sorted(images[1])
    assert found.read_many(range(8)) == [data for _, _, data in by_name]
    assert list(found.labels) == [label for _, label, _ in by_name]
    assert read_class_mappings("packed/classmappings.txt") == list(CLASS_IDS[:3])
    (folder / "packed/train_map.index.npz").unlink()
    assert map_file.read_map("packed/train_map.txt", 3).read_many(range(8)) == expected.read_many(range(8))


def test_class_ids_that_shards_do_not_have(images, folder):
    webdataset_of_timm(folder, *([image for image in part if image[1] != 1] for part in images))
    call("--imagenet_dir=.")
    assert read_class_mappings("data/classmappings.txt") == list(CLASS_IDS)
    samples = [
        {"__key__": str(row), "cls": b"%d\n" % label, "webp": data} for row, (_, label, data) in enumerate(images[0])
    ]
    archives.write_webdataset(folder / "flowers-0.tar", samples)
    arguments = ("--train_dir=flowers-*.tar", "--val_fraction=0.3")
    call(*arguments)
    assert read_class_mappings("data/classmappings.txt") == ["0", "1", "2"]
    (folder / "label.labels.txt").write_text("daisy\nrose\ntulip")
    call(*arguments)
    assert read_class_mappings("data/classmappings.txt") == ["daisy", "rose", "tulip"]
    (folder / "label.labels.txt").unlink()
    archives.write_webdataset(folder / "flowers-0.tar", [s for s in samples if s["cls"] != b"1\n"])
    with pytest.raises(UserError, match=r"labels from 0 to 2, but no image of label 1: give .* --classmappings"):
        call(*arguments)


@pytest.mark.parametrize("first", [0, 1])
def test_labels_count_from_one_only_where_no_label_is_zero(images, folder, first):
    records = [{"image/encoded": data, "image/class/label": label + first} for _, label, data in images[0]]
    archives.write_tfrecord(folder / "train.tfrecord", records)
    call("--train_dir=train.tfrecord", "--val_fraction=0.3")
    found = map_file.read_map("data/train_map.txt")
    assert set(found.labels) == {0, 1, 2}
    # Without names the records are numbered.
    assert set(found.paths) < {f"{folder}/train.tfrecord@/{row:08}" for row in range(8)}
    # The validation shards have no label 0, but count like the training shards.
    archives.write_tfrecord(folder / "val.tfrecord", [{"image/encoded": images[1][0][2], "image/class/label": 1}])
    call("--train_dir=train.tfrecord", "--val_dir=val.tfrecord")
    assert list(map_file.read_map("data/val_map.txt").labels) == [1 - first]


@pytest.mark.parametrize("first", [0, 1])
def test_labels_that_may_count_from_0_or_1_are_refused_or_told_by_class_ids(images, folder, first):
    write_tree(folder, images[0], [])

    def prepare_with(*labels, ids=()):
        records = [
            {"image/encoded": data, "image/class/label": label + first}
            | ({"image/class/synset": ids[label].encode()} if ids else {})
            for label, (_, _, data) in zip(labels, images[1], strict=False)
        ]
        archives.write_tfrecord(folder / "val.tfrecord", records)
        call("--train_dir=train", "--val_dir=val.tfrecord")
        return list(map_file.read_map("data/val_map.txt").labels)

    assert prepare_with(1, 1, ids=CLASS_IDS) == [1, 1]
    assert prepare_with(0, 2) == [0, 2]
    with pytest.raises(UserError, match=r"have labels from [12] to [12], which may count from 0 or from 1"):
        prepare_with(1, 1)


def test_validation_shards_alone_and_copies_of_their_images(images, folder):
    (folder / "shards").mkdir()
    tfrecord_of_tensorflow_datasets(folder / "shards", [], images[1])
    write_class_mappings("classes.txt", "abc")
    call("--val_dir=shards", "--classmappings=classes.txt", "--resize_shorter_side=32", "--resized_dir=copies")
    found = map_file.read_map("data/val_map.txt")
    assert list(found.labels) == [label for _, label, _ in sorted(images[1])]
    copy = f"{folder}/copies/val/imagenet2012-validation.tfrecord-00001-of-00002/ILSVRC2012_val_00000001.JPEG"
    assert found.paths[0] == copy
    assert Path(copy).exists()
    assert not (folder / "data/train_map.txt").exists()


def refusal(*arguments):
    with pytest.raises(UserError) as raised:
        call(*arguments)
    return str(raised.value)


def test_shards_of_both_parts_are_not_told_apart_by_guessing(images, folder):
    for number, (name, label, data) in enumerate(images[0]):
        archives.write_webdataset(folder / f"{number:04}.tar", [{"__key__": name, "cls": b"%d" % label, "jpg": data}])
    assert "0000.tar would be taken for training and for validation" in refusal("--imagenet_dir=.")
    parts = ("--val_dir=.", "--val_labels=x")
    assert "have their labels with them: leave out --val_labels" in refusal(*parts)


def test_samples_of_a_webdataset_have_one_image_and_one_label(folder):
    first = {"__key__": "first", "cls": b"0", "jpg": b""}
    for sample, expected_text in (
        ({"jpg": b""}, "sample x has no label: expected a .cls"),
        ({"jpg": b"", "cls": b"cat"}, "sample x has no label in .cls: expected an integer, found b'cat'"),
        ({"v2.jpg": b"", "cls": b"1"}, "sample x has no image: "),
        ({"__key__": "first", "cls": b"0", "jpg": b""}, "sample first has several .jpg files"),
        ({"jpg": b"", "png": b"", "cls": b"1"}, "sample x has several images (jpg, png)"),
    ):
        archives.write_webdataset(folder / "a.tar", [first, {"__key__": "x", **sample}])
        assert f"a.tar: {expected_text}" in refusal("--train_dir=a.tar", "--val_fraction=0.3")


def test_damaged_tfrecord_files_are_refused(folder):
    path = folder / "b.tfrecord"

    def refusal_of(data: bytes):
        path.write_bytes(data)
        return refusal("--train_dir=b.tfrecord", "--val_fraction=0.3")

    archives.write_tfrecord(path, [{"label": 1, "pixels": b""}])
    assert "record 0 has no image: " in refusal_of(path.read_bytes())
    archives.write_tfrecord(path, [{"image": b"", "label": -1}])
    sound = path.read_bytes()
    assert "the image 00000000 has no label: expected one integer, found -1" in refusal_of(sound)
    assert "b.tfrecord is truncated: a record ends at byte" in refusal_of(sound[:-5])
    assert "is damaged: the length of the record at byte" in refusal_of(sound + b"damaged length and checksum")
    assert "b.tfrecord is compressed (gzip)" in refusal_of(gzip.compress(sound))
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(b"\x0a\xff\x01no example")
    assert "record 0 at byte 12 is not a tf.train.Example" in refusal_of(path.read_bytes())


def test_missing_shards_are_named(folder):
    (folder / "parts").mkdir()
    for number in (0, 2):
        archives.write_tfrecord(folder / f"parts/train-0000{number}-of-00003", [{"image": b"", "label": 0}])
    arguments = ("--train_dir=parts", "--val_fraction=0.3")
    assert f"1 of the 3 shards train in {folder}/parts are missing, the first is train-00001" in refusal(*arguments)
    assert len(find_shards("parts/train-*", "train")) == 2
    missing = folder / "parts/train-00001-of-00003"
    missing.symlink_to("nowhere")
    assert "train-00001-of-00003 is a broken link" in refusal(*arguments)
    missing.unlink()
    missing.touch()
    assert "has 'val' in its name" in refusal("--train_dir=parts", "--val_dir=parts", "--val_labels=x")


def test_classes_that_contradict_each_other_are_refused(images, folder):
    ids = CLASS_IDS[:3]
    data = images[0][0][2]
    arguments = ("--train_dir=c.tar", "--val_fraction=0.3", "--classmappings=classes.txt")
    write_class_mappings("classes.txt", ["other", "next"])
    samples = [{"__key__": f"{class_id}_1", "cls": b"0", "jpg": data} for class_id in ids[:2]]
    archives.write_webdataset(folder / "c.tar", samples)
    assert f"is of class {ids[1]}, but {folder}/c.tar@/{ids[0]}_1.jpg of the same label is" in refusal(*arguments)
    archives.write_webdataset(folder / "c.tar", [{"__key__": f"{ids[1]}_1", "cls": b"1", "jpg": data}])
    assert f"have class {ids[1]} at label 1, which is next in the class list" in refusal(*arguments)
    write_class_mappings("classes.txt", ["other"])
    assert "have label 1, but there are 1 classes" in refusal(*arguments)
    # The list of TensorFlow Datasets is compared with the folders of the training images.
    write_tree(folder, images[0], [])
    (folder / "shards").mkdir()
    archives.write_tfrecord(folder / "shards/val.tfrecord", [{"image": data, "label": 0}])
    (folder / "shards/label.labels.txt").write_text("\n".join(reversed(ids)))
    problem = refusal("--train_dir=train", "--val_dir=shards")
    assert f"have class {ids[2]} at label 0, which is {ids[0]} in the class list" in problem
