"""Draws a small image tree in the layout of ILSVRC2012, to try the whole job without a data set.

Six classes that differ in shape, color and texture, on varied backgrounds, in varied sizes and aspect ratios; the same
seed draws the same images.

    python scripts/draw_shapes.py data/shapes
"""

import argparse
import colorsys
import math
import random
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

# wordnet-like id → (name, hue in degrees, shape, texture)
CLASSES = {
    "n90000001": ("red disc, spotted", 0, "disc", "spots"),
    "n90000002": ("orange cross, plain", 35, "cross", "plain"),
    "n90000003": ("green square, striped", 120, "square", "stripes"),
    "n90000004": ("cyan ring, plain", 180, "ring", "plain"),
    "n90000005": ("blue triangle, checkered", 230, "triangle", "checks"),
    "n90000006": ("purple star, striped", 290, "star", "stripes"),
}


def draw_image(rng: random.Random, wordnet_id: str) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """Returns an RGB picture of one object and its bounding box (left, top, right, bottom)."""
    _, hue, shape, texture = CLASSES[wordnet_id]
    width, height = rng.randint(240, 420), rng.randint(240, 420)
    image = _background(rng, width, height)

    radius = min(width, height) * rng.uniform(0.26, 0.42)
    cx = width / 2 + rng.uniform(-0.5, 0.5) * max(0, width - 2.1 * radius)
    cy = height / 2 + rng.uniform(-0.5, 0.5) * max(0, height - 2.1 * radius)
    mask = Image.new("L", image.size)
    _draw_shape(ImageDraw.Draw(mask), shape, cx, cy, radius, rng.uniform(0, 2 * math.pi))
    image.paste(_surface(rng, image.size, hue + rng.uniform(-12, 12), texture), mask=mask)
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.2))), mask.getbbox()


def draw_tree(folder: Path, train_per_class: int, val_per_class: int, seed: int) -> None:
    """Writes `Data/CLS-LOC/{train,val}`, `Annotations/CLS-LOC/val` and `LOC_synset_mapping.txt` under `folder`."""
    rng = random.Random(seed)
    train, val, annotations = (
        folder / part for part in ("Data/CLS-LOC/train", "Data/CLS-LOC/val", "Annotations/CLS-LOC/val")
    )
    for path in (val, annotations, *(train / wordnet_id for wordnet_id in CLASSES)):
        path.mkdir(parents=True, exist_ok=True)
    for wordnet_id in CLASSES:
        for number in range(train_per_class):
            image, _ = draw_image(rng, wordnet_id)
            image.save(train / wordnet_id / f"{wordnet_id}_{number}.JPEG", quality=90)
    val_ids = [wordnet_id for wordnet_id in CLASSES for _ in range(val_per_class)]
    rng.shuffle(val_ids)
    for number, wordnet_id in enumerate(val_ids, 1):
        name = f"ILSVRC2012_val_{number:08}"
        image, box = draw_image(rng, wordnet_id)
        image.save(val / f"{name}.JPEG", quality=90)
        (annotations / f"{name}.xml").write_text(_annotation(name, wordnet_id, image.size, box), encoding="utf-8")
    names = "".join(f"{wordnet_id} {name}\n" for wordnet_id, (name, *_) in CLASSES.items())
    (folder / "LOC_synset_mapping.txt").write_text(names, encoding="utf-8")


def _color(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value))


def _background(rng: random.Random, width: int, height: int) -> Image.Image:
    """A blurred mosaic of pale colors of any hue."""
    cells = Image.new("RGB", (rng.randint(3, 7), rng.randint(3, 7)))
    cells.putdata(
        [
            _color(rng.uniform(0, 360), rng.uniform(0, 0.25), rng.uniform(0.2, 0.9))
            for _ in range(cells.width * cells.height)
        ]
    )
    return cells.resize((width, height), Image.Resampling.BICUBIC)


def _surface(rng: random.Random, size: tuple[int, int], hue: float, texture: str) -> Image.Image:
    value = rng.uniform(0.7, 1.0)
    surface = Image.new("RGB", size, _color(hue, rng.uniform(0.75, 1.0), value))
    draw = ImageDraw.Draw(surface)
    dark = _color(hue, 0.9, value * 0.45)
    step = rng.randint(14, 24)
    if texture == "stripes":
        for x in range(-size[1], size[0], step):
            draw.line((x, 0, x + size[1], size[1]), fill=dark, width=step // 3)
    elif texture in ("checks", "spots"):
        draw_cell = draw.rectangle if texture == "checks" else draw.ellipse
        for row, y in enumerate(range(0, size[1], step)):
            for x in range(row % 2 * step, size[0], 2 * step):
                draw_cell((x, y, x + step - 1, y + step - 1), fill=dark)
    return surface


def _draw_shape(draw: ImageDraw.ImageDraw, shape: str, cx: float, cy: float, radius: float, turn: float) -> None:
    def corners(radii: list[float]) -> list[tuple[float, float]]:
        angles = [turn + 2 * math.pi * i / len(radii) for i in range(len(radii))]
        return [(cx + r * math.cos(a), cy + r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]

    box = (cx - radius, cy - radius, cx + radius, cy + radius)
    if shape == "disc":
        draw.ellipse(box, fill=255)
    elif shape == "ring":
        draw.ellipse(box, outline=255, width=round(radius * 0.4))
    elif shape == "square":
        draw.polygon(corners([radius] * 4), fill=255)
    elif shape == "triangle":
        draw.polygon(corners([radius] * 3), fill=255)
    elif shape == "star":
        draw.polygon(corners([radius, radius * 0.45] * 5), fill=255)
    elif shape == "cross":
        ends = corners([radius] * 4)
        for start, end in (ends[::2], ends[1::2]):
            draw.line((*start, *end), fill=255, width=round(radius * 0.55))


def _annotation(name: str, wordnet_id: str, size: tuple[int, int], box: tuple[int, int, int, int]) -> str:
    left, top, right, bottom = box
    return (
        f"<annotation>\n\t<folder>val</folder>\n\t<filename>{name}</filename>\n"
        f"\t<size>\n\t\t<width>{size[0]}</width>\n\t\t<height>{size[1]}</height>\n\t\t<depth>3</depth>\n\t</size>\n"
        f"\t<object>\n\t\t<name>{wordnet_id}</name>\n\t\t<bndbox>\n\t\t\t<xmin>{left}</xmin>\n\t\t\t<ymin>{top}</ymin>\n"
        f"\t\t\t<xmax>{right}</xmax>\n\t\t\t<ymax>{bottom}</ymax>\n\t\t</bndbox>\n\t</object>\n</annotation>\n"
    )


def main() -> None:
    """Draws the tree that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to draw the tree")
    parser.add_argument("--train_per_class", type=int, default=100)
    parser.add_argument("--val_per_class", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw_tree(options.folder, options.train_per_class, options.val_per_class, options.seed)
    print(
        f"Drew {len(CLASSES)} classes, {options.train_per_class} training and {options.val_per_class} validation images"
        f" each, in {options.folder}"
    )


if __name__ == "__main__":
    main()
