"""The notebook of examples/, and the quickstart on the shapes that scripts/draw_shapes.py draws."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from archives import prepare

from keras_alexnet import cli, fit
from keras_alexnet.data.map_file import VAL_MAP, read_map
from keras_alexnet.inference.evaluation import evaluate_model
from keras_alexnet.model_file import load_model
from keras_alexnet.training.loop import train
from keras_alexnet.training.run_files import MODEL_FILE

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "examples/alexnet_tour.ipynb"

pytestmark = pytest.mark.slow


def test_the_cells_of_the_notebook_run_in_order(tmp_path, monkeypatch):
    pytest.importorskip("plotly", reason="pip install -e '.[report]'")
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    names: dict = {}
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        source = "".join(cell["source"])
        assert cell["cell_type"] == "markdown" or not cell["outputs"], "clear the outputs before committing"
        if cell["cell_type"] == "code":
            source = source.replace('= "cntk", 100, 20, 5', '= "tiny", 20, 4, 1')
            exec(compile(source, str(NOTEBOOK), "exec"), names)
    assert (tmp_path / "saved_models/tour/model/report/report.html").exists()
    assert len(names["history"]) == names["epochs"] == 1
    assert names["features"].shape == (24, 256)


def test_the_full_network_learns_the_shapes(tmp_path):
    """An epoch without dropout: on images not used for training, the error is below half that of chance."""
    shapes = runpy.run_path(str(ROOT / "scripts/draw_shapes.py"))
    shapes["draw_tree"](tmp_path / "images", train_per_class=90, val_per_class=10, seed=0)
    prepare(f"--imagenet_dir={tmp_path}/images", f"--output_dir={tmp_path}/data")
    flags = [f"--data_dir={tmp_path}/data", f"--output_dir={tmp_path}/model", "--batch_size=16", "--dropout=0"]
    recipe = ["--flagfile=fit_quickstart", "--epochs=1", "--lr_drop_epochs="]
    train(fit.config_from(cli.parse(fit.define_flags, recipe + flags)[0]))
    results = evaluate_model(load_model(str(tmp_path / "model" / MODEL_FILE)), read_map(tmp_path / "data" / VAL_MAP))
    assert results["examples"] == 60
    assert results["top1_error"] < (1 - 1 / len(shapes["CLASSES"])) / 2
