"""The built package, installed into an empty environment and used outside the checkout."""

import os
import shutil
import site
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import keras_alexnet

ROOT = Path(__file__).parent.parent
RECIPES = {path.name for path in (ROOT / "flags").glob("*.flags")}

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
def sdist(tmp_path_factory) -> Path:
    """Built from a copy of what the Dockerfile copies; setuptools writes into the folder that it builds."""
    folder = tmp_path_factory.mktemp("sdist")
    for name in copied_by_docker():
        path = folder / "source" / name
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, path, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            path.parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, path)
    program = "import setuptools.build_meta; setuptools.build_meta.build_sdist('..')"
    run(sys.executable, "-W", "ignore", "-c", program, cwd=folder / "source")
    (path,) = folder.glob("*.tar.gz")
    return path


@pytest.fixture(scope="module")
def wheel(sdist) -> Path:
    """Built from the sdist, as pip does where there is no wheel."""
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--wheel-dir", sdist.parent)
    run(sys.executable, "-m", "pip", "wheel", *options, sdist, cwd=sdist.parent)
    (path,) = sdist.parent.glob("*.whl")
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


def test_contents(sdist, wheel):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "LICENSE", "pyproject.toml", "keras_alexnet/fit.py"} <= names
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(f"keras_alexnet-{keras_alexnet.__version__}.dist-info/METADATA").decode()
    assert {"keras_alexnet/py.typed", "keras_alexnet/report/templates/report.css"} <= names
    assert {Path(name).name for name in names if name.startswith("keras_alexnet/flags/")} == RECIPES
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "keras_alexnet").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == sources
    assert f"\nVersion: {keras_alexnet.__version__}\n" in metadata


def test_the_workflow_outside_the_checkout(environment, data_dir, tmp_path):
    command = environment / "keras-alexnet"
    assert run(command, "--version", cwd=tmp_path) == f"keras_alexnet {keras_alexnet.__version__}\n"
    where = run(environment / "python", "-c", "import keras_alexnet; print(keras_alexnet.__file__)", cwd=tmp_path)
    assert where.startswith(str(environment.parent))

    for split in ("train", "val"):
        for line in (data_dir / f"{split}_map.txt").read_text().splitlines():
            path, label = line.split("\t")
            folder = tmp_path / "images" / split / f"class{label}"
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder)
    images = ("--train_dir=images/train", "--val_dir=images/val", "--val_annotations_dir=")
    assert "24 training images of 3 classes" in run(command, "prepare", *images, "--check_images", cwd=tmp_path)
    recipe = ("--flagfile=fit_quickstart", "--preset=tiny", "--epochs=1", "--batch_size=8", "--report")
    run(command, "fit", *recipe, "--output_dir=run", cwd=tmp_path)
    assert (tmp_path / "run/report/report.html").exists()
