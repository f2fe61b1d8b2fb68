from pathlib import Path

import pictures

DOCS = Path(__file__).parent.parent / "docs"


def test_the_pictures_of_figures_are_up_to_date():
    """They follow from the model and from BENCHMARKS.md: python scripts/pictures.py docs"""
    assert (DOCS / "network.svg").read_text() == pictures.network_svg()
    assert (DOCS / "throughput.svg").read_text() == pictures.throughput_svg()
