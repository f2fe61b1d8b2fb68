"""Shards of WebDataset and TFRecord: the same maps as from the tree of their images."""

import gzip
import json
from pathlib import Path

import archives
import numpy as np
import pytest
from archives import prepare as call
from conftest import write_images

from keras_alexnet.data import class_mappings, map_file
from keras_alexnet.data.archives.directory import read_archive
from keras_alexnet.data.pipeline import training_dataset
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


def write_tree(folder, train, val):
    for part, images in (("train", train), ("val", val)):
        for name, label, data in images:
            path = folder / part / CLASS_IDS[label] / f"{name}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def webdataset_of_timm(folder, train, val):
    for part, images in (("train", train), ("validation", val)):
        for shard in range(2):
            archives.write_webdataset(
                folder / f"imagenet1k-{part}-{shard:04}.tar",
                [
                    {"__key__": name, "cls": b"%d" % label, "jpg": data, "json": b"{}"}
                    for name, label, data in images[shard::2]
                ],
            )


def webdataset_with_json_and_folders(folder, train, val):
    for part, images in (("train", train), ("val", val)):
        (folder / part).mkdir()
        archives.write_webdataset(
            folder / part / "000000.tar",
            [
                {"__key__": f"{CLASS_IDS[label]}/{name}", "jpeg": data, "json": json.dumps({"label": label}).encode()}
                for name, label, data in images
            ],
        )


def tfrecord_of_tensorflow_datasets(folder, train, val):
    for part, images in (("train", train), ("validation", val)):
        for shard in range(2):
            archives.write_tfrecord(
                folder / f"imagenet2012-{part}.tfrecord-{shard:05}-of-00002",
                [
                    {"image": data, "label": label, "file_name": f"{name}.JPEG".encode()}
                    for name, label, data in images[shard::2]
                ],
            )


def tfrecord_for_tpus(folder, train, val):
    for part, images in (("train", train), ("validation", val)):
        (folder / part).mkdir()
        for shard in range(2):
            archives.write_tfrecord(
                folder / part / f"{part}-{shard:05}-of-00002",
                [
                    {
                        "image/encoded": data,
                        "image/class/label": label + 1,
                        "image/class/synset": CLASS_IDS[label].encode(),
                        "image/class/text": b"tench, Tinca tinca " * 40,
                        "image/filename": f"{name}.JPEG".encode(),
                        "image/height": 300,
                        "image/object/bbox/xmin": [0.25, 0.5],
                        "image/object/number": 2**63 - 1,
                    }
                    for name, label, data in images[shard::2]
                ],
            )


LAYOUTS = [
    webdataset_of_timm,
    webdataset_with_json_and_folders,
    tfrecord_of_tensorflow_datasets,
    tfrecord_for_tpus,
]


@pytest.mark.parametrize("pack", LAYOUTS)
def test_shards_give_the_same_images_in_the_same_order_as_the_tree(images, tmp_path, pack, capsys):
    (tmp_path / "tree").mkdir()
    write_tree(tmp_path / "tree", *images)
    (tmp_path / "shards").mkdir()
    pack(tmp_path / "shards", *images)
    call(f"--imagenet_dir={tmp_path}/shards", f"--output_dir={tmp_path}/packed")
    assert "Found " in capsys.readouterr().out
    call(f"--imagenet_dir={tmp_path}/tree", f"--output_dir={tmp_path}/plain")
    for part in ("train", "val"):
        found, expected = (
            map_file.read_map(tmp_path / folder / f"{part}_map.txt", 3) for folder in ("packed", "plain")
        )
        # A validation image is in no folder of its class in shards: it is sorted by its name.
        rows = range(8) if part == "train" else np.argsort([path.rpartition("/")[2] for path in expected.paths])
        assert found.read_many(range(8)) == expected.read_many(rows)
        assert list(found.labels) == [expected.labels[row] for row in rows]
        if part == "train":
            batches = [training_dataset(image_map, 4, seed=0, image_size=32) for image_map in (found, expected)]
            for (got, *_), (wanted, *_) in zip(*(dataset.take(3) for dataset in batches), strict=True):
                np.testing.assert_array_equal(got, wanted)
    # Without the index too.
    (tmp_path / "packed/train_map.index.npz").unlink()
    again = map_file.read_map(tmp_path / "packed/train_map.txt", 3)
    assert again.read_many(range(8)) == [data for _, _, data in sorted(images[0])]


