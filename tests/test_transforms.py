import math
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from drawn_images import draw, encode

from keras_alexnet.data.order import crop_numbers
from keras_alexnet.data.transforms import evaluation_image, ten_crops, training_image

SHARED_REFERENCE = Path(__file__).parents[2] / "shared" / "reference"


def opencv_bilinear(image: np.ndarray, side: int) -> np.ndarray:
    """OpenCV's INTER_LINEAR without its rounding: half-pixel centers, no antialiasing, edges repeated; float64."""

    def taps(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        source = np.clip((np.arange(side) + 0.5) * size / side - 0.5, 0, size - 1)
        lower = np.floor(source).astype(int)
        return lower, np.minimum(lower + 1, size - 1), source - lower

    image = image.astype(np.float64)
    lower, upper, weight = taps(image.shape[0])
    rows = image[lower] + (image[upper] - image[lower]) * weight[:, np.newaxis, np.newaxis]
    lower, upper, weight = taps(image.shape[1])
    return rows[:, lower] + (rows[:, upper] - rows[:, lower]) * weight[np.newaxis, :, np.newaxis]


def assert_rounded(image: np.ndarray, exact: np.ndarray) -> None:
    """Half a gray level is what rounding may cost; the rest is float32."""
    assert image.dtype == np.uint8
    assert np.abs(image - exact).max() <= 0.51


def noise(width: int, height: int) -> np.ndarray:
    """In color: what one pixel to the side would show in."""
    return np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray) -> tf.Tensor:
    return tf.constant(encode(pixels, "BMP"))


def crop_side(shorter: int) -> int:
    return math.floor(0.88671875 * shorter + 0.5)


