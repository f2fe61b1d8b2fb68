"""Crops of decoded images, from a pixel store or a cache."""

import os
import subprocess
import sys
import tarfile
from unittest import mock

import numpy as np
import pytest
from drawn_images import draw, encode
from image_tree import Tree, call, flip_a_bit
from map_files import write_map
from PIL import Image

from keras_alexnet.data import decoded, image_cache, image_file, map_file, pipeline, pixel_store, unreadable
from keras_alexnet.data.image_cache import ImageCache, image_caches
from keras_alexnet.data.image_map import ImageMap
from keras_alexnet.data.pixel_store import PixelStore
from keras_alexnet.data.resizing import disk_space
from keras_alexnet.errors import UserError
from keras_alexnet.system import machine


@pytest.fixture
def tree(tmp_path):
    """One image in each direction is the longer, and one has sides that a row of pixels does not divide evenly."""
    tree = Tree(tmp_path / "imagenet")
    for number, size in enumerate([(41, 60), (80, 47)]):
        tree.images[number].write_bytes(encode(draw(*size, number), "JPEG", quality=90))
    return tree


@pytest.fixture
def stored(tree, tmp_path):
    """The map of the training images as pixels."""
    store_pixels(tree)
    return map_file.read_map(tmp_path / "data/train_map.txt")


@pytest.fixture
def originals(tree):
    """The map of the training images."""
    return ImageMap([str(path) for path in tree.images[:6]], [0, 0, 1, 1, 2, 2])


def store_pixels(tree, side=32):
    small = tree.root.parent / "small"
    call(tree, f"--resize_shorter_side={side}", f"--resized_dir={small}", "--resized_format=pixels")


def arrays(dataset, batches):
    return [[part.numpy() for part in batch] for batch in dataset.take(batches)]


def assert_same(found, expected):
    for got, wanted in zip(found, expected, strict=True):
        for one, other in zip(got, wanted, strict=True):
            np.testing.assert_array_equal(one, other)


