"""Checks of image files, and the command that makes them."""

import errno
import os
import re
import signal
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from drawn_images import draw, encode, exif_with_orientation, with_exif
from fake_ilsvrc import CLASSES
from image_tree import Tree, call, listed, mapped, start, wait_until, workers_of
from PIL import Image

from keras_alexnet.data import checking, findings, image_file, map_file
from keras_alexnet.data.decode import decode_bytes, decode_image, decode_square
from keras_alexnet.data.resizing.files import resized_copy
from keras_alexnet.errors import UserError
from keras_alexnet.system import process_pool

# As keras_alexnet.data.image_file has it, which pytest overrules.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

COLORS = draw(48, 36)
JPEG = encode(COLORS, "JPEG", quality=90)
JPEG_KINDS = ({}, {"progressive": True}, {"restart_marker_blocks": 4})


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path / "imagenet")


def problems_of(tmp_path, data, name="a.JPEG"):
    """Whether a file is usable, and what a check finds; with a look at whether decoding agrees."""
    path = tmp_path / name
    path.write_bytes(data)
    found = checking.check_one(str(path))
    usable = not found or found.usable
    assert can_be_decoded(data) == usable
    return usable, list(found.problems) if found else []


def can_be_decoded(data):
    try:
        image_file.decode(data)
    except Exception:
        return False
    return True


def test_what_cannot_be_decoded_is_unusable(tmp_path):
    png = encode(COLORS, "PNG")
    middle = len(png) // 2
    for data, problem in (
        (b"", "empty file"),
        (b"<!DOCTYPE html><html>", "not an image, but an HTML page"),
        # Pillow would start Ghostscript for it.
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image: begins with b'%!PS"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC image, which is not supported: convert it to JPEG"),
        (JPEG[:20], "truncated or corrupted: the JPEG header cannot be read"),
        (JPEG[:400], "truncated or corrupted: "),
        (JPEG[:-30], "truncated or corrupted: image file is truncated"),
        (png[:middle], "truncated or corrupted: image file is truncated"),
        (png[:middle] + bytes([png[middle] ^ 255]) + png[middle + 1 :], "truncated or corrupted: "),
        (encode(COLORS, "WEBP")[:-99], "truncated or corrupted: "),
        (b"P5 200000 200000 255\n", "too many pixels: more than "),
    ):
        usable, (found,) = problems_of(tmp_path, data)
        assert not usable, problem
        assert found.startswith(problem)


@pytest.mark.parametrize("options", JPEG_KINDS, ids=str)
def test_a_jpeg_that_lacks_only_its_end_marker_is_usable_everywhere(tmp_path, options):
    data = encode(draw(160, 120), "JPEG", quality=90, **options)
    whole = image_file.decode(data)
    (tmp_path / "whole.jpg").write_bytes(data)
    copy = resized_copy((str(tmp_path / "whole.jpg"), False), 64)[1]
    for end in (data[:-2], data[:-1], data[:-2] + bytes(500)):
        assert problems_of(tmp_path, end) == (True, ["no end marker"])
        for decoded in (image_file.decode(end), decode_bytes(end), decode_image(tf.constant(end)).numpy()):
            np.testing.assert_array_equal(decoded, whole)
        assert resized_copy((str(tmp_path / "a.JPEG"), False), 64)[1] == copy


def test_what_follows_the_end_marker_does_not_matter(tmp_path):
    """Phones put a video behind some photographs, whose bytes may look like markers."""
    data = encode(draw(160, 120), "JPEG", quality=90)
    for rest in (b"\0\0\0\x18ftypmp42", b"video\xff\xda\0\x08\1\1\0\0\x3f\0 and more", b"\xff\xd8\xff\xda"):
        assert problems_of(tmp_path, data + rest) == (True, [])
        np.testing.assert_array_equal(decode_bytes(data + rest), image_file.decode(data))


