"""Crops of decoded images, from a pixel store or a cache."""

import os
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from drawn_images import draw, encode
from image_tree import Tree, call, start
from map_files import write_map
from PIL import Image

from keras_alexnet.data import (
    decoded,
    image_cache,
    image_file,
    map_file,
    pipeline,
    pixel_store,
    ppm,
    unreadable,
)
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


def as_pixels(folder, side=32):
    return [f"--resize_shorter_side={side}", f"--resized_dir={folder}", "--resized_format=pixels"]


@pytest.fixture
def stored(tree, tmp_path):
    """The map of the training images as pixels."""
    call(tree, *as_pixels(tmp_path / "small"))
    return map_file.read_map(tmp_path / "data/train_map.txt")


@pytest.fixture
def as_png(stored, tmp_path):
    """The map of the same pixels in files that have to be decoded."""
    paths = []
    for row in range(len(stored)):
        paths.append(str(tmp_path / f"{row}.png"))
        Image.fromarray(image_file.decode(stored.read(row))).save(paths[-1])
    return ImageMap(paths, stored.labels)


def flip_a_bit(path, number, at):
    """In the pixels of an entry of a tar; returns its name."""
    with tarfile.open(path) as archive:
        member = archive.getmembers()[number]
    status = path.stat()
    with open(path, "r+b") as file:
        file.seek(member.offset_data + at)
        byte = file.read(1)[0] ^ 4
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return member.name


def arrays(dataset, batches):
    return [[part.numpy() for part in batch] for batch in dataset.take(batches)]


def assert_same(found, expected):
    for got, wanted in zip(found, expected, strict=True):
        for one, other in zip(got, wanted, strict=True):
            np.testing.assert_array_equal(one, other)


