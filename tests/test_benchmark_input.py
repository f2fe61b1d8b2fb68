"""`benchmark.py input`."""

import re
from pathlib import Path

import pytest
from benchmark_process import check_spread, figures_of, run
from drawn_images import draw, encode, write_numbered

from keras_alexnet.data.map_file import write_map

pytestmark = pytest.mark.slow


def write_images(folder: Path) -> str:
    """A map of six JPEGs and, under the name of one, a PNG, as ImageNet has it."""
    drawn = write_numbered(folder / "images", 6, 60, 48)
    odd = folder / "images" / "png.JPEG"
    odd.write_bytes(encode(draw(60, 48), "PNG"))
    write_map(folder / "map.txt", [*zip(drawn.paths, drawn.labels, strict=True), (str(odd), 6)])
    return str(folder / "map.txt")


def test_every_side_goes_through_the_same_images(tmp_path):
    pytest.importorskip("simplejpeg")
    figures, printed = figures_of(
        tmp_path, "input", f"--map={write_images(tmp_path)}", "--images=14", "--batch_size=4", "--repeats=2"
    )
    names = [stage["name"] for stage in figures["stages"]]
    assert names[:9] == [
        "libjpeg-turbo, full decode",
        "read",
        "+ decode and crop",
        "+ resize, round, mirror: training_dataset",
        "training_dataset of cached images",
        "training_dataset of resized copies",
        "training_dataset of resized copies in a tar",
        "training_dataset of stored pixels",
        "evaluation_dataset",
    ]
    assert all(name in printed for name in names)
    # Each row came twice, and the PNG is none for libjpeg-turbo. Whole batches, except in evaluation.
    assert [stage["images"] for stage in figures["stages"]][:9] == [12, *[16] * 7, 14]
    for stage in figures["stages"]:
        check_spread(stage["wall"])
        check_spread(stage["per_core"])
    assert figures["per_core"] == figures["stages"][3]["per_core"]["median"]
    assert figures["wall"] == figures["stages"][3]["wall"]["median"]
    assert figures["libjpeg_turbo_per_core"] == figures["stages"][0]["per_core"]["median"]
    assert figures["ratio"] == pytest.approx(figures["per_core"] / figures["libjpeg_turbo_per_core"])
    assert (figures["torch_per_core"] is None) == ("torch DataLoader, Pillow" not in names)
    assert (figures["images"], figures["batch_size"], figures["repeats"]) == (14, 4, 2)
    assert "tensorflow" in figures["versions"]
    assert figures["machine"] in printed
    assert "benchmark.py input --map=" in figures["command"]
    assert re.match(r"\d{4}-\d\d-\d\dT", figures["date"])


def test_an_unreadable_image_is_named(tmp_path):
    pytest.importorskip("simplejpeg")
    write_map(tmp_path / "map.txt", [(str(tmp_path / "gone.JPEG"), 0)])
    process = run("input", f"--map={tmp_path}/map.txt", "--batch_size=8")
    assert process.returncode == 1
    assert len(process.stderr.splitlines()) == 1
    assert f"cannot read the image {tmp_path}/gone.JPEG (line 1 of " in process.stderr
