"""The page of a report: its HTML, and what a browser makes of it."""

import base64
import hashlib
import html
import io
import re

import numpy as np
import pytest
from browser import chromium, needs_browser, opened
from PIL import Image

from keras_alexnet.report import plots
from keras_alexnet.report.page import ClassRow, Example, Headline, Page, render
from keras_alexnet.report.statistics import Calibration

HOSTILE = '<script>alert(1)</script> & "quotes" \'n </script><img src=x onerror=alert(2)>'
# From right to left; the last turns what follows, and closes what a page might have opened around it.
HEBREW, TURNED = "\u05d0\u05d1\u05d2, \u05d3", "photo \u2069\u202egpj.exe"
LONG = "a name as long as most of them, with a second one"
MEASURES = ("loss", "top1_error", "top1_accuracy", "top5_error", "top5_accuracy")
HISTORY = [
    {"epoch": epoch, "learning_rate": 0.1} | {f"{part}{name}": 0.9 for part in ("", "val_") for name in MEASURES}
    for epoch in range(1, 8)
]
BINS = np.linspace(0.05, 0.95, 10)
CALIBRATION = Calibration(np.linspace(0, 1, 11), np.full(10, 3), BINS, BINS, 0.031)
WHITE, DARK = "rgb(255, 255, 255)", "rgb(20, 22, 26)"


def picture() -> str:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (30, 40, 3), np.uint8)).save(stream, "JPEG")
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def page_with(**changes) -> Page:
    """Seven classes with names that break a careless page."""
    values = {
        "title": f"AlexNet on {HOSTILE}",
        "subtitle": "23 November 2026, models/model.keras",
        "headlines": [Headline("top-1 error", "40.0%", "12.2% to 73.8%", "60.0%"), Headline("loss", "1.234", "")],
        "history": HISTORY,
        "curves": plots.curves_figures(HISTORY),
        "curves_note": "",
        "classes": [
            ClassRow(0, "class10", HOSTILE, 7, 1999 / 2000, 0.2, 0.9, 1, 5),
            ClassRow(1, "Class9", "Lynx", 10, None, 0.2, 1.0, 3, 1),
            ClassRow(2, "b", HEBREW, 0, None, None, None, None, 0),
            ClassRow(3, "class9b", TURNED, 1000, 1e-9, 0.7, 0.7, 0, 10),
            ClassRow(4, "n02012849", "crane", 99, 0.1, 1.0, 0.8, 5, 2),
            ClassRow(5, "n03126707", "crane", 4, 0.2, 1 - 1e-9, 0.0, 4, 1),
            ClassRow(6, "crane", "", 5, 0.3, 0.5, 0.6, 4, 3),
        ],
        "confusion": [(0, 0, 2), (0, 1, 5), (1, 3, 8), (1, 1, 2), (3, 3, 9), (4, 5, 2), (5, 4, 1)],
        "most_confused": [(0, 1, 5, 5 / 7), (4, 5, 2, 1 / 3)],
        "worst": [
            Example(None, f"/data/{HOSTILE}.JPEG", 0, ((1, 0.9999999), (2, 0.0625), (0, 1e-7)), 1e-7),
            Example(picture(), "/data/b.JPEG", 1, ((0, 0.8), (1, 0.15), (2, 0.0)), 0.15),
            *[Example(None, "/data/c.JPEG", 5, ((4, 0.5),), 0.1)] * 16,
        ],
        "best": [],
        "calibration": plots.calibration_figure(CALIBRATION),
        "calibration_error": "3.1%",
        "filters": None,
        "filters_note": "The model has no convolution of RGB images.",
        "facts": [("Model & data", [("model", HOSTILE), ("parameters", "62,378,344")])],
        "files": [("per_class.csv", "a row for each class"), ("a b&c.csv", HOSTILE)],
    }
    return Page(**values | changes)


def many_classes(number: int, cells: list[tuple[int, int, int]]) -> Page:
    classes = [ClassRow(label, f"n{label:08}", f"{label} {LONG}", 50, 0.4, 0.4, 0.6, 0, 5) for label in range(number)]
    return page_with(classes=classes, confusion=cells, most_confused=[], worst=[])


