import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from drawn_images import draw, encode, exif_with_orientation, with_exif
from fake_ilsvrc import CLASSES
from image_tree import ROOT, Tree, arguments, call, mapped, start, wait_until, workers_of
from PIL import Image

from keras_alexnet.data import image_file
from keras_alexnet.errors import UserError
from keras_alexnet.system.lock import exclusive

# As keras_alexnet.data.image_file has it, which pytest overrules.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

COLORS = draw(48, 36)
JPEG = encode(COLORS, "JPEG", quality=90)


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path / "imagenet")


def resize_to(folder, side=32):
    return [f"--resize_shorter_side={side}", f"--resized_dir={folder}"]


def test_resized_copies(tree, tmp_path):
    small = tmp_path / "small"
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
    sizes = []
    for path in copies:
        with Image.open(path) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            assert "exif" not in image.info
            sizes.append(image.size)
    # 101 · 32 / 64 = 50.5, and 20 · 32 / 15 = 42.7.
    assert sizes[:5] == [(32, 51), (43, 32), (32, 51), (48, 32), (32, 32)]
    for original, copy in zip(tree.images[:4], copies, strict=False):
        upright = Image.fromarray(image_file.decode(original.read_bytes()))
        with Image.open(copy) as image:
            # Colors this strong do not survive the halved resolution of a JPEG's colors: brightness does.
            resized = upright.resize(image.size, Image.Resampling.LANCZOS)
            brightness, expected_brightness = (np.asarray(each.convert("L"), int) for each in (image, resized))
        assert np.abs(brightness - expected_brightness).mean() < 4
    assert json.loads((small / "resize.json").read_text()) == {"version": 1, "shorter_side": 32, "quality": 92}
    assert not list(small.rglob(".partial*"))


def state(folder):
    # What is half-written is gone in a moment.
    copies = [path for path in folder.rglob("*.JPEG") if not path.name.startswith(".")]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in copies}


def test_copies_that_are_whole_stay(tree, tmp_path):
    small = tmp_path / "small"
    tree.images[5].write_bytes(encode(COLORS[..., 0], "JPEG"))
    first = call(tree, *resize_to(small))
    assert [row[2] for row in first] == ["gray"]
    before = state(small)
    assert len(before) == 9
    # What is odd about their originals is told again.
    assert call(tree, *resize_to(small)) == first
    assert state(small) == before
    # A torn copy, an empty one, a removed one and one of an image that has changed are written anew.
    torn, empty, removed, changed, *_ = copies = sorted(before)
    for path, data in ((torn, torn.read_bytes()[:-1]), (empty, b"")):
        path.write_bytes(data)
        os.utime(path, ns=(before[path][1],) * 2)
    removed.unlink()
    original = tree.train / changed.relative_to(small / "train")
    original.write_bytes(encode(draw(80, 40, 99), "JPEG"))
    os.utime(original, (1, 1))
    call(tree, *resize_to(small))
    after = state(small)
    assert {path for path in copies if after[path][0] != before[path][0]} >= {torn, empty, changed}
    assert all(after[path] == before[path] for path in copies[4:])
    assert all(path.read_bytes().endswith(b"\xff\xd9") for path in copies)
    with Image.open(changed) as image:
        assert image.size == (64, 32)


def test_unusable_images_are_not_resized(tree, tmp_path):
    tree.images[0].write_bytes(JPEG[:-30])
    narrow = tree.images[3]
    narrow.write_bytes(encode(np.zeros((1, 3000, 3), np.uint8), "PNG"))
    with pytest.raises(
        UserError, match=r"some of the 9 images cannot be used, so no maps were written.* \(2 problems\):"
    ):
        call(tree, *resize_to(tmp_path / "small"))
    assert not (tmp_path / "data/train_map.txt").exists()
    rows = call(tree, *resize_to(tmp_path / "small"), "--skip_bad_images")
    assert [row[1] for row in rows] == ["unusable"] * 2
    assert rows[1][2] == "too long and narrow to be resized: 3000 x 1"
    assert len(mapped(tree)) == 4
    assert sorted(mapped(tree) + mapped(tree, "val_map.txt")) == sorted(str(path) for path in state(tmp_path / "small"))


def test_two_images_of_one_copy_are_told(tree, tmp_path):
    (tree.images[0].parent / "a.png").write_bytes(encode(COLORS, "PNG"))
    (tree.images[0].parent / "a.png.JPEG").write_bytes(JPEG)
    with pytest.raises(UserError, match=r"would have the same copy, .*/a\.png\.JPEG"):
        call(tree, *resize_to(tmp_path / "small"))


def test_copies_of_other_settings_are_refused(tree, tmp_path):
    small = tmp_path / "small"
    call(tree, *resize_to(small))
    before = state(small)
    with pytest.raises(UserError, match=r'other settings: expected .*"shorter_side": 40.*Give another --resized_dir'):
        call(tree, *resize_to(small, 40))
    for text, message in (("{", "cannot read"), ("[]", "other settings")):
        (small / "resize.json").write_text(text)
        with pytest.raises(UserError, match=message):
            call(tree, *resize_to(small))
    (small / "resize.json").unlink()
    with pytest.raises(UserError, match=r"has train but no resize\.json"):
        call(tree, *resize_to(small))
    assert state(small) == before


