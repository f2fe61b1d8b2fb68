"""Charts of a report: the curves of the training, and the calibration."""

import itertools
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from keras_alexnet.report import svg
from keras_alexnet.report.statistics import wilson_interval
from keras_alexnet.report.svg import FIRST, MUTED, ON_LINES, SECOND, SMALL, SURFACE, TEXT, Axes, ticker

# Name of a panel, column of history.csv without "val_", and by what its values are multiplied.
_PANELS = (("Loss", "loss", 1), ("Top-1 error, %", "top1_error", 100), ("Top-5 error, %", "top5_error", 100))
_PANEL_WIDTH, _PANEL_HEIGHT = 340, 260
# As many drops of the learning rate are marked; more are a slope.
_DROPS = 12
# Epochs up to which each has a dot.
_DOTS = 20
# How many times its median the loss of a diverging run must reach to be drawn on a logarithmic axis.
_SPIKE = 30


def curves_svg(history: Sequence[Mapping[str, float]]) -> str:
    """Draws loss, top-1 error and top-5 error over the epochs, of training and validation.

    The epoch of the lowest top-1 error in validation is marked, and so is each drop of the learning rate.

    Args:
        history: rows of history.csv, one or more: epoch, learning_rate, loss, top1_error, top5_error and the three of
            validation, val_…; errors are fractions. What a row lacks, or is not finite, is left out.

    Returns:
        an `<svg>` element of three panels, side by side, or below each other on a narrow screen.

    Raises:
        ValueError: `history` is empty.
    """
    if not history:
        raise ValueError("history has no rows: there is nothing to draw.")
    epochs = _column(history, "epoch")
    epochs = np.where(np.isnan(epochs), np.arange(1, len(epochs) + 1), epochs)
    rates = _column(history, "learning_rate")
    error = _column(history, "val_top1_error")
    best = None if np.isnan(error).all() else int(np.nanargmin(error))
    panels = []
    for name, column, factor in _PANELS:
        with svg.style():
            figure = svg.figure(_PANEL_WIDTH, _PANEL_HEIGHT)
            axes = figure.add_axes(svg.box(_PANEL_WIDTH, _PANEL_HEIGHT, left=40, right=12, top=48, bottom=36))
            axes.set_title(name, pad=24)
            axes.set_xlabel("epoch")
            training, validation = (_column(history, prefix + column) * factor for prefix in ("", "val_"))
            _draw_panel(axes, epochs, training, validation, best)
            _mark_drops(axes, epochs, rates)
            panels.append(svg.body(figure, f"curves-{column.replace('_', '-')}"))
    label = f"Loss, top-1 error and top-5 error of training and validation, epochs {epochs[0]:.0f} to {epochs[-1]:.0f}."
    if best is not None:
        label += f" Lowest top-1 error in validation: {error[best]:.2%} in epoch {epochs[best]:.0f}."
    return svg.side_by_side(panels, _PANEL_WIDTH, _PANEL_HEIGHT, label, "curves-chart")


def calibration_svg(edges: np.ndarray, counts: np.ndarray, confidence: np.ndarray, accuracy: np.ndarray) -> str:
    """Draws a reliability diagram: how often predictions of a confidence are right, and how many there are of it.

    Whiskers are Wilson's intervals of 95 %.

    Args:
        edges: (bins + 1,), rising, of the bins of confidence: the probability of the predicted class.
        counts: (bins,), images in each bin.
        confidence: (bins,), mean confidence of each bin's images; NaN where there are none.
        accuracy: (bins,), share of each bin's images that are predicted right; NaN where there are none.

    Returns:
        an `<svg>` element.
    """
    edges, counts, confidence, accuracy = (
        np.asarray(values, np.float64) for values in (edges, counts, confidence, accuracy)
    )
    filled = (counts > 0) & np.isfinite(confidence) & np.isfinite(accuracy)
    width, height = 340, 460
    with svg.style():
        figure = svg.figure(width, height)
        above = figure.add_axes(svg.box(width, height, left=52, right=14, top=12, bottom=172))
        below = figure.add_axes(svg.box(width, height, left=52, right=14, top=318, bottom=42), sharex=above)
        _draw_reliability(above, counts[filled], confidence[filled], accuracy[filled])
        share = 100 * counts / max(counts.sum(), 1)
        below.bar(edges[:-1] * 100, share, np.diff(edges) * 100, align="edge", color=FIRST, ec=SURFACE, lw=1)
        below.set_ylim(bottom=0)
        below.yaxis.set_major_locator(_ticks(4))
        below.set(xlabel="confidence, %", ylabel="images, %")
        figure.align_ylabels()
        content = svg.body(figure, "calibration")
    label = f"Reliability diagram: accuracy over confidence of {counts.sum():,.0f} predictions, in {len(counts)} bins."
    css = f".calibration-chart {{ display: block; max-width: {svg.LARGEST_SCALE * width:.0f}px }}"
    return svg.element(content, width, height, label, "calibration-chart", css)


