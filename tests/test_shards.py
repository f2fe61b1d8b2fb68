"""Shards of WebDataset and TFRecord: the same maps as from the tree of their images."""

import gzip
import json
from pathlib import Path

import archives
import pytest
import tensorflow as tf
from archives import prepare as call
from drawn_images import draw, encode

from keras_alexnet.data import map_file
from keras_alexnet.data.archives.directory import read_archive
from keras_alexnet.data.class_mappings import read_class_mappings, write_class_mappings
from keras_alexnet.data.scanning.ilsvrc2012_classes import CLASS_IDS
from keras_alexnet.data.scanning.shards import find_shards
from keras_alexnet.errors import UserError

IDS = CLASS_IDS[:3]
# (name without suffix, label, bytes) of each image, in the order of shards. Most tests do not decode the bytes.
LABELS = (1, 0, 2, 1, 0, 2, 2, 1)
TRAIN = [(f"{IDS[label]}_{9 - row}", label, b"%d" % row) for row, label in enumerate(LABELS)]
VAL = [(f"ILSVRC2012_val_0000000{8 - row}", label, b"val %d" % row) for row, label in enumerate(LABELS)]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working directory, in which `prepare` makes the folder `data` of the maps."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_tree(images, folder):
    for name, label, data in images:
        path = Path(folder, IDS[label], f"{name}.JPEG")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def webdataset_of_timm(part, images):
    samples = [{"__key__": name, "cls": b"%d" % label, "jpg": data} for name, label, data in images]
    for shard in (0, 1):
        archives.write_webdataset(Path(f"imagenet1k-{part}-000{shard}.tar"), samples[shard::2])


def webdataset_with_json_and_folders(part, images):
    Path(part).mkdir()
    samples = [
        {"__key__": f"{IDS[label]}/{name}", "jpeg": data, "json": json.dumps({"label": label}).encode()}
        for name, label, data in images
    ]
    archives.write_webdataset(Path(part, "000000.tar"), samples)


def tfrecord_of_tensorflow_datasets(part, images):
    records = [{"image": data, "label": label, "file_name": f"{n}.JPEG".encode()} for n, label, data in images]
    for shard in (0, 1):
        archives.write_tfrecord(Path(f"imagenet2012-{part}.tfrecord-0000{shard}-of-00002"), records[shard::2])


def tfrecord_for_tpus(part, images):
    Path(part).mkdir()
    records = [
        {
            "image/encoded": data,
            "image/class/label": label + 1,
            "image/class/synset": IDS[label].encode(),
            "image/class/text": b"tench, Tinca tinca " * 40,
            "image/filename": f"{name}.JPEG".encode(),
            "image/object/bbox/xmin": [0.25, 0.5],
            "image/object/number": 2**63 - 1,
        }
        for name, label, data in images
    ]
    for shard in (0, 1):
        archives.write_tfrecord(Path(part, f"{part}-0000{shard}-of-00002"), records[shard::2])


LAYOUTS = [
    webdataset_of_timm,
    webdataset_with_json_and_folders,
    tfrecord_of_tensorflow_datasets,
    tfrecord_for_tpus,
]


@pytest.mark.parametrize("pack", LAYOUTS)
def test_shards_give_the_same_images_in_the_same_order_as_the_tree(folder, pack):
    pack("train", TRAIN)
    pack("validation", VAL)
    call("--imagenet_dir=.")
    write_tree(TRAIN, "tree")
    call("--train_dir=tree", "--val_dir=tree", "--val_annotations_dir=", "--output_dir=plain")
    found, expected = (map_file.read_map(f"{data}/train_map.txt", 3) for data in ("data", "plain"))
    assert found.read_many(range(8)) == expected.read_many(range(8))
    assert found.labels == expected.labels
    # A validation image is in no folder of its class in shards: it is sorted by its name.
    found = map_file.read_map("data/val_map.txt", 3)
    assert found.read_many(range(8)) == [data for _, _, data in sorted(VAL)]
    assert list(found.labels) == [label for _, label, _ in sorted(VAL)]
    assert read_class_mappings("data/classmappings.txt") == list(IDS)
    (folder / "data/train_map.index.npz").unlink()
    assert map_file.read_map("data/train_map.txt", 3).read_many(range(8)) == expected.read_many(range(8))


def refusal(*arguments):
    with pytest.raises(UserError) as raised:
        call(*arguments)
    return str(raised.value)


