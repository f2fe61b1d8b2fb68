import io
from collections.abc import Iterable
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from drawn_images import UPRIGHT, draw, encode, exif_with_orientation, with_exif
from PIL import Image, ImageOps

from keras_alexnet.data import image_file
from keras_alexnet.data.archives.locations import ArchivedImage
from keras_alexnet.data.archives.state import ArchiveState
from keras_alexnet.data.decode import decode_bytes, decode_image, decode_square, plain_jpeg_shape
from keras_alexnet.data.resizing.files import resized_copy

# As in a file of ImageNet, the size is no multiple of the 16 pixels of a JPEG's largest blocks.
WIDTH, HEIGHT = 97, 75
JPEGS = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "4:2:0 progressive": {"subsampling": 2, "progressive": True},
    "4:4:4 progressive": {"subsampling": 0, "progressive": True},
    "restart markers": {"subsampling": 2, "restart_marker_blocks": 3},
}


def off_centre(size):
    return size // (8, 4), tf.reduce_min(size) // 2


def goes_fast(data: bytes) -> bool:
    return plain_jpeg_shape(tf.constant(data)).numpy()[2] <= 3


def off_centre_part(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    side = min(height, width) // 2
    return image[height // 8 : height // 8 + side, width // 4 : width // 4 + side]


def decode_everywhere(data: bytes) -> np.ndarray:
    """The square `off_centre`, decoded eagerly and inside a tf.data map, which have to agree."""
    eager = decode_square(tf.constant(data), off_centre)
    assert eager.dtype == tf.uint8
    dataset = tf.data.Dataset.from_tensors(data).map(lambda value: decode_square(value, off_centre))
    assert dataset.element_spec.shape.rank == 3
    (mapped,) = dataset.as_numpy_iterator()
    np.testing.assert_array_equal(eager.numpy(), mapped)
    return mapped


def decode_each(files: Iterable[bytes], window) -> list[np.ndarray | tf.errors.OpError]:
    """What a tf.data map makes of each file: its pixels, or the error."""
    files = list(files)
    decoded = iter(tf.data.Dataset.from_tensor_slices(files).map(lambda data: decode_square(data, window)))
    results = []
    for _ in files:
        try:
            results.append(next(decoded).numpy())
        except tf.errors.OpError as error:
            results.append(error)
    assert next(decoded, None) is None
    return results


def accurately_decoded(jpeg: bytes) -> np.ndarray:
    return tf.io.decode_jpeg(jpeg, channels=3, dct_method="INTEGER_ACCURATE").numpy()


def windows(width: int, height: int) -> list[tuple[int, int, int]]:
    """(top, left, side) at and near every edge of the image and of its blocks."""
    found = set()
    for side in (2, 5, 16, 33, 64, min(width, height)):
        for top in (0, 1, 7, 8, 16, (height - side) // 2, height - side - 1, height - side):
            for left in (0, 1, 2, 15, 16, 17, 32, 48, (width - side) // 2, width - side - 1, width - side):
                if 0 <= top <= height - side and 0 <= left <= width - side:
                    found.add((top, left, side))
    return sorted(found)


def assert_exact_in_all_windows(data: bytes, whole: np.ndarray) -> None:
    places = windows(whole.shape[1], whole.shape[0])
    assert len(places) > 200
    dataset = tf.data.Dataset.from_tensor_slices(np.array(places, np.int32)).map(
        lambda place: decode_square(tf.constant(data), lambda size: (place[:2], place[2]))
    )
    for (top, left, side), part in zip(places, dataset.as_numpy_iterator(), strict=True):
        expected = whole[top : top + side, left : left + side]
        np.testing.assert_array_equal(part, expected, err_msg=f"top {top}, left {left}, side {side}")


@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
def test_part_of_a_jpeg_is_exact(options):
    data = encode(draw(WIDTH, HEIGHT), "JPEG", quality=90, **options)
    assert goes_fast(data)
    whole = accurately_decoded(data)
    np.testing.assert_array_equal(whole, image_file.decode(data))
    assert_exact_in_all_windows(data, whole)


def test_part_of_a_gray_jpeg_is_exact():
    data = encode(draw(WIDTH, HEIGHT)[..., 0], "JPEG", quality=90)
    assert goes_fast(data)
    whole = accurately_decoded(data)
    np.testing.assert_array_equal(whole, np.asarray(Image.open(io.BytesIO(data)))[..., np.newaxis].repeat(3, axis=2))
    assert_exact_in_all_windows(data, whole)


def test_part_of_an_upright_jpeg_with_exif_is_exact():
    data = encode(draw(WIDTH, HEIGHT), "JPEG", quality=90, exif=exif_with_orientation(1, ">"))
    assert goes_fast(data)
    assert_exact_in_all_windows(data, accurately_decoded(data))


@pytest.mark.parametrize("exif", [b"", exif_with_orientation(1, "<")], ids=["jfif alone", "upright exif"])
def test_what_follows_the_part_of_a_plain_jpeg_is_not_decoded(exif):
    """That is what makes it fast, and shows when a file lacks its last rows."""
    data = encode(draw(64, 640), "JPEG", quality=90, exif=exif)

    def at_the_top(size):
        return tf.constant((0, 8)), tf.constant(48)

    (part,) = decode_each([data[: len(data) // 2] + image_file.JPEG_END], at_the_top)
    np.testing.assert_array_equal(part, accurately_decoded(data)[:48, 8:56])


@pytest.mark.parametrize("keep_jfif", [True, False], ids=["jfif and exif", "exif alone"])
@pytest.mark.parametrize("byte_order", ["<", ">"], ids=["little-endian", "big-endian"])
def test_exif_orientation_is_honoured(byte_order, keep_jfif):
    plain = encode(draw(61, 34), "JPEG", quality=90)
    stored = accurately_decoded(plain)
    files = [
        with_exif(plain, exif_with_orientation(orientation, byte_order), keep_jfif=keep_jfif) for orientation in UPRIGHT
    ]
    assert [goes_fast(data) for data in files] == [True] + [False] * 7
    for orientation, data, part in zip(UPRIGHT, files, decode_each(files, off_centre), strict=True):
        upright = UPRIGHT[orientation](stored)
        np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))), upright)
        np.testing.assert_array_equal(part, off_centre_part(upright), err_msg=f"orientation {orientation}")
        np.testing.assert_array_equal(decode_square(tf.constant(data), off_centre).numpy(), part)


def segment(marker: int, payload: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(payload) + 2).to_bytes(2, "big") + payload


def inserted(jpeg: bytes, before: int, *segments: bytes) -> bytes:
    """The JPEG with segments in front of the first one of a marker."""
    position = jpeg.index(bytes([0xFF, before]))
    return jpeg[:position] + b"".join(segments) + jpeg[position:]


PLAIN = encode(draw(61, 34), "JPEG", quality=90)
EXIF_6 = segment(0xE1, exif_with_orientation(6, ">"))
PROVENANCE = segment(0xEB, b"JP" + b"\xff\xda\xff\xd8" * 15_000)  # as C2PA has it, with an image inside
XMP_6 = segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"/>')
TURNED, UPRIGHT_ONES = (
    {
        "behind other metadata": inserted(PLAIN, 0xDB, PROVENANCE, EXIF_6),
        "behind the quantization tables": inserted(PLAIN, 0xC0, EXIF_6),
        "behind the start of the frame": inserted(PLAIN, 0xC4, PROVENANCE, EXIF_6),
        "right before the scan": inserted(PLAIN, 0xDA, EXIF_6),
        "behind a comment and fill bytes": inserted(PLAIN, 0xDB, segment(0xFE, b"Exif\0\0"), b"\xff\xff", EXIF_6),
        "in two parts": inserted(PLAIN, 0xDB, segment(0xE1, EXIF_6[4:24]), segment(0xE1, EXIF_6[4:10] + EXIF_6[24:])),
    },
    {
        "in a comment": inserted(PLAIN, 0xDB, segment(0xFE, EXIF_6[4:])),
        "behind the image": PLAIN + EXIF_6,
        "XMP alone": inserted(PLAIN, 0xDB, XMP_6),
        "XMP and upright EXIF": inserted(PLAIN, 0xDB, segment(0xE1, exif_with_orientation(1, "<")), XMP_6),
    },
)


@pytest.mark.parametrize(
    ("data", "orientation"),
    [(data, 6) for data in TURNED.values()] + [(data, 1) for data in UPRIGHT_ONES.values()],
    ids=[*TURNED, *UPRIGHT_ONES],
)
def test_everything_agrees_on_the_orientation_wherever_it_is(data, orientation):
    upright = UPRIGHT[orientation](accurately_decoded(PLAIN))
    np.testing.assert_array_equal(decode_everywhere(data), off_centre_part(upright))
    np.testing.assert_array_equal(decode_image(tf.constant(data)).numpy(), upright)
    np.testing.assert_array_equal(decode_bytes(data), upright)
    np.testing.assert_array_equal(image_file.decode(data), upright)
    in_archive = ArchivedImage("a@/b.jpg", ArchiveState("a", 0, 0), 0, 0, 0)
    with mock.patch.object(ArchivedImage, "read", return_value=data):
        finding, copy = resized_copy((in_archive, False), 34, "pixels")
    np.testing.assert_array_equal(image_file.decode(copy), upright)
    assert (finding is not None) == (orientation != 1)


def test_window_is_chosen_from_the_upright_size():
    sizes = []

    def remember(size):
        sizes.append(tuple(size.numpy()))
        return tf.constant((0, 0)), tf.constant(1)

    plain = encode(draw(61, 34), "JPEG")
    for orientation in (1, 6):
        decode_square(tf.constant(with_exif(plain, exif_with_orientation(orientation, "<"), keep_jfif=True)), remember)
    assert sizes == [(34, 61), (61, 34)]


@pytest.mark.filterwarnings("ignore:.*Corrupt EXIF data")
@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0garbage",
        b"Exif\0\0II*\0",
        exif_with_orientation(6, "<")[:18],
        exif_with_orientation(9, "<"),
    ],
    ids=["empty", "garbage", "cut header", "cut entry", "orientation 9"],
)
def test_exif_that_makes_no_sense_is_ignored(exif):
    plain = encode(draw(61, 34), "JPEG", quality=90)
    part = decode_everywhere(with_exif(plain, exif, keep_jfif=True))
    np.testing.assert_array_equal(part, off_centre_part(accurately_decoded(plain)))


def test_cmyk_jpeg():
    image = Image.fromarray(draw(61, 34)).convert("CMYK")
    data = encode(image, "JPEG", quality=95)
    assert not goes_fast(data)
    part = decode_everywhere(data).astype(int)
    np.testing.assert_array_equal(part, off_centre_part(np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))))
    # It also is the picture that was drawn, which inverted inks would not be.
    assert np.abs(part - off_centre_part(draw(61, 34))).mean() < 5


