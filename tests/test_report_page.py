import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from browser import MISSING, chromium, opened
from PIL import Image, ImageDraw

pytest.importorskip("jinja2", reason="jinja2 is not installed")

from keras_alexnet.report.page import ClassRow, Example, Headline, Page, render

if MISSING:
    pytest.skip(MISSING, allow_module_level=True)
SVG = """<svg viewBox="0 0 600 200" width="100%" role="img" aria-label="{0}" style="background: var(--surface)">
<path d="M40 10V170H590" style="stroke: var(--line); fill: none"/>
<path d="M40 20L200 110L590 160" style="stroke: var(--series-1); fill: none"/>
<path d="M40 30L200 100L590 140" style="stroke: var(--series-2); fill: none"/>
<text x="300" y="190" style="fill: var(--muted); font-size: 12px">epoch</text>
<text x="44" y="20" style="fill: var(--text); font-size: 12px">{0}</text>
</svg>"""
# From right to left; the last turns what follows, and closes what a page might have opened around it.
HEBREW = ("\u05d0\u05d1\u05d2, \u05d3", "\u05d4\u05d5 (\u05d6)", "photo \u2069\u202egpj.exe")
LONG = "a very long name of nothing " * 72
HOSTILE = '<script>alert(1)</script> & "quotes" \'n </script><img src=x onerror=alert(2)>'
WORDS = [
    "tench",
    "goldfish",
    "shark",
    "hammerhead",
    "ray",
    "rooster",
    "hen",
    "ostrich",
    "brambling",
    "finch",
    "junco",
    "bunting",
    "robin",
    "bulbul",
    "jay",
]
GROUPS = ("birds", "dogs", "reptiles", "insects", "vehicles", "instruments", "furniture", "clothing", "food", "other")


def picture(seed, kind="JPEG", size=(320, 240)):
    """A drawn picture as a data URI."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 220, (5, 7, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for x, y, side, *color in rng.integers(20, 200, (6, 6)).tolist():
        draw.ellipse((x, y, x + side, y + side), fill=tuple(color))
    stream = io.BytesIO()
    image.save(stream, kind, quality=80)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"


def small_page(**changes):
    """Three classes with names that break a careless page, ten images."""
    values = {
        "title": f"AlexNet on {HOSTILE}",
        "subtitle": "23 November 2026, models/model.keras",
        "headlines": [Headline("top-1 error", "40.0 %", "12.2 % to 73.8 %"), Headline("loss", "1.234", "")],
        "curves": None,
        "curves_note": "The model has no history.csv beside it.",
        "classes": [
            ClassRow(0, "n<b>0</b>", HOSTILE, 4, 0.75, 0.75, 1.0, 1, 1),
            ClassRow(1, "Zebra", "", 6, 0.5, 0.5, 1.0, 0, 3),
            ClassRow(2, "apple", "Äpfel, fruit", 0, None, None, None, None, 0),
        ],
        "confusion": [(0, 0, 3), (0, 1, 1), (1, 0, 3), (1, 1, 3)],
        "order": [2, 0, 1],
        "groups": [],
        "most_confused": [(1, 0, 3, 0.5), (0, 1, 1, 0.25)],
        "worst": [
            Example(None, f"/data/{HOSTILE}.JPEG", 0, ((1, 0.9), (2, 0.08), (0, 0.02)), 0.02),
            Example(picture(1), "/data/b.JPEG", 1, ((0, 0.8), (1, 0.15), (2, 0.05)), 0.15),
        ],
        "best": [],
        "calibration": SVG.format("accuracy"),
        "calibration_error": "3.1 %",
        "filters": None,
        "filters_note": "The model has no convolution of RGB images.",
        "facts": [("Model & data", [("model", HOSTILE), ("parameters", "62,378,344")])],
        "files": [("per_class.csv", "a row for each class"), ("a b&c.csv", HOSTILE)],
    }
    return Page(**values | changes)


def large_page():
    """A thousand classes, 30,000 cells of confusion, 96 examples."""
    rng = np.random.default_rng(0)
    number = 1000
    names = [
        f"{WORDS[label % 15]} {label}, {WORDS[label * 7 % 15]}us {WORDS[label * 11 % 15]}" for label in range(number)
    ]
    cells = {(label, label): int(rng.integers(5, 45)) for label in range(number)}
    while len(cells) < 30_000:
        truth = int(rng.integers(number))
        near = truth // 100 * 100 + int(rng.integers(100)) if rng.random() < 0.8 else int(rng.integers(number))
        cells.setdefault((truth, near), int(rng.geometric(0.7)))
    confusion = np.zeros((number, number), int)
    for (truth, predicted), count in cells.items():
        confusion[truth, predicted] = count
    wrong = confusion - np.diag(np.diag(confusion))
    rows = [
        ClassRow(
            label,
            f"n{1440764 + 137 * label:08}",
            names[label],
            int(confusion[label].sum()),
            confusion[label, label] / confusion[:, label].sum(),
            confusion[label, label] / confusion[label].sum(),
            min(1.0, 1.2 * confusion[label, label] / confusion[label].sum()),
            int(wrong[label].argmax()),
            int(wrong[label].max()),
        )
        for label in range(number)
    ]
    pairs = sorted(cells, key=lambda cell: -wrong[cell])[:30]
    chances = ((0.97, 0.01, 0.01, 0.005, 0.001), (0.5, 0.3, 0.1, 0.05, 0.01))
    examples = [
        Example(
            picture(seed, size=((320, 240), (240, 320), (320, 320))[seed % 3]),
            f"/data/ILSVRC2012/val/ILSVRC2012_val_{seed:08}.JPEG",
            seed,
            tuple((seed + place + (seed < 48), chance) for place, chance in enumerate(chances[seed % 2])),
            chances[seed % 2][0] if seed >= 48 else 0.004,
        )
        for seed in range(96)
    ]
    return small_page(
        title="AlexNet on val_map.txt",
        headlines=[
            Headline("top-1 error", "40.106 %", "39.68 % to 40.54 %"),
            Headline("top-5 error", "17.794 %", "17.46 % to 18.13 %"),
            Headline("loss", "1.7523", ""),
            Headline("images", "50,000", ""),
        ],
        curves=SVG.format("loss"),
        curves_note="",
        classes=rows,
        confusion=[(*cell, count) for cell, count in cells.items()],
        order=list(range(number)),
        groups=[(name, 100 * place, 100 * place + 100) for place, name in enumerate(GROUPS)],
        most_confused=[(*pair, cells[pair], cells[pair] / int(confusion[pair[0]].sum())) for pair in pairs],
        worst=examples[:48],
        best=examples[48:],
        filters=picture(7, "PNG", (193, 97)),
        filters_note="conv1: 96 filters of 11×11×3",
        facts=[
            ("Evaluation", [("model", "/models/alexnet/model.keras"), ("data", "/data/val_map.txt"), ("crops", "1")]),
            ("Training", [("batch_size", "256"), ("epochs", "112"), ("learning_rate", "0.01")]),
            ("Versions", [("keras", "3.15.1"), ("tensorflow", "2.21.0"), ("numpy", "2.4.6")]),
        ],
    )


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return written(tmp_path_factory.mktemp("small"), small_page())


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return written(tmp_path_factory.mktemp("large"), large_page())


@pytest.fixture(scope="module")
def sortable(tmp_path_factory):
    rows = [
        ClassRow(0, "class10", "zebra", 7, 0.95, 0.2, 0.9, 1, 5),
        ClassRow(1, "Class9", "Lynx", 10, None, 0.2, 1.0, 3, 1),
        ClassRow(2, "b", "Gnu", 0, None, None, None, None, 0),
        ClassRow(3, "class9b", "ant", 1000, 0.05, 0.7, 0.7, 0, 10),
        ClassRow(4, "d", "yak", 99, 0.1, 1.0, 0.8, 1, 2),
    ]
    return written(tmp_path_factory.mktemp("sortable"), small_page(classes=rows, order=range(5)))


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Names from right to left, twice the same name and a very long one; shares next to nothing and next to all."""
    rows = [
        ClassRow(0, "n1", HEBREW[0], 6, 1999 / 2000, 1.0, None, 1, 2),
        ClassRow(1, "n2", HEBREW[1], 6, 1 / 3, 0.0, None, 2, 6),
        ClassRow(2, "n3", HEBREW[2], 2, 1e-9, 1 - 1e-9, None, 1, 1),
        ClassRow(3, "n02012849", "crane", 4, 0.0005, 0.9995, None, 4, 1),
        ClassRow(4, "n03126707", "crane", 4, 0.00049, 0.9994, None, 3, 4),
        ClassRow(5, "crane", "", 4, 0.0625, 0.5, None, 6, 4),
        ClassRow(6, "n4", LONG, 4, None, None, None, 5, 4),
    ]
    confusion = [(0, 1, 2), (0, 0, 4), (1, 2, 6), (2, 1, 1), (2, 2, 1), (3, 4, 1), (3, 3, 3), (4, 3, 4), (5, 6, 4)]
    examples = [
        Example(None, "a.JPEG", 0, ((1, 0.9999999), (0, 1e-7), (2, 0.0)), 1e-7),
        Example(None, "b.JPEG", 3, ((4, 1.0), (3, 0.0)), 0.0),
        Example(None, "c.JPEG", 6, ((5, 0.9), (6, 0.0625)), 0.0625),
    ]
    made = small_page(
        classes=rows,
        confusion=[*confusion, (6, 5, 4)],
        order=range(7),
        most_confused=[(1, 2, 6, 1.0), (0, 1, 2, 1 / 3), (6, 5, 4, 1.0), (4, 3, 4, 1.0)],
        worst=examples,
    )
    return written(tmp_path_factory.mktemp("odd"), made)