def test_class_ids_that_shards_do_not_have(folder):
    samples = [
        {"__key__": str(row), "cls": b"%d\n" % label, "webp": data} for row, (_, label, data) in enumerate(TRAIN)
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
    assert "labels from 0 to 2, but no image of label 1: pass the list of the classes" in refusal(*arguments)
    # Ids that are those of ImageNet's labels are known to be some of its 1,000.
    webdataset_of_timm("train", [image for image in TRAIN if image[1] != 1])
    call("--train_dir=imagenet1k-*.tar", "--val_fraction=0.3")
    assert read_class_mappings("data/classmappings.txt") == list(CLASS_IDS)


@pytest.mark.parametrize("first", [0, 1])
def test_labels_count_from_one_only_where_no_label_is_zero(folder, first):
    records = [{"image/encoded": data, "image/class/label": label + first} for _, label, data in TRAIN]
    archives.write_tfrecord(folder / "train.tfrecord", records)
    # The validation shards have no label 0, but count like the training shards.
    archives.write_tfrecord(folder / "val.tfrecord", [{"image/encoded": b"", "image/class/label": 1}])
    call("--train_dir=train.tfrecord", "--val_dir=val.tfrecord")
    found = map_file.read_map("data/train_map.txt")
    assert set(found.labels) == {0, 1, 2}
    # Without names the records are numbered.
    assert set(found.paths) == {f"{folder}/train.tfrecord@/{row:08}" for row in range(8)}
    assert list(map_file.read_map("data/val_map.txt").labels) == [1 - first]


def test_records_that_share_a_name_are_numbered(folder):
    archives.write_tfrecord(folder / "a", [{"image": b"", "file_name": b"x.jpg"}] * 2)
    assert read_archive(str(folder / "a")).names == [b"00000000", b"00000001"]


@pytest.mark.parametrize("first", [0, 1])
def test_labels_that_may_count_from_0_or_1_are_refused_unless_class_ids_show_it(folder, first):
    write_tree(TRAIN, "train")
    arguments = ("--train_dir=train", "--val_dir=val.tfrecord")
    for labels, has_ids in (((1, 1), True), ((0, 2), False)):
        records = [
            {"image/encoded": b"", "image/class/label": label + first}
            | ({"image/class/synset": IDS[label].encode()} if has_ids else {})
            for label in labels
        ]
        archives.write_tfrecord(folder / "val.tfrecord", records)
        call(*arguments)
        assert tuple(map_file.read_map("data/val_map.txt").labels) == labels
    archives.write_tfrecord(folder / "val.tfrecord", [{"image/encoded": b"", "image/class/label": 1 + first}])
    assert "which may count from 0 or from 1" in refusal(*arguments)


def test_validation_shards_alone_and_copies_of_their_images(folder):
    record = {"image": encode(draw(60, 40), "JPEG"), "label": 1, "file_name": b"1.JPEG"}
    archives.write_tfrecord(folder / "val.tfrecord", [record])
    write_class_mappings("classes.txt", "abc")
    call("--val_dir=val.tfrecord", "--classmappings=classes.txt", "--resize_shorter_side=32", "--resized_dir=copies")
    found = map_file.read_map("data/val_map.txt")
    assert list(found.labels) == [1]
    assert found.paths[0] == f"{folder}/copies/val/val.tfrecord/1.JPEG"
    assert Path(found.paths[0]).exists()
    assert not (folder / "data/train_map.txt").exists()


def test_the_part_of_a_shard_is_not_guessed(folder):
    for number in (0, 1):
        archives.write_webdataset(folder / f"{number:04}.tar", [{"__key__": "x", "cls": b"0", "jpg": b""}])
    assert "0000.tar would be taken for training and for validation" in refusal("--imagenet_dir=.")
    assert "have their labels with them: leave out --val_labels" in refusal("--val_dir=.", "--val_labels=x")


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
    # Only the length has a checksum that is looked at.
    assert "record 0 at byte 12 is not a tf.train.Example" in refusal_of(sound[:12] + b"\xff" * (len(sound) - 12))
    with tf.io.TFRecordWriter(str(path)) as writer:  # The name of a feature is a number, not bytes.
        writer.write(b"\x0a\x04\x0a\x02\x08\x00")
    assert "record 0 at byte 12 is not a tf.train.Example" in refusal_of(path.read_bytes())


def test_missing_shards_are_named(folder):
    for number in (0, 2):
        archives.write_tfrecord(folder / f"train-0000{number}-of-00003", [{"image": b"", "label": 0}])
    arguments = ("--train_dir=.", "--val_fraction=0.3")
    assert f"1 of the 3 shards train in {folder} are missing, the first is train-00001" in refusal(*arguments)
    assert len(find_shards("train-*", "train")) == 2
    (folder / "train-00001-of-00003").symlink_to("nowhere")
    assert "train-00001-of-00003 is a broken link" in refusal(*arguments)
    (folder / "train-00001-of-00003").unlink()
    assert "has 'val' in its name" in refusal("--val_dir=.", "--val_labels=x")


def test_classes_that_contradict_each_other_are_refused(folder):
    arguments = ("--train_dir=c.tar", "--val_fraction=0.3", "--classmappings=classes.txt")
    write_class_mappings("classes.txt", ["other", "next"])
    samples = [{"__key__": f"{class_id}_1", "cls": b"0", "jpg": b""} for class_id in IDS[:2]]
    archives.write_webdataset(folder / "c.tar", samples)
    assert f"is of class {IDS[1]}, but {folder}/c.tar@/{IDS[0]}_1.jpg of the same label is" in refusal(*arguments)
    archives.write_webdataset(folder / "c.tar", [{"__key__": f"{IDS[1]}_1", "cls": b"1", "jpg": b""}])
    assert f"have class {IDS[1]} at label 1, which is next in the class list" in refusal(*arguments)
    write_class_mappings("classes.txt", ["other"])
    assert "have label 1, but there are 1 classes" in refusal(*arguments)
    # The list of TensorFlow Datasets is compared with the folders of the training images.
    write_tree(TRAIN, "train")
    archives.write_tfrecord(folder / "val.tfrecord", [{"image": b"", "label": 0}])
    (folder / "label.labels.txt").write_text("\n".join(reversed(IDS)))
    problem = refusal("--train_dir=train", "--val_dir=val.tfrecord")
    assert f"have class {IDS[2]} at label 0, which is {IDS[0]} in the class list" in problem