def _draw_panel(axes: Axes, epochs: np.ndarray, training: np.ndarray, validation: np.ndarray, best: int | None) -> None:
    marker = "o" if len(epochs) <= _DOTS else None
    handles = []
    for values, name, look in (
        (training, "training", {"color": FIRST, "lw": 1.4, "ls": (0, (3.5, 1.2)), "zorder": 3}),
        (validation, "validation", {"color": SECOND, "lw": 1.6, "zorder": 4}),
    ):
        # A single value is no line.
        dots = marker or ("o" if np.isfinite(values).sum() == 1 else None)
        handles += axes.plot(epochs, values, label=name, marker=dots, ms=4, mew=0, clip_on=False, **look)
    if best is not None and np.isfinite(validation[best]):
        label = f"best epoch, {epochs[best]:.0f}: {validation[best]:.4g}"
        ring = {"marker": "o", "ls": "", "ms": 8, "mfc": "none", "mec": TEXT, "mew": 1.3, "zorder": 5}
        handles += axes.plot(epochs[best], validation[best], label=label, clip_on=False, **ring)
    # Where there is nothing to see there is nothing to explain.
    handles = [line for line in handles if np.isfinite(line.get_ydata()).any()]
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1.04), ncols=3, fontsize=SMALL)
    # Half an epoch on either side of a single one.
    beside = 0.02 * (epochs[-1] - epochs[0]) or 0.5
    axes.set_xlim(epochs[0] - beside, epochs[-1] + beside)
    axes.xaxis.set_major_locator(_ticks(6, integer=True, min_n_ticks=1))
    _scale(axes, np.concatenate([training, validation]))


def _scale(axes: Axes, values: np.ndarray) -> None:
    """Chooses the axis of values: from 0 where these are near, and logarithmic if single ones are far off."""
    values = values[np.isfinite(values)]
    if not values.size:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", color=MUTED)
        return
    if values.min() > 0 and values.max() > _SPIKE * np.median(values):
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    else:
        axes.yaxis.set_major_locator(_ticks(6))
        if 0 <= values.min() < 0.3 * values.max():
            axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: _short(value)))


def _ticks(most: int, **options) -> ticker.MaxNLocator:
    return ticker.MaxNLocator(most, steps=[1, 2, 2.5, 5, 10], **options)


def _short(value: float) -> str:
    """1e5 for 100,000: there is little room."""
    return re.sub(r"e([+-])0*", lambda match: "e" + match[1].strip("+"), f"{value:.{3 if abs(value) >= 1000 else 4}g}")


def _mark_drops(axes: Axes, epochs: np.ndarray, rates: np.ndarray) -> None:
    """Draws a line where the learning rate falls: at the end of the last epoch before."""
    pairs = itertools.pairwise(range(len(rates)))
    drops = [(epochs[before], rates[after]) for before, after in pairs if rates[after] < rates[before] * (1 - 1e-6)]
    if len(drops) > _DROPS:
        return
    low, high = axes.get_xlim()
    labelled_until = low
    for epoch, rate in drops:
        axes.axvline(epoch, color=MUTED, lw=0.8, ls=(0, (1, 2)), zorder=1)
        # A label beside the last line would stand outside, and one on another would not be read.
        if labelled_until <= epoch <= high - 0.05 * (high - low):
            axes.annotate(
                f"rate {_short(rate)}",
                (epoch, 1),
                (3, -2),
                xycoords=axes.get_xaxis_transform(),
                textcoords="offset points",
                rotation=90,
                va="top",
                color=ON_LINES,
                fontsize=SMALL,
                zorder=6,
            )
            labelled_until = epoch + 0.05 * (high - low)


def _draw_reliability(axes: Axes, counts: np.ndarray, confidence: np.ndarray, accuracy: np.ndarray) -> None:
    low, high = (100 * bound for bound in wilson_interval(accuracy, counts))
    axes.axline((0, 0), (100, 100), color=MUTED, lw=1, ls=(0, (4, 3)), zorder=2)
    axes.vlines(100 * confidence, low, high, color=FIRST, lw=1.2, alpha=0.6, zorder=3)
    axes.plot(100 * confidence, 100 * accuracy, "o-", color=FIRST, lw=1.6, ms=5, mew=0, clip_on=False, zorder=4)
    axes.text(3, 97, "underconfident", ha="left", va="top", color=ON_LINES, fontsize=SMALL, zorder=1)
    axes.text(97, 3, "overconfident", ha="right", va="bottom", color=ON_LINES, fontsize=SMALL, zorder=1)
    axes.set(xlim=(0, 100), ylim=(0, 100), ylabel="accuracy, %")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(ticker.FixedLocator(range(0, 101, 20)))
    axes.tick_params(labelbottom=False)


def _column(history: Sequence[Mapping[str, float]], name: str) -> np.ndarray:
    """Values of a column, NaN where there is none; files of older versions lack some."""
    values = [row.get(name) for row in history]
    numbers = np.array([math.nan if value in (None, "") else float(value) for value in values])
    return np.where(np.isfinite(numbers), numbers, math.nan)
