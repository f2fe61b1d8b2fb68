import runpy
from pathlib import Path

from keras_alexnet.data.map_file import read_map
from keras_alexnet.data.preparation import PreparationConfig, prepare_data

SCRIPT = runpy.run_path(str(Path(__file__).parent.parent / "scripts/draw_shapes.py"))


def test_the_tree_is_one_that_prepare_takes(tmp_path):
    SCRIPT["draw_tree"](tmp_path / "images", 3, 2, seed=1)
    prepare_data(PreparationConfig(imagenet_dir=f"{tmp_path}/images", output_dir=f"{tmp_path}/data"))
    labels = range(len(SCRIPT["CLASSES"]))
    assert list(read_map(tmp_path / "data/train_map.txt").labels) == [label for label in labels for _ in range(3)]
    assert sorted(read_map(tmp_path / "data/val_map.txt").labels) == [label for label in labels for _ in range(2)]
    assert "red disc, spotted" in (tmp_path / "data/classnames.txt").read_text()


def test_the_same_seed_draws_the_same_images(tmp_path):
    files = []
    for number, seed in enumerate((1, 1, 2)):
        folder = tmp_path / str(number)
        SCRIPT["draw_tree"](folder, 1, 1, seed)
        files.append([path.read_bytes() for path in sorted(folder.rglob("*.*"))])
    assert files[0] == files[1] != files[2]