def written(folder, page):
    path = folder / "report.html"
    path.write_text(render(page), encoding="utf-8")
    return path


def column(page, number):
    """The texts of a column of the table of classes, as shown."""
    return page.locator(f"#class-table tbody tr:visible > :nth-child({number})").all_inner_texts()


def cell_text(page):
    return page.locator("#cell").inner_text()


def cell_labels(page):
    """Truth and prediction of the cell pointed at, on the large page."""
    pattern = r"\w+ (\d+), [\w ]+?(?: taken for \w+ (\d+), [\w ]+| recognised):"
    truth, predicted = re.match(pattern, cell_text(page)).groups()
    return [int(truth), int(predicted or truth)]


def told(truth, predicted):
    return f"{truth} recognised" if truth == predicted else f"{truth} taken for {predicted}"


def drawn(page):
    """The matrix as it looks once all drawing is done."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return page.locator("#canvas").evaluate("canvas => canvas.toDataURL()")


def side_of_small_matrix(page):
    """Left and top of the plot in the window, and the side of its three rows, which are 96 pixels each."""
    page.locator("#canvas").scroll_into_view_if_needed()
    box = page.locator("#canvas").bounding_box()
    return box["x"] + box["width"] - 289, box["y"] + box["height"] - 289, 288


def background(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


WHITE, DARK = "rgb(255, 255, 255)", "rgb(20, 22, 26)"


def test_each_heading_sorts_both_ways_with_empty_cells_last(browser, sortable):
    # Labels after the first click, and after the second.
    expected = {
        "Class": ([3, 2, 1, 4, 0], [0, 4, 1, 2, 3]),
        "Id": ([2, 1, 3, 0, 4], [4, 0, 3, 1, 2]),
        "Label": ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0]),
        "Images": ([2, 0, 1, 4, 3], [3, 4, 1, 0, 2]),
        "Precision": ([3, 4, 0, 1, 2], [0, 4, 3, 1, 2]),
        "Recall": ([0, 1, 3, 4, 2], [4, 3, 0, 1, 2]),
        "Top-5 recall": ([3, 4, 0, 1, 2], [1, 0, 4, 3, 2]),
        "Most often taken for": ([1, 0, 4, 3, 2], [3, 0, 4, 1, 2]),
        "Times": ([1, 4, 0, 3, 2], [3, 0, 4, 1, 2]),
    }
    with opened(browser, sortable) as page:
        headings = page.locator("#class-table thead")
        assert page.locator("[aria-sort]").count() == 0
        assert headings.get_by_role("button").all_inner_texts() == list(expected)
        for heading, (ascending, descending) in expected.items():
            page.reload()  # Rows that are equal keep the order they had.
            button = headings.get_by_role("button", name=heading, exact=True)
            for order, direction in ((ascending, "ascending"), (descending, "descending"), (ascending, "ascending")):
                button.click()
                assert [int(label) for label in column(page, 3)] == order, (heading, direction)
                assert button.locator("..").get_attribute("aria-sort") == direction
                assert page.locator("[aria-sort]").count() == 1


def test_the_table_says_what_is_known(browser, small):
    with opened(browser, small) as page:
        rows = [row.split("\t") for row in page.locator("#class-table tbody tr").all_inner_texts()]
        assert [cell.strip() for cell in rows[1]] == [
            *("Zebra", "Zebra", "1", "6", "50.0 %", "50.0 %", "100 %", HOSTILE, "3"),
        ]
        assert [cell.strip() for cell in rows[2]] == ["Äpfel, fruit", "apple", "2", "0", "–", "–", "–", "", ""]
        assert page.locator("#class-table tbody th[scope=row]").count() == 3


def spans(page, selector):
    """Where each text of an element begins and ends on the screen, in pixels: {text: (left, right)}."""
    script = """element => {
        const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT), spans = [];
        for (const range = new Range(); walker.nextNode();) {
            range.selectNodeContents(walker.currentNode);
            const { left, right } = range.getBoundingClientRect();
            spans.push([walker.currentNode.data.trim(), [left, right]]);
        }
        return spans;
    }"""
    return [(text, span) for text, span in page.locator(selector).first.evaluate(script) if text]


def test_names_from_right_to_left_turn_nothing_around_them(browser, odd):
    first, second, third = HEBREW[0], HEBREW[1], "photo gpj.exe"
    with opened(browser, odd, viewport={"width": 1280, "height": 900}) as page:
        page.locator("#canvas").focus()
        for key in ("Home", *["ArrowUp"] * 6):
            page.keyboard.press(key)
        page.keyboard.press("ArrowRight")
        assert cell_text(page) == f"{first} taken for {second}: 2 of 6 (33.3 %)"
        lines = {"#cell": [first, "taken for", second, ": 2 of 6 (33.3 %)"]}
        lines["#examples figcaption .truth"] = ["is", first]
        assert page.locator(".name > bdi").count() == page.locator(".name").count() > 20
        page.locator("#examples figure button").first.click()
        lines["#viewer-truth"] = [first, "(< 0.1 %)"]
        lines["#viewer-best .right"] = [first, "(truth)", "< 0.1 %"]
        for selector, expected in lines.items():
            found = spans(page, selector)
            assert [text for text, _ in found] == expected, selector
            # Each stands right of the one before.
            edges = [edge for _, span in found for edge in span]
            assert edges == sorted(edges), selector
        page.keyboard.press("Escape")
        page.locator("#canvas").focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowRight")
        assert cell_text(page) == f"{second} taken for {third}: 6 of 6 (100 %)"
        edges = [edge for _, span in spans(page, "#cell") for edge in span]
        assert edges == sorted(edges)


def test_classes_of_the_same_name_are_told_apart_everywhere(browser, odd):
    bird, machine = "crane (n02012849)", "crane (n03126707)"
    with opened(browser, odd) as page:
        # The one that has no name but its id needs no more.
        assert column(page, 1)[3:6] == [bird, machine, "crane"]
        assert column(page, 7)[3:5] == [machine, bird]
        assert bird in page.locator("#confusion tbody tr").last.inner_text()
        caption = page.locator("#examples figcaption").nth(1).inner_text().split("\n")
        assert [line for line in caption if line] == [machine, "100 %", f"is {bird}"]
        page.locator("#examples figure button").nth(1).click()
        assert page.locator("#viewer-truth").inner_text() == f"{bird} (0 %)"
        assert page.locator("#viewer-best li").first.inner_text().startswith(machine)
        page.keyboard.press("Escape")
        page.locator("#canvas").focus()
        page.keyboard.press("ArrowRight")  # From the middle.
        assert cell_text(page) == f"{bird} taken for {machine}: 1 of 4 (25.0 %)"


def test_only_all_and_nothing_are_told_as_such(browser, odd):
    with opened(browser, odd) as page:
        assert column(page, 5) == ["> 99.9 %", "33.3 %", "< 0.1 %", "0.1 %", "< 0.1 %", "6.3 %", "–"]
        assert column(page, 6) == ["100 %", "0 %", "> 99.9 %", "> 99.9 %", "99.9 %", "50.0 %", "–"]
        assert page.locator("#examples figcaption .detail").first.inner_text() == "> 99.9 %"
        # The script tells the same.
        told = {0: ["> 99.9 %", "< 0.1 %", "0 %"], 1: ["100 %", "0 %"], 2: ["90.0 %", "6.3 %"]}
        for number, expected in told.items():
            page.locator("#examples figure button").nth(number).click()
            assert page.locator("#viewer-best .number").all_inner_texts() == expected
            page.keyboard.press("Escape")


def test_a_very_long_name_takes_three_lines_and_is_told_in_full_by_its_title(browser, odd):
    with opened(browser, odd) as page:
        for selector in ("#class-table", "#confusion table", "#examples .gallery"):
            name = page.locator(selector).locator(".name[title]").first
            assert name.get_attribute("title") == LONG
        for selector, most in (("tr", 80), ("figcaption", 120)):
            assert max(page.locator(selector).evaluate_all("all => all.map(one => one.offsetHeight)")) < most
        page.locator("#examples figure button").last.click()
        assert page.locator("#viewer-truth").bounding_box()["height"] < 150
        assert page.locator("#viewer-truth bdi").get_attribute("title") == LONG
        page.keyboard.press("Escape")
        page.locator("#canvas").focus()
        page.keyboard.press("End")
        for _ in range(3):
            page.keyboard.press("ArrowDown")
        assert cell_text(page).startswith("a very long")
        assert page.locator("#cell bdi").first.get_attribute("title") == LONG
        assert len(cell_text(page)) < 400


def test_without_any_top5_recall_there_is_no_column_of_it(browser, odd):
    with opened(browser, odd) as page:
        headings = page.locator("#class-table thead").get_by_role("button").all_inner_texts()
        assert "Top-5 recall" not in headings
        cells = page.locator("#class-table tbody tr").evaluate_all("rows => rows.map(row => row.cells.length)")
        assert set(cells) == {len(headings)}


@pytest.mark.parametrize("ratio", [1, 2.625])
def test_lines_between_rows_go_across_on_a_phone(browser, tmp_path, ratio):
    made = large_page()
    classes = [replace(row, confused_with=None) for row in made.classes[:40]]
    path = written(tmp_path, small_page(classes=classes, order=range(40)))
    with opened(browser, path, viewport={"width": 360, "height": 740}, device_scale_factor=ratio) as page:
        box = page.locator("#classes .scroll")
        box.evaluate("box => box.scrollTop = 137")
        picture = Image.open(io.BytesIO(box.screenshot())).convert("RGB")
        found = []
        for x in (5, 152):  # In the first column, which stays, and in the next.
            x = round(x * ratio)
            below = range(round(60 * ratio), picture.height - round(5 * ratio))
            lines = [y for y in below if max(picture.getpixel((x, y))) < 240]
            found.append([y for y in lines if y - 1 not in lines])
        assert len(found[0]) > 5
        np.testing.assert_allclose(*found, atol=0 if ratio == 1 else 1)


def test_without_any_names_there_is_no_column_of_ids(browser, tmp_path):
    classes = [ClassRow(0, "cat", "", 1, 1.0, 1.0, 1.0, None, 0), ClassRow(1, "dog", "", 0, None, None, None, None, 0)]
    path = written(
        tmp_path, small_page(classes=classes, order=[0, 1], confusion=[(0, 0, 1)], worst=[], most_confused=[])
    )
    with opened(browser, path) as page:
        assert column(page, 1) == ["cat", "dog"]
        assert column(page, 2) == ["0", "1"]
        assert page.get_by_text("There are no mistakes.").is_visible()
        assert page.get_by_text("No class is taken for another.").is_visible()


def test_search_shows_the_rows_that_match_and_how_many(browser, large):
    with opened(browser, large) as page:
        table, search, found = page.locator("#class-table"), page.locator("#search"), page.locator("#found")
        assert found.inner_text() == "1,000 of 1,000 classes"
        search.fill("TENCH 30,")
        assert found.inner_text() == "1 of 1,000 classes"
        assert column(page, 1) == ["tench 30, tenchus tench"]
        search.fill("N01440764")
        assert column(page, 2) == ["n01440764"]
        search.fill("ostrich 7")
        expected = ["ostrich 7,", *(f"ostrich {number}," for number in range(700, 800) if number % 15 == 7)]
        assert [" ".join(name.split()[:2]) for name in column(page, 1)] == expected
        assert found.inner_text() == f"{len(expected)} of 1,000 classes"
        table.get_by_role("button", name="Label").dblclick()
        assert column(page, 3) == sorted(column(page, 3), key=int, reverse=True)
        assert len(column(page, 3)) == len(expected)
        search.fill("no such class")
        assert found.inner_text() == "0 of 1,000 classes"
        assert column(page, 1) == []
        search.fill("")
        assert len(column(page, 1)) == 1000


def test_of_very_many_classes_the_table_shows_some_at_a_time(browser, tmp_path, monkeypatch):
    monkeypatch.setattr("keras_alexnet.report.page._ROWS_SHOWN", 990)
    path = written(tmp_path, large_page())
    note = "The table shows up to 990 of the 1,000 classes at a time."

    def text(page):
        return " ".join(page.locator("#classes").inner_text().split())

    with opened(browser, path) as page:
        search, found = page.locator("#search"), page.locator("#found")
        assert f"{note} Search and sorting cover all classes. All of them are in per_class.csv." in text(page)
        assert found.inner_text() == "1,000 of 1,000 classes; the first 990 are shown"
        assert column(page, 3) == [str(label) for label in range(990)]
        search.fill("finch 999,")
        assert column(page, 3) == ["999"]
        assert found.inner_text() == "1 of 1,000 classes"
        search.fill("")
        assert found.inner_text() == "1,000 of 1,000 classes; the first 990 are shown"
        page.locator("#class-table").get_by_role("button", name="Label").dblclick()
        assert column(page, 3) == [str(label) for label in range(999, 9, -1)]
        page.emulate_media(media="print")
        assert f"{note} All of them are in per_class.csv." in text(page)
    with opened(browser, path, java_script_enabled=False) as page:
        assert f"{note} All of them are in per_class.csv." in text(page)
        assert len(column(page, 3)) == 990


def test_a_table_of_as_many_classes_as_it_shows_is_whole(browser, tmp_path, monkeypatch):
    monkeypatch.setattr("keras_alexnet.report.page._ROWS_SHOWN", 1000)
    with opened(browser, written(tmp_path, large_page())) as page:
        assert page.locator("#found").inner_text() == "1,000 of 1,000 classes"
        assert len(column(page, 3)) == 1000
        assert "at a time" not in page.locator("#classes").inner_text()


def test_search_knows_no_capitals(browser, sortable):
    with opened(browser, sortable) as page:
        for wanted, labels in (("lynx", ["1"]), ("LASS9", ["1", "3"]), (" Yak ", ["4"])):
            page.locator("#search").fill(wanted)
            assert column(page, 3) == labels


def test_a_thumbnail_opens_what_is_known_of_the_image(browser, large):
    with opened(browser, large) as page:
        viewer, openers = page.locator("#viewer"), page.locator("#examples figure button")
        assert not viewer.is_visible()
        openers.nth(3).click()
        assert viewer.is_visible()
        assert page.locator("#viewer-truth").inner_text() == "hammerhead 3, henus hammerhead (0.4 %)"
        assert page.locator("#viewer-path").inner_text() == "/data/ILSVRC2012/val/ILSVRC2012_val_00000003.JPEG"
        bars = page.locator("#viewer-best li")
        assert bars.count() == 5
        assert bars.nth(0).inner_text().split("\n")[0].startswith("ray 4, bulbulus jay")
        assert "50.0 %" in bars.nth(0).inner_text()
        assert page.locator("#viewer-best .right").count() == 0
        shares = bars.locator(".bar").evaluate_all("bars => bars.map(bar => bar.style.getPropertyValue('--share'))")
        assert shares == ["0.5", "0.3", "0.1", "0.05", "0.01"]
        picture = page.locator("#viewer-picture")
        assert picture.get_attribute("src") == openers.nth(3).locator("img").get_attribute("src")
        assert picture.evaluate("image => image.naturalWidth") == 320
        page.keyboard.press("Escape")
        assert not viewer.is_visible()
        assert openers.nth(3).evaluate("opener => opener === document.activeElement")


def test_the_viewer_goes_on_to_the_next_and_shows_where_it_was_left(browser, large):
    with opened(browser, large) as page:
        openers = page.locator("#examples figure button")
        assert openers.count() == 96
        openers.nth(15).focus()
        page.keyboard.press("Enter")
        page.keyboard.press("ArrowRight")
        assert page.locator("#viewer-title").inner_text() == "Example 17 of 96"
        page.locator("#viewer-next").click()
        page.locator("#viewer-previous").click()
        assert page.locator("#viewer-truth").inner_text().startswith("goldfish 16,")
        assert not openers.nth(16).is_visible()
        page.locator("#viewer-close").click()
        assert openers.nth(16).is_visible()
        assert openers.nth(16).evaluate("opener => opener === document.activeElement")
        openers.nth(0).click()
        page.keyboard.press("ArrowLeft")
        assert page.locator("#viewer-title").inner_text() == "Example 1 of 96"
        page.mouse.click(3, 3)
        assert not page.locator("#viewer").is_visible()


def test_the_viewer_keeps_the_keyboard_at_its_ends(browser, large):
    with opened(browser, large) as page:
        title = page.locator("#viewer-title")
        for name, opened_, end, back in (("Previous", 1, 1, "ArrowRight"), ("Next", 94, 96, "ArrowLeft")):
            page.locator("#examples figure button").nth(opened_).evaluate("opener => opener.click()")
            button = page.get_by_role("button", name=name, exact=True)
            button.focus()
            page.keyboard.press("Enter")
            assert title.inner_text() == f"Example {end} of 96"
            assert button.get_attribute("aria-disabled") == "true"
            assert page.evaluate("document.activeElement.textContent") == name
            page.keyboard.press("Enter")
            assert title.inner_text() == f"Example {end} of 96"
            page.keyboard.press(back)
            assert title.inner_text() != f"Example {end} of 96"
            assert button.get_attribute("aria-disabled") == "false"
            # The keys go on where the focus has left the buttons.
            title.click()
            page.keyboard.press({"ArrowLeft": "ArrowRight", "ArrowRight": "ArrowLeft"}[back])
            assert title.inner_text() == f"Example {end} of 96"
            page.keyboard.press("Escape")


def test_an_example_without_a_picture_says_so(browser, small):
    with opened(browser, small) as page:
        figure = page.locator("#examples figure").nth(0)
        assert "no picture" in figure.inner_text()
        figure.locator("button").click()
        assert page.locator("#viewer-none").is_visible()
        assert not page.locator("#viewer-picture").is_visible()
        assert page.locator("#viewer-best li").count() == 3
        assert page.locator("#viewer-best .right").inner_text().startswith(f"{HOSTILE} (truth)")
        page.keyboard.press("ArrowRight")
        assert page.locator("#viewer-picture").is_visible()
        assert not page.locator("#viewer-none").is_visible()


def test_pointing_at_a_cell_tells_what_it_is(browser, small):
    with opened(browser, small) as page:
        left, top, side = side_of_small_matrix(page)
        names = ["Äpfel, fruit", HOSTILE, "Zebra"]
        counts = {(1, 1): "3 of 4 (75.0 %)", (1, 2): "1 of 4 (25.0 %)", (2, 1): "3 of 6 (50.0 %)"}
        counts |= {(2, 2): "3 of 6 (50.0 %)", (1, 0): "0 of 4 (0 %)", (0, 2): "0 of 0"}
        for (row, column_), expected in counts.items():
            page.mouse.move(left + side * (column_ + 0.5) / 3, top + side * (row + 0.5) / 3)
            assert cell_text(page) == f"{told(names[row], names[column_])}: {expected}"


def test_cells_smaller_than_a_pixel_can_be_pointed_at(browser, large):
    made = large_page()
    counts = {(truth, predicted): count for truth, predicted, count in made.confusion}
    with opened(browser, large) as page:
        page.locator("#canvas").scroll_into_view_if_needed()
        box = page.locator("#canvas").bounding_box()
        for place in np.linspace(0.3, 0.95, 8):
            page.mouse.move(box["x"] + place * box["width"], box["y"] + (0.1 + 0.85 * place) * box["height"])
            truth, predicted = cell_labels(page)
            count, images = re.search(r": (\d+) of (\d+) ", cell_text(page)).groups()
            assert counts.get((truth, predicted), 0) == int(count)
            assert made.classes[truth].images == int(images)
        # A pixel beside the diagonal, where the largest counts are.
        left = box["x"] + box["width"] - 1
        hits = 0
        for step in range(5, 15):
            page.mouse.move(left - 20 * step, box["y"] + box["height"] - 20 * step)
            hits += " recognised: " in cell_text(page)
        assert hits == 10


def test_the_matrix_zooms_pans_and_comes_back(browser, large):
    with opened(browser, large) as page:
        canvas = page.locator("#canvas")
        canvas.scroll_into_view_if_needed()
        whole = drawn(page)
        page.get_by_role("button", name="Zoom in").click()
        zoomed = drawn(page)
        assert zoomed != whole
        page.get_by_role("button", name="Zoom out").click()
        assert drawn(page) == whole

        box = canvas.bounding_box()
        x, y = box["x"] + 0.6 * box["width"], box["y"] + 0.6 * box["height"]
        page.mouse.move(x, y)
        before, there = cell_text(page), cell_labels(page)
        scrolled = page.evaluate("scrollY")
        page.wait_for_timeout(400)  # The page was scrolled just now, which the wheel would go on with.
        for _ in range(6):
            page.mouse.wheel(0, -400)
        page.wait_for_timeout(50)
        close = drawn(page)
        assert close != whole
        assert page.evaluate("scrollY") == scrolled
        page.mouse.move(x + 1, y)
        truth, predicted = cell_labels(page)
        assert [truth, predicted] == pytest.approx(there, abs=12), "the wheel zooms where the pointer is"

        page.mouse.down()
        page.mouse.move(x + 1, y - 200, steps=3)
        page.mouse.up()
        assert drawn(page) != close
        page.mouse.move(x + 1, y)
        assert cell_labels(page)[0] > truth

        page.get_by_role("button", name="Reset").click()
        page.mouse.move(x, y)
        assert cell_text(page) == before
        page.mouse.wheel(0, 300)
        for _ in range(50):
            page.wait_for_timeout(20)
            if page.evaluate("scrollY") > scrolled:
                break
        else:
            pytest.fail("zooming out of the whole matrix scrolls the page")


def test_the_arrow_keys_reach_every_cell(browser, small):
    names = ["Äpfel, fruit", HOSTILE, "Zebra"]
    with opened(browser, small) as page:
        canvas = page.locator("#canvas")
        canvas.focus()
        whole = drawn(page)
        scrolled = page.evaluate("scrollY")
        assert page.locator("#cell").get_attribute("role") == "status"
        # To the first cell, and then along each row as one reads.
        for key in ("Home", "ArrowUp", "ArrowUp"):
            page.keyboard.press(key)
        pictures = set()
        for row, truth in enumerate(names):
            for step, predicted in enumerate(names):
                if step:
                    page.keyboard.press("ArrowRight")
                assert cell_text(page).startswith(f"{told(truth, predicted)}: "), (row, step)
                pictures.add(drawn(page))
            for key in ("ArrowRight", "ArrowDown", "ArrowLeft", "ArrowLeft"):
                page.keyboard.press(key)
        assert len(pictures) == 9
        assert whole not in pictures
        assert cell_text(page).startswith(f"{told('Zebra', 'Äpfel, fruit')}: ")
        page.keyboard.press("Shift+ArrowRight")
        assert cell_text(page).startswith("Zebra recognised: ")
        page.keyboard.press("ArrowLeft")
        assert cell_text(page).startswith(f"{told('Zebra', HOSTILE)}: ")
        assert page.evaluate("scrollY") == scrolled


def test_the_view_of_the_matrix_follows_the_keyboard(browser, large):
    with opened(browser, large) as page:
        canvas = page.locator("#canvas")
        canvas.focus()
        whole = drawn(page)
        page.keyboard.press("+")
        for _ in range(12):
            page.keyboard.press("=")
        close = drawn(page)
        assert cell_labels(page) == [500, 500], "zooming begins in the middle"
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        assert cell_labels(page) == [501, 502]
        assert cell_text(page).startswith("hen 501, robinus hen taken for ostrich 502, rayus shark: ")
        assert drawn(page) != close
        box = canvas.bounding_box()
        for key, expected in (("End", [501, 999]), ("Shift+ArrowLeft", [501, 989]), ("End", [501, 999])):
            page.keyboard.press(key)
            assert cell_labels(page) == expected
        drawn(page)
        # The last columns are in view now: 48 pixels each.
        page.mouse.move(box["x"] + box["width"] - 25, box["y"] + 0.6 * box["height"])
        assert cell_labels(page)[1] == 999
        page.keyboard.press("Home")
        there = cell_labels(page)
        assert there[1] == 0
        page.keyboard.press("-")
        page.keyboard.press("0")
        assert cell_labels(page) == there, "zooming leaves the cell"
        assert canvas.evaluate("canvas => canvas.style.touchAction") == "pan-x pan-y"
        # The mark of the cell differs.
        assert drawn(page) not in (whole, close)


def test_two_fingers_zoom_and_one_scrolls_the_page_until_then(browser, large):
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
    with opened(browser, large, **phone) as page:
        canvas = page.locator("#canvas")
        canvas.scroll_into_view_if_needed()
        assert canvas.evaluate("canvas => canvas.width / canvas.clientWidth") == pytest.approx(2, abs=0.01)
        assert canvas.evaluate("canvas => canvas.style.touchAction") == "pan-x pan-y"
        whole = drawn(page)
        box = canvas.bounding_box()
        x, y = box["x"] + 0.6 * box["width"], box["y"] + 0.6 * box["height"]
        page.touchscreen.tap(x, y)
        assert re.search(r" (taken for|recognised).*: \d+ of \d+ ", cell_text(page))
        session = page.context.new_cdp_session(page)

        def touch(kind, *points):
            points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        touch("touchStart", (x - 20, y))
        touch("touchStart", (x - 20, y), (x + 20, y))
        for reach in (30, 45, 60, 80):
            touch("touchMove", (x - reach, y), (x + reach, y))
        touch("touchEnd")
        assert drawn(page) != whole
        assert canvas.evaluate("canvas => canvas.style.touchAction") == "none"
        assert page.evaluate("visualViewport.scale") == 1
        page.get_by_role("button", name="Reset").tap()
        assert canvas.evaluate("canvas => canvas.style.touchAction") == "pan-x pan-y"


def test_right_ones_can_be_hidden(browser, small):
    def colors(picture):
        """Of a right cell, a wrong one and an empty one, left above their counts."""
        image = Image.open(io.BytesIO(base64.b64decode(picture.split(",")[1]))).convert("RGB")
        left, top = image.width - 289, image.height - 289
        return [
            image.getpixel((left + 96 * column + 20, top + 96 * row + 20)) for row, column in ((1, 1), (2, 1), (0, 0))
        ]

    with opened(browser, small) as page:
        whole = drawn(page)
        right, wrong, empty = colors(whole)
        assert right[2] > right[0]
        assert wrong[0] > wrong[2]
        assert empty == (255, 255, 255)
        page.get_by_label("hide right ones").check()
        assert colors(drawn(page)) == [empty, wrong, empty]
        page.get_by_label("hide right ones").uncheck()
        assert drawn(page) == whole


def test_the_matrix_follows_order_and_groups(browser, tmp_path, small):
    grouped = written(tmp_path, small_page(groups=[("fruit", 0, 1), ("animals", 1, 3)]))
    with opened(browser, small) as page:
        plain = drawn(page)
    with opened(browser, grouped) as page:
        assert drawn(page) != plain


def test_lines_of_groups_do_not_hide_the_diagonal(browser, tmp_path):
    number = 600
    classes = [ClassRow(label, f"id{label}", "", 1, 1.0, 1.0, 1.0, None, 0) for label in range(number)]
    pictures = []
    for groups in ([], [(f"group {first}", first, first + 20) for first in range(0, number, 20)]):
        made = small_page(
            classes=classes,
            confusion=[(label, label, 1) for label in range(number)],
            order=range(number),
            groups=groups,
        )
        with opened(browser, written(tmp_path, made)) as page:
            image = Image.open(io.BytesIO(base64.b64decode(drawn(page).split(",")[1]))).convert("RGB")
            pictures.append(np.asarray(image).astype(int))
    plain, grouped = pictures
    diagonal = (plain == (29, 95, 174)).all(-1)
    assert diagonal.sum() > 300
    assert (grouped[diagonal] == plain[diagonal]).all()
    assert (grouped != plain).any(-1).sum() > 10_000


def test_the_theme_follows_the_system_until_it_is_chosen(browser, small):
    with opened(browser, small, color_scheme="light") as page:
        toggle = page.locator("#theme")
        light = drawn(page)
        assert (background(page), toggle.inner_text()) == (WHITE, "Dark theme")
        page.emulate_media(color_scheme="dark")
        dark = drawn(page)
        assert (background(page), toggle.inner_text()) == (DARK, "Light theme")
        assert dark != light
        toggle.click()
        assert (background(page), toggle.inner_text()) == (WHITE, "Dark theme")
        assert drawn(page) == light
        page.emulate_media(color_scheme="light")
        toggle.click()
        assert background(page) == DARK
        assert drawn(page) == dark
        assert page.evaluate("getComputedStyle(document.querySelector('svg path')).stroke") == "rgb(52, 58, 67)"
        page.reload()
        assert background(page) == WHITE


def test_text_of_charts_is_legible_at_any_width_and_on_paper(browser, tmp_path):
    plots = pytest.importorskip("keras_alexnet.report.plots", reason="matplotlib is not installed")
    columns = ("loss", "top1_error", "top5_error")
    history = [
        {"epoch": epoch, "learning_rate": 0.1 / epoch} | {p + c: 17.53 / epoch for p in ("", "val_") for c in columns}
        for epoch in range(1, 13)
    ]
    counts, middles = np.arange(1, 16), np.linspace(0.03, 0.97, 15)
    calibration = plots.calibration_svg(np.linspace(0, 1, 16), counts, middles, middles)
    path = written(tmp_path, small_page(curves=plots.curves_svg(history), calibration=calibration))
    # Rows of panels, as many side by side as there is room for. A4 has 688 pixels between its margins.
    rows = {360: 3, 700: 3, 768: 2, 1000: 2, 1083: 2, 1100: 1, 1280: 1, 688: 2}
    script = """texts => texts.map(text => {
        const { a, b } = text.getScreenCTM(), chart = text.closest('svg').getBoundingClientRect();
        const { left, right, top, bottom } = text.getBoundingClientRect();
        const inside = left > chart.left && right < chart.right && top > chart.top && bottom < chart.bottom;
        return [Math.hypot(a, b) * parseFloat(getComputedStyle(text).fontSize), inside];
    })"""
    with opened(browser, path) as page:
        for width, expected in rows.items():
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(media="print" if width == 688 else "screen")
            sizes, inside = zip(*page.locator("svg text").evaluate_all(script), strict=True)
            assert min(sizes) >= 10, width
            assert max(sizes) < 24, width
            assert all(inside), width
            tops = page.locator("#curves svg > g").evaluate_all("all => all.map(g => g.getBoundingClientRect().top)")
            assert len({round(top / 9) for top in tops}) == expected, width


@pytest.mark.parametrize("which", ["small", "large"])
def test_a_phone_scrolls_the_page_downwards_only(browser, which, request):
    with opened(browser, request.getfixturevalue(which), viewport={"width": 360, "height": 740}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert page.locator(".scroll").first.evaluate("box => box.scrollWidth > box.clientWidth")
        page.locator("#examples figure button").first.click()
        box = page.locator("#viewer").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360
        assert page.locator("#viewer").evaluate("viewer => viewer.scrollWidth <= viewer.clientWidth")


def test_paper_gets_a_light_page_without_controls(browser, large):
    with opened(browser, large, color_scheme="dark") as page:
        dark = drawn(page)
        controls = ("nav", "#theme", "#search", "[data-zoom='0']", "#hide-right", "#examples summary >> nth=0")
        assert all(page.locator(control).is_visible() for control in controls)
        page.emulate_media(media="print")
        assert not any(page.locator(control).is_visible() for control in controls)
        assert background(page) == WHITE
        assert page.locator("#canvas").is_visible()
        assert drawn(page) != dark
        assert page.locator("#classes .scroll").evaluate("box => box.scrollHeight <= box.clientHeight")
        # What is folded is printed, and no id is broken.
        assert page.locator("#examples figure").evaluate_all("figures => figures.every(one => one.checkVisibility())")
        page.set_viewport_size({"width": 500, "height": 900})
        assert max(page.locator("td.id > span").evaluate_all("ids => ids.map(id => id.offsetHeight)")) < 20
        page.emulate_media(media="screen")
        page.set_viewport_size({"width": 1280, "height": 720})
        assert drawn(page) == dark
        assert page.locator("details[open]").count() == 0


def test_names_are_text_wherever_they_stand(browser, small):
    with opened(browser, small) as page:
        assert page.locator("h1").inner_text() == f"AlexNet on {HOSTILE}"
        assert page.title() == f"AlexNet on {HOSTILE}"
        assert page.locator("#configuration dd").first.inner_text() == HOSTILE
        assert page.locator("#files li").nth(1).inner_text().split(maxsplit=2)[-1].endswith(HOSTILE)
        page.locator("#examples figure button").first.click()
        assert page.locator("#viewer-path").inner_text() == f"/data/{HOSTILE}.JPEG"
        page.keyboard.press("Escape")
        assert page.locator("img[src=x], h1 script, td b").count() == 0
        assert page.locator("script").count() == 2


def test_links_lead_to_files_of_any_name(browser, small):
    with opened(browser, small) as page:
        links = page.locator("#files a").evaluate_all("links => links.map(link => link.href)")
        assert links == [(small.parent / name).as_uri() for name in ("per_class.csv", "a b&c.csv")]


def test_the_page_reads_without_javascript(browser, large):
    with opened(browser, large, java_script_enabled=False) as page:
        assert page.get_by_text("40.106 %").is_visible()
        assert page.locator("#class-table tbody tr").count() == 1000
        assert page.locator("#class-table thead th").first.inner_text() == "Class"
        assert page.locator("#examples img").first.is_visible()
        assert page.get_by_text("The matrix is drawn by a script").is_visible()
        assert page.locator("button:visible, input:visible").count() == 0
        assert not page.locator("#matrix").is_visible()
        page.locator("summary").first.click()
        assert page.locator("#examples figure").nth(20).is_visible()


def test_the_navigation_leads_to_every_section_also_to_those_that_only_say_what_is_missing(browser, tmp_path, small):
    bare = written(tmp_path, small_page(confusion=[], order=[0, 1, 2], best=[], worst=[], most_confused=[]))
    expected = ["curves", "examples", "classes", "confusion", "calibration", "filters", "configuration", "files"]
    for path in (bare, small):
        with opened(browser, path) as page:
            targets = page.locator("nav a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
            assert targets == [f"#{name}" for name in expected]
            sections = page.locator("main > section").evaluate_all("sections => sections.map(section => section.id)")
            assert sections == ["headlines", *expected]
            for missing in ("no history.csv", "None is right", "no convolution"):
                assert page.get_by_text(missing).is_visible()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("<script>document.title = 'run'</script>", "inline script violates"),
        ('<image href="https://example.invalid/a.png" width="9"/>', r"https://example\.invalid/a\.png.* violates"),
    ],
)
def test_nothing_is_run_or_loaded_even_from_a_plot(browser, tmp_path, content, complaint):
    path = written(tmp_path, small_page(curves=f'<svg viewBox="0 0 9 9">{content}</svg>'))
    with pytest.raises(AssertionError, match=complaint), opened(browser, path) as page:
        assert page.title() != "run"


def test_numbers_of_numpy_and_undefined_ones_are_written(browser, tmp_path):
    example = Example(None, "a.JPEG", np.int64(0), ((np.int64(1), np.float32("nan")),), np.float32("nan"))
    confusion, groups = np.array([[0, 0, 3], [1, 0, 2]]), [("a", np.int64(0), np.int64(3))]
    made = small_page(order=np.array([2, 0, 1]), confusion=confusion, worst=[example], groups=groups)
    path = written(tmp_path, made)
    with opened(browser, path) as page:
        page.locator("#examples figure button").click()
        assert page.locator("#viewer-best li").inner_text().split() == ["Zebra", "–"]


def test_a_thousand_classes_stay_below_fifteen_megabytes(large):
    assert large.stat().st_size < 15e6


def test_the_classes_of_imagenet_21k_take_less_than_a_kilobyte_each():
    number = 21_841
    name = "a name as long as most of them, with a second one"
    classes = [ClassRow(label, f"n{label:08}", f"{name} {label}", 50, 0.4, 0.4, 0.6, 0, 5) for label in range(number)]
    cells = [(label, label, 1) for label in range(number)]
    assert len(render(small_page(classes=classes, confusion=cells, order=range(number)))) < 1000 * number
