import hashlib

import numpy as np
import pytest

from keras_alexnet.data.order import batch_rows, permutation, steps_per_pass


def test_permutation_never_changes():
    """Runs are resumed under other versions of NumPy, too."""
    assert permutation(12, 0, 0).tolist() == [0, 2, 11, 9, 1, 8, 5, 4, 3, 10, 6, 7]
    assert permutation(12, 7, 3).tolist() == [2, 5, 9, 7, 3, 0, 6, 8, 4, 1, 11, 10]
    large = permutation(100_000, 1, 89)
    assert large[:4].tolist() == [65076, 72326, 67185, 25776]
    digest = hashlib.sha256(large.astype("<i8").tobytes()).hexdigest()
    assert digest == "b311b7ad6212183c5a61c5af5d10b1d5b5b77ccc4b1134b7a6bd0486c63b49d0"


@pytest.mark.parametrize("size", [1, 2, 257, 50_000])
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


def test_large_seeds_are_distinct():
    assert not np.array_equal(permutation(100, 2**64 - 1, 0), permutation(100, 2**64 - 2, 0))


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
