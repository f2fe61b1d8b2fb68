"""Smaller copies in a file each."""

import contextlib
import json
import os
import signal

import numpy as np
import pytest
from drawn_images import draw, encode, exif_with_orientation, with_exif
from fake_ilsvrc import CLASSES
from image_tree import Tree, call, mapped, start, wait_until, workers_of
from PIL import Image

from keras_alexnet.data import image_file
from keras_alexnet.errors import UserError
from keras_alexnet.system.lock import exclusive

# As keras_alexnet.data.image_file has it, which pytest overrules.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path / "imagenet")


@pytest.fixture
def small(tmp_path):
    return tmp_path / "small"


def resize_to(folder, side=32):
    return [f"--resize_shorter_side={side}", f"--resized_dir={folder}"]


def state(folder):
    """Which file each copy is. What is half-written is gone in a moment."""
    copies = [path for path in folder.rglob("*.JPEG") if not path.name.startswith(".")]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in copies}


def test_resized_copies(tree, small):
    first, second, third, fourth, *_ = tree.images
    first.write_bytes(with_exif(encode(draw(101, 64), "JPEG"), exif_with_orientation(6, "<"), keep_jfif=False))
    second.write_bytes(encode(draw(20, 15)[..., 0], "JPEG"))
    third.write_bytes(encode(Image.fromarray(draw(64, 101)).convert("CMYK"), "JPEG"))
    same_stem = fourth.with_suffix(".png")
    same_stem.write_bytes(encode(np.dstack([draw(40, 40)] * 2)[..., :4], "PNG"))
    rows = call(tree, *resize_to(small))
    assert [row[0] for row in rows] == [str(path) for path in (first, second, third, same_stem)]
    copies = mapped(tree)
    expected = [small / "train" / path.relative_to(tree.train) for path in tree.images[:6]]
    expected.insert(4, small / "train" / same_stem.parent.name / f"{same_stem.name}.JPEG")
    assert copies == [str(path) for path in expected]
    assert mapped(tree, "val_map.txt") == [str(small / "val" / path.name) for path in tree.images[6:]]
    # 101 · 32 / 64 = 50.5, and 20 · 32 / 15 = 42.7.
    sizes = [(32, 51), (43, 32), (32, 51), (48, 32)]
    for original, path, size in zip(tree.images[:4], copies, sizes, strict=False):
        upright = Image.fromarray(image_file.decode(original.read_bytes()))
        with Image.open(path) as copy:
            assert (copy.format, copy.mode, copy.size) == ("JPEG", "RGB", size)
            assert "exif" not in copy.info
            # Colors this strong do not survive the halved resolution of a JPEG's colors: brightness does.
            resized = upright.resize(size, Image.Resampling.LANCZOS)
            brightness, expected_brightness = (np.asarray(each.convert("L"), int) for each in (copy, resized))
        assert np.abs(brightness - expected_brightness).mean() < 4
    assert json.loads((small / "resize.json").read_text()) == {"version": 1, "shorter_side": 32, "quality": 92}


def test_complete_copies_stay(tree, small):
    tree.images[5].write_bytes(encode(draw(48, 36)[..., 0], "JPEG"))
    first = call(tree, *resize_to(small))
    assert [row[2] for row in first] == ["gray"]
    before = state(small)
    assert len(before) == 9
    # What is odd about their originals is reported again.
    assert call(tree, *resize_to(small)) == first
    assert state(small) == before
    # A truncated copy, an empty one, a removed one and one of an image that has changed are written again.
    truncated, empty, removed, changed, *_ = copies = sorted(before)
    for path, data in ((truncated, truncated.read_bytes()[:-1]), (empty, b"")):
        path.write_bytes(data)
        os.utime(path, ns=(before[path][1],) * 2)
    removed.unlink()
    original = tree.train / changed.relative_to(small / "train")
    original.write_bytes(encode(draw(80, 40, 99), "JPEG"))
    os.utime(original, (1, 1))
    call(tree, *resize_to(small))
    after = state(small)
    assert all(after[path] == before[path] for path in copies[4:])
    assert all(path.read_bytes().endswith(b"\xff\xd9") for path in copies)
    with Image.open(changed) as image:
        assert image.size == (64, 32)


def test_unusable_images_are_not_resized(tree, tmp_path, small):
    tree.images[0].write_bytes(tree.images[0].read_bytes()[:-30])
    tree.images[3].write_bytes(encode(np.zeros((1, 3000, 3), np.uint8), "PNG"))
    with pytest.raises(UserError, match=r"some of the 9 images cannot be used, .* \(2 problems\):"):
        call(tree, *resize_to(small))
    assert not (tmp_path / "data/train_map.txt").exists()
    rows = call(tree, *resize_to(small), "--skip_bad_images")
    assert [row[1] for row in rows] == ["unusable"] * 2
    assert rows[1][2] == "too long and narrow to be resized: 3000 x 1"
    assert len(mapped(tree)) == 4
    assert sorted(mapped(tree) + mapped(tree, "val_map.txt")) == sorted(str(path) for path in state(small))