def test_pixels_are_those_of_the_resized_image(tree, stored):
    assert [path.rpartition("@/")[2] for path in stored.paths] == [
        f"{path.relative_to(tree.train)}.ppm" for path in tree.images[:6]
    ]
    for row, path in enumerate(tree.images[:6]):
        with Image.open(path) as image:
            width, height = image.size
            shorter = min(width, height)
            size = tuple((2 * side * 32 + shorter) // (2 * shorter) for side in image.size)
            expected = np.asarray(image.convert("RGB").resize(size, Image.Resampling.LANCZOS))
        np.testing.assert_array_equal(image_file.decode(stored.read(row)), expected)
        np.testing.assert_array_equal(PixelStore.find(stored).images(np.array([row]))[0], expected)
    # As any program reads it.
    with (
        tarfile.open(stored.paths[0].partition("@/")[0]) as archive,
        Image.open(archive.extractfile(archive.next())) as image,
    ):
        assert image.size == (32, 47)


# 28 is the side of the crops themselves; others are resized.
@pytest.mark.parametrize("image_size", [28, 24])
@pytest.mark.parametrize("share", [{}, {"worker": 1, "num_workers": 2}])
def test_training_batches_are_those_of_decoded_files(stored, as_png, image_size, share):
    both = [
        arrays(pipeline.training_dataset(each, 4, seed=1, first_step=2, image_size=image_size, **share), 20)
        for each in (stored, as_png)
    ]
    assert_same(*both)
    assert both[0][0][0].shape == (4 // share.get("num_workers", 1), image_size, image_size, 3)


@pytest.mark.parametrize("cut", [{}, {"preprocessing": "torchvision"}, {"preprocessing": "caffe"}, {"crops": 10}])
def test_evaluation_batches_are_those_of_decoded_files(stored, as_png, cut):
    assert_same(
        *(arrays(pipeline.padded_evaluation_dataset(each, 4, image_size=28, **cut), 9) for each in (stored, as_png))
    )


def test_any_number_of_threads_copies_the_same_crops(stored, monkeypatch):
    rows = np.arange(200) % len(stored)
    numbers = np.random.default_rng(0).random((200, 3), np.float32)
    found = PixelStore.find(stored).images(rows)
    crops = decoded.random_crops(found.sizes, numbers)
    out = decoded.BufferPool(28).take(200)
    found.copy_crops(crops, out)
    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(pixel_store, "_threads", lambda: pool)
        again = np.empty_like(out)
        found.copy_crops(crops, again)
    np.testing.assert_array_equal(out, again)
    # As at the exit of the interpreter.
    again[...] = 0
    found.copy_crops(crops, again)
    np.testing.assert_array_equal(out, again)
    decoded.ImageList(found[number] for number in range(200)).copy_crops(crops, again)
    np.testing.assert_array_equal(out, again)
    assert 50 < crops.flipped.sum() < 150


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


def test_a_flipped_bit_is_found_by_a_check_and_by_reading_a_whole_image(tree, tmp_path, stored):
    tar = tmp_path / "small/train.tar"
    name = flip_a_bit(tar, 3, 500)
    stored = map_file.read_map(tmp_path / "data/train_map.txt")
    with pytest.raises(ValueError, match=r"do not fit their checksum"):
        image_file.decode(stored.read(3))
    assert "checksum" in unreadable.why_unreadable(stored, 3)
    with pytest.raises(UserError, match=rf"{name}: truncated or corrupted: its pixels do not fit their checksum"):
        call(tree, f"--train_dir={tar}", f"--val_dir={tar.with_name('val.tar')}", "--check_images")


@pytest.mark.parametrize("damage", ["header", "size"])
def test_an_entry_that_is_no_image_is_named_in_training(stored, tmp_path, damage):
    tar = tmp_path / "small/train.tar"
    name = flip_a_bit(tar, 2, {"header": 19, "size": 20}[damage])
    stored = map_file.read_map(tmp_path / "data/train_map.txt")
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


def test_other_maps_are_not_taken_for_stores(stored, as_png, tmp_path):
    assert PixelStore.find(as_png) is None
    assert PixelStore.find(as_png.take([])) is None
    # A PPM of another program has no checksum.
    path = tmp_path / "other.tar"
    Image.fromarray(image_file.decode(stored.read(0))).save(tmp_path / "x.ppm")
    with tarfile.open(path, "w") as archive:
        archive.add(tmp_path / "x.ppm", "x.ppm")
    write_map(tmp_path / "other_map.txt", [(f"{path}@/x.ppm", 0)] * 2)
    other = map_file.read_map(tmp_path / "other_map.txt")
    assert PixelStore.find(other) is None
    batch, *_ = next(iter(pipeline.evaluation_dataset(other, 2, image_size=28)))
    expected, *_ = next(iter(pipeline.evaluation_dataset(as_png.take([0, 0]), 2, image_size=28)))
    np.testing.assert_array_equal(batch, expected)


def test_writing_goes_on_behind_the_last_image_that_is_whole(tree, tmp_path):
    call(tree, *as_pixels(tmp_path / "small"))
    tar, partial = tmp_path / "small/train.tar", tmp_path / "small/train.tar.partial"
    expected = tar.read_bytes()
    for spoil in (lambda: flip_a_bit(partial, 4, 800), lambda: os.truncate(partial, len(expected) // 2)):
        tar.rename(partial)
        spoil()
        call(tree, *as_pixels(tmp_path / "small"))
        assert tar.read_bytes() == expected
        assert not partial.exists()


def test_only_the_last_part_is_verified_when_writing_goes_on(tree, tmp_path, monkeypatch):
    monkeypatch.setattr("keras_alexnet.data.resizing.tar._SYNCED_EVERY", 2**12)
    call(tree, *as_pixels(tmp_path / "small"))
    tar = tmp_path / "small/train.tar"
    tar.rename(f"{tar}.partial")
    flip_a_bit(tmp_path / "small/train.tar.partial", 0, 800)
    damaged = (tmp_path / "small/train.tar.partial").read_bytes()
    call(tree, *as_pixels(tmp_path / "small"))
    assert tar.read_bytes() == damaged


def test_space_and_time_are_printed_first_and_too_small_a_disk_is_refused(tree, tmp_path, monkeypatch, capsys):
    call(tree, *as_pixels(tmp_path / "small", 256))
    size = sum((tmp_path / f"small/{part}.tar").stat().st_size for part in ("train", "val")) / 1e6
    printed = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("Pixels: about"))
    assert printed.endswith("are free; about 1 s, unless the disk is slower")
    about, missing = float(printed.split()[2]), float(printed.split()[4])
    assert about == missing == pytest.approx(size, rel=0.1)
    call(tree, *as_pixels(tmp_path / "small", 256))
    printed = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("Pixels: about"))
    assert printed.split()[4:6] == ["0.00", "MB"]
    # A single changed image requires rewriting its tar.
    os.utime(tree.images[0], (1, 1))
    call(tree, *as_pixels(tmp_path / "small", 256))
    printed = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("Pixels: about"))
    assert float(printed.split()[4]) == pytest.approx(size * 6 / 9, rel=0.1)
    for tar in (tmp_path / "small").glob("*.tar"):
        tar.unlink()
    usage = disk_space.shutil.disk_usage(tmp_path)._replace(free=3000)
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"only 0\.00 MB are free in .*--resized_format=tar, which takes a tenth"):
        call(tree, *as_pixels(tmp_path / "small", 256))
    assert not list((tmp_path / "small").glob("*.tar*"))


def test_a_disk_that_fills_is_told(tree, tmp_path):
    process = start(tree, *as_pixels(tmp_path / "small", 64), before=["sh", "-c", 'ulimit -f 40; exec "$@"', "sh"])
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert f"cannot write {tmp_path}/small/train.tar: File too large. Make room" in err


def test_other_settings_are_refused(tree, tmp_path):
    call(tree, *as_pixels(tmp_path / "small"))
    with pytest.raises(UserError, match=r'other settings: expected .*"shorter_side": 48.*, found .*"pixels"'):
        call(tree, *as_pixels(tmp_path / "small", 48))


