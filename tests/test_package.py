import ast
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pictures
import pytest
import write_command_line_page

import keras_alexnet
from keras_alexnet import cli, fit

ROOT = Path(__file__).parent.parent
PYTHON_API = ROOT / "docs" / "python-api.md"


def test_import_loads_no_framework():
    program = "import keras_alexnet, sys; print({'keras', 'tensorflow', 'numpy'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"


def test_public_names():
    for name in keras_alexnet.__all__:
        assert getattr(getattr(keras_alexnet, name), "__name__", name) == name
    assert set(keras_alexnet.__all__) <= set(dir(keras_alexnet))
    with pytest.raises(AttributeError, match="no attribute 'alexnet2'"):
        _ = keras_alexnet.alexnet2


def test_the_documentation_lists_the_public_names():
    page = PYTHON_API.read_text(encoding="utf-8")
    names = {name for line in page.splitlines() if line.startswith("| ") for name in re.findall(r"`(\w+)`", line)}
    assert names | {"UserError"} == set(keras_alexnet.__all__)
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (imported,) = re.findall(r"from keras_alexnet import (.*)", example)
    assert set(imported.split(", ")) <= set(keras_alexnet.__all__)


def test_editors_see_the_public_names():
    tree = ast.parse(Path(keras_alexnet.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {(name.asname, name.name, node.module) for node in block.body for name in node.names}
    assert seen == {(name, name, module) for name, module in keras_alexnet._MODULES.items()}


def test_public_functions_have_type_hints_that_mypy_checks():
    without = []
    for value in map(keras_alexnet.__getattr__, keras_alexnet.__all__):
        members = vars(value).items() if inspect.isclass(value) else [("", value)]
        for function in (member for name, member in members if inspect.isfunction(member) and name[:1] != "_"):
            signature = inspect.signature(function)
            hints = [parameter.annotation for name, parameter in signature.parameters.items() if name != "self"]
            if inspect.Signature.empty in (*hints, signature.return_annotation):
                without.append(function.__qualname__)
    assert without == []
    checked = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["modules"]
    assert set(keras_alexnet._MODULES.values()) <= set(checked)


def test_one_version():
    assert f"\nversion: {keras_alexnet.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_page_of_the_flags_is_up_to_date(monkeypatch):
    """Else run python scripts/write_command_line_page.py"""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert write_command_line_page.PAGE.read_text(encoding="utf-8") == write_command_line_page.page()


def test_the_pictures_of_figures_are_up_to_date():
    """They follow from the model and from BENCHMARKS.md: python scripts/pictures.py docs"""
    assert (ROOT / "docs/network.svg").read_text() == pictures.network_svg()
    assert (ROOT / "docs/throughput.svg").read_text() == pictures.throughput_svg()
    assert (ROOT / "docs/agreement.svg").read_text() == pictures.agreement_svg(ROOT / "docs/agreement.csv")


def test_messages_name_extras_that_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "keras_alexnet").rglob("*.py"))
    named = re.findall(r"pip install 'keras_alexnet\[(.*?)[\]\[]", sources)
    assert len(named) == len(re.findall("pip install (?!--upgrade)", sources)) > 5
    assert set(named) <= {*extras, "{backend}", "{_EXTRAS"}


def test_the_kubernetes_example_uses_the_image_of_the_dockerfile():
    docker = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {extra for names in re.findall(r"EXTRAS=([\w,-]+)", docker) for extra in names.split(",")} <= set(extras)
    page = (ROOT / "docs" / "distributed.md").read_text(encoding="utf-8")
    (image,) = re.findall(r"image: (\S+)", page)
    (build,) = re.findall(r"docker build (.*) \.", page)
    assert f"-t {image}" in build
    assert f"docker build {build} ." in docker
    (arguments,) = re.findall(r"args: \[fit, (.*)\]", page)
    values, rest = cli.parse(fit.define_flags, arguments.split(", "))
    assert (values.epochs, values.output_dir, rest) == (112, "/shared/imagenet", [])