@pytest.mark.parametrize("options", JPEG_KINDS, ids=str)
def test_a_jpeg_that_lacks_pixels_is_unusable_everywhere(tmp_path, options):
    data = encode(draw(160, 120), "JPEG", quality=90, **options)
    pixels = data.index(b"\xff\xda")
    # Between scans, at restart markers, and anywhere else.
    ends = {match.start() for match in re.finditer(rb"\xff[\xc4\xda\xd0-\xd7]", data) if match.start() > pixels}
    ends |= set(range(len(data) // 3, len(data) - 16, len(data) // 17))
    for end in ends:
        for rest in (b"", bytes(500)):
            usable, _ = problems_of(tmp_path, data[:end] + rest)
            assert not usable
            with pytest.raises(OSError, match="truncated"):
                decode_bytes(data[:end] + rest)
            with pytest.raises((OSError, tf.errors.OpError)):
                decode_square(tf.constant(data[:end] + rest), lambda size: (size // 8, tf.reduce_min(size) // 2))


def test_paths_that_are_no_files_are_unusable(tmp_path):
    os.mkfifo(tmp_path / "pipe.JPEG")
    (tmp_path / "broken.JPEG").symlink_to("nowhere")
    (tmp_path / "loop.JPEG").symlink_to("loop.JPEG")
    for path, problem in (
        (tmp_path, "not a file: a folder"),
        (tmp_path / "pipe.JPEG", "not a file: a device or the like"),
        (tmp_path / "broken.JPEG", "broken link"),
        (tmp_path / "loop.JPEG", "loop of links"),
        (tmp_path / "gone.JPEG", "cannot be read: No such file or directory"),
    ):
        assert checking.check_one(str(path)) == findings.Finding(str(path), False, (problem,))


def test_what_is_odd_about_usable_images(tmp_path):
    gray = COLORS[..., 0]
    several = {"save_all": True, "append_images": [Image.fromarray(255 - COLORS)]}
    deep = np.arange(48 * 36, dtype=np.uint16).reshape(36, 48) * 37
    deep_color = tf.io.encode_png(COLORS.astype(np.uint16) << 8 | 0x5A).numpy()
    turned = with_exif(JPEG, exif_with_orientation(6, "<"), keep_jfif=True)
    for data, name, expected in (
        (JPEG, "a.jpg", []),
        (with_exif(JPEG, exif_with_orientation(0, ">"), keep_jfif=True), "a.JPEG", []),
        (encode(COLORS, "WEBP"), "A.WEBP", []),
        (encode(draw(32, 32), "JPEG"), "a.JPEG", []),
        (encode(COLORS, "PNG"), "a.JPEG", ["PNG named .jpeg"]),
        (encode(Image.fromarray(COLORS).convert("CMYK"), "JPEG"), "a.JPEG", ["CMYK"]),
        (encode(gray, "JPEG"), "a.JPEG", ["gray"]),
        (encode(np.dstack([gray, gray]), "PNG"), "a.png", ["gray", "transparency, which is dropped"]),
        (encode(np.dstack([COLORS, gray]), "PNG"), "a.png", ["transparency, which is dropped"]),
        (encode(Image.fromarray(deep), "PNG"), "a.png", ["gray", "more than 8 bits a channel"]),
        (deep_color, "a.png", ["more than 8 bits a channel"]),
        (encode(draw(300, 31), "JPEG"), "a.JPEG", ["shorter side below 32 pixels: 300 x 31"]),
        (turned, "a.JPEG", ["turned by its EXIF orientation: 6"]),
        (encode(Image.fromarray(COLORS), "GIF", **several), "a.gif", ["several frames, of which the first counts"]),
    ):
        assert problems_of(tmp_path, data, name) == (True, expected)


def test_command_refuses_unusable_images_and_lists_them(tree, capsys):
    broken, odd, missing = tree.images[1], tree.images[4], tree.images[7]
    broken.write_bytes(JPEG[:20])
    odd.write_bytes(with_exif(encode(COLORS[..., 0], "JPEG"), b"Exif\0\0garbage", keep_jfif=True))
    missing.unlink()
    missing.symlink_to("nowhere")
    with pytest.raises(UserError) as error:
        call(tree, "--check_images")
    truncated = "truncated or corrupted: the JPEG header cannot be read"
    assert listed(tree) == [
        (str(broken), "unusable", truncated),
        (str(odd), "odd", "gray; broken EXIF data"),
        (str(missing), "unusable", "broken link"),
    ]
    table = tree.root.parent / "data/bad_images.tsv"
    assert capsys.readouterr().out.splitlines()[2:] == [
        "9 images checked:",
        "           2  unusable",
        "               1  broken link",
        "               1  truncated or corrupted",
        "           1  odd, but usable",
        "               1  broken EXIF data",
        "               1  gray",
        f"Details: {table}",
    ]
    first, *shown = str(error.value).splitlines()
    assert f"{table} lists them all; replace or remove them" in first
    assert shown == [f"  {broken}: {truncated}", f"  {missing}: broken link"]
    assert sorted(os.listdir(table.parent)) == [".lock", "bad_images.tsv"]


def test_unusable_images_can_be_left_out(tree):
    left_out = tree.images[2], tree.images[8]
    left_out[0].write_bytes(b"")
    left_out[1].unlink()
    left_out[1].symlink_to(left_out[1].name)
    tree.images[3].write_bytes(encode(COLORS[..., 0], "JPEG"))
    assert [row[2] for row in call(tree, "--skip_bad_images")] == ["empty file", "gray", "loop of links"]
    kept = [str(path) for path in tree.images if path not in left_out]
    assert mapped(tree) + mapped(tree, "val_map.txt") == kept
    assert list(map_file.read_map(tree.root.parent / "data/train_map.txt").labels) == [0, 0, 1, 2, 2]


def test_a_split_or_a_class_that_loses_all_images_is_reported(tree):
    for emptied, message in (
        (tree.images[2:4], f"no usable training image is left for 1 of 3 classes: {CLASSES[1]}"),
        (tree.images[6:], "none of the 3 validation images is usable"),
    ):
        for path in emptied:
            path.write_bytes(b"")
        with pytest.raises(UserError, match=message):
            call(tree, "--skip_bad_images")
        for path in emptied:
            path.write_bytes(JPEG)
    assert not (tree.root.parent / "data/train_map.txt").exists()


def test_an_interrupt_while_the_workers_start_is_reported_once(tree):
    process = start(tree, "--check_images", "--num_processes=4", start_new_session=True)
    wait_until(lambda: workers_of(process) or process.poll() is not None)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "python -m keras_alexnet.prepare: interrupted\n")


# The second interrupt comes while it waits for the processes.
TWICE = """
import os, signal, threading, time
from keras_alexnet.system.process_pool import map_in_processes
def interrupt():
    time.sleep(1.5)
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.5)
if __name__ == "__main__":
    threading.Thread(target=interrupt).start()
    map_in_processes(time.sleep, [40] * 4, 2)
"""


def test_a_second_interrupt_ends_the_processes():
    result = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True, check=False, timeout=30)
    assert result.stderr.rstrip().endswith("KeyboardInterrupt")


def test_map_in_processes():
    progress = []
    texts = [str(number) for number in range(70)]
    assert process_pool.map_in_processes(int, texts, 2, lambda *args: progress.append(args)) == list(range(70))
    assert progress == sorted(progress)
    assert progress[-1] == (70, 70)
    with pytest.raises(ValueError, match="seventy"):
        process_pool.map_in_processes(int, [*texts, "seventy"], 1)
    with pytest.raises(UserError, match="was killed or crashed"):
        process_pool.map_in_processes(os._exit, [1], 1)


def test_processes_that_cannot_be_started_are_reported(monkeypatch):
    """As where /dev/shm is read-only."""
    refuse = mock.Mock(side_effect=OSError(errno.EROFS, "Read-only file system"))
    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", refuse)
    with pytest.raises(UserError, match=r"cannot start processes: Read-only file system.*/dev/shm"):
        process_pool.map_in_processes(int, ["1"], 1)
