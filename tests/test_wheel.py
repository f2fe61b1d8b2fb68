"""The built package, installed into an empty environment and used outside the checkout."""

import os
import shutil
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import keras_alexnet

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP"))}
    result = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, check=False
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


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """The folder of the programs of an environment with the wheel, which sees the packages of this one."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    packages = run(programs / "python", "-c", "import site; print(site.getsitepackages()[0])", cwd=folder).strip()
    # A .pth file in there would add the checkout; one that is reached by a .pth file is not read.
    (Path(packages) / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    install = ("install", "--no-deps", "--no-index", "--quiet", wheel)
    run(sys.executable, "-m", "pip", f"--python={programs}/python", *install, cwd=folder)
    return programs


def test_contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if name.startswith("keras_alexnet/")}
    recipes = {f"keras_alexnet/flags/{path.name}" for path in (ROOT / "flags").glob("*.flags")}
    files = (path for path in (ROOT / "keras_alexnet").rglob("*.*") if path.suffix not in (".pyc", ".flags"))
    assert names == recipes | {str(path.relative_to(ROOT)) for path in files}


def test_a_training_outside_the_checkout(environment, data_dir, tmp_path):
    command = environment / "keras-alexnet"
    assert run(command, "--version", cwd=tmp_path) == f"keras_alexnet {keras_alexnet.__version__}\n"
    where = run(environment / "python", "-c", "import keras_alexnet; print(keras_alexnet.__file__)", cwd=tmp_path)
    assert where.startswith(str(environment.parent))
    recipe = ("--flagfile=fit_quickstart", "--preset=tiny", "--epochs=1", "--batch_size=8", "--output_dir=run")
    run(command, "fit", *recipe, f"--data_dir={data_dir}", cwd=tmp_path)
    assert (tmp_path / "run/model.keras").exists()
