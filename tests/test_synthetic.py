"""Synthetic batches: on each backend without a detour over another framework."""

import os
import subprocess
import sys

import numpy as np
import pytest
from training_process import installed

from keras_alexnet.data.synthetic import SyntheticData, synthetic_training_batches

FIT_AND_EVALUATE = """
import sys
import keras
from keras_alexnet.data.synthetic import synthetic_evaluation_batches, synthetic_training_batches

model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(3)])
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
training = synthetic_training_batches(4, 3, image_size=8)
evaluation = synthetic_evaluation_batches(5, 4, 3, image_size=8)
model.fit(training, steps_per_epoch=3, epochs=2, shuffle=False, verbose=0, validation_data=evaluation)
assert model.evaluate(evaluation, verbose=0) == model.evaluate(evaluation, verbose=0)
assert "tensorflow" not in sys.modules
"""


def test_nothing_is_tuned_in_the_background():
    """Else `fit` would at times end seconds after its last step."""
    assert synthetic_training_batches(4, 3, image_size=8).options().autotune.enabled is False


def test_a_seed_makes_the_one_batch():
    def batches(seed):
        return list(synthetic_training_batches(4, 3, seed=seed, image_size=8).take(3).as_numpy_iterator())

    (images, labels), *others = batches(1)
    assert (images.shape, images.dtype, labels.dtype) == ((4, 8, 8, 3), np.uint8, np.int32)
    assert set(labels) <= {0, 1, 2}
    for again in (*others, *batches(1)):
        np.testing.assert_array_equal(again[0], images)
        np.testing.assert_array_equal(again[1], labels)
    assert (batches(2)[0][0] != images).any()


def test_a_worker_gets_its_share_of_images_as_large_as_the_network_takes_them():
    data = SyntheticData(8)
    share = {"worker": 1, "num_workers": 2, "image_size": 24}
    images, _ = next(iter(data.training_batches(8, seed=0, first_step=0, **share)))
    assert images.shape == (4, 24, 24, 3)
    validation = data.validation_batches(8, **share)
    for _ in range(2):
        ((images, labels, weights),) = validation
        assert (images.shape, labels.shape) == ((4, 24, 24, 3), (4,))
        assert weights.numpy().tolist() == [1, 1, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("backend", installed("jax"))
def test_other_backends_do_not_import_tensorflow(backend):
    environment = os.environ | {"KERAS_BACKEND": backend}
    command = [sys.executable, "-c", FIT_AND_EVALUATE]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