@pytest.mark.parametrize("pack", LAYOUTS)
def test_class_ids_come_from_the_shards(images, tmp_path, pack):
    pack(tmp_path, *images)
    call(f"--imagenet_dir={tmp_path}", f"--output_dir={tmp_path}/out")
    assert class_mappings.read_class_mappings(tmp_path / "out/classmappings.txt") == list(CLASS_IDS[:3])


def test_some_shards_of_imagenet_have_all_its_classes(images, tmp_path):
    train, val = ([image for image in part if image[1] != 1] for part in images)
    webdataset_of_timm(tmp_path, train, val)
    call(f"--imagenet_dir={tmp_path}", f"--output_dir={tmp_path}/out")
    assert class_mappings.read_class_mappings(tmp_path / "out/classmappings.txt") == list(CLASS_IDS)


def test_class_ids_of_other_data(images, tmp_path):
    samples = [
        {"__key__": str(row), "cls": b"%d\n" % label, "webp": data} for row, (_, label, data) in enumerate(images[0])
    ]
    archives.write_webdataset(tmp_path / "flowers-0.tar", samples)
    arguments = (f"--train_dir={tmp_path}/flowers-*.tar", "--val_fraction=0.3", f"--output_dir={tmp_path}/out")
    call(*arguments)
    assert class_mappings.read_class_mappings(tmp_path / "out/classmappings.txt") == ["0", "1", "2"]
    (tmp_path / "label.labels.txt").write_text("daisy\nrose\ntulip")
    call(*arguments)
    assert class_mappings.read_class_mappings(tmp_path / "out/classmappings.txt") == ["daisy", "rose", "tulip"]
    (tmp_path / "label.labels.txt").unlink()
    archives.write_webdataset(tmp_path / "flowers-0.tar", [s for s in samples if s["cls"] != b"1\n"])
    with pytest.raises(UserError, match=r"labels from 0 to 2, but no image of label 1: pass .* --classmappings"):
        call(*arguments)


def test_labels_count_from_one_only_where_no_label_is_zero(images, tmp_path):
    for first in (0, 1):
        archives.write_tfrecord(
            tmp_path / f"flowers_train_{first}.tfrecord",
            [{"image/encoded": data, "image/class/label": label + first} for _, label, data in images[0]],
        )
        call(
            f"--train_dir={tmp_path}/flowers_train_{first}.tfrecord",
            "--val_fraction=0.3",
            f"--output_dir={tmp_path}/{first}",
        )
        found = map_file.read_map(tmp_path / f"{first}/train_map.txt")
        assert set(found.labels) == {0, 1, 2}
        # Without names the records are numbered.
        assert set(found.paths) < {f"{tmp_path}/flowers_train_{first}.tfrecord@/{row:08}" for row in range(8)}
    # The validation shards have no label 0, but count like the training shards.
    archives.write_tfrecord(
        tmp_path / "flowers_val.tfrecord", [{"image/encoded": images[1][0][2], "image/class/label": 1}]
    )
    for first in (0, 1):
        call(
            f"--train_dir={tmp_path}/flowers_train_{first}.tfrecord",
            f"--val_dir={tmp_path}/flowers_val.tfrecord",
            f"--output_dir={tmp_path}/{first}",
        )
        assert list(map_file.read_map(tmp_path / f"{first}/val_map.txt").labels) == [1 - first]


def test_validation_shards_alone(images, tmp_path):
    tfrecord_of_tensorflow_datasets(tmp_path, [], images[1])
    (tmp_path / "classes.txt").write_text("".join(f"{name}\t{label}\n" for label, name in enumerate("abc")))
    call(f"--val_dir={tmp_path}", f"--classmappings={tmp_path}/classes.txt", f"--output_dir={tmp_path}/out")
    found = map_file.read_map(tmp_path / "out/val_map.txt")
    assert found.read_many(range(8)) == [data for _, _, data in sorted(images[1])]
    assert list(found.labels) == [label for _, label, _ in sorted(images[1])]
    assert not (tmp_path / "out/train_map.txt").exists()


