import base64
import io
import re

import numpy as np
import pytest
from browser import chromium, opened
from PIL import Image, ImageDraw

pytest.importorskip("jinja2", reason="jinja2 is not installed")

from keras_alexnet.reporting.page import ClassRow, Example, Headline, Page, render

SVG = """<svg viewBox="0 0 600 200" width="100%" role="img" aria-label="{0}" style="background: var(--surface)">
<path d="M40 10V170H590" style="stroke: var(--line); fill: none"/>
<path d="M40 20L200 110L590 160" style="stroke: var(--series-1); fill: none"/>
<path d="M40 30L200 100L590 140" style="stroke: var(--series-2); fill: none"/>
<text x="300" y="190" style="fill: var(--muted); font-size: 12px">epoch</text>
<text x="44" y="20" style="fill: var(--text); font-size: 12px">{0}</text>
</svg>"""
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
        "filters_note": "",
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
    return [int(label) for label in re.match(r"\w+ (\d+),.* → \w+ (\d+),", cell_text(page)).groups()]


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
            *("Zebra", "Zebra", "1", "6", "50.0 %", "50.0 %", "100.0 %", HOSTILE, "3"),
        ]
        assert [cell.strip() for cell in rows[2]] == ["Äpfel, fruit", "apple", "2", "0", "–", "–", "–", "", ""]
        assert page.locator("#class-table tbody th[scope=row]").count() == 3


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
        counts |= {(2, 2): "3 of 6 (50.0 %)", (1, 0): "0 of 4 (0.0 %)", (0, 2): "0 of 0"}
        for (row, column_), expected in counts.items():
            page.mouse.move(left + side * (column_ + 0.5) / 3, top + side * (row + 0.5) / 3)
            assert cell_text(page) == f"{names[row]} → {names[column_]}: {expected}"


def test_cells_smaller_than_a_pixel_can_be_pointed_at(browser, large):
    made = large_page()
    counts = {(truth, predicted): count for truth, predicted, count in made.confusion}
    with opened(browser, large) as page:
        page.locator("#canvas").scroll_into_view_if_needed()
        box = page.locator("#canvas").bounding_box()
        for place in np.linspace(0.3, 0.95, 8):
            page.mouse.move(box["x"] + place * box["width"], box["y"] + (0.1 + 0.85 * place) * box["height"])
            truth, predicted, count, images = re.match(
                r"\w+ (\d+),.* → \w+ (\d+),.*: (\d+) of (\d+) ", cell_text(page)
            ).groups()
            assert counts.get((int(truth), int(predicted)), 0) == int(count)
            assert made.classes[int(truth)].images == int(images)
        # A pixel beside the diagonal, where the largest counts are.
        left = box["x"] + box["width"] - 1
        hits = 0
        for step in range(5, 15):
            page.mouse.move(left - 20 * step, box["y"] + box["height"] - 20 * step)
            hits += " → ".join([cell_text(page).split(" → ")[0]] * 2) in cell_text(page)
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


def test_the_keyboard_moves_the_matrix_and_reads_its_middle(browser, large):
    with opened(browser, large) as page:
        page.locator("#canvas").focus()
        whole = drawn(page)
        page.keyboard.press("+")
        for _ in range(12):
            page.keyboard.press("=")
        close = drawn(page)
        assert cell_labels(page) == [500, 500]
        assert cell_text(page).startswith("rooster 500, roosterus junco → rooster 500, roosterus junco: ")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        assert drawn(page) != close
        row, column_ = cell_labels(page)
        assert 500 < row < column_
        page.keyboard.press("-")
        assert drawn(page) != close
        scrolled = page.evaluate("scrollY")
        page.keyboard.press("0")
        page.keyboard.press("ArrowUp")
        assert page.evaluate("scrollY") == scrolled
        # The mark of the cell that was read differs; without it the whole matrix is back.
        assert page.evaluate("document.getElementById('canvas').style.touchAction") == "pan-x pan-y"
        assert drawn(page) != whole


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
        assert re.match(r".* → .*: \d+ of \d+ ", cell_text(page))
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
        page.emulate_media(media="screen")
        assert drawn(page) == dark


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


def test_sections_without_content_are_left_out_of_the_page_and_its_navigation(browser, tmp_path, small, large):
    bare = written(
        tmp_path,
        small_page(
            curves_note="", calibration=None, facts=[], files=[], confusion=[], order=[0, 1, 2], best=[], worst=[]
        ),
    )
    links = {bare: ["examples", "classes", "confusion"]}
    links[small] = ["curves", *links[bare], "calibration", "configuration", "files"]
    links[large] = ["curves", *links[bare], "calibration", "filters", "configuration", "files"]
    for path, expected in links.items():
        with opened(browser, path) as page:
            targets = page.locator("nav a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
            assert targets == [f"#{name}" for name in expected]
            sections = page.locator("main > section").evaluate_all("sections => sections.map(section => section.id)")
            assert sections == ["headlines", *expected]


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