def written(folder, page: Page):
    path = folder / "report.html"
    path.write_text(render(page), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return written(tmp_path_factory.mktemp("page"), page_with())


@pytest.fixture(scope="module")
def source(path) -> str:
    return path.read_text(encoding="utf-8")


def words_of(source: str) -> str:
    """The text of the HTML, with its markup replaced by spaces."""
    body = source[source.index("<body>") : source.index('<script type="application/json"')]
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def test_no_script_runs_but_those_of_the_page_and_nothing_is_loaded(source):
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', source)[1])
    scripts = re.findall(r"<script>(.*?)</script>", source, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert policy.split("; ") == [
        "default-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "img-src data:",
        "style-src 'unsafe-inline'",
        "script-src " + " ".join(f"'sha256-{digest}'" for digest in digests),
    ]
    assert not re.search(r'<(script|link|img|iframe)[^>]* (src|href)="(?!data:)', source)


def test_names_are_text_and_distinct_wherever_they_stand(source):
    body = source[source.index("<body>") :]
    assert "alert(1)</script>" not in body
    assert "<img src=x" not in body
    words = words_of(source)
    assert words.count(HOSTILE) > 6
    assert "is crane (n03126707)" in words
    assert "photo gpj.exe" in words
    assert f"<bdi>{HEBREW}</bdi>" in source
    assert 'href="a%20b%26c.csv"' in source


def test_only_all_and_nothing_are_100_and_0_percent(source):
    rows = re.findall(r'<tr>\n<th scope="row">.*?</tr>', source, re.DOTALL)
    cells = [re.findall(r'<td class="number share"[^>]*>([^<]*)<', row) for row in rows]
    assert [row[0] for row in cells[:4]] == ["&gt; 99.9%", "–", "–", "&lt; 0.1%"]
    assert [row[1] for row in cells[3:6]] == ["70.0%", "100%", "&gt; 99.9%"]
    assert cells[5][2] == "0%"


def test_what_is_missing_is_said():
    classes = [ClassRow(0, "cat", "", 0, None, None, None, None, 0)]
    nothing = {"curves": [], "history": [], "worst": [], "most_confused": [], "confusion": []}
    words = words_of(render(page_with(classes=classes, curves_note="There is no history.csv.", **nothing)))
    for missing in ("no history.csv", "There are no mistakes", "No prediction is correct", "No class is confused"):
        assert missing in words
    # Nor are there columns without content.
    assert "Top-5 recall" not in words
    assert "Id Label" not in words


def test_of_very_many_classes_each_takes_less_than_a_kilobyte():
    number = 4000
    source = render(many_classes(number, [(label, label, 1) for label in range(number)]))
    assert len(source) < 5e6 + 1000 * number
    assert "The table shows up to 2,000 of the 4,000 classes at a time." in words_of(source)
    assert source.count("<tr hidden>") == number - 2000
    assert f'<span class="name" title="0 {LONG}"><bdi>0 {LONG}</bdi></span>' in source


# In a browser. `opened` fails a test whose page has an error, warns, or asks the network for anything.


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


def labels_of(page):
    """The labels in the table of classes, as shown."""
    return [int(label) for label in page.locator("#class-table tbody tr:visible > :nth-child(3)").all_inner_texts()]


def wait_until(page, expression):
    """Waits for a condition; playwright's own way evaluates strings in the page, whose policy forbids that."""
    for _ in range(200):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"never true: {expression}")


def background(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


@needs_browser
def test_the_table_of_classes_can_be_sorted_and_searched(browser, tmp_path, monkeypatch):
    monkeypatch.setattr("keras_alexnet.report.page._ROWS_SHOWN", 6)
    with opened(browser, written(tmp_path, page_with())) as page:
        for heading, ascending, descending in (
            ("Id", [2, 1, 3, 0, 6, 4], [5, 4, 6, 0, 3, 1]),
            ("Images", [2, 5, 6, 0, 1, 4], [3, 4, 1, 0, 6, 5]),
            ("Precision", [3, 4, 5, 6, 0, 1], [0, 6, 5, 4, 3, 1]),  # empty cells last
        ):
            button = page.locator("#class-table thead").get_by_role("button", name=heading, exact=True)
            button.click()
            assert labels_of(page) == ascending
            button.click()
            assert labels_of(page) == descending
            assert button.locator("..").get_attribute("aria-sort") == "descending"
        found = page.locator("#found")
        assert found.inner_text() == "7 of 7 classes; the first 6 are shown"
        for wanted, labels in ((" LYNX", [1]), ("lass9", [3, 1]), ("none such", [])):
            page.locator("#search").fill(wanted)
            assert labels_of(page) == labels
            assert found.inner_text() == f"{len(labels)} of 7 classes"


@needs_browser
def test_the_matrix_shows_the_cells_of_the_part_in_view(browser, tmp_path):
    cells = [(label, label, 3) for label in range(400)] + [(10, 300, 7), (11, 301, 1), (399, 0, 2)]
    mistakes = "document.getElementById('matrix-chart').data[0]"
    with opened(browser, written(tmp_path, many_classes(400, cells))) as page:
        # A block of three by three classes shows its largest cell.
        wait_until(page, f"{mistakes}.z?.length === 134")
        whole = page.evaluate(f"{mistakes}.hovertext.flat().filter(Boolean)")
        assert len(whole) == 2
        assert "7 of 10 (70.0%)" in whole[0]
        page.evaluate("Plotly.relayout('matrix-chart', {'xaxis.range': [295.5, 305.5], 'yaxis.range': [20.5, 5.5]})")
        wait_until(page, f"{mistakes}.z.length === 15")
        part = page.evaluate(f"{mistakes}.hovertext.flat().filter(Boolean)")
        assert [line.split("<br>")[1] for line in part] == ["7 of 10 (70.0%)", "1 of 4 (25.0%)"]
        names = page.evaluate("document.getElementById('matrix-chart').layout.xaxis.ticktext")
        assert [name.strip("\u2068").split()[0] for name in names] == list(map(str, range(296, 306)))
        # The counts are written into the cells.
        assert sorted(page.locator("#matrix-chart .heatmap-label").all_text_contents()) == ["1", "7"]


@needs_browser
def test_the_theme_follows_the_system_until_it_is_chosen_and_paper_is_light(browser, path):
    text = "getComputedStyle(document.querySelector('.plot .xtick text')).fill"
    right_edges = "all => all.map(one => one.getBoundingClientRect().right)"
    with opened(browser, path, color_scheme="dark") as page:
        toggle = page.locator("#theme")
        dark = page.evaluate(text)
        assert (background(page), toggle.inner_text()) == (DARK, "Light theme")
        toggle.click()
        assert (background(page), toggle.inner_text()) == (WHITE, "Dark theme")
        assert page.evaluate(text) != dark
        toggle.click()
        page.set_viewport_size({"width": 688, "height": 900})
        page.emulate_media(media="print")
        assert background(page) == WHITE
        for control in ("nav", "#theme", "#search", "#examples .more > summary", "#curves .values"):
            assert not page.locator(control).is_visible()
        wait_until(page, "document.querySelector('.more').open")
        assert max(page.locator(".main-svg").evaluate_all(right_edges)) <= 688


@needs_browser
def test_a_phone_scrolls_the_page_downwards_only(browser, path):
    with opened(browser, path, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True) as page:
        assert page.locator("#classes .scroll").evaluate("box => box.scrollWidth > box.clientWidth")
        page.locator("#examples summary").first.tap()
        assert page.evaluate("document.documentElement.scrollWidth") == 360


@needs_browser
def test_the_page_reads_without_javascript(browser, path):
    with opened(browser, path, java_script_enabled=False) as page:
        assert len(labels_of(page)) == 7
        assert page.get_by_text("A script draws this chart").count() == 3
        assert page.locator("button:visible, input:visible, .plot:visible").count() == 0
        page.locator("#curves summary").click()
        assert page.locator("#curves tbody tr:visible").count() == 7
        page.locator("#examples summary img").click()
        assert page.get_by_text("/data/b.JPEG").is_visible()
