import gc
import hashlib
import io
import os
import random
import weakref
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from drawn_images import draw, encode, exif_with_orientation, with_exif, write_numbered
from PIL import Image

from keras_alexnet.data import order as order_module
from keras_alexnet.data.crops import PREPROCESSINGS
from keras_alexnet.data.image_map import ImageMap
from keras_alexnet.data.order import batch_rows, crop_numbers, permutation, steps_per_pass
from keras_alexnet.data.pipeline import evaluation_dataset, padded_evaluation_dataset, readable_images, training_dataset
from keras_alexnet.data.transforms import evaluation_image, ten_crops, training_image
from keras_alexnet.data.unreadable import find_unreadable
from keras_alexnet.errors import UserError

SIZE = 8


@pytest.fixture(scope="module")
def eleven(tmp_path_factory) -> ImageMap:
    """With batches of 4, two steps a pass and three images left over. Read only."""
    return write_numbered(tmp_path_factory.mktemp("eleven"), 11, width=22, height=18)


@pytest.fixture(scope="module")
def eight_steps(eleven):
    """The first four passes over `eleven` in batches of 4, seed 6: pixels and labels."""
    return train(eleven, 4, steps=8, seed=6)


@pytest.fixture(scope="module")
def forty(tmp_path_factory) -> ImageMap:
    return write_numbered(tmp_path_factory.mktemp("forty"), 40)


def train(image_map: ImageMap, batch_size: int, *, steps: int, threads: int | None = None, **options):
    """The first `steps` batches as arrays: pixels (step, batch, …) and labels (step, batch)."""
    dataset = training_dataset(image_map, batch_size, image_size=SIZE, **options)
    if threads:
        settings = tf.data.Options()
        settings.threading.private_threadpool_size = threads
        dataset = dataset.with_options(settings)
    images, labels = zip(*dataset.take(steps).as_numpy_iterator(), strict=True)
    return np.stack(images), np.stack(labels)


def assert_same(one, other) -> None:
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_permutation_never_changes():
    """Runs are resumed under other versions of NumPy, too."""
    assert permutation(12, 0, 0).tolist() == [0, 2, 11, 9, 1, 8, 5, 4, 3, 10, 6, 7]
    assert permutation(12, 7, 3).tolist() == [2, 5, 9, 7, 3, 0, 6, 8, 4, 1, 11, 10]
    large = permutation(100_000, 1, 89)
    assert large[:4].tolist() == [65076, 72326, 67185, 25776]
    digest = hashlib.sha256(large.astype("<i8").tobytes()).hexdigest()
    assert digest == "b311b7ad6212183c5a61c5af5d10b1d5b5b77ccc4b1134b7a6bd0486c63b49d0"


@pytest.mark.parametrize("size", [1, 2, 3, 10, 257, 50_000])
def test_permutation_has_every_row_once(size):
    order = permutation(size, 3, 5)
    assert order.dtype == np.int32
    np.testing.assert_array_equal(np.sort(order), np.arange(size))


def test_permutations_of_passes_and_seeds_are_unrelated():
    size = 10_000
    orders = [permutation(size, seed, pass_index) for seed in (0, 1, 2) for pass_index in (0, 1, 2)]
    # The place of each row in a pass, and which row has a place: 5 standard errors.
    for series in (orders, [np.argsort(order) for order in orders]):
        correlations = np.corrcoef([*series, np.arange(size)])
        assert np.abs(correlations - np.eye(len(correlations))).max() < 5 / np.sqrt(size)


def test_datasets_leave_no_permutation_behind(eleven, monkeypatch):
    """TensorFlow keeps a dataset's Python functions, and all that they refer to, until the process ends."""
    permutations = {}
    make = order_module._permutation

    def noted(num_images, seed, pass_index):
        found = make(num_images, seed, pass_index)
        permutations[pass_index] = weakref.ref(found)
        return found

    monkeypatch.setattr(order_module, "_permutation", noted)
    for pass_index in range(0, 12, 3):
        train(eleven, 2, steps=1, seed=0, first_step=pass_index * 5)
    gc.collect()
    assert len(permutations) >= 4
    assert sum(made() is not None for made in permutations.values()) <= 2


