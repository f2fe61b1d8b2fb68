"""Draws the pictures of the documentation: the network, the crops of each preprocessing, throughput and error curves.

    python scripts/pictures.py docs --report=saved_models/quickstart/report/report.html --curves=docs/agreement.csv

`network.svg` follows from the model; `crops.png` shows what `fit` and `evaluate` see of a drawn image; the figures of
`throughput.svg` are those of BENCHMARKS.md; `agreement.svg` shows the curves.csv of scripts/compare_trainings.py.
"""

import argparse
import csv
import io
import random
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from draw_shapes import draw_image
from PIL import Image, ImageDraw, ImageFont

from keras_alexnet import build_alexnet
from keras_alexnet.data.crops import PREPROCESSINGS
from keras_alexnet.data.transforms import evaluation_image, training_image

BENCHMARKS = Path(__file__).parent.parent / "BENCHMARKS.md"
# Row of the table of GPUs → label of its bar; the figures are of one H100, bfloat16, batches of 256.
BARS = {
    "JAX, `fit --synthetic_data`": "keras_alexnet, JAX",
    "TensorFlow, one GPU, XLA, `fit --synthetic_data`": "keras_alexnet, TensorFlow",
    "torch.compile, channels_last, fast LRN": "PyTorch, torch.compile",
}
# Start of a column's name in the table of curves → style and label.
CURVES = (("keras_alexnet", "ours", "keras_alexnet"), ("pytorch", "theirs", "PyTorch reference"))
_STYLE = """<style>
text { font: 13px system-ui, sans-serif; fill: #1f2328 } .note { font-size: 11px; fill: #59636e }
.box { fill: #ddf4ff; stroke: #0969da } .dense { fill: #fff8c5; stroke: #9a6700 } .bar { fill: #0969da }
.other { fill: #8c959f } .grid { stroke: #d1d9e0 } .line { fill: none; stroke-width: 2 } .band { opacity: 0.2 }
.ours { fill: #0969da } .theirs { fill: #bc4c00 } .ours.line { fill: none; stroke: #0969da }
.theirs.line { fill: none; stroke: #bc4c00 }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc } .note { fill: #9198a1 } .box { fill: #0c2d6b; stroke: #4493f8 }
  .dense { fill: #3b2300; stroke: #d29922 } .bar { fill: #4493f8 } .other { fill: #656c76 } .grid { stroke: #3d444d }
}
</style>"""


def network_svg() -> str:
    """The layers with weights as boxes: heights by the side of the output, widths by its channels."""
    model = build_alexnet()
    x, parts = 20.0, []
    for layer in model.layers:
        if not (layer.weights or isinstance(layer, keras.layers.InputLayer)):
            continue
        *sides, channels = layer.output.shape[1:]
        kind, height, width = "dense", 170 * (channels / 4096) ** 0.5, 16
        if sides:
            kind, height, width = "box", 34 + 150 * sides[0] / 227, 8 + 36 * channels / 384
        shape = "×".join(map(str, (*sides, channels)))
        detail = f"{layer.kernel_size[0]}×{layer.kernel_size[1]}" if hasattr(layer, "kernel_size") else ""
        middle = x + 40
        parts += [
            f'<rect class="{kind}" x="{middle - width / 2:.1f}" y="{130 - height / 2:.1f}" width="{width:.1f}" '
            f'height="{height:.1f}" rx="2"/>',
            f'<text x="{middle}" y="250" text-anchor="middle">{layer.name}</text>',
            f'<text class="note" x="{middle}" y="266" text-anchor="middle">{shape}</text>',
            f'<text class="note" x="{middle}" y="281" text-anchor="middle">{detail}</text>',
        ]
        x += 88
    title = f"AlexNet, preset cntk: {model.count_params():,} parameters"
    parts.append(f'<text x="20" y="22">{title}</text>')
    return _svg(x + 12, 292, title, parts)


def throughput_svg() -> str:
    """Bars of the training throughput on a GPU, from the table in BENCHMARKS.md."""
    figures = {}
    for row, label in BARS.items():
        line = re.search(rf"^\| {re.escape(row)} \| 256 \|.*\| \**([\d,]+)[^|]*\|$", BENCHMARKS.read_text(), re.M)
        figures[label] = int(line[1].replace(",", ""))
    title, parts = "Training throughput, images/s: one H100, bfloat16, batch size 256", []
    for position, (label, value) in enumerate(figures.items()):
        y, width = 42 + 34 * position, 330 * value / max(figures.values())
        kind = "bar" if label.startswith("keras_alexnet") else "other"
        parts += [
            f'<text x="190" y="{y + 16}" text-anchor="end">{label}</text>',
            f'<rect class="{kind}" x="200" y="{y}" width="{width:.0f}" height="22" rx="2"/>',
            f'<text x="{208 + width:.0f}" y="{y + 16}">{value:,}</text>',
        ]
    return _svg(620, 52 + 34 * len(figures), title, [f'<text x="20" y="22">{title}</text>', *parts])


