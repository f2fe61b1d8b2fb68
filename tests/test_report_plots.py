import importlib
import io
import logging
import os
import re
import subprocess
import sys
import warnings
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from image_tree import ROOT
from PIL import Image

from keras_alexnet.report.filters import filters_png

matplotlib = pytest.importorskip("matplotlib")
plots = importlib.import_module("keras_alexnet.report.plots")

SVG = "{http://www.w3.org/2000/svg}"
VARIABLES = {"--text", "--muted", "--line", "--surface", "--series-1", "--series-2"}
EDGES = np.linspace(0, 1, 16)


def rows(epochs, drops=()):
    """A history in which everything falls, and whose best epoch is the last but one, where there are two."""
    history = []
    for epoch in range(1, epochs + 1):
        fallen = 1 / (1 + epoch + 2 * (epoch == epochs - 1))
        row = {
            "epoch": epoch,
            "steps": 78 * epoch,
            "learning_rate": 0.01 * 0.1 ** sum(epoch > drop for drop in drops),
            "seconds": 24.4,
        }
        for prefix, factor in (("", 1.0), ("val_", 0.9)):
            row[f"{prefix}loss"] = 7 * fallen * factor
            row[f"{prefix}top1_error"] = fallen * factor
            row[f"{prefix}top5_error"] = fallen * factor / 2
        history.append(row)
    return history


def calibration(counts=None):
    counts = np.arange(15) * 7 if counts is None else np.array(counts)
    middles = (EDGES[:-1] + EDGES[1:]) / 2
    confidence = np.where(counts > 0, middles, np.nan)
    return EDGES, counts, confidence, confidence**1.5


def parsed(svg):
    """The element, which XML readers take as well as HTML's do."""
    assert svg.startswith("<svg ")
    element = ElementTree.fromstring(svg)
    assert element.tag == f"{SVG}svg"
    return element


def texts(element):
    return [text.text for text in element.iter(f"{SVG}text")]


def points(element, colour):
    """The path of the line of a colour that has the most points: (points, 2), y downward."""
    paths = [
        np.array(re.findall(r"[ML] (\S+) (\S+)", path.get("d")), float)
        for path in element.iter(f"{SVG}path")
        if f"stroke: {colour}" in path.get("style", "") and "M" in path.get("d")
    ]
    return max(paths, key=len)


def panel(element, number):
    return element.findall(f"{SVG}g")[number]


@pytest.mark.parametrize("epochs", [1, 2, 12, 112])
def test_curves_have_three_panels_of_two_lines(epochs):
    element = parsed(plots.curves_svg(rows(epochs, drops=(1, 5, 80))))
    for number, title in enumerate(("Loss", "Top-1 error, %", "Top-5 error, %")):
        found = texts(panel(element, number))
        assert {title, "epoch", "training", "validation"} <= set(found)
        if epochs > 2:
            training, validation = (points(panel(element, number), f"var(--series-{n})") for n in (1, 2))
            assert len(training) == len(validation) == epochs
            assert (training[:, 0] == validation[:, 0]).all()
            # Validation is better here, which is lower in the picture.
            assert (training[:, 1] < validation[:, 1]).all()
            assert (np.diff(training[: epochs - 1, 1]) > 0).all()
    assert float(element.get("viewBox").split()[2]) == 1020


def test_the_best_epoch_is_marked_and_told():
    history = rows(12)
    element = parsed(plots.curves_svg(history))
    assert min(history, key=lambda row: row["val_top1_error"])["epoch"] == 11
    for number, column in enumerate(("loss", "top1_error", "top5_error")):
        value = history[10][f"val_{column}"] * (1 if column == "loss" else 100)
        assert f"best epoch, 11: {value:.4g}" in texts(panel(element, number))
    assert "Lowest top-1 error in validation: 6.43% in epoch 11." in element.get("aria-label")
    # Of equal ones it is the first, whose weights are the ones that are kept.
    history[4]["val_top1_error"] = history[10]["val_top1_error"]
    assert "in epoch 5." in plots.curves_svg(history)


def test_drops_of_the_learning_rate_are_marked():
    def marks(history):
        return re.findall(r">rate ([^<]*)<", plots.curves_svg(history))

    assert marks(rows(12)) == []
    assert marks(rows(1)) == []
    assert marks(rows(12, drops=(3, 6, 9))) == ["0.001", "0.0001", "1e-5"] * 3
    # A rise is none, and neither are the many small ones of a slope.
    warmed = rows(12)
    warmed[0]["learning_rate"] = 0.001
    assert marks(warmed) == []
    assert marks(rows(60, drops=range(1, 60))) == []
    # The line stands where the last epoch of the old rate ends.
    element = parsed(plots.curves_svg(rows(12, drops=(3,))))
    lines = [
        path.get("d") for path in element.iter(f"{SVG}path") if "stroke-dasharray: 0.8,1.6" in path.get("style", "")
    ]
    assert len(lines) == 3
    third = points(panel(element, 0), "var(--series-2)")[2, 0]
    assert float(lines[0].split()[1]) == pytest.approx(third, abs=0.01)