def test_folders_inside_each_other_are_refused(tree, tmp_path):
    (tmp_path / "link").symlink_to(tree.train)
    (tmp_path / "small").mkdir()
    (tmp_path / "small/val").symlink_to(tree.val)
    for folder in (
        tree.train,
        tree.train / "small",
        tree.val / "a/b",
        tree.root,
        tmp_path / "link/small",
        tmp_path / "small",
        tmp_path,
    ):
        with pytest.raises(UserError, match="--resized_dir must be apart from the images"):
            call(tree, *resize_to(folder))
    assert not (tmp_path / "data").exists()
    # Links within the trees count as well.
    (tmp_path / "small/val").unlink()
    (tmp_path / "small/train").mkdir()
    (tmp_path / "small/train" / CLASSES[0]).symlink_to(tree.train / CLASSES[0])
    (tmp_path / "small/resize.json").write_text('{"version": 1, "shorter_side": 32, "quality": 92}')
    with pytest.raises(UserError, match="--resized_dir must be apart from the images"):
        call(tree, *resize_to(tmp_path / "small"))
    assert all(path.read_bytes().endswith(b"\xff\xd9") for path in tree.images)


@pytest.mark.parametrize("folder", ["data", "small"])
def test_one_process_at_a_time(tree, tmp_path, folder):
    expected_text = pytest.raises(UserError, match=f"another process is writing to {tmp_path}/{folder}")
    with exclusive(tmp_path / folder), expected_text:
        call(tree, *resize_to(tmp_path / "small"))
    call(tree, *resize_to(tmp_path / "small"))


def test_output_and_copies_may_share_a_folder(tree, tmp_path):
    call(tree, *resize_to(tmp_path / "data"))
    assert mapped(tree)[0] == str(tmp_path / "data/train" / tree.images[0].relative_to(tree.train))


@contextlib.contextmanager
def many(tree, count=60):
    """Adds images that take a while to resize."""
    data = encode(draw(1200, 900), "JPEG", quality=90)
    for number in range(count):
        (tree.train / CLASSES[0] / f"{CLASSES[0]}_1{number:03d}.JPEG").write_bytes(data)
    process = None

    def begin(*more):
        nonlocal process
        process = start(tree, *resize_to(tree.root.parent / "small", 256), *more, start_new_session=True)
        deadline = time.monotonic() + 60
        while len(state(tree.root.parent / "small")) < 8:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return process

    try:
        yield begin
    finally:
        if process and process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def test_resizing_goes_on_after_a_kill(tree):
    small = tree.root.parent / "small"
    with many(tree) as begin:
        process = begin()
        running = workers_of(process)
        assert running
        process.kill()
        process.communicate()
        # The workers end by themselves.
        wait_until(lambda: not any(folder.exists() for folder in running.values()))
    before = state(small)
    assert 8 <= len(before) < 69
    assert not (tree.root.parent / "data/train_map.txt").exists()
    call(tree, *resize_to(small, 256))
    after = state(small)
    assert len(after) == 69
    assert {path: after[path] for path in before} == before
    assert not list(small.rglob(".partial*"))
    for path in after:
        with Image.open(path) as image:
            image.load()
            assert min(image.size) == 256


def test_interrupted_resizing_ends_quietly(tree):
    with many(tree, 400) as begin:
        process = begin()
        # As a terminal does: the workers get it too.
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "python -m keras_alexnet.prepare: interrupted\n")
    assert not list((tree.root.parent / "small").rglob(".partial*"))


def test_checking_loads_no_framework(tree):
    code = """
import atexit, runpy, sys
atexit.register(lambda: print("loaded:", *sys.modules))
runpy.run_module("keras_alexnet.prepare", run_name="__main__", alter_sys=True)
"""
    command = [sys.executable, "-c", code, *arguments(tree, *resize_to(tree.root.parent / "small"))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    loaded = set(done.stdout.partition("loaded: ")[2].split())
    assert "PIL" in loaded
    assert not {"keras", "tensorflow", "jax", "torch"} & loaded


def test_a_killed_worker_is_told(tree):
    with many(tree, 400) as begin:
        process = begin()
        os.kill(next(iter(workers_of(process))), signal.SIGKILL)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.fullmatch(r"python -m keras_alexnet\.prepare: a process was killed .*--num_processes.*\n", err)


def test_a_full_disk_is_told_and_resizing_goes_on(tree):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    tree.images[4].write_bytes(encode(noise, "JPEG", quality=99))
    small = tree.root.parent / "small"
    # No file may have more than 8 blocks of 512 bytes.
    process = start(tree, *resize_to(small, 64), before=["sh", "-c", 'ulimit -f 8; exec "$@"', "sh"])
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    copy = small / "train" / tree.images[4].relative_to(tree.train)
    assert err.startswith(f"python -m keras_alexnet.prepare: cannot write {copy}: File too large. Make room")
    assert len(err.splitlines()) == 1
    assert not list(small.rglob(".partial*"))
    assert not (tree.root.parent / "data/train_map.txt").exists()
    before = state(small)
    call(tree, *resize_to(small, 64))
    assert {path: state(small)[path] for path in before} == before
    assert len(state(small)) == 9
