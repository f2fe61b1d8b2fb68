"""Synthetic batches: on each backend without a detour over another framework."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from training_process import installed

from keras_alexnet.data.synthetic import SyntheticData, synthetic_evaluation_batches, synthetic_training_batches

FIT_AND_EVALUATE = """
import sys
import keras
from keras_alexnet.data.synthetic import synthetic_evaluation_batches, synthetic_training_batches

model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(3)])
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile("sgd", loss, weighted_metrics=[keras.metrics.SparseCategoricalAccuracy()])
training = synthetic_training_batches(4, 3, image_size=8)
evaluation = synthetic_evaluation_batches(5, 4, 3, image_size=8)
history = model.fit(
    training, steps_per_epoch=3, epochs=2, shuffle=False, verbose=0, validation_data=evaluation
).history
assert len(history["val_loss"]) == 2
first, second = (model.evaluate(evaluation, verbose=0) for _ in range(2))
assert [float(x) for x in first] == [float(x) for x in second]
assert "tensorflow" not in sys.modules
"""


def test_nothing_is_tuned_in_the_background():
    """Else `fit` would at times end seconds after its last step."""
    for dataset in (
        synthetic_training_batches(4, 3, image_size=8),
        synthetic_evaluation_batches(2, 4, 3, image_size=8),
    ):
        assert dataset.options().autotune.enabled is False


def test_training_batches_are_the_same_without_end():
    batches = iter(synthetic_training_batches(4, 3, seed=1, image_size=8).as_numpy_iterator())
    images, labels = next(batches)
    assert images.shape == (4, 8, 8, 3)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int32
    assert set(labels) <= {0, 1, 2}
    for _ in range(3):
        again = next(batches)
        np.testing.assert_array_equal(again[0], images)
        np.testing.assert_array_equal(again[1], labels)


def test_images_are_as_large_as_the_network_takes_them():
    data = SyntheticData(8)
    share = {"worker": 1, "num_workers": 2, "image_size": 24}
    images, _ = next(iter(data.training_batches(8, seed=0, first_step=0, **share)))
    assert images.shape == (4, 24, 24, 3)
    ((images, _, _),) = data.validation_batches(8, **share)
    assert images.shape == (4, 24, 24, 3)
    images, _ = next(iter(synthetic_training_batches(2, 3)))
    assert images.shape == (2, 227, 227, 3)


def test_seed_makes_the_batch():
    def images(seed: int) -> np.ndarray:
        return next(iter(synthetic_training_batches(4, 3, seed=seed, image_size=8).as_numpy_iterator()))[0]

    np.testing.assert_array_equal(images(1), images(1))
    assert (images(1) != images(2)).any()


def test_evaluation_batches_are_weighted_and_finite():
    batches = synthetic_evaluation_batches(3, 4, 3, image_size=8)
    assert batches.cardinality() == 3
    for _ in range(2):
        elements = list(batches.as_numpy_iterator())
        assert len(elements) == 3
        for _, labels, weights in elements:
            assert labels.shape == weights.shape == (4,)
            assert weights.dtype == np.float32
            assert (weights == 1).all()


def test_fit_and_evaluate_on_tensorflow():
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    evaluation = synthetic_evaluation_batches(2, 4, 3, image_size=8)
    history = model.fit(
        synthetic_training_batches(4, 3, image_size=8),
        steps_per_epoch=3,
        epochs=2,
        shuffle=False,
        verbose=0,
        validation_data=evaluation,
    ).history
    assert len(history["val_loss"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("backend", installed("jax", "torch"))
def test_other_backends_do_not_import_tensorflow(backend):
    result = subprocess.run(
        [sys.executable, "-c", FIT_AND_EVALUATE],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
