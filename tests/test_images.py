import contextlib
import errno
import os
import re
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from drawn_images import UPRIGHT, draw, encode, exif_with_orientation, with_exif
from fake_ilsvrc import CLASSES
from image_tree import ROOT, Tree, arguments, call, listed, mapped, start, wait_until, workers_of
from PIL import Image

from keras_alexnet import cli, prepare
from keras_alexnet.data import checking, findings, image_file, map_file
from keras_alexnet.data.decode import decode_bytes, decode_image, decode_square
from keras_alexnet.data.resizing.files import resized_copy
from keras_alexnet.errors import UserError
from keras_alexnet.system import process_pool

# As keras_alexnet.data.image_file has it, which pytest overrules.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

COLORS = draw(48, 36)
JPEG = encode(COLORS, "JPEG", quality=90)
BROKEN_EXIF = {
    "no tiff": b"Exif\0\0garbage",
    "cut": exif_with_orientation(6, "<")[:20],
    "text": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x02\0\0\x006\0\0\0\0\0\0\0",
    "orientation 9": exif_with_orientation(9, ">"),
}


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path / "imagenet")


def one(path):
    """What `check` finds about one file, without a process for it."""
    return checking.check_one(str(path))


def problems_of(tmp_path, data, name="a.JPEG"):
    path = tmp_path / name
    path.write_bytes(data)
    found = one(path)
    # What is usable is what decoding takes.
    if not found or found.usable:
        pixels = image_file.decode(data)
        assert pixels.dtype == np.uint8
        assert pixels.shape[2:] == (3,)
    else:
        decoded = None
        with contextlib.suppress(Exception):
            decoded = image_file.decode(data)
        assert decoded is None
    return (not found or found.usable), list(found.problems) if found else []


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]


def huge_png():
    """A PNG that says it has 200,000 × 200,000 pixels."""
    data = encode(COLORS, "PNG")
    size = b"IHDR" + (200_000).to_bytes(4, "big") * 2 + data[24:29]
    return data[:12] + size + zlib.crc32(size).to_bytes(4, "big") + data[33:]


def test_decode_gives_upright_rgb_of_every_kind():
    gray = COLORS[..., 0]
    rgba = np.dstack([COLORS, gray])
    assert (image_file.decode(encode(COLORS, "PNG")) == COLORS).all()
    assert (image_file.decode(encode(COLORS, "BMP")) == COLORS).all()
    assert (image_file.decode(encode(COLORS, "WEBP", lossless=True)) == COLORS).all()
    assert (image_file.decode(encode(gray, "PNG")) == gray[..., None]).all()
    # Transparency is dropped, not blended.
    assert (image_file.decode(encode(rgba, "PNG")) == COLORS).all()
    assert (image_file.decode(encode(np.dstack([gray, gray]), "PNG")) == gray[..., None]).all()
    palette = Image.fromarray(COLORS).quantize(16)
    for options in ({}, {"transparency": 3}, {"transparency": bytes(range(16))}):
        assert (image_file.decode(encode(palette, "PNG", **options)) == np.asarray(palette.convert("RGB"))).all()
    assert (image_file.decode(encode(palette, "GIF")) == np.asarray(palette.convert("RGB"))).all()
    assert (image_file.decode(encode(Image.fromarray(gray > 99), "PNG")) == 255 * (gray > 99)[..., None]).all()


def test_decode_scales_what_has_more_than_8_bits():
    deep = np.linspace(0, 65_535, 48 * 36).astype(np.uint16).reshape(36, 48)
    expected = (deep >> 8)[..., None]
    assert (image_file.decode(encode(Image.fromarray(deep), "PNG")) == expected).all()
    assert (image_file.decode(encode(Image.fromarray(deep.astype(np.int32)), "TIFF")) == expected).all()
    # Pillow opens a PGM of 16 bits as 32-bit integers.
    assert (image_file.decode(b"P5 48 36 65535\n" + deep.astype(">u2").tobytes()) == expected).all()
    for white in (1, 255, 65_535):
        floats = np.linspace(0, white, 256, dtype=np.float32).reshape(16, 16)
        decoded = image_file.decode(encode(Image.fromarray(floats), "TIFF"))
        assert (decoded == np.arange(256).reshape(16, 16, 1)).all()


