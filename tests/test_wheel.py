"""The built package, used outside the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import keras_alexnet

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP"))}
    result = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment | variables, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def copied_by_docker() -> list[str]:
    instructions = (line.split() for line in (ROOT / "Dockerfile").read_text().splitlines())
    return [
        source for instruction, *paths in filter(None, instructions) if instruction == "COPY" for source in paths[:-1]
    ]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of what the Dockerfile copies; setuptools writes into the folder that it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in copied_by_docker():
        path = folder / "source" / name
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, path, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            path.parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, path)
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--wheel-dir", folder)
    run(sys.executable, "-m", "pip", "wheel", *options, folder / "source", cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


def test_contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if name.startswith("keras_alexnet/")}
    recipes = {f"keras_alexnet/flags/{path.name}" for path in (ROOT / "flags").glob("*.flags")}
    files = (path for path in (ROOT / "keras_alexnet").rglob("*.*") if path.suffix not in (".pyc", ".flags"))
    assert names == recipes | {str(path.relative_to(ROOT)) for path in files}


def test_a_training_outside_the_checkout(wheel, data_dir, tmp_path):
    packages = tmp_path / "packages"
    install = ("install", "--no-deps", "--no-index", "--quiet", f"--target={packages}", wheel)
    run(sys.executable, "-m", "pip", *install, cwd=tmp_path)
    outside = {"cwd": tmp_path, "PYTHONPATH": str(packages)}
    where = run(sys.executable, "-c", "import keras_alexnet; print(keras_alexnet.__file__)", **outside)
    assert where.startswith(str(packages))
    command = packages / "bin/keras-alexnet"
    assert run(command, "--version", **outside) == f"keras_alexnet {keras_alexnet.__version__}\n"
    recipe = ("--flagfile=fit_quickstart", "--preset=tiny", "--epochs=1", "--batch_size=8", "--output_dir=run")
    run(command, "fit", *recipe, f"--data_dir={data_dir}", **outside)
    assert (tmp_path / "run/model.keras").exists()
