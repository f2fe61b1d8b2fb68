import numpy as np
import pytest

from keras_alexnet.inference.predictions import Predictions, predictions_of
from keras_alexnet.report import statistics


def predictions(truth, best, confidence=0.8) -> Predictions:
    """Of three classes, with the best class of each image and its probability."""
    truth, best = np.array(truth, np.int32), np.array(best, np.int32)
    confidence = np.broadcast_to(confidence, len(truth))
    logits = np.log(np.repeat(((1 - confidence) / 2)[:, np.newaxis], 3, axis=1))
    logits[np.arange(len(truth)), best] = np.log(confidence)
    return predictions_of(logits.astype(np.float32), truth)


def test_intervals_of_error_rates():
    # Newcombe, "Two-sided confidence intervals for the single proportion" (1998), table I.
    for errors, total, wanted in [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0, 0.1611))]:
        assert statistics.wilson_interval(errors / total, total) == pytest.approx(wanted, abs=5e-5)
    assert statistics.wilson_interval(1.0, 20) == pytest.approx((1 - 0.1611, 1), abs=5e-5)


def test_interval_of_a_mean():
    values = np.random.default_rng(1).normal(5, 2, 4000)
    half = 1.959964 * values.std() / np.sqrt(4000)
    assert statistics.mean_interval(values) == pytest.approx((values.mean() - half, values.mean() + half))
    # A few large losses do not make it reach below 0.
    low, high = statistics.mean_interval(np.array([0.0] * 99 + [1.0]))
    assert low == 0
    assert high > 0.01


def test_a_class_without_images_or_predictions_has_no_rates():
    found = predictions([0, 0, 0, 0, 1, 1, 1], [0, 0, 1, 0, 0, 0, 1])
    results = statistics.class_results(found, statistics.confusion_matrix(found, 3))
    np.testing.assert_allclose(results.precision, [0.6, 0.5, np.nan])
    np.testing.assert_allclose(results.recall, [0.75, 1 / 3, np.nan])
    np.testing.assert_allclose(results.top5_recall, [1, 1, np.nan])
    assert results.confused_with.tolist() == [1, 0, -1]


def test_equally_frequent_mistakes_come_in_the_order_of_labels():
    pairs = [(row, column) for row in range(8) for column in range(8) if row != column]
    confusion = statistics.ConfusionMatrix(8, *np.array(pairs).T, np.ones(len(pairs), int))
    assert [pair[:2] for pair in statistics.most_confused(confusion, 99)] == pairs


def test_calibration():
    # Ten images of confidence 0.85 of which six are right, and two of 0.45 that are both right.
    found = predictions([0] * 12, [0] * 6 + [1] * 4 + [0] * 2, [0.85] * 10 + [0.45] * 2)
    result = statistics.calibration(found, bins=10)
    assert result.edges == pytest.approx(np.arange(11) / 10)
    assert result.counts.tolist() == [0, 0, 0, 0, 2, 0, 0, 0, 10, 0]
    np.testing.assert_allclose(result.accuracy[[4, 8, 0]], [1, 0.6, np.nan])
    np.testing.assert_allclose(result.confidence[[4, 8, 0]], [0.45, 0.85, np.nan], rtol=1e-6)
    assert result.error == pytest.approx((10 * 0.25 + 2 * 0.55) / 12)
    assert statistics.calibration(predictions([0], [0], 1 - 1e-12)).counts.tolist() == [0] * 14 + [1]
