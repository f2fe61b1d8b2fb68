"""The notebook in examples/, cell by cell."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "examples/alexnet_tour.ipynb"


@pytest.mark.slow
def test_its_cells_run_in_order(tmp_path, monkeypatch):
    pytest.importorskip("plotly", reason="pip install -e '.[report]'")
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    names: dict = {}
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        source = "".join(cell["source"])
        assert cell["cell_type"] == "markdown" or not cell["outputs"], "clear the outputs before committing"
        if cell["cell_type"] == "code":
            source = source.replace('= "cntk", 100, 20, 5', '= "tiny", 20, 4, 2')
            exec(compile(source, str(NOTEBOOK), "exec"), names)
    assert (tmp_path / "saved_models/tour/model/report/report.html").exists()
    assert len(names["history"]) == names["epochs"] == 2
    assert names["features"].shape == (24, 256)