def test_png_of_every_kind():
    rgb = draw(61, 34)
    alpha = np.random.default_rng(1).integers(0, 256, rgb.shape[:2], dtype=np.uint8)
    palette = Image.fromarray(rgb).quantize(64)
    gray = rgb[..., 0]
    gray_as_rgb = gray[..., np.newaxis].repeat(3, axis=2)
    # The low byte is noise, which scaling to 8 bits drops.
    gray_16_bit = gray.astype(np.uint16) << 8 | alpha
    rgb_16_bit = tf.io.encode_png(rgb.astype(np.uint16) << 8 | 0x5A).numpy()
    cases = {
        "RGB": (encode(rgb, "PNG"), rgb),
        "RGBA": (encode(np.dstack([rgb, alpha]), "PNG"), rgb),
        "palette": (encode(palette, "PNG"), np.asarray(palette.convert("RGB"))),
        "gray": (encode(gray, "PNG"), gray_as_rgb),
        "gray and alpha": (
            encode(Image.merge("LA", [Image.fromarray(gray), Image.fromarray(alpha)]), "PNG"),
            gray_as_rgb,
        ),
        "black and white": (encode(Image.fromarray(gray > 127), "PNG"), np.where(gray_as_rgb > 127, 255, 0)),
        "16-bit gray": (encode(gray_16_bit, "PNG"), gray_as_rgb),
        "16-bit RGB": (rgb_16_bit, rgb),
    }
    for name, (data, expected) in cases.items():
        assert not goes_fast(data)
        np.testing.assert_array_equal(decode_everywhere(data), off_centre_part(expected), err_msg=name)