def test_batch_rows_cut_the_permutation_of_each_pass():
    assert steps_per_pass(11, 4) == 2
    for pass_index in range(3):
        order = permutation(11, 6, pass_index)
        for batch in range(2):
            rows = batch_rows(11, 4, 6, 2 * pass_index + batch)
            np.testing.assert_array_equal(rows, order[4 * batch : 4 * batch + 4])


def test_every_image_is_left_out_of_some_pass_only():
    left_out = [
        set(range(11)) - {*batch_rows(11, 4, 0, step), *batch_rows(11, 4, 0, step + 1)} for step in range(0, 20, 2)
    ]
    assert {len(rows) for rows in left_out} == {3}
    assert len({frozenset(rows) for rows in left_out}) > 5
    assert set.intersection(*left_out) == set()


def test_training_labels_follow_batch_rows(eight_steps):
    _, labels = eight_steps
    for step in range(8):
        np.testing.assert_array_equal(labels[step], batch_rows(11, 4, 6, step))
    passes = labels.reshape(4, 8)
    assert all(len(set(rows)) == 8 for rows in passes)
    assert len({frozenset(rows) for rows in passes}) > 1


def test_training_pixels_are_those_of_seed_and_position(eleven, eight_steps):
    """The contract that makes a run a pure function: row r of the run is augmented by (seed, r)."""
    images, labels = eight_steps
    for position, (image, row) in enumerate(zip(images.reshape(32, SIZE, SIZE, 3), labels.ravel(), strict=True)):
        data = tf.io.read_file(eleven.paths[row])
        expected = training_image(data, crop_numbers(6, position, 1)[0], SIZE)
        np.testing.assert_array_equal(image, expected.numpy())


def test_labels_are_those_of_the_map(eleven):
    others = ImageMap(eleven.paths, [100 + row for row in range(11)])
    _, labels = train(others, 4, steps=2, seed=6)
    np.testing.assert_array_equal(labels, [100 + batch_rows(11, 4, 6, step) for step in range(2)])
    _, labels = next(evaluation_dataset(others, 11, image_size=SIZE).as_numpy_iterator())
    assert labels.tolist() == list(range(100, 111))


def test_threads_change_nothing(tmp_path):
    image_map = write_numbered(tmp_path, 12)
    # Slow files between quick ones: a map that does not keep the order gives the quick ones first.
    for row in (0, 3, 7):
        Path(image_map.paths[row]).write_bytes(encode(draw(1200, 1200, seed=row), "JPEG"))
    expected = train(image_map, 4, steps=6, seed=2, threads=1)
    np.testing.assert_array_equal(expected[1], [batch_rows(12, 4, 2, step) for step in range(6)])
    for threads in (None, 2, 8):
        assert_same(train(image_map, 4, steps=6, seed=2, threads=threads), expected)


@pytest.mark.parametrize("first_step", range(1, 5))
def test_run_begins_at_any_step(eleven, eight_steps, first_step):
    resumed = train(eleven, 4, steps=8 - first_step, seed=6, first_step=first_step)
    assert_same(resumed, [array[first_step:] for array in eight_steps])


def test_run_begins_at_any_step_far_on(eleven):
    _, labels = train(eleven, 4, steps=2, seed=6, first_step=2_000_001)
    np.testing.assert_array_equal(labels, [batch_rows(11, 4, 6, 2_000_001), batch_rows(11, 4, 6, 2_000_002)])


def test_a_dataset_starts_anew_each_time(eleven):
    dataset = training_dataset(eleven, 4, seed=6, image_size=SIZE).take(3)
    for one, other in zip(dataset.as_numpy_iterator(), dataset.as_numpy_iterator(), strict=True):
        assert_same(one, other)


def test_seed_changes_order_and_pixels(eleven):
    images, labels = train(eleven, 11, steps=1, seed=6)
    other_images, other_labels = train(eleven, 11, steps=1, seed=7)
    assert not np.array_equal(labels, other_labels)
    # Image by image, so that it is not the order alone which differs.
    by_row = images[0][np.argsort(labels[0])]
    other_by_row = other_images[0][np.argsort(other_labels[0])]
    assert sum(np.array_equal(a, b) for a, b in zip(by_row, other_by_row, strict=True)) < 5


