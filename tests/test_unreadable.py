import io
import os
import random
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from drawn_images import draw, encode, exif_with_orientation, with_exif, write_numbered
from PIL import Image

from keras_alexnet.data.image_map import ImageMap
from keras_alexnet.data.pipeline import evaluation_dataset, training_dataset
from keras_alexnet.data.transforms import evaluation_image, training_image
from keras_alexnet.data.unreadable import find_unreadable
from keras_alexnet.errors import UserError

SIZE = 8


def spoil(path: str, how: str) -> None:
    data = Path(path).read_bytes()
    if how == "vanished":
        os.remove(path)
    elif how == "a folder":
        os.remove(path)
        os.mkdir(path)
    elif how == "empty":
        Path(path).write_bytes(b"")
    elif how == "text":
        Path(path).write_text("<html>404 Not Found</html>\n" * 9)
    elif how == "truncated":
        Path(path).write_bytes(data[: len(data) // 2])
    elif how == "truncated at the end":
        # The last rows are outside the square in the middle, which alone is read to evaluate.
        Path(path).write_bytes(data[:-150])


REASONS = {
    "vanished": "the file is missing",
    "a folder": "Is a directory",
    "empty": "empty file",
    "text": "it is not an image",
    "truncated": "image file is truncated",
    "truncated at the end": "image file is truncated",
}


def test_damage_that_only_a_larger_crop_meets_is_named(tmp_path):
    """A marker among the last rows, which Pillow passes over, TensorFlow does not, and the single crop does not see."""
    image_map = write_numbered(tmp_path, 2, width=40, height=400)
    data = Path(image_map.paths[1]).read_bytes()
    Path(image_map.paths[1]).write_bytes(data[:-200] + b"\xff\xe0" + data[-200:])
    for settings in ({}, {"crops": 10}):
        assert len(list(evaluation_dataset(image_map, 2, image_size=SIZE, **settings))) == 1
    with pytest.raises(tf.errors.OpError):
        list(evaluation_dataset(image_map, 2, image_size=SIZE, preprocessing="caffe"))
    assert f"{image_map.paths[1]} (line 2 of " in str(find_unreadable(image_map, range(2)))


def test_first_unreadable_of_the_rows_asked_for_is_named(tmp_path):
    image_map = write_numbered(tmp_path, 6)
    for row in (1, 3, 4):
        spoil(image_map.paths[row], "vanished")
    assert "(line 2 of" in str(find_unreadable(image_map, range(6)))
    assert "(line 4 of" in str(find_unreadable(image_map, range(2, 6)))
    assert "(line 5 of" in str(find_unreadable(image_map, iter([5, 0, 4, 3])))
    assert find_unreadable(image_map, [0, 2, 5]) is None


def usable_kinds() -> dict[str, tuple[bytes, np.ndarray]]:
    """Every kind of image that is odd but usable: the file, and its pixels, upright."""
    rgb = draw(48, 40)
    gray = np.repeat(rgb[..., :1], 3, axis=2)
    palette = Image.fromarray(rgb).quantize(64)
    of_palette = np.asarray(palette.convert("RGB"))
    jpeg = encode(rgb, "JPEG", quality=95)
    cmyk = encode(Image.fromarray(rgb).convert("CMYK"), "JPEG", quality=95)

    def decoded(data):
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    return {
        "PNG": (encode(rgb, "PNG"), rgb),
        "GIF": (encode(palette, "GIF"), of_palette),
        "BMP": (encode(rgb, "BMP"), rgb),
        "WebP": (encode(rgb, "WEBP", lossless=True), rgb),
        "CMYK": (cmyk, decoded(cmyk)),
        "gray": (encode(rgb[..., 0], "JPEG"), decoded(encode(rgb[..., 0], "JPEG"))),
        "16-bit": (encode(rgb[..., 0].astype(np.uint16) << 8, "PNG"), gray),
        "tiny": (encode(rgb[:1, :1], "PNG"), rgb[:1, :1]),
        "rotated": (
            with_exif(jpeg, exif_with_orientation(6, "<"), keep_jfif=True),
            decoded(jpeg).swapaxes(0, 1)[:, ::-1],
        ),
        "broken EXIF": (with_exif(jpeg, b"Exif\0\0II*\0garbage", keep_jfif=False), decoded(jpeg)),
    }


@pytest.mark.filterwarnings("ignore:::PIL")
def test_every_usable_kind_is_read_anywhere_in_a_map(tmp_path):
    """Each is the first, the last, or one between, of a batch; JPEGs stand between them."""
    kinds = usable_kinds()
    total = 2 * len(kinds) + 1
    image_map = write_numbered(tmp_path, total, width=30, height=20)
    # A dataset reads its files anew whenever it is iterated over.
    evaluation = evaluation_dataset(image_map, 3, image_size=16)

    def read() -> np.ndarray:
        return np.concatenate([images for images, _ in evaluation.as_numpy_iterator()])

    plain = read()
    for row, (data, _) in enumerate(kinds.values()):
        Path(image_map.paths[2 * row]).write_bytes(data)
    images = read()
    np.testing.assert_array_equal(images[1::2], plain[1::2])
    for row, (kind, (_, pixels)) in enumerate(kinds.items()):
        expected = evaluation_image(tf.constant(encode(pixels, "PNG")), 16)
        np.testing.assert_array_equal(images[2 * row], expected, err_msg=kind)
    _, labels = next(training_dataset(image_map, total, seed=0, image_size=16).as_numpy_iterator())
    assert sorted(labels) == list(range(total))


def test_unusable_image_is_named_anywhere_in_a_map(tmp_path):
    image_map = write_numbered(tmp_path, 7, width=64, height=640)
    evaluation = evaluation_dataset(image_map, 3, image_size=SIZE)
    assert find_unreadable(image_map, range(7)) is None
    for number, (how, reason) in enumerate(REASONS.items()):
        row = (0, 3, 6)[number % 3]
        path = image_map.paths[row]
        whole = Path(path).read_bytes()
        spoil(path, how)
        # The square in the middle, which alone is read here, does not reach the last rows.
        if how != "truncated at the end":
            with pytest.raises(tf.errors.OpError):
                list(evaluation)
            with pytest.raises(tf.errors.OpError):
                list(training_dataset(image_map, 7, seed=0, image_size=SIZE).take(1))
        message = str(find_unreadable(image_map, range(7)))
        assert message.startswith(f"cannot read the image {path} (line {row + 1} of {tmp_path}/map.txt): {reason}")
        assert ("prepare writes maps" if how == "vanished" else "prepare --skip_bad_images") in message
        for noise in ("{{", "[Op:", "BytesIO", "\n"):
            assert noise not in message
        if how == "a folder":
            os.rmdir(path)
        Path(path).write_bytes(whole)


def test_mutated_jpegs_give_pixels_or_an_error_with_their_path(tmp_path):
    """Bytes overwritten, cut out, doubled and put in: never a crash, a hang or an error without a name."""
    chance = random.Random(0)
    originals = [
        encode(draw(90, 70), "JPEG", quality=80),
        encode(draw(90, 70), "JPEG", quality=80, progressive=True),
        encode(draw(90, 70)[..., 0], "JPEG", quality=80),
        encode(draw(90, 70), "JPEG", quality=80, exif=exif_with_orientation(6, ">")),
        encode(Image.fromarray(draw(90, 70)).convert("CMYK"), "JPEG", quality=80),
    ]
    path = tmp_path / "mutated.JPEG"
    image_map = ImageMap([str(path)], [0])
    decode = tf.function(
        lambda data: training_image(data, tf.constant([0.5, 0.5, 0.1]), SIZE),
        input_signature=[tf.TensorSpec((), tf.string)],
    )
    outcomes = {"pixels": 0, "error": 0}
    for number in range(400):
        data = bytearray(originals[number % len(originals)])
        # Half of the changes are in the header, where they matter most.
        for _ in range(chance.choice([1, 1, 2, 8])):
            begin = chance.randrange(min(len(data), chance.choice([30, 700, 10_000])))
            length = chance.choice([1, 1, 2, 16, 300])
            change = chance.choice(["overwrite", "overwrite", "cut", "double", "noise"])
            if change == "overwrite":
                data[begin : begin + 1] = bytes([chance.choice([0, 0xFF, 0xD9, 0xD8, chance.randrange(256)])])
            elif change == "cut":
                del data[begin : begin + length]
            elif change == "double":
                data[begin:begin] = data[begin : begin + length]
            else:
                data[begin:begin] = chance.randbytes(length)
        path.write_bytes(data)
        try:
            assert decode(tf.constant(bytes(data))).shape == (SIZE, SIZE, 3)
            outcomes["pixels"] += 1
        except tf.errors.OpError:
            outcomes["error"] += 1
            error = find_unreadable(image_map, [0])
            assert isinstance(error, UserError), number
            assert str(path) in str(error)
    assert min(outcomes.values()) > 100, outcomes