def five_squares(image: np.ndarray, side: int) -> list[np.ndarray]:
    """The squares of `side` in the corners of a square image and in its middle."""
    last = len(image) - side
    corners = [(0, 0), (0, last), (last, 0), (last, last), (last // 2, last // 2)]
    return [image[top : top + side, left : left + side] for top, left in corners]


def training_images(data: bytes, count: int, image_size: int, seed: int = 5) -> np.ndarray:
    """The crops of an image at the first positions of a run."""
    dataset = tf.data.Dataset.from_tensor_slices(crop_numbers(seed, 0, count)).map(
        lambda numbers: training_image(tf.constant(data), numbers, image_size)
    )
    return np.stack(list(dataset.as_numpy_iterator()))


def chi_square(counts: np.ndarray) -> float:
    """Of the hypothesis that all counts have the same expectation; about as large as there are counts if so."""
    return ((counts - counts.mean()) ** 2 / counts.mean()).sum()


def test_evaluation_image_is_cntks():
    """CNTK 2.7's own ImageReader on twelve photographs, which are not in this repository."""
    folder = Path(os.environ.get("KERAS_ALEXNET_REFERENCE", SHARED_REFERENCE))
    if not (folder / "imagereader_center_crop.npz").is_file():
        pytest.skip(f"no imagereader_center_crop.npz in {folder}; KERAS_ALEXNET_REFERENCE names its folder")
    with np.load(folder / "imagereader_center_crop.npz") as file:
        names, by_cntk = file["names"], file["center_crop_227"]
    assert len(names) == 12
    for name, bgr in zip(names, by_cntk, strict=True):
        image = evaluation_image(tf.io.read_file(str(folder / "jpeg" / name)), 227).numpy()
        difference = np.abs(image - bgr.transpose(1, 2, 0)[..., ::-1].astype(int))
        assert difference.max() <= 1, name
        assert difference.mean() <= 0.3, name


@pytest.mark.parametrize(
    ("preprocessing", "width", "height", "image_size", "side", "left", "top"),
    [
        ("cntk", 201, 128, 227, 114, 43, 7),  # half a pixel, rounded up
        ("cntk", 256, 256, 227, 227, 14, 14),
        ("cntk", 384, 385, 227, 341, 21, 22),
        ("cntk", 500, 375, 64, 333, 83, 21),
        ("cntk", 1, 1, 227, 1, 0, 0),
        ("cntk", 2, 4, 300, 2, 0, 1),
        # Of an image whose shorter side is made 256, that is, image_size / 256 of it.
        ("torchvision", 341, 256, 224, 224, 58, 16),
        ("torchvision", 256, 341, 227, 227, 14, 57),
        ("torchvision", 500, 375, 224, 328, 86, 23),
        ("torchvision", 500, 375, 256, 375, 62, 0),
        ("torchvision", 1, 1, 67, 1, 0, 0),  # a quarter of a pixel
    ],
)
def test_evaluation_image_is_a_square_in_the_center(preprocessing, width, height, image_size, side, left, top):
    pixels = noise(width, height)
    square = pixels[top : top + side, left : left + side]
    image = evaluation_image(encoded(pixels), image_size, preprocessing).numpy()
    assert_rounded(image, opencv_bilinear(square, image_size))


@pytest.mark.parametrize(
    ("width", "height", "side", "begin"),
    [(500, 375, 227, 14), (128, 100, 224, 16), (256, 300, 256, 0), (9, 2, 227, 14), (1, 1, 67, 94)],
)
def test_caffe_is_caffes(width, height, side, begin):
    """OpenCV's resize of the whole image, out of which data_transformer.cpp cuts the middle."""
    pixels = noise(width, height)
    image = evaluation_image(encoded(pixels), side, "caffe").numpy()
    exact = opencv_bilinear(pixels, 256)[begin : begin + side, begin : begin + side]
    assert_rounded(image, exact)


@pytest.mark.parametrize("preprocessing", ["cntk", "torchvision"])
# Longer and shorter than 256, 256 on one side, and next to nothing.
@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 501), (128, 100), (256, 300), (1, 1), (9, 2)])
def test_ten_crops_of_the_square_in_the_middle(width, height, preprocessing):
    pixels = noise(width, height)
    shorter = min(width, height)
    side = crop_side(shorter) if preprocessing == "cntk" else math.floor(shorter * 224 / 256 + 0.5)
    # The whole shorter side, placed so that its middle is the middle of the image.
    top, left = ((size - side) // 2 - (shorter - side) // 2 for size in (height, width))
    assert abs(top - (height - shorter) / 2) <= 0.5
    assert abs(left - (width - shorter) / 2) <= 0.5
    square = pixels[top : top + shorter, left : left + shorter]
    crops = ten_crops(encoded(pixels), 224, preprocessing).numpy()
    assert crops.shape == (10, 224, 224, 3)
    for crop, flipped, exact in zip(crops[:5], crops[5:], five_squares(square, side), strict=True):
        assert_rounded(crop, opencv_bilinear(exact, 224))
        np.testing.assert_array_equal(flipped, crop[:, ::-1])
    np.testing.assert_array_equal(crops[4], evaluation_image(encoded(pixels), 224, preprocessing))


def test_ten_crops_of_the_squashed_image():
    data = encoded(noise(301, 207))
    squares = five_squares(evaluation_image(data, 256, "caffe").numpy(), 227)
    crops = ten_crops(data, 227, "caffe").numpy()
    np.testing.assert_array_equal(crops, [*squares, *(square[:, ::-1] for square in squares)])
    np.testing.assert_array_equal(crops[4], evaluation_image(data, 227, "caffe"))


def test_training_image_is_resized_like_the_evaluation_image():
    pixels = noise(41, 36)
    squares = [pixels[top : top + 32, left : left + 32] for top in range(5) for left in range(10)]
    exact = [opencv_bilinear(square, 45) for square in squares]
    exact += [image[:, ::-1] for image in exact]
    for crop in training_images(encode(pixels, "PNG"), 10, 45):
        differences = sorted(np.abs(crop - image).max() for image in exact)
        assert differences[0] <= 0.51
        assert differences[1] > 10


def test_every_crop_is_as_likely_as_any_other():
    """3,600 crops of a 41×36 image, whose square of 32 has 5 × 10 places and needs no resize."""
    data = encode(draw(41, 36), "JPEG")
    whole = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE").numpy()
    place_of = {}
    for top in range(5):
        for left in range(10):
            square = whole[top : top + 32, left : left + 32]
            place_of[square.tobytes()] = top, left, 0
            place_of[square[:, ::-1].tobytes()] = top, left, 1
    assert len(place_of) == 100
    crops = np.concatenate([training_images(data, 1200, 32, seed) for seed in (0, 1, 2**40)])
    places = np.array([place_of[crop.tobytes()] for crop in crops])
    counts = np.zeros((5, 10, 2))
    np.add.at(counts, tuple(places.T), 1)
    assert counts.min() > 0
    # The bounds are the 99.9th percentiles; the seeds are fixed.
    assert chi_square(counts.sum(axis=(1, 2))) < 18.5
    assert chi_square(counts.sum(axis=(0, 2))) < 27.9
    assert chi_square(counts.sum(axis=(0, 1))) < 10.9
    # Together also: row, column and flip are independent.
    assert chi_square(counts) < 148.3
    # So are neighboring rows of a run.
    correlations = np.corrcoef(places[:1199].T, places[1:1200].T)[:3, 3:]
    assert np.abs(correlations).max() < 0.1


def test_crop_numbers_are_those_of_each_position():
    """Wherever a run begins and however many are asked for at once; and they never change."""
    numbers = crop_numbers(7, 100, 50)
    assert numbers.dtype == np.float32
    for position in (100, 101, 149):
        np.testing.assert_array_equal(crop_numbers(7, position, 1)[0], numbers[position - 100])
    assert crop_numbers(0, 0, 1)[0].tolist() == [0.44858455657958984, 0.8035864233970642, 0.4804498553276062]


def test_largest_number_is_still_inside():
    """An image of 36×41 has 5 × 10 places: 0.99999994 times as many is the last one."""
    pixels = noise(41, 36)
    largest = np.float32(1 - 2**-24)
    for shorter in range(30, 37):
        part = pixels[:shorter]
        side = crop_side(shorter)
        crop = training_image(encoded(part), tf.constant([largest] * 3), side).numpy()
        np.testing.assert_array_equal(crop, part[shorter - side :, 41 - side :])
