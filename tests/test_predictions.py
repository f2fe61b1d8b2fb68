"""Predictions against Keras's own metrics, and by hand."""

import keras
import numpy as np
import pytest

from keras_alexnet.inference.predictions import best_classes, concatenate, log_softmax, predictions_of
from keras_alexnet.training.metrics import compile_model, error_rates


def logits_and_labels(num_classes, count=400, seed=3):
    rng = np.random.default_rng(seed)
    # Coarse steps, so that many are equal.
    logits = rng.integers(-6, 7, (count, num_classes)).astype(np.float32) / 2
    return logits, rng.integers(0, num_classes, count).astype(np.int32)


@pytest.mark.parametrize("num_classes", [2, 5, 40])
def test_error_rates_are_those_that_training_reports(num_classes):
    _, labels = logits_and_labels(num_classes)
    logits = np.random.default_rng(4).normal(0, 2, (len(labels), num_classes)).astype(np.float32)
    inputs = keras.Input((num_classes,))
    model = keras.Model(inputs, keras.layers.Identity()(inputs))
    compile_model(model)
    wanted = error_rates(model.evaluate(logits, labels, verbose=0, return_dict=True), len(labels))
    batches = [predictions_of(logits[rows], labels[rows]) for rows in (slice(0, 256), slice(256, None))]
    found = concatenate(batches).metrics()
    assert found.pop("examples") == len(labels)
    assert found == pytest.approx(wanted, rel=1e-6)


def test_the_best_classes_and_their_probabilities():
    logits = np.log(np.array([[1, 4, 2, 2, 0.5, 0.25, 0.25], [8, 0.1, 0.1, 0.6, 0.5, 0.4, 0.3]], np.float32))
    found = predictions_of(logits, np.array([3, 6], np.int32))
    assert found.top_labels.tolist() == [[1, 2, 3, 0, 4], [0, 3, 4, 5, 6]]
    assert found.top_probabilities == pytest.approx(
        np.array([[0.4, 0.2, 0.2, 0.1, 0.05], [0.8, 0.06, 0.05, 0.04, 0.03]])
    )
    assert found.probabilities == pytest.approx([0.2, 0.03])
    assert found.ranks.tolist() == [2, 4]


def test_equal_logits_rank_by_label():
    """As the best classes do: a network that says the same of everything is not always right."""
    logits, labels = logits_and_labels(40)
    found = predictions_of(logits, labels)
    places = np.argsort(np.argsort(-logits, axis=1, kind="stable"), axis=1)
    assert found.ranks.tolist() == places[np.arange(len(labels)), labels].tolist()
    assert found.in_top5.tolist() == (found.top_labels == labels[:, None]).any(axis=1).tolist()
    dead = predictions_of(np.zeros((40, 40), np.float32), np.arange(40, dtype=np.int32)).metrics()
    assert (dead["top1_error"], dead["top5_error"]) == (39 / 40, 35 / 40)


def test_the_best_classes_are_those_of_a_stable_sort():
    logits, _ = logits_and_labels(40)
    few = np.where(np.arange(40) % 9 == 8, 1, -np.inf)  # Fewer finite ones than asked for.
    last = np.where(np.arange(40) < 36, 1, 2)  # All but one of the best are last, and the border is a tie of the rest.
    logits = np.array([*logits, np.zeros(40), np.arange(40), -np.arange(40), few, last], np.float32)
    before = logits.copy()
    wanted = np.argsort(-logits, axis=1, kind="stable")
    for count in (1, 5, 39, 40, 1000):
        np.testing.assert_array_equal(best_classes(logits, count), wanted[:, :count])
    np.testing.assert_array_equal(logits, before)


def test_logits_of_any_size_are_left_as_they_are():
    logits = np.random.default_rng(1).normal(0, 2, (9, 7))
    before = logits.copy()
    found = log_softmax(logits)
    np.testing.assert_array_equal(logits, before)
    np.testing.assert_allclose(found, np.log(np.exp(before) / np.exp(before).sum(1, keepdims=True)), rtol=1e-12)
    large = np.array([[1e5, 0, -1e5]], np.float32)
    assert log_softmax(large).tolist() == [[0, -1e5, -2e5]]
    assert predictions_of(large, np.array([2], np.int32)).metrics()["loss"] == 2e5
