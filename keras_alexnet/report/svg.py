"""Matplotlib's figures as SVG that takes its colours and its typeface from the page around it.

The page gives the colours as CSS variables: --text, --muted, --line, --surface, --series-1 and --series-2. Matplotlib
knows no variables, so it draws in stand-in colours, which are replaced afterwards.
"""

import contextlib
import io
import logging
import math
import re
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import quoteattr


@contextlib.contextmanager
def _without_log() -> Iterator[None]:
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


# Where its folder cannot be written, or it looks for fonts for the first time, Matplotlib would tell at length: those
# who draw take it from here.
with _without_log():
    import matplotlib
    from matplotlib import ticker  # noqa: F401
    from matplotlib.axes import Axes  # noqa: F401
    from matplotlib.figure import Figure

# No colour that is drawn by chance, and none that Matplotlib writes in a shorter form.
TEXT, MUTED, _LINE, FIRST, SECOND, SURFACE, ON_LINES = (f"#a7c3{number:02x}" for number in range(0x91, 0x98))
_CSS = {
    TEXT: "var(--text)",
    MUTED: "var(--muted)",
    _LINE: "var(--line)",
    FIRST: "var(--series-1)",
    SECOND: "var(--series-2)",
    SURFACE: "var(--surface)",
    # Text that lines may cross stays readable with a rim of the background's colour.
    ON_LINES: "var(--muted); stroke: var(--surface); stroke-width: 3px; stroke-linejoin: round; paint-order: stroke",
}
# Size of the smallest text: on a phone it is 10 CSS pixels high.
SMALL = 10.5
_SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "keras_alexnet",
    "font.family": ["DejaVu Sans"],  # Comes with Matplotlib, and is wider than what pages have: nothing will overlap.
    "font.size": 11,
    "text.color": TEXT,
    "axes.titlecolor": TEXT,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": MUTED,
    "axes.edgecolor": _LINE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.borderpad": 0,
    "legend.borderaxespad": 0,
    "legend.handlelength": 1.2,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 0.7,
}

# What a page has beside its content, in CSS pixels: margins and a scroll bar.
_BESIDE = 64
# Charts as wide as a page of one column are enlarged by this at most: text stays near that of the page.
LARGEST_SCALE = 1.4


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The settings of these charts, whatever the user's are; they are put back."""
    with _without_log(), matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def figure(width: float, height: float) -> Figure:
    """A figure without a background, in the SVG's units."""
    return Figure(figsize=(width / 72, height / 72), facecolor="none")


def box(width: float, height: float, left: float, right: float, top: float, bottom: float) -> tuple[float, ...]:
    """The place of axes in a figure of this size, by their distances from its edges in its units."""
    return left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height


def element(content: str, width: float, height: float, label: str, css_class: str, css: str) -> str:
    """The `<svg>` element around what `body` gave.

    Args:
        content: what is in it.
        width, height: of its coordinates; on the page it is as wide as there is room.
        label: what it shows, for those who do not see it.
        css_class: its class.
        css: rules for that class.
    """
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="100%" role="img"'
    # Joins and caps are what Matplotlib presupposes; CSS may make the element higher than its box.
    looks = f'class="{css_class}" preserveAspectRatio="xMinYMin" stroke-linejoin="round" stroke-linecap="butt"'
    return f"{head} aria-label={quoteattr(label)} {looks}>\n<style>\n{css}\n</style>\n{content}\n</svg>"


def body(figure: Figure, prefix: str) -> str:
    """What is in a figure's `<svg>`, in the page's colours and typeface, its ids beginning with `prefix`."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = buffer.getvalue()
    body = svg[svg.index(">", svg.index("<svg")) + 1 : svg.rindex("</svg>")]
    # A style holds for the whole page, whose other pictures it would change.
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    # The family stands by itself, or behind weight and size, as the version of Matplotlib has it.
    body = re.sub(r"font-family: [^;\"]*(?:; )?", "", body)
    body = re.sub(r'font: (?:(bold|\d+) )?([\d.]+px) [^;"]*', _font, body)
    body = re.sub(r'\bid="', f'id="{prefix}-', body)
    body = re.sub(r'\b(?:xlink:)?href="#', f'href="#{prefix}-', body)
    body = body.replace("url(#", f"url(#{prefix}-")
    for colour, css in _CSS.items():
        body = body.replace(colour, css)
    return re.sub(r"\s*\n\s*", "\n", body).strip()


def _font(match: re.Match) -> str:
    return f"font-size: {match[2]}" + (f"; font-weight: {match[1]}" if match[1] else "")


def side_by_side(panels: Sequence[str], width: int, height: int, label: str, css_class: str) -> str:
    """Panels in a row, which CSS puts in two columns or one where the window has no room for them at their size.

    Paper has room for two.
    """
    count = len(panels)
    css = [f".{css_class} {{ display: block }}"]
    for columns, media in ((2, "print, screen"), (1, "screen")):
        css.append(f"@media {media} and (max-width: {(columns + 1) * width + _BESIDE - 1}px) {{")
        css += [*_columns(columns, count, width, height, css_class), "}"]
    parts = [f'<g transform="translate({number * width} 0)">\n{panel}\n</g>' for number, panel in enumerate(panels)]
    return element("\n".join(parts), count * width, height, label, css_class, "\n".join(css))


def _columns(columns: int, count: int, width: int, height: int, css_class: str) -> Iterator[str]:
    # The coordinates stay those of all in a row, so that panels in fewer columns are enlarged.
    scale = count / columns
    yield f".{css_class} {{ aspect-ratio: {columns * width} / {math.ceil(scale) * height} }}"
    if columns == 1:
        yield f".{css_class} {{ max-width: {LARGEST_SCALE * width:.0f}px }}"
    for number in range(count):
        row, column = divmod(number, columns)
        place = f"translate({column * scale * width:g}px, {row * scale * height:g}px) scale({scale:g})"
        yield f".{css_class} > g:nth-of-type({number + 1}) {{ transform: {place} }}"