def test_two_images_of_one_copy_are_refused(tree, small):
    for name in ("a.png", "a.png.JPEG"):
        (tree.images[0].parent / name).write_bytes(tree.images[0].read_bytes())
    with pytest.raises(UserError, match=r"would have the same copy, .*/a\.png\.JPEG"):
        call(tree, *resize_to(small))


def test_copies_of_other_settings_are_refused(tree, small):
    call(tree, *resize_to(small))
    before = state(small)
    with pytest.raises(UserError, match=r"expected format tar, .*shorter_side 40.*Choose another --resized_dir"):
        call(tree, *resize_to(small, 40), "--resized_format=tar")
    (small / "resize.json").write_text("{")
    with pytest.raises(UserError, match="cannot read"):
        call(tree, *resize_to(small))
    (small / "resize.json").unlink()
    with pytest.raises(UserError, match=r"has train but no resize\.json"):
        call(tree, *resize_to(small))
    assert state(small) == before


def test_flags_that_contradict_each_other_are_refused(tree):
    for flags, message in (
        (["--resized_dir=x"], "go together"),
        (["--resized_format=tar"], "is the format of the copies in --resized_dir"),
        (resize_to("a\tb"), "a map cannot hold"),
    ):
        with pytest.raises(UserError, match=message):
            call(tree, *flags)


def test_folders_inside_each_other_are_refused(tree, tmp_path, small):
    (tmp_path / "link").symlink_to(tree.train)
    small.mkdir()
    (small / "val").symlink_to(tree.val)
    for folder in (tree.train / "small", tree.root, tmp_path / "link/small", small):
        with pytest.raises(UserError, match="--resized_dir must be apart from the images"):
            call(tree, *resize_to(folder))
    # Links within the trees count as well.
    (small / "val").unlink()
    (small / "train").mkdir()
    (small / "train" / CLASSES[0]).symlink_to(tree.train / CLASSES[0])
    (small / "resize.json").write_text('{"version": 1, "shorter_side": 32, "quality": 92}')
    with pytest.raises(UserError, match="--resized_dir must be apart from the images"):
        call(tree, *resize_to(small))
    with pytest.raises(UserError, match=r"--output_dir is .*, inside --train_dir"):
        call(tree, f"--output_dir={tmp_path}/link/data")
    assert all(path.read_bytes().endswith(b"\xff\xd9") for path in tree.images)


def test_one_process_at_a_time_writes_to_either_folder(tree, tmp_path, small):
    for folder in (tmp_path / "data", small):
        locked = pytest.raises(UserError, match=f"another process is writing to {folder}")
        with exclusive(folder), locked:
            call(tree, *resize_to(small))
    # They may be the same.
    call(tree, *resize_to(tmp_path / "data"))
    assert mapped(tree)[0] == str(tmp_path / "data/train" / tree.images[0].relative_to(tree.train))


@contextlib.contextmanager
def resizing(tree, small, count):
    """A process that resizes images, as soon as it has resized `count`."""
    process = start(tree, *resize_to(small, 256), start_new_session=True)
    try:
        wait_until(lambda: process.poll() is not None or len(state(small)) >= count)
        assert process.poll() is None, process.communicate()
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def test_resizing_continues_after_an_interrupt_and_a_kill(tree, small):
    data = encode(draw(1200, 900), "JPEG", quality=90)  # It takes a while.
    for number in range(60):
        (tree.train / CLASSES[0] / f"{CLASSES[0]}_1{number:03d}.JPEG").write_bytes(data)
    with resizing(tree, small, 8) as process:
        # As a terminal does: the workers get it too.
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "python -m keras_alexnet.prepare: interrupted\n")
    assert out.endswith("Stopped. Run the same command again to continue with the copies that are missing.\n")
    assert not list(small.rglob(".partial*"))
    before = state(small)
    with resizing(tree, small, len(before) + 8) as process:
        running = workers_of(process)
        assert running
        process.kill()
        process.communicate()
        # The workers end by themselves.
        wait_until(lambda: not any(folder.exists() for folder in running.values()))
    killed = state(small)
    assert len(killed) < 69
    assert not (tree.root.parent / "data/train_map.txt").exists()
    call(tree, *resize_to(small, 256))
    after = state(small)
    assert len(after) == 69
    assert before.items() <= killed.items() <= after.items()
    assert not list(small.rglob(".partial*"))
    for path in after:
        with Image.open(path) as image:
            image.load()
            assert min(image.size) == 256


def test_a_full_disk_leaves_no_half_copy(tree, small):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    tree.images[4].write_bytes(encode(noise, "JPEG", quality=99))
    # No file may have more than 8 blocks of 512 bytes.
    process = start(tree, *resize_to(small, 64), before=["sh", "-c", 'ulimit -f 8; exec "$@"', "sh"])
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    copy = small / "train" / tree.images[4].relative_to(tree.train)
    assert err.startswith(f"python -m keras_alexnet.prepare: cannot write {copy}: File too large. Free some space")
    assert err.count("\n") == 1
    assert not list(small.rglob(".partial*"))
    assert not (tree.root.parent / "data/train_map.txt").exists()