def agreement_svg(table: Path) -> str:
    """The validation error over the epochs: the mean of each implementation's seeds, and the band that they span."""
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    left, top, width, height = 60, 40, 420, 220
    top_error = max(float(value) for row in rows for name, value in row.items() if name != "epoch")
    steps = range(0, int(100 * top_error) + 20, 20)  # of the axis, in percent

    def point(position: int, error: float) -> str:
        x = left + width * position / (len(rows) - 1)
        return f"{x:.1f},{top + height * (1 - 100 * error / steps[-1]):.1f}"

    parts = []
    for percent in steps:
        y = top + height * (1 - percent / steps[-1])
        parts += [
            f'<path class="grid" d="M{left},{y:.1f}h{width}"/>',
            f'<text class="note" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{percent}%</text>',
        ]
    for row in rows[:: max(len(rows) // 10, 1)]:
        x = left + width * (int(row["epoch"]) - 1) / (len(rows) - 1)
        parts.append(
            f'<text class="note" x="{x:.1f}" y="{top + height + 18}" text-anchor="middle">{row["epoch"]}</text>'
        )
    for position, (prefix, kind, label) in enumerate(CURVES):
        values = [[float(value) for name, value in row.items() if name.startswith(prefix)] for row in rows]
        upper = [point(epoch, max(seeds)) for epoch, seeds in enumerate(values)]
        lower = [point(epoch, min(seeds)) for epoch, seeds in enumerate(values)]
        mean = [point(epoch, sum(seeds) / len(seeds)) for epoch, seeds in enumerate(values)]
        y = top + 20 + 24 * position
        parts += [
            f'<polygon class="{kind} band" points="{" ".join(upper + lower[::-1])}"/>',
            f'<polyline class="{kind} line" points="{" ".join(mean)}"/>',
            f'<path class="{kind} line" d="M{left + width + 16},{y - 4}h24"/>',
            f'<text x="{left + width + 48}" y="{y}">{label}</text>',
        ]
    title = f"Validation top-1 error after each epoch: mean and range of {len(values[0])} seeds"
    return _svg(660, top + height + 30, title, [f'<text x="20" y="22">{title}</text>', *parts])


def _svg(width: float, height: float, title: str, parts: list[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" role="img" aria-label="{title}">'
    )
    return "\n".join([head, _STYLE, *parts, "</svg>", ""])


def crops_png() -> Image.Image:
    """An image, four of its training crops, and its center crop under each preprocessing."""
    image, _ = draw_image(random.Random(7), "n90000006")
    image = image.crop((0, 40, image.width, image.height - 30))
    data = io.BytesIO()
    image.save(data, "PNG")
    data = tf.constant(data.getvalue())
    numbers = np.random.default_rng(3).random((4, 3)).astype(np.float32)
    tiles = [(f"the image, {image.width} by {image.height}", image)]
    tiles += [(f"evaluation, {name}", _to_image(evaluation_image(data, 227, name))) for name in PREPROCESSINGS]
    tiles += [("training, random crop, flip", _to_image(training_image(data, row, 227))) for row in numbers]
    gap, label, side, columns = 12, 22, 227, 4
    first = image.width + gap
    canvas = Image.new("RGB", (first + 3 * (side + gap) + gap, 2 * (side + label + gap) + gap), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    for position, (title, picture) in enumerate(tiles):
        row, column = divmod(position, columns)
        x, y = gap + (column > 0) * first + max(column - 1, 0) * (side + gap), gap + row * (side + label + gap)
        draw.text((x, y), title, "#1f2328", font)
        canvas.paste(picture, (x, y + label))
    return canvas


def report_png(page: Path) -> Image.Image:
    """Two parts of a report side by side, light and dark. Needs the extra `browser` and a Chromium."""
    from playwright.sync_api import sync_playwright

    browser_path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    shots = []
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for scheme, section in (("light", None), ("dark", "classes")):
            view = browser.new_page(color_scheme=scheme, viewport={"width": 1100, "height": 1400})
            view.goto(page.resolve().as_uri())
            view.wait_for_timeout(2000)  # the charts are drawn
            if section:
                view.evaluate(f"document.getElementById('{section}').scrollIntoView()")
                view.wait_for_timeout(500)
            shots.append(Image.open(io.BytesIO(view.screenshot())).convert("RGB").resize((660, 840)))
        browser.close()
    joined = Image.new("RGB", (sum(shot.width for shot in shots), shots[0].height))
    joined.paste(shots[0], (0, 0))
    joined.paste(shots[1], (shots[0].width, 0))
    return joined


def _to_image(pixels: tf.Tensor) -> Image.Image:
    return Image.fromarray(pixels.numpy())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to write the pictures")
    parser.add_argument("--report", type=Path, help="a report.html to picture as report.png")
    parser.add_argument("--curves", type=Path, help="a curves.csv to picture as agreement.svg")
    arguments = parser.parse_args()
    folder = arguments.folder
    (folder / "network.svg").write_text(network_svg())
    (folder / "throughput.svg").write_text(throughput_svg())
    if arguments.curves:
        (folder / "agreement.svg").write_text(agreement_svg(arguments.curves))
    crops_png().save(folder / "crops.png", optimize=True)
    if arguments.report:
        report_png(arguments.report).save(folder / "report.png", optimize=True)
