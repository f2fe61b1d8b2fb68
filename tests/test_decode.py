"""From the bytes of an image file to pixels, the same in a graph, outside of it and through Pillow."""

import io
from collections.abc import Iterable

import numpy as np
import pytest
import tensorflow as tf
from drawn_images import UPRIGHT, draw, encode, exif_with_orientation, with_exif
from PIL import Image, ImageOps

from keras_alexnet.data import image_file
from keras_alexnet.data.decode import decode_bytes, decode_image, decode_square, plain_jpeg_shape
from keras_alexnet.data.resizing.files import resized_copy

# As keras_alexnet.data.image_file has it, which pytest overrules.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

# As in a file of ImageNet, the size is no multiple of the 16 pixels of a JPEG's largest blocks.
WIDTH, HEIGHT = 97, 75


def off_centre(size):
    return size // (8, 4), tf.reduce_min(size) // 2


def off_centre_part(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    side = min(height, width) // 2
    return image[height // 8 : height // 8 + side, width // 4 : width // 4 + side]


def goes_fast(data: bytes) -> bool:
    return plain_jpeg_shape(tf.constant(data)).numpy()[2] <= 3


def decode_each(files: Iterable[bytes], window=off_centre) -> list[np.ndarray | tf.errors.OpError]:
    """What a tf.data map makes of each file: its pixels, or the error."""
    files = list(files)
    decoded = iter(tf.data.Dataset.from_tensor_slices(files).map(lambda data: decode_square(data, window)))
    results = []
    for _ in files:
        try:
            results.append(next(decoded).numpy())
        except tf.errors.OpError as error:
            results.append(error)
    return results


def assert_decoded_everywhere(data: bytes, expected: np.ndarray) -> None:
    """Whole or in part, by each of the functions that decode."""
    np.testing.assert_array_equal(image_file.decode(data), expected)
    np.testing.assert_array_equal(decode_bytes(data), expected)
    np.testing.assert_array_equal(decode_image(tf.constant(data)), expected)
    part = off_centre_part(expected)
    np.testing.assert_array_equal(decode_square(tf.constant(data), off_centre), part)
    np.testing.assert_array_equal(decode_each([data])[0], part)


def accurately_decoded(jpeg: bytes) -> np.ndarray:
    return tf.io.decode_jpeg(jpeg, channels=3, dct_method="INTEGER_ACCURATE").numpy()


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (draw(WIDTH, HEIGHT), {"subsampling": 1}),
        (draw(WIDTH, HEIGHT), {"subsampling": 2}),
        (draw(WIDTH, HEIGHT), {"subsampling": 2, "progressive": True}),
        (draw(WIDTH, HEIGHT), {"subsampling": 2, "restart_marker_blocks": 3}),
        (draw(WIDTH, HEIGHT), {"exif": exif_with_orientation(1, ">")}),
        (draw(WIDTH, HEIGHT)[..., 0], {}),
    ],
    ids=["4:2:2", "4:2:0", "progressive", "restart markers", "upright EXIF", "gray"],
)
def test_part_of_a_jpeg_is_exact(image, options):
    data = encode(image, "JPEG", quality=90, **options)
    assert goes_fast(data)
    whole = accurately_decoded(data)
    with Image.open(io.BytesIO(data)) as opened:
        np.testing.assert_array_equal(whole, np.asarray(opened.convert("RGB")))
    # (top, left, side) at and near every edge of the image and of its blocks.
    places = [
        (top, left, side)
        for side in (2, 16, 33, 64)
        for top in (0, 1, 7, 8, HEIGHT - side)
        for left in (0, 1, 15, 16, 17, WIDTH - side - 1, WIDTH - side)
    ]
    dataset = tf.data.Dataset.from_tensor_slices(np.array(places, np.int32)).map(
        lambda place: decode_square(tf.constant(data), lambda size: (place[:2], place[2]))
    )
    for (top, left, side), part in zip(places, dataset.as_numpy_iterator(), strict=True):
        expected = whole[top : top + side, left : left + side]
        np.testing.assert_array_equal(part, expected, err_msg=f"top {top}, left {left}, side {side}")


@pytest.mark.parametrize(("byte_order", "keep_jfif"), [("<", True), (">", False)])
def test_exif_orientation_is_honored(byte_order, keep_jfif):
    plain = encode(draw(61, 34), "JPEG", quality=90)
    for orientation, turn in UPRIGHT.items():
        data = with_exif(plain, exif_with_orientation(orientation, byte_order), keep_jfif=keep_jfif)
        assert goes_fast(data) == (orientation == 1)
        upright = turn(accurately_decoded(plain))
        with Image.open(io.BytesIO(data)) as image:
            np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(image)), upright)
        assert_decoded_everywhere(data, upright)


def segment(marker: int, payload: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(payload) + 2).to_bytes(2, "big") + payload


def inserted(before: int, *segments: bytes) -> bytes:
    """A plain JPEG with segments in front of the first one of a marker."""
    position = PLAIN.index(bytes([0xFF, before]))
    return PLAIN[:position] + b"".join(segments) + PLAIN[position:]


