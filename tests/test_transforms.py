import functools
import io
import math
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from drawn_images import UPRIGHT, draw, encode, exif_with_orientation, with_exif
from PIL import Image

from keras_alexnet.data.crops import PREPROCESSINGS
from keras_alexnet.data.order import crop_numbers
from keras_alexnet.data.transforms import evaluation_image, ten_crops, training_image

SHARED_REFERENCE = Path(__file__).parents[2] / "shared" / "reference"


# Longer and shorter than 256 on either side, and 256 on one or both.
SIZES = [(500, 375), (375, 500), (128, 100), (256, 256), (400, 256), (256, 300), (501, 376), (1, 1), (9, 2)]


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


def crop_side(shorter: int) -> int:
    return math.floor(0.88671875 * shorter + 0.5)


def centre_square(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    side = crop_side(min(height, width))
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def five_squares(image: np.ndarray, side: int) -> list[np.ndarray]:
    """The squares of `side` in the corners of a square image and in its middle."""
    last = len(image) - side
    corners = [(0, 0), (0, last), (last, 0), (last, last), (last // 2, last // 2)]
    return [image[top : top + side, left : left + side] for top, left in corners]


def crops_of_seeds(data: bytes, seeds: list[tuple[int, int]], image_size: int) -> np.ndarray:
    """The crops of the (seed, position) pairs."""
    numbers = np.concatenate([crop_numbers(seed, position, 1) for seed, position in seeds])
    dataset = tf.data.Dataset.from_tensor_slices(numbers).map(
        lambda numbers: training_image(tf.constant(data), numbers, image_size)
    )
    return np.stack(list(dataset.as_numpy_iterator()))


@functools.cache
def places_of_many_crops() -> np.ndarray:
    """(top, left, mirrored) of 3,600 crops of a 41×36 image, whose square of 32 has 5 × 10 places."""
    data = encode(draw(41, 36), "JPEG")
    whole = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE").numpy()
    place_of = {}
    for top in range(5):
        for left in range(10):
            square = whole[top : top + 32, left : left + 32]
            place_of[square.tobytes()] = top, left, 0
            place_of[square[:, ::-1].tobytes()] = top, left, 1
    assert len(place_of) == 100
    seeds = [(seed, position) for seed in (0, 1, 2**40) for position in range(1200)]
    return np.array([place_of[crop.tobytes()] for crop in crops_of_seeds(data, seeds, 32)])


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
    ("width", "height"),
    [(128, 100), (256, 256), (257, 300), (300, 258), (500, 375), (640, 901), (41, 40), (1, 1), (9, 2)],
)
def test_evaluation_image_is_opencvs_bilinear(width, height):
    # Noise, and in color: what one pixel to the side would show in.
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    exact = opencv_bilinear(centre_square(pixels), 227)
    assert_rounded(evaluation_image(tf.constant(encode(pixels, "PNG")), 227).numpy(), exact)


@pytest.mark.parametrize("image_size", [8, 64, 300])
def test_evaluation_image_of_a_jpeg_in_other_sizes(image_size):
    data = encode(draw(200, 160), "JPEG", quality=95)
    whole = np.asarray(Image.open(io.BytesIO(data)))
    image = evaluation_image(tf.constant(data), image_size).numpy()
    assert image.shape == (image_size, image_size, 3)
    assert_rounded(image, opencv_bilinear(centre_square(whole), image_size))


@pytest.mark.parametrize(
    ("width", "height", "side", "left", "top"),
    [
        (128, 128, 114, 7, 7),
        (201, 128, 114, 43, 7),
        (128, 201, 114, 7, 43),
        (256, 256, 227, 14, 14),
        (384, 385, 341, 21, 22),
        (500, 375, 333, 83, 21),
        (1, 1, 1, 0, 0),
        (2, 4, 2, 0, 1),
    ],
)
def test_centre_square(width, height, side, left, top):
    """A result as large as the square is the square itself, so its place can be seen."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = evaluation_image(tf.constant(encode(pixels, "BMP")), side).numpy()
    np.testing.assert_array_equal(image, pixels[top : top + side, left : left + side])


def test_crop_side_of_every_small_image():
    pixels = np.random.default_rng(0).integers(0, 256, (140, 140, 3), dtype=np.uint8)
    for shorter in range(1, 140):
        part = pixels[:shorter, : shorter + shorter % 2]
        image = evaluation_image(tf.constant(encode(part, "BMP")), crop_side(shorter)).numpy()
        np.testing.assert_array_equal(image, centre_square(part))


@pytest.mark.parametrize(("width", "height"), [(256, 256), (341, 256), (256, 300)])
def test_shorter_side_256_needs_no_resize(width, height):
    """The crop of a JPEG is then, pixel by pixel, a square of the whole image."""
    data = encode(draw(width, height), "JPEG", quality=90)
    whole = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE").numpy()
    squares = np.lib.stride_tricks.sliding_window_view(whole[..., 0], (227, 227))
    for crop in crops_of_seeds(data, [(5, position) for position in range(6)], 227):
        found = [
            (top, left)
            for upright in (crop, crop[:, ::-1])
            for top, left in np.argwhere(squares[..., 0, 0] == upright[0, 0, 0])
            if np.array_equal(whole[top : top + 227, left : left + 227], upright)
        ]
        assert len(found) == 1


def test_training_image_is_resized_like_the_evaluation_image():
    pixels = np.random.default_rng(3).integers(0, 256, (36, 41, 3), dtype=np.uint8)
    squares = [pixels[top : top + 32, left : left + 32] for top in range(5) for left in range(10)]
    exact = [opencv_bilinear(square, 45) for square in squares]
    exact += [image[:, ::-1] for image in exact]
    for crop in crops_of_seeds(encode(pixels, "PNG"), [(5, position) for position in range(20)], 45):
        differences = sorted(np.abs(crop - image).max() for image in exact)
        assert differences[0] <= 0.51
        assert differences[1] > 10


def test_every_crop_is_as_likely_as_any_other():
    tops, lefts, mirrored = places_of_many_crops().T
    counts = np.zeros((5, 10, 2))
    np.add.at(counts, (tops, lefts, mirrored), 1)
    assert counts.min() > 0
    # The bounds are the 99.9th percentiles; the seeds are fixed.
    assert chi_square(counts.sum(axis=(1, 2))) < 18.5
    assert chi_square(counts.sum(axis=(0, 2))) < 27.9
    assert chi_square(counts.sum(axis=(0, 1))) < 10.9
    # Together also: row, column and mirroring are independent.
    assert chi_square(counts) < 148.3


def test_crops_of_neighboring_rows_are_independent():
    places = places_of_many_crops()[:1200].astype(float)
    for this in places.T:
        for other in places.T:
            assert abs(np.corrcoef(this[:-1], other[1:])[0, 1]) < 0.1


def test_mirroring_alone_changes_no_place():
    """An image of 2×2 has a single crop: what is left of the randomness is the mirroring."""
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    crops = crops_of_seeds(encode(pixels, "BMP"), [(0, position) for position in range(200)], 2)
    upright = (crops == pixels).all(axis=(1, 2, 3))
    mirrored = (crops == pixels[:, ::-1]).all(axis=(1, 2, 3))
    assert (upright ^ mirrored).all()
    assert 75 < mirrored.sum() < 125


def test_equal_seeds_give_equal_pixels_and_others_do_not():
    data = encode(draw(120, 90), "JPEG")
    seeds = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2**40)]
    crops = crops_of_seeds(data, seeds, 64)
    np.testing.assert_array_equal(crops, crops_of_seeds(data, seeds, 64))
    assert len({crop.tobytes() for crop in crops}) == len(seeds)


def test_crop_numbers_are_those_of_each_position():
    """Wherever a run begins and however many are asked for at once; and they never change."""
    numbers = crop_numbers(7, 100, 50)
    assert numbers.dtype == np.float32
    assert numbers.min() >= 0
    assert numbers.max() < 1
    for position in (100, 101, 149):
        np.testing.assert_array_equal(crop_numbers(7, position, 1)[0], numbers[position - 100])
    assert crop_numbers(0, 0, 1)[0].tolist() == [0.44858455657958984, 0.8035864233970642, 0.4804498553276062]


def test_largest_number_is_still_inside():
    """An image of 36×41 has 5 × 10 places: 0.99999994 times as many is the last one."""
    pixels = np.random.default_rng(3).integers(0, 256, (36, 41, 3), dtype=np.uint8)
    largest = np.float32(1 - 2**-24)
    for shorter in range(20, 36):
        part = pixels[:shorter]
        side = crop_side(shorter)
        crop = training_image(tf.constant(encode(part, "BMP")), tf.constant([largest] * 3), side).numpy()
        np.testing.assert_array_equal(crop, part[shorter - side :, 41 - side :])


def test_eager_and_mapped_results_are_equal():
    pixels = draw(120, 90)
    files = [
        encode(pixels, "JPEG"),
        encode(pixels[..., 0], "JPEG"),
        encode(pixels, "JPEG", exif=exif_with_orientation(6, ">")),
        encode(Image.fromarray(pixels).convert("CMYK"), "JPEG"),
        encode(pixels, "PNG"),
    ]
    numbers = crop_numbers(3, 4, 1)[0]
    transforms = [lambda data: training_image(data, numbers, 64)]
    for resize in PREPROCESSINGS:
        transforms.append(lambda data, preprocessing=resize: evaluation_image(data, 64, preprocessing))
        transforms.append(lambda data, preprocessing=resize: ten_crops(data, 64, preprocessing))
    for transform in transforms:
        dataset = tf.data.Dataset.from_tensor_slices(files).map(transform)
        assert dataset.element_spec in (tf.TensorSpec((64, 64, 3), tf.uint8), tf.TensorSpec((10, 64, 64, 3), tf.uint8))
        for data, mapped in zip(files, dataset.as_numpy_iterator(), strict=True):
            np.testing.assert_array_equal(transform(tf.constant(data)).numpy(), mapped)


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("side", "begin"), [(227, 14), (224, 16), (256, 0), (67, 94)])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_caffe_is_caffes(width, height, side, begin):
    """OpenCV's resize of the whole image, out of which data_transformer.cpp cuts the middle."""
    pixels = noise(width, height)
    image = evaluation_image(tf.constant(encode(pixels, "PNG")), side, "caffe").numpy()
    exact = opencv_bilinear(pixels, 256)[begin : begin + side, begin : begin + side]
    assert_rounded(image, exact)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_caffe_of_a_turned_jpeg(orientation):
    stored = encode(draw(97, 75), "JPEG", quality=95)
    upright = UPRIGHT[orientation](np.asarray(Image.open(io.BytesIO(stored))))
    data = with_exif(stored, exif_with_orientation(orientation, "<"), keep_jfif=True)
    image = evaluation_image(tf.constant(data), 227, "caffe").numpy()
    assert_rounded(image, opencv_bilinear(upright, 256)[14:241, 14:241])


def test_caffe_of_other_kinds_of_files():
    """As of a PNG with the pixels that Pillow reads."""
    pixels = draw(97, 75)
    cmyk = encode(Image.fromarray(pixels).convert("CMYK"), "JPEG", quality=95)
    gray = encode(pixels[..., 0], "JPEG", quality=95)
    deep = encode(pixels[..., 0].astype(np.uint16) << 8, "PNG")
    kinds = {
        "CMYK": (cmyk, np.asarray(Image.open(io.BytesIO(cmyk)).convert("RGB"))),
        "gray": (gray, np.asarray(Image.open(io.BytesIO(gray)).convert("RGB"))),
        "16-bit": (deep, np.repeat(pixels[..., :1], 3, axis=2)),
        "BMP": (encode(pixels, "BMP"), pixels),
        "WebP": (encode(pixels, "WEBP", lossless=True), pixels),
    }
    for kind, (data, whole) in kinds.items():
        image = evaluation_image(tf.constant(data), 227, "caffe").numpy()
        expected = evaluation_image(tf.constant(encode(whole, "PNG")), 227, "caffe").numpy()
        np.testing.assert_array_equal(image, expected, err_msg=kind)


@pytest.mark.parametrize(
    ("width", "height", "network", "side", "left", "top"),
    [
        (256, 256, 224, 224, 16, 16),
        (341, 256, 224, 224, 58, 16),
        (256, 341, 227, 227, 14, 57),
        (128, 128, 224, 112, 8, 8),
        (500, 375, 224, 328, 86, 23),
        (500, 375, 256, 375, 62, 0),
        (1, 1, 67, 1, 0, 0),  # a quarter of a pixel
    ],
)
def test_torchvision_is_the_square_of_the_networks_side(width, height, network, side, left, top):
    """Of an image whose shorter side is made 256; that is, side/256 of it."""
    pixels = noise(width, height)
    image = evaluation_image(tf.constant(encode(pixels, "PNG")), network, "torchvision").numpy()
    square = pixels[top : top + side, left : left + side]
    assert_rounded(image, opencv_bilinear(square, network))


@pytest.mark.parametrize("preprocessing", ["cntk", "torchvision"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_ten_crops_of_the_square_in_the_middle(width, height, preprocessing):
    pixels = noise(width, height)
    shorter = min(width, height)
    side = crop_side(shorter) if preprocessing == "cntk" else math.floor(shorter * 224 / 256 + 0.5)
    # The whole shorter side, placed so that its middle is the middle of the image.
    top, left = ((size - side) // 2 - (shorter - side) // 2 for size in (height, width))
    assert abs(top - (height - shorter) / 2) <= 0.5
    assert abs(left - (width - shorter) / 2) <= 0.5
    square = pixels[top : top + shorter, left : left + shorter]
    assert square.shape == (shorter, shorter, 3)
    data = tf.constant(encode(pixels, "PNG"))
    crops = ten_crops(data, 224, preprocessing).numpy()
    assert crops.shape == (10, 224, 224, 3)
    for crop, mirrored, exact in zip(crops[:5], crops[5:], five_squares(square, side), strict=True):
        assert_rounded(crop, opencv_bilinear(exact, 224))
        np.testing.assert_array_equal(mirrored, crop[:, ::-1])
    np.testing.assert_array_equal(crops[4], evaluation_image(data, 224, preprocessing))


@pytest.mark.parametrize("side", [227, 224, 256])
def test_ten_crops_of_the_warped_image(side):
    data = tf.constant(encode(noise(301, 207), "PNG"))
    whole = evaluation_image(data, 256, "caffe").numpy()
    crops = ten_crops(data, side, "caffe").numpy()
    squares = five_squares(whole, side)
    np.testing.assert_array_equal(crops, [*squares, *(square[:, ::-1] for square in squares)])
    np.testing.assert_array_equal(crops[4], evaluation_image(data, side, "caffe"))


def test_ten_crops_of_a_jpeg_with_a_shorter_side_of_256_are_its_pixels():
    data = tf.constant(encode(draw(301, 256), "JPEG", quality=90))
    whole = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE").numpy()
    # (301 - 227) // 2 is 37, and 37 - (256 - 227) // 2 is 23.
    squares = five_squares(whole[:, 23:279], 227)
    np.testing.assert_array_equal(ten_crops(data, 227)[:5], squares)
    np.testing.assert_array_equal(ten_crops(data, 227)[4], evaluation_image(data, 227))
