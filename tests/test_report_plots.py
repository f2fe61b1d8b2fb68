"""The charts of a report, and the picture of the filters."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from keras_alexnet.report import plots
from keras_alexnet.report.filters import filters_png
from keras_alexnet.report.statistics import Calibration, wilson_interval


def rows(epochs, drops=()):
    """A history in which everything falls, and whose best epoch is the last but one, where there are two."""
    history = []
    for epoch in range(1, epochs + 1):
        fallen = 1 / (1 + epoch + 2 * (epoch == epochs - 1))
        row = {"epoch": epoch, "learning_rate": 0.01 * 0.1 ** sum(epoch > drop for drop in drops)}
        for prefix, factor in (("", 1.0), ("val_", 0.9)):
            row[f"{prefix}loss"] = 7 * fallen * factor
            row[f"{prefix}top1_error"] = fallen * factor
            row[f"{prefix}top5_error"] = fallen * factor / 2
        history.append(row)
    return history


def traces(figure):
    return {trace["name"].split(",")[0]: trace for trace in figure["data"]}


def marks(figure):
    return [(mark["x"], mark["text"]) for mark in figure["layout"].get("annotations", [])]


@pytest.mark.parametrize("epochs", [1, 12, 112])
def test_curves_have_three_charts_of_two_lines_and_the_best_epoch(epochs):
    history = rows(epochs, drops=(1, 5, 80))
    figures = plots.curves_figures(history)
    assert [figure["layout"]["title"]["text"] for figure in figures] == ["Loss", "Top-1 error, %", "Top-5 error, %"]
    best = max(epochs - 1, 1)
    for figure, column, factor in zip(figures, ("loss", "top1_error", "top5_error"), (1, 100, 100), strict=True):
        found = traces(figure)
        assert list(found) == ["training", "validation", "best epoch"]
        for name, prefix in (("training", ""), ("validation", "val_")):
            assert found[name]["x"] == list(range(1, epochs + 1))
            assert found[name]["y"] == pytest.approx([factor * row[prefix + column] for row in history])
            assert found[name]["mode"] == ("lines" if epochs > 20 else "lines+markers")
        value = factor * history[best - 1][f"val_{column}"]
        assert found["best epoch"]["name"] == f"best epoch, {best}: {value:.4g}"
        assert (found["best epoch"]["x"], found["best epoch"]["y"]) == ([best], [pytest.approx(value)])


def test_of_equally_good_epochs_the_first_is_marked_whose_weights_are_kept():
    history = rows(12)
    history[4]["val_top1_error"] = history[10]["val_top1_error"]
    assert traces(plots.curves_figures(history)[0])["best epoch"]["x"] == [5]


def test_drops_of_the_learning_rate_are_marked():
    def drops(history):
        return marks(plots.curves_figures(history)[0])

    assert drops(rows(12)) == drops(rows(1)) == []
    # The line stands where the last epoch of the old rate ends.
    assert drops(rows(12, drops=(3, 6, 9))) == [(3, "rate 0.001"), (6, "rate 0.0001"), (9, "rate 1e-5")]
    # A rise is none, and neither are the many small ones of a slope.
    warmed = rows(12)
    warmed[0]["learning_rate"] = 0.001
    assert drops(warmed) == drops(rows(60, drops=range(1, 60))) == []


def test_what_a_history_lacks_is_left_out():
    history = rows(6)
    for row in history:
        del row["top5_error"], row["val_top5_error"]
    history[2]["val_loss"] = float("nan")
    history[3]["loss"] = ""
    loss, _, top5 = plots.curves_figures(history)
    assert traces(loss)["validation"]["y"][2] is traces(loss)["training"]["y"][3] is None
    assert top5["data"] == []
    assert marks(top5) == [(0.5, "not recorded")]
    # Plain JSON, without numbers that it does not know.
    json.dumps([loss, top5], allow_nan=False)
    with pytest.raises(ValueError, match="history has no rows"):
        plots.curves_figures([])


def test_axes_begin_at_0_where_it_is_near_and_are_logarithmic_where_a_run_diverges():
    def axis(values):
        return plots.curves_figures([{"epoch": n, "loss": value} for n, value in enumerate(values)])[0]["layout"][
            "yaxis"
        ]

    assert axis([7, 3, 1])["rangemode"] == "tozero"
    assert axis([7, 6, 5])["rangemode"] == "normal"
    assert axis([7, 6, 5, 4, 3, 1e9])["type"] == "log"
    assert "type" not in axis([0, 6, 5, 4, 3, 1e9])


def test_calibration():
    counts, middles = np.arange(15) * 7, (np.arange(15) + 0.5) / 15
    confidence = np.where(counts > 0, middles, np.nan)
    figure = plots.calibration_figure(Calibration(np.linspace(0, 1, 16), counts, confidence, confidence**1.5, 0.1))
    diagonal, reliability, histogram = figure["data"]
    assert diagonal["x"] == diagonal["y"] == [0, 100]
    accuracy = middles[1:] ** 1.5
    np.testing.assert_allclose(reliability["x"], 100 * middles[1:])
    np.testing.assert_allclose(reliability["y"], 100 * accuracy)
    low, high = wilson_interval(accuracy, counts[1:])
    np.testing.assert_allclose(reliability["error_y"]["array"], 100 * (high - accuracy))
    np.testing.assert_allclose(reliability["error_y"]["arrayminus"], 100 * (accuracy - low))
    np.testing.assert_allclose(histogram["x"], 100 * middles)
    np.testing.assert_allclose(histogram["y"], 100 * counts / counts.sum())
    json.dumps(figure, allow_nan=False)


def sheet(kernel):
    with Image.open(io.BytesIO(filters_png(kernel))) as image:
        assert image.format == "PNG"
        return np.asarray(image)


@pytest.mark.parametrize(
    ("count", "down", "across"),
    [(1, 1, 1), (2, 1, 2), (5, 2, 4), (24, 3, 8), (64, 4, 16), (96, 6, 16), (97, 7, 14), (256, 8, 32)],
)
def test_filters_lie_in_a_wide_grid_with_transparent_gaps(count, down, across):
    kernel = np.random.default_rng(0).normal(size=(5, 7, 3, count)).astype(np.float32)
    picture = sheet(kernel)
    assert picture.shape == (6 * down - 1, 8 * across - 1, 4)
    opaque = picture[..., 3] == 255
    assert opaque.sum() == 35 * count
    assert (picture[..., 3][~opaque] == 0).all()
    # The gaps are between filters, and what is too much is at the end.
    assert not opaque[5::6].any()
    assert not opaque[:, 7::8].any()
    assert opaque[:5, :7].all()
    assert opaque[-1, -1] == (count == down * across)


def test_each_filter_is_scaled_by_its_own_largest_magnitude():
    kernel = np.random.default_rng(1).normal(size=(11, 11, 3, 24)) * np.geomspace(1e-30, 1e20, 24)
    picture = sheet(kernel)
    for number in (0, 9, 23):
        row, column = divmod(number, 8)
        own = kernel[..., number] / np.abs(kernel[..., number]).max()
        drawn = picture[12 * row : 12 * row + 11, 12 * column : 12 * column + 11, :3]
        np.testing.assert_allclose(drawn, 127.5 + 127.5 * own, atol=0.51)
        assert drawn.min() == 0 or drawn.max() == 255


def test_filters_may_hold_zeros_and_what_is_no_number():
    kernel = np.zeros((3, 3, 3, 2), np.float32)
    kernel[0, 0, :, 1] = (np.nan, np.inf, -np.inf)
    kernel[1, 1, 0, 1] = -2
    picture = sheet(kernel)
    assert (picture[:, :3, :3] == 128).all()
    assert picture[0, 4, :3].tolist() == [128, 128, 128]
    assert picture[1, 5, :3].tolist() == [0, 128, 128]
    assert (sheet(kernel.astype(np.float16)) == picture).all()


@pytest.mark.parametrize("shape", [(3, 3, 3), (3, 3, 1, 8), (3, 3, 3, 0), ()])
def test_what_is_no_kernel_of_colors_is_refused(shape):
    with pytest.raises(ValueError, match=r"expected \(height, width, 3, filters\)"):
        filters_png(np.zeros(shape))
