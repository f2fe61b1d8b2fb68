import base64
import io
import os

import numpy as np
import pytest
from drawn_images import UPRIGHT, draw, encode, exif_with_orientation, with_exif
from PIL import Image

from keras_alexnet.data import image_file
from keras_alexnet.report.thumbnails import thumbnail

# As keras_alexnet.data.image_file has it, which pytest overrules.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

PREFIX = "data:image/jpeg;base64,"


def written(tmp_path, data, name="a.JPEG"):
    path = tmp_path / name
    path.write_bytes(data)
    return str(path)


def file_of(uri):
    assert uri.startswith(PREFIX)
    return base64.b64decode(uri.removeprefix(PREFIX), validate=True)


def opened(uri):
    with Image.open(io.BytesIO(file_of(uri))) as image:
        image.load()
        assert (image.format, image.mode) == ("JPEG", "RGB")
        return image


def smooth(width, height):
    """A picture that stays as it is when it is resized: uint8 (height, width, 3)."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, 255 - x * 255 // width], -1).astype(np.uint8)


def resized(pixels, size):
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX)).astype(int)


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((500, 375), 320, (320, 240)),
        ((375, 500), 320, (240, 320)),
        ((3000, 2000), 320, (320, 213)),
        ((500, 375), 64, (64, 48)),
        ((320, 200), 320, (320, 200)),
        ((48, 36), 320, (48, 36)),
        ((2000, 2), 320, (320, 1)),
        ((1, 1), 320, (1, 1)),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_it_is_the_whole_picture_of_at_most_that_side(tmp_path, kind, size, side, expected):
    pixels = smooth(*size)
    small = opened(thumbnail(written(tmp_path, encode(pixels, kind)), side))
    assert small.size == expected
    assert np.abs(np.asarray(small) - resized(pixels, expected)).mean() < 6


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_it_is_upright(tmp_path, orientation):
    stored = smooth(800, 400)
    data = with_exif(encode(stored, "JPEG"), exif_with_orientation(orientation, ">"), keep_jfif=True)
    small = opened(thumbnail(written(tmp_path, data), 100))
    upright = UPRIGHT[orientation](stored)
    assert small.size == ((50, 100) if orientation > 4 else (100, 50))
    assert np.abs(np.asarray(small) - resized(upright, small.size)).mean() < 6


def test_every_kind_looks_as_the_network_sees_it(tmp_path):
    pixels = smooth(400, 300)
    gray = pixels[..., 0]
    deep = np.linspace(0, 65_535, 300 * 400).astype(np.uint16).reshape(300, 400)
    several = {"save_all": True, "append_images": [Image.fromarray(255 - pixels)]}
    palette = Image.fromarray(pixels).quantize(64)
    for data in (
        encode(np.dstack([pixels, gray]), "PNG"),
        encode(np.dstack([gray, gray]), "PNG"),
        encode(gray, "JPEG"),
        encode(Image.fromarray(pixels).convert("CMYK"), "JPEG"),
        encode(Image.fromarray(gray > 99), "PNG"),
        encode(Image.fromarray(deep), "PNG"),
        encode(Image.fromarray(deep.astype(np.float32)), "TIFF"),
        encode(palette, "GIF", transparency=3),
        encode(Image.fromarray(pixels), "GIF", **several),
        encode(pixels, "BMP"),
        encode(pixels, "WEBP"),
        encode(Image.fromarray(pixels), "MPO", **several),
    ):
        seen = image_file.decode(data)
        small = opened(thumbnail(written(tmp_path, data), 100))
        assert small.size == (100, 75)
        assert np.abs(np.asarray(small) - resized(seen, small.size)).mean() < 6


def test_it_is_small_and_says_nothing_of_where_it_is_from(tmp_path):
    image = Image.fromarray(draw(500, 375))
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    options = {
        "comment": b"a comment",
        "exif": exif,
        "icc_profile": b"a profile",
        "xmp": b"a packet",
        "dpi": (300, 300),
    }
    plain = thumbnail(written(tmp_path, encode(image, "JPEG", quality=95)))
    expected_text = thumbnail(written(tmp_path, encode(image, "JPEG", quality=95, **options)))
    assert b"a camera" in encode(image, "JPEG", **options)
    assert expected_text == plain
    assert not any(
        word in file_of(expected_text) for word in (b"a camera", b"a comment", b"a profile", b"a packet", b"Exif")
    )
    assert len(file_of(expected_text)) < 30_000
    assert len(file_of(thumbnail(written(tmp_path, encode(smooth(500, 375), "JPEG"))))) < 5_000


def test_large_jpegs_are_reduced_while_they_are_decoded(tmp_path, monkeypatch):
    sizes = []
    upright_rgb = image_file.upright_rgb

    def noted(image, turn):
        sizes.append(image.size)
        return upright_rgb(image, turn)

    monkeypatch.setattr(image_file, "upright_rgb", noted)
    path = written(tmp_path, encode(smooth(4000, 3000), "JPEG"))
    assert opened(thumbnail(path)).size == (320, 240)
    # The least of a half, a quarter and an eighth that is at least twice as large as what is wanted.
    assert sizes == [(1000, 750)]


def test_a_file_that_cannot_be_read_any_more_has_none(tmp_path):
    sound = encode(draw(300, 200), "JPEG")
    for data in (b"", b"no image", sound[: len(sound) // 2], sound[:20]):
        assert thumbnail(written(tmp_path, data)) is None
    assert thumbnail(str(tmp_path / "gone.JPEG")) is None
    assert thumbnail(str(tmp_path)) is None
    os.mkfifo(tmp_path / "pipe.JPEG")
    assert thumbnail(str(tmp_path / "pipe.JPEG")) is None


def test_paths_may_hold_any_bytes(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9.JPEG")
    with open(path, "wb") as file:
        file.write(encode(draw(40, 30), "JPEG"))
    assert opened(thumbnail(os.fsdecode(path))).size == (40, 30)