def test_decode_gives_cmyk_as_it_is_seen():
    cmyk = Image.fromarray(COLORS).convert("CMYK")
    # Pillow writes them as Adobe does, inverted.
    decoded = image_file.decode(encode(cmyk, "JPEG", quality=100, subsampling=0))
    assert np.abs(decoded.astype(int) - COLORS).mean() < 3


@pytest.mark.parametrize("keep_jfif", [True, False])
def test_decode_turns_as_exif_says_unless_it_is_broken(keep_jfif):
    stored = image_file.decode(JPEG)
    for number, upright in UPRIGHT.items():
        data = with_exif(JPEG, exif_with_orientation(number, "<"), keep_jfif=keep_jfif)
        assert (image_file.upright_shape(data) == stored.shape) is (number == 1)
        assert (image_file.decode(data) == upright(stored)).all()
    # Where JFIF gives a resolution, Pillow reads the EXIF data only when asked to.
    with_resolution = encode(COLORS, "JPEG", quality=90, dpi=(72, 72))
    for exif in BROKEN_EXIF.values():
        for data in (JPEG, with_resolution):
            broken = with_exif(data, exif, keep_jfif=keep_jfif)
            assert image_file.upright_shape(broken) == stored.shape
            assert (image_file.decode(broken) == stored).all()
    assert image_file.upright_shape(b"no image") is None


def test_sound_images_have_no_problems(tmp_path):
    for name in ("a.JPEG", "b.jpg", "c.jpeg"):
        assert problems_of(tmp_path, JPEG, name) == (True, [])
    upright = with_exif(JPEG, exif_with_orientation(1, ">"), keep_jfif=True)
    assert problems_of(tmp_path, upright) == (True, [])
    assert problems_of(tmp_path, with_exif(JPEG, exif_with_orientation(0, ">"), keep_jfif=True)) == (True, [])
    for kind, name in (("PNG", "a.png"), ("BMP", "a.bmp"), ("GIF", "a.gif"), ("WEBP", "A.WEBP")):
        image = Image.fromarray(COLORS).quantize(99) if kind == "GIF" else COLORS
        assert problems_of(tmp_path, encode(image, kind), name) == (True, [])


