import base64
import io
import os

import numpy as np
import pytest
from drawn_images import draw, encode, exif_with_orientation, with_exif
from PIL import Image

from keras_alexnet.data import image_file
from keras_alexnet.report.thumbnails import thumbnail

# As keras_alexnet.data.image_file has it, which pytest overrules.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")


def thumbnail_of(tmp_path, data):
    """The bytes of the small JPEG; None if there is none."""
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9.JPEG")
    with open(path, "wb") as file:
        file.write(data)
    uri = thumbnail(os.fsdecode(path))
    return uri and base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"), validate=True)


def assert_shows(small, whole, size):
    """The JPEG is of this size, and shows the whole of the pixels."""
    with Image.open(io.BytesIO(small)) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", size)
        resized = Image.fromarray(whole).resize(size, Image.Resampling.BOX)
        assert np.abs(np.asarray(image) - np.asarray(resized).astype(int)).mean() < 6


def smooth(width, height):
    """A picture that stays as it is when it is resized: uint8 (height, width, 3)."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, 255 - x * 255 // width], -1).astype(np.uint8)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((375, 500), (240, 320)), ((3000, 2000), (320, 213)), ((48, 36), (48, 36)), ((2000, 2), (320, 1))],
)
def test_it_is_the_whole_picture_of_at_most_320_pixels(tmp_path, size, expected):
    pixels = smooth(*size)
    assert_shows(thumbnail_of(tmp_path, encode(pixels, "JPEG")), pixels, expected)


def test_every_kind_looks_as_the_network_sees_it(tmp_path):
    pixels = smooth(640, 480)
    image = Image.fromarray(pixels)
    deep = np.linspace(0, 65_535, 480 * 640).astype(np.uint16).reshape(480, 640)
    for data in (
        encode(np.dstack([pixels, pixels[..., 0]]), "PNG"),
        encode(image.convert("CMYK"), "JPEG"),
        encode(Image.fromarray(deep), "PNG"),
        encode(image.quantize(64), "GIF", transparency=3),
        encode(image, "MPO", save_all=True, append_images=[Image.fromarray(255 - pixels)]),
    ):
        assert_shows(thumbnail_of(tmp_path, data), image_file.decode(data), (320, 240))
    turned = with_exif(encode(pixels, "JPEG"), exif_with_orientation(6, ">"), keep_jfif=True)
    assert_shows(thumbnail_of(tmp_path, turned), image_file.decode(turned), (240, 320))


def test_it_is_small_and_says_nothing_of_where_it_is_from(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    metadata = {"comment": b"a comment", "exif": exif, "icc_profile": b"a profile", "xmp": b"a packet"}
    small = thumbnail_of(tmp_path, encode(draw(500, 375), "JPEG", quality=95, **metadata))
    assert not any(word in small for word in (b"a camera", b"a comment", b"a profile", b"a packet", b"Exif"))
    assert len(small) < 30_000


def test_a_file_that_cannot_be_read_any_more_has_none(tmp_path):
    sound = encode(draw(300, 200), "JPEG")
    assert thumbnail_of(tmp_path, sound[: len(sound) // 2]) is None
    assert thumbnail(str(tmp_path / "gone.JPEG")) is None
    os.mkfifo(tmp_path / "pipe.JPEG")
    assert thumbnail(str(tmp_path / "pipe.JPEG")) is None
