"""Draws the pictures of the documentation: the network, the crops of each preprocessing, and the throughput.

    python scripts/pictures.py docs --report=saved_models/quickstart/report/report.html

`network.svg` follows from the model; `crops.png` shows what `fit` and `evaluate` see of a drawn image; the figures of
`throughput.svg` are those of BENCHMARKS.md.
"""

import argparse
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
_STYLE = """<style>
text { font: 13px system-ui, sans-serif; fill: #1f2328 } .note { font-size: 11px; fill: #59636e }
.box { fill: #ddf4ff; stroke: #0969da } .dense { fill: #fff8c5; stroke: #9a6700 } .bar { fill: #0969da }
.other { fill: #8c959f }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc } .note { fill: #9198a1 } .box { fill: #0c2d6b; stroke: #4493f8 }
  .dense { fill: #3b2300; stroke: #d29922 } .bar { fill: #4493f8 } .other { fill: #656c76 }
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
    arguments = parser.parse_args()
    folder = arguments.folder
    (folder / "network.svg").write_text(network_svg())
    (folder / "throughput.svg").write_text(throughput_svg())
    crops_png().save(folder / "crops.png", optimize=True)
    if arguments.report:
        report_png(arguments.report).save(folder / "report.png", optimize=True)