def test_a_header_says_what_follows():
    image = Image.fromarray(draw(7, 5, 0))
    data = ppm.encode(image)
    header = ppm.read_header(data[: ppm.HEADER_SIZE])
    assert (header.height, header.width, header.file_size) == (5, 7, len(data))
    assert not ppm.is_damaged(data)
    assert ppm.is_damaged(data[:-1] + bytes([data[-1] ^ 1]))
    assert ppm.read_header(b"P6\n7 5\n255\n" + bytes(105)) is None


def test_cached_images_have_the_pixels_of_files(tree, tmp_path):
    call(tree, "--check_images")
    image_map = map_file.read_map(tmp_path / "data/train_map.txt")
    (cached,), line = image_caches([image_map], 1)
    assert line.startswith("Decoded images stay in memory from the first epoch on: about 0.0 of ")
    for dataset, sizes in ((pipeline.training_dataset, (24, 35)), (pipeline.padded_evaluation_dataset, (24,))):
        for size in sizes:
            more = {"seed": 3} if dataset is pipeline.training_dataset else {}
            expected = arrays(dataset(image_map, 3, image_size=size, **more), 9)
            from_cache = dataset(image_map, 3, image_size=size, decoded=cached, **more)
            for _ in range(2):
                assert_same(arrays(from_cache, 9), expected)
    for path in tree.images[:6]:
        path.unlink()
    arrays(pipeline.training_dataset(image_map, 3, seed=3, decoded=cached), 5)


def test_images_are_dropped_when_memory_becomes_scarce(tree, tmp_path, monkeypatch):
    call(tree, "--check_images")
    image_map = map_file.read_map(tmp_path / "data/train_map.txt")
    monkeypatch.setattr(image_cache, "_CHECK_EVERY", 1)
    free = iter([10, 10, 4])
    monkeypatch.setattr(image_cache, "available_bytes", lambda: next(free))
    cached = ImageCache(image_map, mean_bytes=1e4, min_free=5)
    assert len(cached.images(np.arange(2))) == 2
    assert not cached.is_dropped
    assert len(cached.images(np.arange(3))) == 3  # The images asked for are still returned.
    assert cached.is_dropped
    assert cached.images(np.arange(2)) is None
    expected = arrays(pipeline.training_dataset(image_map, 3, seed=3), 3)
    assert_same(arrays(pipeline.training_dataset(image_map, 3, seed=3, decoded=cached), 3), expected)


def test_images_that_do_not_fit_are_not_cached(tree, tmp_path, monkeypatch):
    call(tree, "--check_images")
    image_map = map_file.read_map(tmp_path / "data/train_map.txt")
    needed = sum(image_file.decode(image_map.read(row)).nbytes for row in range(6))
    for free, num_workers, fits in (
        (2 * needed, 1, True),
        (2 * needed - 2, 1, False),
        (2 * needed, 2, False),
        (None, 1, False),
    ):
        monkeypatch.setattr(image_cache, "available_bytes", lambda free=free: free)
        assert bool(image_caches([image_map], num_workers)) == fits


def test_images_with_an_unreadable_one_among_them_are_not_cached(tree):
    data = encode(draw(300, 300, 0), "JPEG", quality=90)
    tree.images[1].write_bytes(data[: len(data) * 97 // 100])
    image_map = ImageMap([str(path) for path in tree.images[:6]], [0] * 6)
    cached = ImageCache(image_map, mean_bytes=1e4, min_free=0)
    assert cached.images(np.arange(3)) is None
    assert len(cached.images(np.arange(2, 6))) == 4


def test_too_narrow_images_do_not_count_as_space(tree, tmp_path, monkeypatch):
    monkeypatch.setattr("keras_alexnet.data.resizing.files._MAX_SIDE", 300)
    expected = disk_space.check_space(
        [(ImageMap(list(map(str, tree.images[2:6])), [0] * 4), f"{tmp_path}/a.tar")], 64, 1
    )
    tree.images[0].write_bytes(encode(draw(400, 2, 0), "JPEG"))
    found = disk_space.check_space(
        [(ImageMap([str(tree.images[0]), *map(str, tree.images[2:5])], [0] * 4), f"{tmp_path}/a.tar")], 64, 1
    )
    assert found.split()[:3] == expected.split()[:3]


@pytest.mark.parametrize("version", [1, 2])
def test_memory_is_that_of_the_control_groups_of_the_process(tmp_path, monkeypatch, version):
    limit, usage, cached = (machine._V1, machine._V2)[version - 1]
    root = tmp_path / "memory" if version == 1 else tmp_path
    for group, most in (("job", 5000), ("job/step", 9000), ("", None)):
        (root / group).mkdir(exist_ok=True, parents=True)
        (root / group / limit).write_text(f"{most}\n" if most else "max\n")
        (root / group / usage).write_text("3000\n")
        (root / group / "memory.stat").write_text(f"anon 7\n{cached} 1000\n")
    (tmp_path / "cgroup").write_text("4:cpu:/x\n1:memory:/job/step\n" if version == 1 else "0::/job/step\n")
    monkeypatch.setattr(machine, "_CONTROL_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "_GROUPS", tmp_path)
    assert machine.available_bytes() == 3000
    assert machine.total_bytes() == 5000