def test_shards_are_resized(images, tmp_path):
    tfrecord_for_tpus(tmp_path, *images)
    copies = []
    for kind in ("files", "tar"):
        call(
            f"--imagenet_dir={tmp_path}",
            f"--output_dir={tmp_path}/{kind}",
            "--resize_shorter_side=32",
            f"--resized_dir={tmp_path}/{kind}_copies",
            f"--resized_format={kind}",
        )
        found = map_file.read_map(tmp_path / kind / "val_map.txt")
        assert found.paths[0].endswith("/validation-00001-of-00002/ILSVRC2012_val_00000001.JPEG")
        copies.append(found.read_many(range(8)))
    assert copies[0] == copies[1]


def test_shards_of_both_parts_are_not_told_apart_by_guessing(images, tmp_path):
    for number, (name, label, data) in enumerate(images[0]):
        archives.write_webdataset(tmp_path / f"{number:04}.tar", [{"__key__": name, "cls": b"%d" % label, "jpg": data}])
    with pytest.raises(UserError, match=r"0000.tar would be taken for training and for validation"):
        call(f"--imagenet_dir={tmp_path}", f"--output_dir={tmp_path}/out")


def test_classes_listed_in_another_order_are_refused(images, tmp_path):
    write_tree(tmp_path, images[0], [])
    ids = list(CLASS_IDS[:3])
    samples = [{"image": data, "label": label} for _, label, data in images[1]]
    (tmp_path / "shards").mkdir()
    archives.write_tfrecord(tmp_path / "shards/val.tfrecord", samples)
    arguments = (f"--train_dir={tmp_path}/train", f"--val_dir={tmp_path}/shards", f"--output_dir={tmp_path}/out")
    (tmp_path / "shards/label.labels.txt").write_text("\n".join(ids))
    call(*arguments)
    (tmp_path / "shards/label.labels.txt").write_text("\n".join(reversed(ids)))
    with pytest.raises(UserError, match=rf"have class {ids[2]} at label 0, which is {ids[0]} in the class list"):
        call(*arguments)


@pytest.mark.parametrize("first", [0, 1])
def test_labels_that_may_count_from_0_or_1_are_refused_or_told_by_class_ids(images, tmp_path, first):
    write_tree(tmp_path, images[0], [])

    def prepare_with(*labels, **more):
        records = [
            {"image/encoded": data, "image/class/label": label + first}
            | {name: ids[label] for name, ids in more.items()}
            for label, (_, _, data) in zip(labels, images[1], strict=False)
        ]
        archives.write_tfrecord(tmp_path / "val.tfrecord", records)
        call(f"--train_dir={tmp_path}/train", f"--val_dir={tmp_path}/val.tfrecord", f"--output_dir={tmp_path}/out")
        return list(map_file.read_map(tmp_path / "out/val_map.txt").labels)

    ids = {"image/class/synset": [class_id.encode() for class_id in CLASS_IDS]}
    assert prepare_with(1, 1, **ids) == [1, 1]
    assert prepare_with(0, 2) == [0, 2]
    with pytest.raises(UserError, match=r"have labels from [12] to [12], which may count from 0 or from 1"):
        prepare_with(1, 1)