def test_pixels_are_those_of_the_resized_image(tree, stored, tmp_path):
    names = [path.rpartition("@/")[2] for path in stored.paths]
    assert names == [f"{path.relative_to(tree.train)}.ppm" for path in tree.images[:6]]
    for row, path in enumerate(tree.images[:6]):
        with Image.open(path) as image:
            shorter = min(image.size)
            size = tuple((2 * side * 32 + shorter) // (2 * shorter) for side in image.size)
            expected = np.asarray(image.convert("RGB").resize(size, Image.Resampling.LANCZOS))
        np.testing.assert_array_equal(image_file.decode(stored.read(row)), expected)
        np.testing.assert_array_equal(PixelStore.find(stored).images(np.array([row]))[0], expected)
    # As any program reads it.
    with (
        tarfile.open(tmp_path / "small/train.tar") as archive,
        Image.open(archive.extractfile(archive.next())) as image,
    ):
        assert image.size == (32, 47)


def assert_same_as_files(dataset, image_map, **settings):
    """A dataset has the same batches where images are read and decoded one by one."""
    found = arrays(dataset(image_map, 4, **settings), 9)
    with mock.patch.object(PixelStore, "find", return_value=None):
        assert_same(found, arrays(dataset(image_map, 4, **settings), 9))


# 28 is the side of the crops themselves; others are resized.
@pytest.mark.parametrize(("image_size", "share"), [(28, {}), (24, {"worker": 1, "num_workers": 2})])
def test_training_batches_are_those_of_decoded_files(stored, image_size, share):
    assert_same_as_files(pipeline.training_dataset, stored, seed=1, first_step=2, image_size=image_size, **share)


def test_evaluation_batches_are_those_of_decoded_files(stored):
    for cut in ({}, {"preprocessing": "torchvision"}, {"preprocessing": "caffe"}, {"crops": 10}):
        assert_same_as_files(pipeline.padded_evaluation_dataset, stored, image_size=28, **cut)


def test_threads_copy_the_same_crops_as_a_loop(stored):
    found = PixelStore.find(stored).images(np.arange(200) % len(stored))
    crops = decoded.random_crops(found.sizes, np.random.default_rng(0).random((200, 3), np.float32))
    one_by_one, by_threads = (np.zeros((200, 28, 28, 3), np.uint8) for _ in range(2))
    decoded.ImageList(found[number] for number in range(200)).copy_crops(crops, one_by_one)
    found.copy_crops(crops, by_threads)
    np.testing.assert_array_equal(by_threads, one_by_one)
    assert 50 < crops.flipped.sum() < 150


@pytest.mark.parametrize("free", [10**9, 0])
def test_images_are_read_ahead_once_if_they_stay_in_memory(stored, monkeypatch, free):
    monkeypatch.setattr(pixel_store, "available_bytes", lambda: free)
    with mock.patch("os.posix_fadvise") as advise:
        store = PixelStore.find(stored)
        store.read_ahead(np.array([0, 1]))
        store.read_ahead(np.array([1, 2]))
    offsets = [call.args[1] for call in advise.call_args_list]
    assert offsets == [stored.locations.offset[row] for row in ([0, 1, 2] if free else [0, 1, 1, 2])]


# Ends while threads of its dataset run Python code.
EXITING = """
import sys
import tensorflow as tf
from keras_alexnet import read_map, training_dataset
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
images = read_map(sys.argv[1]).take([0] * 8192)
dataset = training_dataset(images, 4096, seed=0, image_size=28)
if sys.argv[2] == "mirrored":
    dataset = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).experimental_distribute_dataset(dataset)
iterator = iter(dataset)
next(iterator)
"""


@pytest.mark.parametrize("kind", ["dataset", "mirrored"])
def test_a_script_exits_while_its_dataset_is_read(stored, kind):
    subprocess.run([sys.executable, "-c", EXITING, stored.source, kind], check=True, timeout=60)


def test_a_buffer_is_reused_only_when_nothing_refers_to_it():
    pool = decoded.BufferPool(4)
    first = pool.take(2)
    first[...] = 1
    view = first.reshape(-1)[3:]
    address = first.ctypes.data
    del first
    second = pool.take(2)
    second[...] = 2
    assert (view == 1).all()
    del view
    assert pool.take(2).ctypes.data == address
    assert address % 64 == 0


def test_a_flipped_bit_is_found_by_a_check_and_by_reading_a_whole_image(tree, stored, tmp_path):
    tar, name = tmp_path / "small/train.tar", stored.paths[3].rpartition("@/")[2]
    flip_a_bit(tar, name, 500)
    with pytest.raises(ValueError, match=r"do not fit their checksum"):
        image_file.decode(stored.read(3))
    assert "checksum" in unreadable.why_unreadable(stored, 3)
    with pytest.raises(UserError, match=rf"{name}: truncated or corrupted: its pixels do not fit their checksum"):
        call(tree, f"--train_dir={tar}", f"--val_dir={tar.with_name('val.tar')}", "--check_images")


@pytest.mark.parametrize("at", [19, 20], ids=["no header", "another size"])
def test_an_entry_that_is_no_image_is_named_in_training(stored, tmp_path, at):
    name = stored.paths[2].rpartition("@/")[2]
    flip_a_bit(tmp_path / "small/train.tar", name, at)
    assert PixelStore.find(stored).images(np.arange(4)) is None
    assert PixelStore.find(stored).images(np.array([1, 3])) is not None
    assert name in str(unreadable.find_unreadable(stored, range(6)))


def test_a_store_that_changed_since_is_found_out(stored, tmp_path):
    store = PixelStore.find(stored)
    assert store.images(np.arange(2))
    os.truncate(tmp_path / "small/train.tar", 5000)
    with pytest.raises(OSError, match=r"has changed since its entries were found"):
        store.images(np.arange(6))
    assert PixelStore.find(stored) is None
    assert "has changed since its entries were found" in unreadable.why_unreadable(stored, 5)


def test_pixels_of_another_program_are_not_taken_for_a_store(stored, tmp_path):
    """They have no checksum."""
    Image.fromarray(image_file.decode(stored.read(0))).save(tmp_path / "x.ppm")
    with tarfile.open(tmp_path / "other.tar", "w") as archive:
        archive.add(tmp_path / "x.ppm", "x.ppm")
    write_map(tmp_path / "map.txt", [(f"{tmp_path}/other.tar@/x.ppm", 0)])
    assert PixelStore.find(map_file.read_map(tmp_path / "map.txt")) is None


def test_writing_continues_after_the_last_complete_image(tree, stored, tmp_path):
    tar, partial = tmp_path / "small/train.tar", tmp_path / "small/train.tar.partial"
    expected = tar.read_bytes()
    name = stored.paths[4].rpartition("@/")[2]
    for damage in (lambda: flip_a_bit(partial, name, 800), lambda: os.truncate(partial, len(expected) // 2)):
        tar.rename(partial)
        damage()
        store_pixels(tree)
        assert tar.read_bytes() == expected
        assert not partial.exists()


def test_space_is_estimated_first_and_too_small_a_disk_refused(tree, tmp_path, monkeypatch, capsys):
    def missing():
        """MB that are still to be written."""
        store_pixels(tree, 256)
        (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("Pixels: about"))
        return float(line.split()[4])

    found = missing()
    size = sum((tmp_path / f"small/{part}.tar").stat().st_size for part in ("train", "val")) / 1e6
    assert found == pytest.approx(size, rel=0.1)
    # A single changed image requires rewriting its tar.
    os.utime(tree.images[0], (1, 1))
    assert missing() == pytest.approx(size * 6 / 9, rel=0.1)
    assert missing() == 0
    (tmp_path / "small/train.tar").unlink()
    usage = disk_space.shutil.disk_usage(tmp_path)._replace(free=3000)
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"only 0\.00 MB are free in .*--resized_format=tar"):
        store_pixels(tree, 256)
    assert not list((tmp_path / "small").glob("train.tar*"))


def test_cached_images_have_the_pixels_of_files(originals):
    (cached,), _ = image_caches([originals], 1)
    for dataset, settings in ((pipeline.training_dataset, {"seed": 3}), (pipeline.padded_evaluation_dataset, {})):
        # 35 is the side of most crops themselves; others are resized.
        expected = arrays(dataset(originals, 3, image_size=35, **settings), 5)
        for _ in range(2):
            assert_same(arrays(dataset(originals, 3, image_size=35, decoded=cached, **settings), 5), expected)


def test_images_are_dropped_when_memory_becomes_scarce(originals, monkeypatch):
    monkeypatch.setattr(image_cache, "_CHECK_EVERY", 1)
    free = iter([10, 10, 4])
    monkeypatch.setattr(image_cache, "available_bytes", lambda: next(free))
    cached = ImageCache(originals, mean_bytes=1e4, min_free=5)
    assert len(cached.images(np.arange(2))) == 2
    assert not cached.is_dropped
    assert len(cached.images(np.arange(3))) == 3  # The images asked for are still returned.
    assert cached.images(np.arange(2)) is None
    expected = arrays(pipeline.training_dataset(originals, 3, seed=3), 3)
    assert_same(arrays(pipeline.training_dataset(originals, 3, seed=3, decoded=cached), 3), expected)


def test_images_that_do_not_fit_are_not_cached(originals, monkeypatch):
    needed = sum(image_file.decode(originals.read(row)).nbytes for row in range(6))
    for free, num_workers, fits in ((2 * needed, 1, True), (2 * needed, 2, False), (None, 1, False)):
        monkeypatch.setattr(image_cache, "available_bytes", lambda free=free: free)
        assert bool(image_caches([originals], num_workers)) == fits


def test_images_with_an_unreadable_one_among_them_are_not_cached(tree, originals):
    data = encode(draw(300, 300), "JPEG", quality=90)
    tree.images[1].write_bytes(data[: len(data) * 97 // 100])
    cached = ImageCache(originals, mean_bytes=1e4, min_free=0)
    assert cached.images(np.arange(3)) is None
    assert len(cached.images(np.arange(2, 6))) == 4


@pytest.mark.parametrize(
    ("names", "folder", "line"),
    [(machine._V1, "memory", "4:cpu:/x\n1:memory:/job/step\n"), (machine._V2, "", "0::/job/step\n")],
)
def test_memory_is_that_of_the_control_groups_of_the_process(tmp_path, monkeypatch, names, folder, line):
    limit, usage, cached = names
    for group, most in (("job", 5000), ("job/step", 9000), ("", "max")):
        (tmp_path / folder / group).mkdir(exist_ok=True, parents=True)
        (tmp_path / folder / group / limit).write_text(f"{most}\n")
        (tmp_path / folder / group / usage).write_text("3000\n")
        (tmp_path / folder / group / "memory.stat").write_text(f"anon 7\n{cached} 1000\n")
    (tmp_path / "cgroup").write_text(line)
    monkeypatch.setattr(machine, "_CONTROL_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "_GROUPS", tmp_path)
    assert machine.available_bytes() == 3000
    assert machine.total_bytes() == 5000
