import gc
import os
import random
import weakref
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from drawn_images import draw, encode, write_numbered

from keras_alexnet.data import order as order_module
from keras_alexnet.data.crops import PREPROCESSINGS
from keras_alexnet.data.image_map import ImageMap
from keras_alexnet.data.order import batch_rows, crop_numbers, steps_per_pass
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


@pytest.mark.parametrize(
    "settings",
    [
        *(
            {"batch_size": 0},
            {"batch_size": "8"},
            {"image_size": 0},
            {"image_size": (8, 8)},
            {"seed": -1},
            {"seed": 1.5},
        ),
        *({"first_step": -1}, {"num_workers": 0}, {"worker": 1}, {"worker": -1, "num_workers": 2}),
    ],
)
def test_arguments_out_of_bounds_are_refused(eleven, settings):
    with pytest.raises(UserError, match=r"is .*; expected (an integer, )?(at least|0 up to)"):
        training_dataset(eleven, **{"batch_size": 4, "seed": 0} | settings)
    evaluation = settings.keys() & {"batch_size", "image_size", "worker", "num_workers"}
    if evaluation:
        with pytest.raises(UserError, match=rf"{next(reversed(settings))} is|worker is"):
            padded_evaluation_dataset(eleven, **{"batch_size": 4} | settings)


def test_what_is_no_map_is_refused(eleven):
    for dataset in (evaluation_dataset, lambda images, size: training_dataset(images, size, seed=0)):
        with pytest.raises(UserError, match=r"the images are 'train_map\.txt'; expected a map"):
            dataset("train_map.txt", 4)
    with pytest.raises(UserError, match="has 11 paths and 3 labels; expected one each"):
        ImageMap(eleven.paths, [0, 1, 2])


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


@pytest.mark.parametrize("first_step", [1, 4])
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


def test_tensorflow_does_not_shard_again(eleven):
    for dataset in (training_dataset(eleven, 4, seed=0), evaluation_dataset(eleven, 4)):
        policy = dataset.options().experimental_distribute.auto_shard_policy
        assert policy == tf.data.experimental.AutoShardPolicy.OFF


@pytest.mark.parametrize("batch_size", [3, 11, 20])
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


@pytest.mark.parametrize("case", range(6))
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
