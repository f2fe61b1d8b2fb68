import subprocess
import sys

import pytest

import keras_alexnet


def test_import_loads_no_framework():
    program = "import keras_alexnet, sys; print({'keras', 'tensorflow', 'numpy'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"


@pytest.mark.parametrize("name", keras_alexnet.__all__)
def test_public_names(name):
    value = getattr(keras_alexnet, name)
    assert getattr(value, "__name__", name) == name
    assert name in dir(keras_alexnet)


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'alexnet2'"):
        _ = keras_alexnet.alexnet2