def test_what_is_wrong_with_shards_is_told(images, tmp_path):
    name, _, data = images[0][0]

    def error_of(match, *arguments):
        with pytest.raises(UserError, match=match):
            call("--val_fraction=0.3", f"--output_dir={tmp_path}/out", *arguments)

    def webdataset(**sample):
        archives.write_webdataset(
            tmp_path / "a.tar", [{"__key__": "first", "cls": b"0", "jpg": data}, {"__key__": "x", **sample}]
        )
        return f"--train_dir={tmp_path}/a.tar"

    error_of(r"a.tar: sample x has no label: expected a .cls", webdataset(jpg=data))
    error_of(
        r"a.tar: sample x has no label in .cls: expected an integer, found b'cat'", webdataset(jpg=data, cls=b"cat")
    )
    error_of(r"a.tar: sample x has no label in .json", webdataset(jpg=data, json=b'{"label": "1"}'))
    error_of(
        r"a.tar: sample x has no image: .* behind the first dot .*, found cls, v2.jpg",
        webdataset(**{"v2.jpg": data, "cls": b"1"}),
    )
    error_of(r"a.tar: sample x has no image: .*, found cls", webdataset(txt=data, cls=b"1"))
    error_of(r"a.tar: sample first has several .jpg files", webdataset(cls=b"0", jpg=data, __key__="first"))
    error_of(r"a.tar: sample x has several images \(jpg, png\)", webdataset(jpg=data, png=data, cls=b"1"))

    def tfrecord(**record):
        archives.write_tfrecord(tmp_path / "b.tfrecord", [record])
        return f"--train_dir={tmp_path}/b.tfrecord"

    error_of(r"record 0 has no image: .* found label, pixels", tfrecord(label=1, pixels=data))
    error_of(r"the image 00000000 has no label: expected one integer, found -1", tfrecord(label=-1, image=data))
    error_of(r"the image 00000000 has no label: expected one integer, found None", tfrecord(image=data))
    whole = (tmp_path / "b.tfrecord").read_bytes()
    (tmp_path / "b.tfrecord").write_bytes(whole[:-5])
    error_of(r"b.tfrecord is truncated: a record ends at byte", f"--train_dir={tmp_path}/b.tfrecord")
    (tmp_path / "b.tfrecord").write_bytes(whole + b"damaged length and checksum")
    error_of(r"b.tfrecord is damaged: the length of the record at byte", f"--train_dir={tmp_path}/b.tfrecord")
    (tmp_path / "b.tfrecord").write_bytes(gzip.compress(whole))
    error_of(r"b.tfrecord is compressed \(gzip\)", f"--train_dir={tmp_path}/b.tfrecord")
    # A record that is not an example.
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(tmp_path / "b.tfrecord")) as writer:
        writer.write(b"\x0a\xff\x01no example")
    error_of(r"record 0 at byte 12 is not a tf.train.Example", f"--train_dir={tmp_path}/b.tfrecord")

    (tmp_path / "parts").mkdir()
    for number in (0, 2):
        archives.write_tfrecord(tmp_path / f"parts/train-0000{number}-of-00003", [{"image": data, "label": 0}])
    error_of(
        r"1 of the 3 shards train in .* are missing, the first is train-00001-of-00003", f"--train_dir={tmp_path}/parts"
    )
    assert len(find_shards(tmp_path / "parts/train-*", "train")) == 2
    (tmp_path / "parts/train-00001-of-00003").symlink_to("nowhere")
    error_of(r"train-00001-of-00003 is a broken link", f"--train_dir={tmp_path}/parts")
    (tmp_path / "parts/train-00001-of-00003").unlink()
    with pytest.raises(UserError, match=r"none of the shards in .*/parts has 'val' in its name"):
        (tmp_path / "parts/train-00001-of-00003").touch()
        call(
            f"--train_dir={tmp_path}/parts",
            f"--val_dir={tmp_path}/parts",
            "--val_labels=x",
            f"--output_dir={tmp_path}/out",
        )

    with pytest.raises(UserError, match=r"have their labels with them: leave out --val_labels"):
        call(f"--val_dir={tmp_path}/a.tar", "--val_labels=x", f"--output_dir={tmp_path}/out")

    archives.write_webdataset(
        tmp_path / "c.tar",
        [{"__key__": f"{class_id}_{row}", "cls": b"0", "jpg": data} for row, class_id in enumerate(CLASS_IDS[:2])],
    )
    error_of(
        f"is of class {CLASS_IDS[1]}, but .*{CLASS_IDS[0]}_0.jpg of the same label is of class {CLASS_IDS[0]}",
        f"--train_dir={tmp_path}/c.tar",
    )
    (tmp_path / "classes.txt").write_text("other\t0\nnext\t1\n")
    archives.write_webdataset(tmp_path / "c.tar", [{"__key__": name, "cls": b"1", "jpg": data}])
    error_of(
        r"have class n.* at label 1, which is next in the class list",
        f"--train_dir={tmp_path}/c.tar",
        f"--classmappings={tmp_path}/classes.txt",
    )
    (tmp_path / "classes.txt").write_text("other\t0\n")
    error_of(
        r"have label 1, but there are 1 classes",
        f"--train_dir={tmp_path}/c.tar",
        f"--classmappings={tmp_path}/classes.txt",
    )


def test_records_are_found_by_name_or_number(images, tmp_path):
    data = images[0][0][2]
    archives.write_tfrecord(tmp_path / "a", [{"image": data, "file_name": b"x.jpg"}] * 2)
    assert read_archive(str(tmp_path / "a")).names == [b"00000000", b"00000001"]