PLAIN = encode(draw(61, 34), "JPEG", quality=90)
# Where JFIF gives a resolution, Pillow reads the EXIF data only when asked to.
WITH_RESOLUTION = encode(draw(61, 34), "JPEG", quality=90, dpi=(72, 72))
EXIF_1, EXIF_6 = (segment(0xE1, exif_with_orientation(orientation, ">")) for orientation in (1, 6))
PROVENANCE = segment(0xEB, b"JP" + b"\xff\xda\xff\xd8" * 15_000)  # as C2PA has it, with an image inside
XMP_6 = segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"/>')
TURNED = ["turned by its EXIF orientation: 6"]
BROKEN = ["broken EXIF data"]
PLACES = {
    "behind other metadata": (inserted(0xDB, PROVENANCE, EXIF_6), TURNED),
    "in two parts": (inserted(0xDB, segment(0xE1, EXIF_6[4:24]), segment(0xE1, EXIF_6[4:10] + EXIF_6[24:])), TURNED),
    "in a comment": (inserted(0xDB, segment(0xFE, EXIF_6[4:])), []),
    "XMP and upright EXIF": (inserted(0xDB, EXIF_1, XMP_6), []),
    "cut": (with_exif(WITH_RESOLUTION, exif_with_orientation(6, "<")[:20], keep_jfif=True), BROKEN),
}


@pytest.mark.parametrize(("data", "problems"), PLACES.values(), ids=PLACES)
def test_everything_agrees_on_the_orientation_wherever_it_is(tmp_path, data, problems):
    upright = UPRIGHT[6 if problems == TURNED else 1](accurately_decoded(PLAIN))
    assert_decoded_everywhere(data, upright)
    (tmp_path / "a.jpg").write_bytes(data)
    finding, copy = resized_copy((str(tmp_path / "a.jpg"), False), 34, "pixels")
    np.testing.assert_array_equal(image_file.decode(copy), upright)
    assert list(finding.problems if finding else []) == problems


def test_other_kinds_of_files():
    rgb = draw(61, 34)
    gray = rgb[..., 0]
    gray_as_rgb = gray[..., np.newaxis].repeat(3, axis=2)
    palette = Image.fromarray(rgb).quantize(64)
    of_palette = np.asarray(palette.convert("RGB"))
    second_frame = [Image.fromarray(255 - rgb).quantize(64)]
    # The low byte is noise, which scaling to 8 bits drops.
    deep_gray = gray.astype(np.uint16) << 8 | rgb[..., 1]
    cases = {
        "PNG": (encode(rgb, "PNG"), rgb),
        # Transparency is dropped, not blended.
        "RGBA": (encode(np.dstack([rgb, gray]), "PNG"), rgb),
        "palette": (encode(palette, "PNG"), of_palette),
        "palette with a transparent color": (encode(palette, "PNG", transparency=3), of_palette),
        "black and white": (encode(Image.fromarray(gray > 127), "PNG"), np.where(gray_as_rgb > 127, 255, 0)),
        "16-bit gray": (encode(deep_gray, "PNG"), gray_as_rgb),
        "16-bit RGB": (tf.io.encode_png(rgb.astype(np.uint16) << 8 | 0x5A).numpy(), rgb),
        "32-bit TIFF": (encode(Image.fromarray(deep_gray.astype(np.int32)), "TIFF"), gray_as_rgb),
        # Pillow opens it as 32-bit integers.
        "16-bit PGM": (b"P5 61 34 65535\n" + deep_gray.astype(">u2").tobytes(), gray_as_rgb),
        "animated GIF": (encode(palette, "GIF", save_all=True, append_images=second_frame), of_palette),
        "WebP": (encode(rgb, "WEBP", lossless=True), rgb),
    }
    cmyk = encode(Image.fromarray(rgb).convert("CMYK"), "JPEG", quality=95)
    cases["CMYK"] = cmyk, image_file.decode(cmyk)
    # Inverted inks would be another picture.
    assert np.abs(image_file.decode(cmyk) - rgb.astype(int)).mean() < 5
    for white in (1, 255, 65_535):
        floats = np.linspace(0, white, 256, dtype=np.float32).reshape(16, 16)
        scaled = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
        cases[f"floats up to {white}"] = encode(Image.fromarray(floats), "TIFF"), scaled
    for name, (data, expected) in cases.items():
        assert not goes_fast(data), name
        np.testing.assert_array_equal(image_file.decode(data), expected, err_msg=name)
    files, wholes = zip(*cases.values(), strict=True)
    for name, part, whole in zip(cases, decode_each(files), wholes, strict=True):
        np.testing.assert_array_equal(part, off_centre_part(whole), err_msg=name)


def test_a_header_that_claims_too_many_pixels_is_refused():
    """The square would take ten gigabytes, asked for before it shows that the pixels are missing."""
    data = encode(draw(64, 48), "JPEG")
    start_of_frame = data.index(b"\xff\xc0")
    claimed = data[: start_of_frame + 5] + (60_000).to_bytes(2, "big") * 2 + data[start_of_frame + 9 :]
    (result,) = decode_each([claimed], lambda size: (size * 0, tf.reduce_min(size)))
    assert isinstance(result, tf.errors.OpError)
    assert "DecompressionBombError" in str(result)


@pytest.mark.parametrize("exif", [b"", exif_with_orientation(1, "<")], ids=["plain", "with EXIF"])
def test_a_jpeg_that_only_tensorflow_reads_is_decoded(exif):
    """Its Adobe marker is too short for Pillow."""
    data = encode(draw(WIDTH, HEIGHT), "JPEG", quality=90, exif=exif)
    data = data.replace(b"\xff\xdb", b"\xff\xee\0\7Adobe\xff\xdb", 1)
    expected = accurately_decoded(data)
    np.testing.assert_array_equal(decode_bytes(data), expected)
    np.testing.assert_array_equal(decode_each([data])[0], off_centre_part(expected))