def test_an_image_is_cropped_anew_in_each_pass(eleven):
    alone = ImageMap(eleven.paths[:1], [0])
    images, _ = train(alone, 1, steps=12, seed=0)
    assert len({image.tobytes() for image in images}) > 6


@pytest.mark.parametrize(("num_workers", "first_step"), [(1, 0), (2, 0), (2, 1), (4, 3)])
def test_workers_share_the_batches(eleven, eight_steps, num_workers, first_step):
    options = {"seed": 6, "first_step": first_step, "num_workers": num_workers}
    parts = [train(eleven, 4, steps=8 - first_step, worker=worker, **options) for worker in range(num_workers)]
    for whole, *shares in zip(eight_steps, *parts, strict=True):
        for worker, share in enumerate(shares):
            np.testing.assert_array_equal(whole[first_step:, worker::num_workers], share)


@pytest.mark.parametrize("worker", [0, 1])
def test_a_worker_reads_its_own_rows_only(tmp_path, worker):
    image_map = write_numbered(tmp_path, 11)
    own = {row for step in range(2) for row in batch_rows(11, 4, 6, step)[worker::2]}
    for row in set(range(11)) - own:
        os.remove(image_map.paths[row])
    _, labels = train(image_map, 4, steps=2, seed=6, worker=worker, num_workers=2)
    assert set(labels.ravel()) == own


def test_workers_have_to_divide_the_batch(eleven):
    with pytest.raises(UserError, match="batch_size is 4, which is not divisible by the 3 workers"):
        training_dataset(eleven, 4, seed=0, num_workers=3)


def test_fewer_images_than_a_batch(eleven):
    message = "batch_size is 12, but there are only 11 training images"
    with pytest.raises(UserError, match=message):
        training_dataset(eleven, 12, seed=0)
    with pytest.raises(UserError, match=message):
        batch_rows(11, 12, 0, 0)
    assert steps_per_pass(11, 11) == 1


def test_training_elements(eleven):
    dataset = training_dataset(eleven, 4, seed=0)
    assert dataset.cardinality() == tf.data.INFINITE_CARDINALITY
    assert dataset.element_spec == (tf.TensorSpec((4, 227, 227, 3), tf.uint8), tf.TensorSpec((4,), tf.int32))
    images, labels = next(dataset.as_numpy_iterator())
    assert (images.shape, images.dtype) == ((4, 227, 227, 3), np.uint8)
    assert (labels.shape, labels.dtype) == ((4,), np.int32)
    smaller = training_dataset(eleven, 4, seed=0, num_workers=2, image_size=67)
    assert smaller.element_spec[0] == tf.TensorSpec((2, 67, 67, 3), tf.uint8)


def test_evaluation_elements(eleven):
    dataset = evaluation_dataset(eleven, 4)
    assert dataset.element_spec == (tf.TensorSpec((None, 227, 227, 3), tf.uint8), tf.TensorSpec((None,), tf.int32))
    images, labels = next(dataset.as_numpy_iterator())
    assert (images.shape, images.dtype) == ((4, 227, 227, 3), np.uint8)
    assert labels.dtype == np.int32


def test_tensorflow_does_not_shard_again(eleven):
    for dataset in (training_dataset(eleven, 4, seed=0), evaluation_dataset(eleven, 4)):
        policy = dataset.options().experimental_distribute.auto_shard_policy
        assert policy == tf.data.experimental.AutoShardPolicy.OFF