def test_what_a_history_lacks_is_left_out():
    history = [{key: value for key, value in row.items() if "val_" not in key} for row in rows(12)]
    found = texts(parsed(plots.curves_svg(history)))
    assert "training" in found
    assert "validation" not in found
    assert not any("best" in text for text in found)

    # As csv.DictReader gives them.
    history = [{key: "" if "top5" in key else str(value) for key, value in row.items()} for row in rows(12)]
    element = parsed(plots.curves_svg(history))
    assert "not recorded" in texts(panel(element, 2))
    assert "not recorded" not in texts(panel(element, 1))

    history = rows(12)
    history[3]["loss"] = history[4]["val_loss"] = float("nan")
    history[5]["val_top1_error"] = float("inf")
    element = parsed(plots.curves_svg(history))
    assert not re.search(r"\b(nan|inf)\b", plots.curves_svg(history))
    assert len(points(panel(element, 0), "var(--series-1)")) == 11
    with pytest.raises(ValueError, match="no rows"):
        plots.curves_svg([])


def test_a_loss_that_explodes_leaves_the_rest_readable():
    history = rows(12)
    history[1]["loss"] = 1e6
    element = parsed(plots.curves_svg(history))
    heights = points(panel(element, 0), "var(--series-2)")[:, 1]
    assert np.ptp(heights) > 10
    assert {"1", "1e4"} <= set(texts(panel(element, 0)))


def test_calibration_draws_accuracy_over_confidence_and_how_many_there_are():
    arguments = calibration()
    element = parsed(plots.calibration_svg(*arguments))
    line = points(element, "var(--series-1)")
    # The first bin is empty.
    assert len(line) == 14
    diagonal = points(element, "var(--muted)")
    (left, bottom), (right, top) = diagonal[0], diagonal[-1]
    scaled = (line - (left, bottom)) / (right - left, top - bottom)
    np.testing.assert_allclose(scaled, np.stack(arguments[2:], 1)[1:], atol=1e-3)

    bars = [
        np.array(re.findall(r"[ML] (\S+) (\S+)", path.get("d")), float)
        for path in element.iter(f"{SVG}path")
        if "fill: var(--series-1); stroke: var(--surface)" in path.get("style", "")
    ]
    heights = np.array([np.ptp(bar[:, 1]) for bar in bars])
    np.testing.assert_allclose(heights / heights.sum(), arguments[1] / arguments[1].sum(), atol=1e-3)
    assert "735 predictions, in 15 bins" in element.get("aria-label")


@pytest.mark.parametrize("counts", [[0] * 15, [0] * 14 + [1], [1] + [0] * 14])
def test_calibration_of_next_to_nothing(counts):
    svg = plots.calibration_svg(*calibration(counts))
    parsed(svg)
    assert not re.search(r"\b(nan|inf)\b", svg)


def both():
    return plots.curves_svg(rows(12, drops=(4,))), plots.calibration_svg(*calibration())


def test_colours_and_typeface_are_the_pages():
    assert set(re.findall(r"var\((--[\w-]+)\)", "".join(both()))) == VARIABLES
    for svg in both():
        assert not re.findall(r"(?:#[0-9a-f]{3,8}\b|rgba?\()", re.sub(r'(?:href="|url\()#[\w-]+', "", svg))
        assert "font-family" not in svg
        assert not re.search(r"\bfont:", svg)
        assert 'width="100%"' in svg
        # Nothing but what is drawn: no date, no program, no address that is not a name of SVG's own.
        assert set(re.findall(r"https?://[^\"']*", svg)) == {"http://www.w3.org/2000/svg"}
        assert "<!" not in svg
        assert "<?" not in svg
        assert parsed(svg).get("role") == "img"


def test_charts_do_not_meddle_with_one_another_nor_with_the_page():
    ids, names = [], []
    for svg in both():
        element = parsed(svg)
        own = [part.get("id") for part in element.iter() if part.get("id")]
        links = re.findall(r'(?:href="|url\()#([^")]+)', svg)
        assert set(links) <= set(own)
        assert links
        ids += own
        names.append(element.get("class"))
        # Each rule of a style sheet is for this chart alone.
        selectors = re.findall(
            r"^([^@}\n]+?) *\{", "\n".join(s.text for s in element.iter(f"{SVG}style")), re.MULTILINE
        )
        assert selectors
        assert all(selector.startswith(f".{element.get('class')}") for selector in selectors)
    assert len(set(ids)) == len(ids)
    assert len(set(names)) == 2


def test_the_same_values_make_the_same_picture():
    assert both() == both()


def test_settings_and_log_of_matplotlib_stay_the_users():
    with matplotlib.rc_context():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            matplotlib.rcParams.update(
                {"font.size": 31, "svg.fonttype": "path", "axes.grid": False, "text.usetex": True}
            )
        logger = logging.getLogger("matplotlib")
        before, level, canvas = dict(matplotlib.rcParams), logger.level, "matplotlib.pyplot" in sys.modules
        with_them = both()
        assert dict(matplotlib.rcParams) == before
        assert logger.level == level
        assert ("matplotlib.pyplot" in sys.modules) == canvas
    assert with_them == both()


def test_nothing_is_printed_where_matplotlib_cannot_keep_its_fonts(tmp_path):
    code = (
        "import logging, sys; from keras_alexnet.reporting import plots; plots.curves_svg([{'epoch': 1, 'loss': 2}]);"
        "sys.exit('matplotlib.pyplot' in sys.modules or logging.getLogger('matplotlib').level)"
    )
    # A folder below a file, which not even an administrator can make.
    (tmp_path / "file").touch()
    environment = os.environ | {"MPLCONFIGDIR": str(tmp_path / "file" / "below"), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, cwd=ROOT, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


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
def test_what_is_no_kernel_of_colours_is_refused(shape):
    with pytest.raises(ValueError, match=r"expected \(height, width, 3, filters\)"):
        filters_png(np.zeros(shape))