def test_what_cannot_be_decoded_is_unusable(tmp_path):
    png = encode(COLORS, "PNG")
    for data, problem in (
        (b"", "empty file"),
        (b"<!DOCTYPE html><html>", "not an image, but an HTML page"),
        (bytes(999), "not an image: begins with b'"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image: begins with b'%!PS"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC image, which is not supported: convert it to JPEG"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "not an image, but a pointer of Git LFS"),
        (JPEG[:20], "truncated or corrupted: the JPEG header cannot be read"),
        (JPEG[:400], "truncated or corrupted: "),
        (JPEG[: len(JPEG) // 2 + 200], "truncated or corrupted: image file is truncated"),
        (JPEG[:-30], "truncated or corrupted: image file is truncated"),
        (png[: len(png) // 2], "truncated or corrupted: image file is truncated"),
        (flipped(png, len(png) // 2), "truncated or corrupted: "),
        (encode(COLORS, "WEBP")[:-99], "truncated or corrupted: "),
        (huge_png(), "too many pixels: more than "),
    ):
        usable, (found,) = problems_of(tmp_path, data)
        assert not usable, problem
        assert found.startswith(problem)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 4}], ids=str)
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


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 4}], ids=str)
def test_a_jpeg_that_lacks_pixels_is_unusable_everywhere(tmp_path, options):
    data = encode(draw(160, 120), "JPEG", quality=90, **options)
    for end in range(len(data) // 3, len(data) - 16, len(data) // 23):
        for rest in (b"", bytes(500)):
            usable, _ = problems_of(tmp_path, data[:end] + rest)
            assert not usable
            with pytest.raises(OSError, match="truncated"):
                decode_bytes(data[:end] + rest)
            with pytest.raises((OSError, tf.errors.OpError)):
                decode_square(tf.constant(data[:end] + rest), lambda size: (size // 8, tf.reduce_min(size) // 2))


@pytest.mark.parametrize(
    ("options", "boundary"),
    [({"progressive": True}, rb"\xff[\xc4\xda]"), ({"restart_marker_blocks": 4}, rb"\xff[\xd0-\xd7]")],
    ids=["scans", "restart markers"],
)
def test_a_jpeg_that_ends_between_parts_is_unusable(tmp_path, options, boundary):
    data = encode(draw(160, 120), "JPEG", quality=90, **options)
    start = data.index(b"\xff\xda") + 2
    ends = [match.start() for match in re.finditer(boundary, data) if match.start() > start]
    assert len(ends) > 5
    for end in ends:
        usable, _ = problems_of(tmp_path, data[:end])
        assert not usable, end


def test_check_and_decode_agree_wherever_a_file_ends(tmp_path):
    large = encode(draw(320, 200), "JPEG", quality=70, progressive=True)
    for data in (encode(draw(320, 200), "JPEG", quality=70), large):
        for end in range(2, len(data), len(data) // 40):
            problems_of(tmp_path, data[:end])


def test_files_that_are_none_are_unusable(tmp_path):
    def link(name, to):
        (tmp_path / name).symlink_to(to)
        return tmp_path / name

    (tmp_path / "folder.JPEG").mkdir()
    os.mkfifo(tmp_path / "pipe.JPEG")
    (tmp_path / "sound.JPEG").write_bytes(JPEG)
    for path, problem in (
        (tmp_path / "folder.JPEG", "not a file: a folder"),
        (tmp_path / "pipe.JPEG", "not a file: a device or the like"),
        (Path("/dev/null"), "not a file: a device or the like"),
        (link("broken.JPEG", "nowhere"), "broken link"),
        (link("loop.JPEG", "loop.JPEG"), "loop of links"),
        (tmp_path / "gone.JPEG", "cannot be read: No such file or directory"),
    ):
        assert one(path) == findings.Finding(str(path), False, (problem,))
    assert one(link("link.JPEG", "sound.JPEG")) is None


def test_files_without_permission_are_unusable(tmp_path, monkeypatch):
    path = tmp_path / "a.JPEG"
    path.write_bytes(JPEG)
    path.chmod(0)
    if os.access(path, os.R_OK):  # The administrator may read everything.

        def refused(name, *args):
            raise PermissionError(13, "Permission denied", name)

        monkeypatch.setattr(checking, "open", refused, raising=False)
    assert one(path).problems == ("no permission to read it",)


def test_odd_images_are_told_and_usable(tmp_path):
    gray = COLORS[..., 0]
    several = {"save_all": True, "append_images": [Image.fromarray(255 - COLORS)]}
    deep = np.arange(48 * 36, dtype=np.uint16).reshape(36, 48) * 37
    turned = with_exif(JPEG, exif_with_orientation(6, "<"), keep_jfif=True)
    for data, name, expected in (
        (encode(COLORS, "PNG"), "a.JPEG", ["PNG named .jpeg"]),
        (encode(COLORS, "BMP"), "a.jpg", ["BMP named .jpg"]),
        (encode(COLORS, "WEBP"), "a.png", ["WEBP named .png"]),
        (JPEG, "a.png", ["JPEG named .png"]),
        (encode(Image.fromarray(COLORS).quantize(99), "GIF"), "a.JPEG", ["GIF named .jpeg"]),
        (encode(COLORS, "TIFF"), "a.JPEG", ["TIFF named .jpeg"]),
        (encode(Image.fromarray(COLORS).convert("CMYK"), "JPEG"), "a.JPEG", ["CMYK"]),
        (encode(gray, "JPEG"), "a.JPEG", ["gray"]),
        (encode(Image.fromarray(gray > 99), "PNG"), "a.png", ["gray"]),
        (encode(np.dstack([gray, gray]), "PNG"), "a.png", ["gray", "transparency, which is dropped"]),
        (encode(np.dstack([COLORS, gray]), "PNG"), "a.png", ["transparency, which is dropped"]),
        (encode(Image.fromarray(deep), "PNG"), "a.png", ["gray", "more than 8 bits a channel"]),
        (encode(draw(300, 31), "JPEG"), "a.JPEG", ["shorter side below 32 pixels: 300 x 31"]),
        (encode(draw(32, 32), "JPEG"), "a.JPEG", []),
        (turned, "a.JPEG", ["turned by its EXIF orientation: 6"]),
        (encode(Image.fromarray(COLORS), "GIF", **several), "a.gif", ["several frames, of which the first counts"]),
    ):
        assert problems_of(tmp_path, data, name) == (True, expected)


def test_deep_colors_are_told(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + b"\x12\x34\x80\x00\xff\xff" * 40
    header = struct.pack(">IIBBBBB", 40, 40, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * 40)) + chunk(b"IEND", b"")
    assert problems_of(tmp_path, data, "a.png") == (True, ["more than 8 bits a channel"])
    assert image_file.decode(data)[0, 0].tolist() == [0x12, 0x80, 0xFF]


@pytest.mark.parametrize("exif", BROKEN_EXIF.values(), ids=BROKEN_EXIF)
def test_broken_exif_is_odd(tmp_path, exif):
    for dpi in ({}, {"dpi": (72, 72)}):
        data = with_exif(encode(COLORS, "JPEG", **dpi), exif, keep_jfif=True)
        assert problems_of(tmp_path, data) == (True, ["broken EXIF data"])


def test_check_tells_in_the_order_of_the_paths(tmp_path):
    (tmp_path / "gray.JPEG").write_bytes(encode(COLORS[..., 0], "JPEG"))
    (tmp_path / "sound.JPEG").write_bytes(JPEG)
    (tmp_path / "empty.JPEG").touch()
    names = (["sound"] * 40 + ["gray", "empty"]) * 5
    expected_text = []
    found = checking.check(
        [str(tmp_path / f"{name}.JPEG") for name in names], 2, lambda *args: expected_text.append(args)
    )
    assert [Path(finding.path).stem for finding in found] == ["gray", "empty"] * 5
    assert [finding.usable for finding in found] == [True, False] * 5
    assert expected_text[-1] == (210, 210)
    assert [done for done, _ in expected_text] == sorted(done for done, _ in expected_text)
    assert checking.check([], 2) == []


def test_command_refuses_unusable_images_and_lists_them(tree):
    broken, odd, missing = tree.images[1], tree.images[4], tree.images[7]
    broken.write_bytes(JPEG[:-30])
    odd.write_bytes(with_exif(encode(COLORS[..., 0], "JPEG"), b"Exif\0\0garbage", keep_jfif=True))
    missing.unlink()
    missing.symlink_to("nowhere")
    done = start(tree, "--check_images", "--num_processes=2")
    out, err = done.communicate(timeout=60)
    assert done.returncode == 1
    truncated = "truncated or corrupted: image file is truncated"
    rows = listed(tree)
    assert [row[:2] for row in rows] == [(str(broken), "unusable"), (str(odd), "odd"), (str(missing), "unusable")]
    assert rows[0][2].startswith(truncated)
    assert [row[2] for row in rows[1:]] == ["gray; broken EXIF data", "broken link"]
    table = tree.root.parent / "data/bad_images.tsv"
    assert out.splitlines()[2:] == [
        "9 images checked:",
        "           2  unusable",
        "               1  broken link",
        "               1  truncated or corrupted",
        "           1  odd, but usable",
        "               1  broken EXIF data",
        "               1  gray",
        f"Details: {table}",
    ]
    first, *shown = err.splitlines()
    assert first == (
        "python -m keras_alexnet.prepare: some of the 9 images cannot be used, so no maps were written. "
        f"{table} lists them all; replace or remove them, or leave them out with --skip_bad_images (2 problems):"
    )
    assert shown == [f"  {broken}: {rows[0][2]}", f"  {missing}: broken link"]
    assert sorted(os.listdir(table.parent)) == [".lock", "bad_images.tsv"]


def test_sound_images_pass(tree, capsys):
    assert call(tree, "--check_images") == []
    assert mapped(tree) + mapped(tree, "val_map.txt") == [str(path) for path in tree.images]
    assert "9 images checked:\n           0  unusable\n           0  odd, but usable\n" in capsys.readouterr().out


@pytest.mark.parametrize("more", [[], ["--check_images"]])
def test_bad_images_can_be_left_out(tree, more):
    left_out = tree.images[2], tree.images[8]
    left_out[0].write_bytes(b"")
    left_out[1].unlink()
    left_out[1].symlink_to(left_out[1].name)
    tree.images[3].write_bytes(encode(COLORS[..., 0], "JPEG"))
    assert [row[2] for row in call(tree, "--skip_bad_images", *more)] == ["empty file", "gray", "loop of links"]
    kept = [str(path) for path in tree.images if path not in left_out]
    assert mapped(tree) + mapped(tree, "val_map.txt") == kept
    assert list(map_file.read_map(tree.root.parent / "data/train_map.txt").labels) == [0, 0, 1, 2, 2]


def test_a_class_that_loses_all_images_is_told(tree):
    for path in tree.images[2:4]:
        path.write_bytes(b"")
    with pytest.raises(UserError, match=f"no usable training image is left for 1 of 3 classes: {CLASSES[1]}"):
        call(tree, "--skip_bad_images")
    tree.images[2].write_bytes(JPEG)
    for path in tree.images[6:]:
        path.write_bytes(b"")
    with pytest.raises(UserError, match="none of the 3 validation images is usable"):
        call(tree, "--skip_bad_images")
    assert not (tree.root.parent / "data/train_map.txt").exists()


def test_without_a_check_no_image_is_opened(tree):
    for path in tree.images:
        path.write_bytes(b"")
    prepare.main(*cli.parse(prepare.define_flags, arguments(tree)))
    assert not (tree.root.parent / "data/bad_images.tsv").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_processes=0"], "num_processes"),
        (["--resized_dir=x"], "go together"),
        (["--resize_shorter_side=64"], "go together"),
        (["--resized_dir=a\tb", "--resize_shorter_side=64"], "a map cannot hold"),
        (["--resized_dir=x", "--resize_shorter_side=31"], "resize_shorter_side"),
        (["--resized_dir=x", "--resize_shorter_side=4097"], "resize_shorter_side"),
    ],
)
def test_flags_that_cannot_be_are_refused(tree, flags, message):
    with pytest.raises(UserError, match=message):
        call(tree, *flags)


def test_an_interrupt_while_the_workers_start_is_told_once(tree):
    process = start(tree, "--check_images", "--num_processes=8", start_new_session=True)
    wait_until(lambda: workers_of(process) or process.poll() is not None)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "python -m keras_alexnet.prepare: interrupted\n")


def square_or_fail(number):
    if number == 77:
        raise ValueError("seventy-seven")
    if number == 99:
        os._exit(1)
    return number * number


def test_map_in_processes():
    assert process_pool.map_in_processes(square_or_fail, range(70), 2) == [number**2 for number in range(70)]
    with pytest.raises(ValueError, match="seventy-seven"):
        process_pool.map_in_processes(square_or_fail, range(80), 1)
    with pytest.raises(UserError, match="was killed or crashed"):
        process_pool.map_in_processes(square_or_fail, range(90, 200), 2)


def test_pillow_keeps_its_warnings_to_itself():
    code = "import sys; from keras_alexnet.data import image_file; image_file.decode(sys.stdin.buffer.read())"
    data = with_exif(JPEG, BROKEN_EXIF["cut"], keep_jfif=True)
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, cwd=ROOT, timeout=30)
    assert (done.returncode, done.stderr) == (0, b"")


def test_no_semaphores_are_told(tree, monkeypatch):
    """As where /dev/shm is read-only."""

    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", refuse)
    with pytest.raises(UserError, match=r"cannot start processes: Read-only file system.*/dev/shm"):
        checking.check([str(path) for path in tree.images], 1)
