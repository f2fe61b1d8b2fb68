"""The numbers of a report, its charts, and the picture of the filters."""

import io

import numpy as np
import pytest
from PIL import Image

from keras_alexnet.inference.predictions import Predictions, predictions_of
from keras_alexnet.report import plots, statistics
from keras_alexnet.report.filters import filters_png
from keras_alexnet.report.statistics import Calibration, wilson_interval


def rows(epochs, drops=()):
    """A history in which everything falls, and whose best epoch is the last but one."""
    history = []
    for epoch in range(1, epochs + 1):
        error = 1 / (1 + epoch + 2 * (epoch == epochs - 1))
        row = {"epoch": epoch, "learning_rate": 0.01 * 0.1 ** sum(epoch > drop for drop in drops)}
        for prefix, factor in (("", 1.0), ("val_", 0.9)):
            row |= {f"{prefix}loss": 7 * error * factor, f"{prefix}top1_error": error * factor}
            row[f"{prefix}top5_error"] = error * factor / 2
        history.append(row)
    return history


def traces(figure):
    return {trace["name"].split(",")[0]: trace for trace in figure["data"]}


def marks(figure):
    return [(mark["x"], mark["text"]) for mark in figure["layout"].get("annotations", [])]


def test_curves_have_three_charts_of_two_lines_and_the_best_epoch():
    history = rows(12)
    history[11]["val_top1_error"] = history[10]["val_top1_error"]  # Of equally good ones, the first is kept.
    figures = plots.curves_figures(history)
    assert [figure["layout"]["title"]["text"] for figure in figures] == ["Loss", "Top-1 error, %", "Top-5 error, %"]
    for figure, column, factor in zip(figures, ("loss", "top1_error", "top5_error"), (1, 100, 100), strict=True):
        found = traces(figure)
        for name, prefix in (("training", ""), ("validation", "val_")):
            assert found[name]["x"] == list(range(1, 13))
            assert found[name]["y"] == pytest.approx([factor * row[prefix + column] for row in history])
        value = factor * history[10][f"val_{column}"]
        assert found["best epoch"]["name"] == f"best epoch, 11: {value:.4g}"
        assert (found["best epoch"]["x"], found["best epoch"]["y"]) == ([11], [pytest.approx(value)])


def test_drops_of_the_learning_rate_are_marked():
    # The line stands where the last epoch of the old rate ends.
    loss, *_ = plots.curves_figures(rows(12, drops=(3, 6, 9)))
    assert marks(loss) == [(3, "rate 0.001"), (6, "rate 0.0001"), (9, "rate 1e-5")]
    # The many small ones of a slope are not.
    loss, *_ = plots.curves_figures(rows(60, drops=range(1, 60)))
    assert marks(loss) == []


def test_what_a_history_lacks_is_left_out():
    history = rows(6)
    for row in history:
        del row["top5_error"], row["val_top5_error"]
    history[2]["val_loss"] = float("nan")
    history[3]["loss"] = ""
    loss, _, top5 = plots.curves_figures(history)
    assert traces(loss)["validation"]["y"][2] is traces(loss)["training"]["y"][3] is None
    assert marks(top5) == [(0.5, "not recorded")]


def test_the_chart_of_the_calibration():
    counts, middles = np.arange(15) * 7, (np.arange(15) + 0.5) / 15
    confidence = np.where(counts > 0, middles, np.nan)
    figure = plots.calibration_figure(Calibration(np.linspace(0, 1, 16), counts, confidence, confidence**1.5, 0.1))
    _, reliability, histogram = figure["data"]
    accuracy = middles[1:] ** 1.5
    np.testing.assert_allclose(reliability["x"], 100 * middles[1:])
    np.testing.assert_allclose(reliability["y"], 100 * accuracy)
    low, high = wilson_interval(accuracy, counts[1:])
    np.testing.assert_allclose(reliability["error_y"]["array"], 100 * (high - accuracy))
    np.testing.assert_allclose(reliability["error_y"]["arrayminus"], 100 * (accuracy - low))
    np.testing.assert_allclose(histogram["y"], 100 * counts / counts.sum())


def test_names_on_axes_are_short_plain_and_isolated():
    names = plots.axis_names(["<b>a & b</b>", "a name as long as most", "a crane of another kind (n02012849)"])
    assert names == [
        "\u2068&lt;b&gt;a &amp; b&lt;/b&gt;\u2069",
        "\u2068a name as long as most\u2069",
        "\u2068a crane of… (n02012849)\u2069",
    ]


@pytest.mark.parametrize(("count", "down", "across"), [(5, 2, 4), (24, 3, 8), (96, 6, 16)])
def test_filters_lie_in_a_wide_grid_each_scaled_by_its_own_largest_magnitude(count, down, across):
    kernel = np.random.default_rng(1).normal(size=(5, 7, 3, count)) * np.geomspace(1e-30, 1e20, count)
    kernel[0, 0, :, 0] = (np.nan, np.inf, -np.inf)
    kernel[..., 1] = 0
    with Image.open(io.BytesIO(filters_png(kernel))) as image:
        picture = np.asarray(image)
    assert picture.shape == (6 * down - 1, 8 * across - 1, 4)
    for number in range(count):
        row, column = divmod(number, across)
        weights = np.nan_to_num(kernel[..., number], posinf=0, neginf=0)
        scaled = weights / max(np.abs(weights).max(), 1e-100)
        drawn = picture[6 * row : 6 * row + 5, 8 * column : 8 * column + 7]
        np.testing.assert_allclose(drawn[..., :3], 127.5 + 127.5 * scaled, atol=0.51)
        assert (drawn[..., 3] == 255).all()
    # The gaps are transparent.
    assert (picture[..., 3] == 255).sum() == 35 * count


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
        assert wilson_interval(errors / total, total) == pytest.approx(wanted, abs=5e-5)
    assert wilson_interval(1.0, 20) == pytest.approx((1 - 0.1611, 1), abs=5e-5)


def test_interval_of_a_mean():
    values = np.random.default_rng(1).normal(5, 2, 4000)
    half = 1.959964 * values.std() / np.sqrt(4000)
    assert statistics.mean_interval(values) == pytest.approx((values.mean() - half, values.mean() + half))
    # A few large losses do not make it reach below 0.
    assert statistics.mean_interval(np.array([0.0] * 99 + [1.0]))[0] == 0


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
