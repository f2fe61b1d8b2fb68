import runpy
from pathlib import Path

from PIL import Image

from keras_alexnet import cli, prepare
from keras_alexnet.data.map_file import read_map

SCRIPT = runpy.run_path(str(Path(__file__).parent.parent / "scripts/draw_shapes.py"))
CLASSES = SCRIPT["CLASSES"]


def test_the_tree_is_one_that_prepare_takes(tmp_path, capsys):
    SCRIPT["draw_tree"](tmp_path / "images", 3, 2, seed=1)
    values, _ = cli.parse(prepare.define_flags, [f"--imagenet_dir={tmp_path}/images", f"--output_dir={tmp_path}"])
    prepare.main(values, [])
    train, val = read_map(tmp_path / "train_map.txt"), read_map(tmp_path / "val_map.txt")
    assert list(train.labels) == [label for label in range(len(CLASSES)) for _ in range(3)]
    assert sorted(val.labels) == [label for label in range(len(CLASSES)) for _ in range(2)]
    assert "red disc, spotted" in (tmp_path / "classnames.txt").read_text()
    sizes = set()
    for path in train.paths:
        with Image.open(path) as image:
            sizes.add(image.size)
    assert len(sizes) > len(CLASSES)


def test_the_same_seed_draws_the_same_images(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        SCRIPT["draw_tree"](tmp_path / name, 1, 1, seed)
    files = {name: [path.read_bytes() for path in sorted((tmp_path / name).rglob("*.*"))] for name in ("a", "b", "c")}
    assert files["a"] == files["b"] != files["c"]
