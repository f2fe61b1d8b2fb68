"""Charts of a report as Plotly figures: the training curves, the calibration and the frame of the confusion matrix.

The page draws them with plotly.js. Backgrounds are transparent, and the colors of the lines stand out from a light page
and from a dark one; the page's style sheet colors text and grid.
"""

import html
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from keras_alexnet.report.statistics import Calibration, wilson_interval

_FIRST, _SECOND, _NEUTRAL = "#3d85d6", "#d9702a", "#858d99"
_CLEAR = "rgba(0,0,0,0)"
# Name of a panel, column of history.csv without "val_", and by what its values are multiplied.
_PANELS = (("Loss", "loss", 1), ("Top-1 error, %", "top1_error", 100), ("Top-5 error, %", "top5_error", 100))
# As many drops of the learning rate are marked; more are a slope.
_MAX_DROPS = 12
# Epochs up to which each has a dot.
_MAX_DOTS = 20
# How many times its median the loss of a diverging run must reach to be drawn on a logarithmic axis.
_SPIKE = 30
# Characters of a class name on an axis and in the label of a cell.
_MAX_NAME = 24


def curves_figures(history: Sequence[Mapping[str, float]]) -> list[dict]:
    """Draws loss, top-1 error and top-5 error over the epochs, of training and validation.

    The epoch of the lowest top-1 error in validation is marked, and so is each drop of the learning rate.

    Args:
        history: rows of history.csv, one or more: epoch, learning_rate, loss, top1_error, top5_error and the three of
            validation, val_…; errors are fractions. What a row lacks, or is not finite, is left out.

    Returns:
        a figure for each of the three, in plotly.js's form.

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
    figures = []
    for title, column, factor in _PANELS:
        training, validation = (_column(history, prefix + column) * factor for prefix in ("", "val_"))
        figure = _figure(title)
        for values, name, line in (
            (training, "training", {"color": _FIRST, "dash": "dash"}),
            (validation, "validation", {"color": _SECOND}),
        ):
            # A line needs more than one value.
            dots = len(epochs) <= _MAX_DOTS or np.isfinite(values).sum() == 1
            if np.isfinite(values).any():
                mode = "lines+markers" if dots else "lines"
                figure.add_scatter(x=epochs.tolist(), y=values.tolist(), name=name, mode=mode, line=line)
        if best is not None and np.isfinite(validation[best]):
            figure.add_scatter(
                x=[float(epochs[best])],
                y=[float(validation[best])],
                name=f"best epoch, {epochs[best]:.0f}: {validation[best]:.4g}",
                mode="markers",
                marker={"symbol": "circle-open", "size": 12, "color": _NEUTRAL, "line": {"width": 2}},
                hoverinfo="skip",
            )
        # Half an epoch on either side of a single one.
        margin = 0.02 * (epochs[-1] - epochs[0]) or 0.5
        figure.update_xaxes(title="epoch", range=[epochs[0] - margin, epochs[-1] + margin], hoverformat="d")
        if len(epochs) <= _MAX_DOTS // 2:
            figure.update_xaxes(dtick=1)
        figure.update_yaxes(hoverformat=".4g", exponentformat="e", **_scale(np.concatenate([training, validation])))
        figure.update_layout(hovermode="x unified")
        if not figure.data:
            figure.update_xaxes(visible=False)
            figure.update_yaxes(visible=False)
            figure.add_annotation(text="not recorded", x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False)
        for epoch, rate in _drops(epochs, rates):
            figure.add_vline(epoch, line={"color": _NEUTRAL, "dash": "dot", "width": 1}, layer="below")
            text = {"text": f"rate {_short(rate)}", "x": epoch, "y": 1, "yref": "paper", "textangle": -90}
            figure.add_annotation(**text, xanchor="left", yanchor="top", showarrow=False, font_size=10)
        figures.append(_plain(figure))
    return figures


def calibration_figure(calibration: Calibration) -> dict:
    """Draws a reliability diagram: how often predictions of a confidence are correct, and how many there are of it.

    Error bars are Wilson's 95% intervals.

    Returns:
        a figure in plotly.js's form.
    """
    edges, counts = calibration.edges, calibration.counts
    filled = counts > 0
    confidence, accuracy = 100 * calibration.confidence[filled], 100 * calibration.accuracy[filled]
    low, high = (100 * bound for bound in wilson_interval(accuracy / 100, counts[filled]))
    figure = _figure("", make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.05, row_heights=[0.7, 0.3]))
    figure.add_scatter(
        x=[0, 100], y=[0, 100], line={"color": _NEUTRAL, "dash": "dash", "width": 1}, mode="lines", hoverinfo="skip"
    )
    figure.add_scatter(
        x=confidence.tolist(),
        y=accuracy.tolist(),
        customdata=counts[filled].tolist(),
        error_y={"symmetric": False, "array": (high - accuracy).tolist(), "arrayminus": (accuracy - low).tolist()},
        line_color=_FIRST,
        cliponaxis=False,
        mode="lines+markers",
        hovertemplate="confidence %{x:.1f}%<br>accuracy %{y:.1f}%<br>%{customdata:,} images<extra></extra>",
    )
    figure.add_bar(
        x=(50 * (edges[1:] + edges[:-1])).tolist(),
        y=(100 * counts / max(counts.sum(), 1)).tolist(),
        width=(98 * np.diff(edges)).tolist(),
        marker_color=_FIRST,
        hovertemplate="confidence about %{x:.1f}%<br>%{y:.2f}% of the images<extra></extra>",
        row=2,
        col=1,
    )
    for text, x, y, xanchor, yanchor in (
        ("underconfident", 3, 98, "left", "top"),
        ("overconfident", 97, 2, "right", "bottom"),
    ):
        figure.add_annotation(text=text, x=x, y=y, xanchor=xanchor, yanchor=yanchor, showarrow=False, font_size=11)
    figure.update_xaxes(range=[0, 100], dtick=20)
    figure.update_xaxes(title="confidence, %", row=2)
    figure.update_yaxes(title="accuracy, %", range=[0, 100], dtick=20, row=1)
    figure.update_yaxes(title="images, %", rangemode="tozero", row=2)
    figure.update_layout(showlegend=False, margin_t=10)
    return _plain(figure)


def confusion_figure(num_classes: int) -> dict:
    """The frame of the confusion matrix; charts.js fills in the cells of the part in view.

    Values of cells are ln(1 + 100 share) / ln(101), so that single mistakes remain visible.

    Returns:
        a figure in plotly.js's form: two heat maps, of mistakes and of correct predictions, on axes of the labels.
    """
    figure = _figure("")
    for name, color in (("mistakes", _SECOND), ("correct", _FIRST)):
        channels = ",".join(str(int(color[start : start + 2], 16)) for start in (1, 3, 5))
        figure.add_heatmap(
            name=name,
            zmin=0,
            zmax=1,
            colorscale=[[0, f"rgba({channels},0.25)"], [1, color]],
            hoverongaps=False,
            hoverinfo="text",
            showlegend=True,
            showscale=name == "mistakes",
        )
    ticks = (0, 0.01, 0.1, 1)
    figure.data[0].colorbar = {
        "title": {"text": "share of the row’s images", "side": "top", "font": {"size": 11}},
        "tickvals": [math.log1p(100 * share) / math.log(101) for share in ticks],
        "ticktext": [f"{share:.0%}" for share in ticks],
        "orientation": "h",
        "thickness": 10,
        "len": 0.55,
        "x": 1,
        "xanchor": "right",
        "y": 0,
        "yanchor": "top",
        "outlinewidth": 0,
    }
    ends = {"minallowed": -0.5, "maxallowed": num_classes - 0.5}
    axis = {"automargin": True, "showgrid": False, "tickfont_size": 10, "ticks": "", "title_standoff": 12, **ends}
    figure.update_xaxes(title="predicted →", side="top", tickangle=-90, range=[-0.5, num_classes - 0.5], **axis)
    figure.update_yaxes(title="← truth", range=[num_classes - 0.5, -0.5], **axis)
    figure.update_layout(
        legend={"y": -0.02, "yanchor": "top", "traceorder": "reversed"},
        margin={"t": 10, "l": 10, "r": 40, "b": 10},
        modebar_orientation="v",
    )
    return _plain(figure)


def axis_names(names: Sequence[str]) -> list[str]:
    """Names of classes in Plotly's markup, short enough for an axis.

    The id in parentheses, which distinguishes classes of the same name, stays. Each is isolated, so that a name that is
    written from right to left does not turn what is around it.
    """
    return [f"\u2068{html.escape(_shortened(name), quote=False)}\u2069" for name in names]


def _shortened(name: str) -> str:
    if len(name) <= _MAX_NAME:
        return name
    tail = re.search(r" \(\S{1,12}\)$|$", name)[0]
    return f"{name[: _MAX_NAME - 1 - len(tail)].rstrip()}…{tail}"


def _figure(title: str, figure: go.Figure | None = None) -> go.Figure:
    figure = figure or go.Figure()
    figure.update_layout(
        template="none",
        title={"text": title, "x": 0, "xanchor": "left", "y": 0.98, "yanchor": "top", "font": {"size": 15}},
        font={"family": "system-ui, sans-serif", "size": 12},
        paper_bgcolor=_CLEAR,
        plot_bgcolor=_CLEAR,
        legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0, "font": {"size": 11}},
        # plotly.js gives the label of all lines no background.
        hoverlabel={"bgcolor": "#2a2f38", "font": {"color": "#ffffff"}, "namelength": -1},
        modebar={"bgcolor": _CLEAR, "color": _NEUTRAL, "activecolor": _FIRST},
        margin={"l": 45, "r": 20, "t": 88, "b": 45},
    )
    figure.update_xaxes(zeroline=False)
    figure.update_yaxes(zeroline=False)
    return figure


def _plain(figure: go.Figure) -> dict:
    return json.loads(figure.to_json())


def _scale(values: np.ndarray) -> dict:
    """The axis of values: from 0 where these are near, and logarithmic if single ones are far off."""
    values = values[np.isfinite(values)]
    if values.size and values.min() > 0 and values.max() > _SPIKE * np.median(values):
        return {"type": "log", "dtick": 1}
    return {"rangemode": "tozero" if values.size and 0 <= values.min() < 0.3 * values.max() else "normal"}


def _short(value: float) -> str:
    """1e-5 for 0.00001: there is little room."""
    return re.sub(r"e([+-])0*", lambda match: "e" + match[1].strip("+"), f"{value:.4g}")


def _drops(epochs: np.ndarray, rates: np.ndarray) -> list[tuple[float, float]]:
    """Where the learning rate falls, the end of the last epoch before, and to what."""
    pairs = itertools.pairwise(range(len(rates)))
    drops = [
        (float(epochs[before]), rates[after]) for before, after in pairs if rates[after] < rates[before] * (1 - 1e-6)
    ]
    return drops if len(drops) <= _MAX_DROPS else []


def _column(history: Sequence[Mapping[str, float]], name: str) -> np.ndarray:
    """Values of a column, NaN where there is none; files of older versions lack some."""
    values = [row.get(name) for row in history]
    numbers = np.array([math.nan if value in (None, "") else float(value) for value in values])
    return np.where(np.isfinite(numbers), numbers, math.nan)
