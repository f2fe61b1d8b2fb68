import re
import subprocess
import sys
from pathlib import Path

import pytest

import keras_alexnet

PYTHON_API = Path(__file__).parent.parent / "docs" / "python-api.md"


def test_import_loads_no_framework():
    program = "import keras_alexnet, sys; print({'keras', 'tensorflow', 'numpy'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"


@pytest.mark.parametrize("name", keras_alexnet.__all__)
def test_public_names(name):
    value = getattr(keras_alexnet, name)
    assert getattr(value, "__name__", name) == name
    assert name in dir(keras_alexnet)


def test_the_documentation_lists_the_public_names():
    page = PYTHON_API.read_text(encoding="utf-8")
    names = {name for line in page.splitlines() if line.startswith("| ") for name in re.findall(r"`(\w+)`", line)}
    assert names | {"UserError"} == set(keras_alexnet.__all__)
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (imported,) = re.findall(r"from keras_alexnet import (.*)", example)
    assert set(imported.split(", ")) <= set(keras_alexnet.__all__)


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'alexnet2'"):
        _ = keras_alexnet.alexnet2