def test_other_formats():
    rgb = draw(61, 34)
    palette = Image.fromarray(rgb).quantize(64)
    of_palette = np.asarray(palette.convert("RGB"))
    second_frame = Image.fromarray(255 - rgb).quantize(64)
    cases = {
        "GIF": (encode(palette, "GIF"), of_palette),
        "animated GIF": (encode(palette, "GIF", save_all=True, append_images=[second_frame]), of_palette),
        "BMP": (encode(rgb, "BMP"), rgb),
        "WebP": (encode(rgb, "WEBP", lossless=True), rgb),
    }
    for name, (data, expected) in cases.items():
        assert not goes_fast(data)
        np.testing.assert_array_equal(decode_everywhere(data), off_centre_part(expected), err_msg=name)


def test_suffix_does_not_count(tmp_path):
    """ImageNet has a PNG whose name ends in .JPEG; only the content is looked at."""
    path = tmp_path / "n02105855_2933.JPEG"
    path.write_bytes(encode(draw(61, 34), "PNG"))
    np.testing.assert_array_equal(
        decode_square(tf.io.read_file(str(path)), off_centre).numpy(), off_centre_part(draw(61, 34))
    )


def test_unreadable_files_are_errors():
    jpeg = encode(draw(WIDTH, HEIGHT), "JPEG")
    png = encode(draw(WIDTH, HEIGHT), "PNG")
    files = {
        "empty": b"",
        "text": b"This is the page of an error of a web server, not an image. " * 5,
        "one byte": b"\xff",
        "start of a JPEG": jpeg[:4],
        "21 bytes of a JPEG": jpeg[:21],
        "22 bytes of a JPEG": jpeg[:22],
        "header of a JPEG": jpeg[:200],
        "JFIF and noise": jpeg[:24] + np.random.default_rng(0).bytes(500),
        "truncated JPEG": jpeg[: len(jpeg) // 4],
        "truncated progressive JPEG": encode(draw(WIDTH, HEIGHT), "JPEG", progressive=True)[:-100],
        "truncated CMYK JPEG": encode(Image.fromarray(draw(WIDTH, HEIGHT)).convert("CMYK"), "JPEG")[:-100],
        "truncated PNG": png[: len(png) // 2],
        "truncated GIF": encode(Image.fromarray(draw(WIDTH, HEIGHT)).quantize(64), "GIF")[:400],
    }
    for name, result in zip(files, decode_each(files.values(), off_centre), strict=True):
        assert isinstance(result, tf.errors.OpError), name
    for data in files.values():
        # Eagerly, Pillow's own errors come through.
        with pytest.raises((tf.errors.OpError, OSError)):
            decode_square(tf.constant(data), off_centre)


@pytest.mark.parametrize("options", [{"subsampling": 2}, {"progressive": True}], ids=["baseline", "progressive"])
def test_truncated_jpeg_gives_no_wrong_pixels(options):
    """Wherever a file ends: an error, or what the whole file gives."""
    data = encode(draw(WIDTH, HEIGHT), "JPEG", quality=80, **options)
    whole = off_centre_part(accurately_decoded(data))
    results = decode_each([data[:end] for end in range(0, len(data), 11)], off_centre)
    for result in results:
        if not isinstance(result, tf.errors.OpError):
            np.testing.assert_array_equal(result, whole)
    assert sum(isinstance(result, tf.errors.OpError) for result in results) > len(results) // 2


def test_a_header_that_claims_too_many_pixels_is_refused():
    """The square would take ten gigabytes, asked for before it shows that the pixels are missing."""
    data = encode(draw(64, 48), "JPEG")
    start_of_frame = data.index(b"\xff\xc0")
    claimed = data[: start_of_frame + 5] + (60_000).to_bytes(2, "big") * 2 + data[start_of_frame + 9 :]
    (result,) = decode_each([claimed], lambda size: (size * 0, tf.reduce_min(size)))
    assert isinstance(result, tf.errors.OpError)
    assert "DecompressionBombError" in str(result)