@pytest.mark.parametrize("batch_size", [1, 3, 4, 11, 20])
def test_evaluation_has_every_image_once_in_order(eleven, batch_size):
    dataset = evaluation_dataset(eleven, batch_size, image_size=SIZE)
    assert dataset.cardinality() == -(-11 // batch_size)
    images, labels = zip(*dataset.as_numpy_iterator(), strict=True)
    sizes = [len(batch) for batch in labels]
    assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
    assert [len(batch) for batch in images] == sizes
    assert np.concatenate(labels).tolist() == list(range(11))
    expected = [evaluation_image(tf.io.read_file(path), SIZE).numpy() for path in eleven.paths]
    np.testing.assert_array_equal(np.concatenate(images), expected)


def test_names_that_are_not_utf8_are_read(tmp_path):
    image_map = write_numbered(tmp_path, 2)
    renamed = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.JPEG")
    os.rename(image_map.paths[1], renamed)
    image_map = ImageMap([image_map.paths[0], renamed], [0, 1])
    assert [len(labels) for _, labels in evaluation_dataset(image_map, 2, image_size=SIZE)] == [2]
    assert find_unreadable(image_map, range(2)) is None


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


@pytest.mark.parametrize("how", REASONS)
def test_unreadable_image_is_named(tmp_path, how):
    image_map = write_numbered(tmp_path, 5, width=64, height=640)
    assert find_unreadable(image_map, range(5)) is None
    for row in (0, 2, 4):
        path = image_map.paths[row]
        whole = Path(path).read_bytes()
        spoil(path, how)
        error = find_unreadable(image_map, range(5))
        assert isinstance(error, UserError)
        message = str(error)
        assert message.startswith(
            f"cannot read the image {path} (line {row + 1} of {tmp_path}/map.txt): {REASONS[how]}"
        )
        assert "prepare --skip_bad_images" in message
        for noise in ("{{", "[Op:", "BytesIO", "\n"):
            assert noise not in message
        if how == "a folder":
            os.rmdir(path)
        Path(path).write_bytes(whole)
    assert find_unreadable(image_map, range(5)) is None


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


@pytest.mark.parametrize("how", ["vanished", "a folder", "empty", "text", "truncated"])
def test_unreadable_image_stops_the_datasets(tmp_path, how):
    image_map = write_numbered(tmp_path, 6)
    spoil(image_map.paths[3], how)
    with pytest.raises(tf.errors.OpError):
        train(image_map, 6, steps=1, seed=0)
    with pytest.raises(tf.errors.OpError):
        list(evaluation_dataset(image_map, 2, image_size=SIZE))


@pytest.mark.parametrize("case", range(12))
def test_any_run(forty, case):
    """Random sizes, batches, seeds, starts and workers: always the rows that batch_rows says."""
    draws = random.Random(case)
    num_images = draws.randint(1, 40)
    per_worker = draws.randint(1, 4)
    num_workers = draws.randint(1, max(1, num_images // per_worker))
    batch_size = per_worker * num_workers if per_worker * num_workers <= num_images else num_workers
    worker = draws.randrange(num_workers)
    seed = draws.randrange(2**63)
    first_step = draws.randint(0, 5 * (num_images // batch_size))
    image_map = ImageMap(forty.paths[:num_images], range(num_images))
    options = {"seed": seed, "first_step": first_step, "worker": worker, "num_workers": num_workers}
    _, labels = train(image_map, batch_size, steps=9, **options)
    expected = [batch_rows(num_images, batch_size, seed, first_step + step)[worker::num_workers] for step in range(9)]
    np.testing.assert_array_equal(labels, expected)


def test_batches_of_several_chunks_are_in_order(eleven):
    """Batches of more than 64 images are put together from chunks, whatever the cores are done with first."""
    many = ImageMap([eleven.paths[row % 11] for row in range(300)], range(300))
    for batch_size in (130, 67):
        _, labels = train(many, batch_size, steps=2, seed=1)
        np.testing.assert_array_equal(labels, [batch_rows(300, batch_size, 1, step) for step in range(2)])
        batches = list(evaluation_dataset(many, batch_size, image_size=SIZE).as_numpy_iterator())
        assert np.concatenate([labels for _, labels in batches]).tolist() == list(range(300))
        whole = np.concatenate([images for images, _ in batches])
        np.testing.assert_array_equal(whole[11:22], whole[:11])


@pytest.mark.parametrize("preprocessing", PREPROCESSINGS)
def test_evaluation_has_the_crops_asked_for(eleven, preprocessing):
    data = [tf.io.read_file(path) for path in eleven.paths]
    single = padded_evaluation_dataset(eleven, 4, image_size=SIZE, preprocessing=preprocessing)
    ten = padded_evaluation_dataset(eleven, 4, image_size=SIZE, preprocessing=preprocessing, crops=10)
    for dataset, crop, shape in ((single, evaluation_image, (SIZE, SIZE, 3)), (ten, ten_crops, (10, SIZE, SIZE, 3))):
        assert dataset.element_spec[0] == tf.TensorSpec((4, *shape), tf.uint8)
        images, labels, weights = (np.concatenate(part) for part in zip(*dataset.as_numpy_iterator(), strict=True))
        assert labels.tolist() == [*range(11), 0]
        assert weights.tolist() == [1] * 11 + [0]
        np.testing.assert_array_equal(images[:11], [crop(one, SIZE, preprocessing) for one in data])
        assert (images[11] == 0).all()
    whole = [
        images for images, _ in evaluation_dataset(eleven, 4, image_size=SIZE, preprocessing=preprocessing, crops=10)
    ]
    assert [len(images) for images in whole] == [4, 4, 3]
    np.testing.assert_array_equal(np.concatenate(whole), [ten_crops(one, SIZE, preprocessing) for one in data])


def test_ten_crops_of_several_chunks_are_in_order(eleven):
    batches = padded_evaluation_dataset(eleven, 11, image_size=SIZE, crops=10)
    (images, labels, _), *_ = batches.as_numpy_iterator()
    assert labels.tolist() == list(range(11))
    np.testing.assert_array_equal(images, [ten_crops(tf.io.read_file(path), SIZE) for path in eleven.paths])


def test_crops_that_there_are_not(eleven):
    for settings, expected_text in (
        ({"preprocessing": "whole"}, "preprocessing is 'whole'; expected one of cntk, caffe, torchvision"),
        ({"crops": 5}, "crops is 5; expected 1 or 10"),
        (
            {"preprocessing": "caffe", "image_size": 257},
            "images of 257×257 pixels, but preprocessing=caffe has crops of at most 256",
        ),
        (
            {"preprocessing": "torchvision", "image_size": 300},
            "preprocessing=torchvision has crops of at most 256. Use preprocessing=cntk",
        ),
    ):
        with pytest.raises(UserError, match=expected_text):
            padded_evaluation_dataset(eleven, 4, **settings)
    padded_evaluation_dataset(eleven, 4, image_size=300)


def test_padding_is_black_and_weighs_nothing(eleven):
    batches = list(padded_evaluation_dataset(eleven, 8, image_size=SIZE).as_numpy_iterator())
    assert [weights.tolist() for _, _, weights in batches] == [[1.0] * 8, [1.0] * 3 + [0.0] * 5]
    images, labels, _ = batches[1]
    assert (images[3:] == 0).all()
    assert labels.tolist() == [8, 9, 10, 0, 0, 0, 0, 0]


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
    image_map = write_numbered(tmp_path, 7, width=64, height=48)
    evaluation = evaluation_dataset(image_map, 3, image_size=SIZE)
    for number, how in enumerate(REASONS):
        path = image_map.paths[(0, 3, 6)[number % 3]]
        whole = Path(path).read_bytes()
        spoil(path, how)
        # Evaluation does not decode the last rows.
        if how != "truncated at the end":
            with pytest.raises(tf.errors.OpError):
                list(evaluation)
        assert path in str(find_unreadable(image_map, range(7))), how
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


class _Paths(list):
    """A list that can be referred to weakly."""


@pytest.mark.parametrize(
    "make",
    [
        lambda images: training_dataset(images, 4, seed=0, image_size=SIZE),
        lambda images: evaluation_dataset(images, 4, image_size=SIZE),
        lambda images: readable_images(images, 4, image_size=SIZE),
    ],
    ids=["training", "evaluation", "readable"],
)
def test_paths_are_freed_with_the_iterator(eleven, make):
    """TensorFlow keeps the Python functions of a dataset until the process ends."""
    images = ImageMap(_Paths(eleven.paths), list(eleven.labels))
    reference = weakref.ref(images.paths)
    batches = make(images).as_numpy_iterator()
    del images
    for _ in range(3):
        gc.collect()
        next(batches)
    del batches
    gc.collect()
    assert reference() is None
