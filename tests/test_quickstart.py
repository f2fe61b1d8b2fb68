import runpy
from pathlib import Path

import pytest

from keras_alexnet import cli, fit, prepare
from keras_alexnet.data.map_file import VAL_MAP, read_map
from keras_alexnet.inference.evaluation import evaluate_model
from keras_alexnet.model_file import load_model
from keras_alexnet.report.train import train
from keras_alexnet.training.run_files import MODEL_FILE

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_full_network_learns_the_shapes(tmp_path):
    """Two epochs of scripts/quickstart.sh: on images not used for training, the error is half that of chance."""
    shapes = runpy.run_path(str(ROOT / "scripts/draw_shapes.py"))
    shapes["draw_tree"](tmp_path / "images", train_per_class=100, val_per_class=20, seed=0)
    data, output = f"--data_dir={tmp_path}/data", f"--output_dir={tmp_path}/model"
    images = [f"--imagenet_dir={tmp_path}/images", f"--output_dir={tmp_path}/data"]
    prepare.main(cli.parse(prepare.define_flags, images)[0], [])
    flags = [f"--flagfile={ROOT}/flags/fit_quickstart.flags", data, output, "--epochs=2"]
    train(fit.config_from(cli.parse(fit.define_flags, flags)[0]))
    results = evaluate_model(load_model(str(tmp_path / "model" / MODEL_FILE)), read_map(tmp_path / "data" / VAL_MAP))
    assert results["examples"] == 120
    assert results["top1_error"] < (1 - 1 / len(shapes["CLASSES"])) / 2
