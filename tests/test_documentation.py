"""The commands of README.md and docs/ are parsed; those that a reader starts with, and all Python programs, are run."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from keras_alexnet import cli
from keras_alexnet.__main__ import COMMANDS, command
from keras_alexnet.data.map_file import TRAIN_MAP, VAL_MAP, read_map
from keras_alexnet.errors import UserError

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# What keeps a training as README.md shows it short; flags given later count.
SHORT = ["--preset=tiny", "--epochs=1", "--batch_size=8"]


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.M | re.S)


def commands(text: str) -> list[tuple[str, list[str]]]:
    """The commands of this project in shell code or comments, each with its arguments."""
    found = []
    text = re.sub(r"\\\n#? *", "", text)  # continued lines
    text = text.replace("""\"$@\"' -""", "")  # The Slurm example has the flags behind that.
    for line in text.splitlines():
        if match := re.search(r"(?:python -m keras_alexnet\.|keras-alexnet )(\w+) (.*)", line):
            arguments = shlex.split(re.split(r"\s#\s|\s[>|]\s", match[2])[0])
            found.append((match[1], arguments))
    return found


def test_flags_of_documented_commands_exist(monkeypatch):
    monkeypatch.chdir(ROOT)
    texts = [(page, block) for page in PAGES for block in blocks(page, "(?:bash)?")]
    texts += [(recipe, recipe.read_text()) for recipe in sorted((ROOT / "flags").glob("*.flags"))]
    documented = [(path.name, *found) for path, text in texts for found in commands(text)]
    assert {name for _, name, _ in documented} == set(COMMANDS)
    assert len(documented) > 25
    problems = []
    for page, name, arguments in documented:
        try:
            cli.parse(command(name).define_flags, arguments)
        except UserError as error:
            problems.append(f"{page}: {name} {shlex.join(arguments)}: {error}")
    assert problems == []


@pytest.fixture
def as_a_reader(tmp_path, data_dir, monkeypatch) -> Path:
    """A working directory with the images that README.md speaks of."""
    for name, split in ((TRAIN_MAP, "train"), (VAL_MAP, "val")):
        image_map = read_map(data_dir / name)
        for path, label in zip(image_map.paths, image_map.labels, strict=True):
            folder = tmp_path / "ILSVRC" / split / f"n0144076{label}"
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder)
    shutil.copy(path, tmp_path / "photo.jpg")
    for name in ("holidays", "photos"):
        shutil.copytree(folder, tmp_path / name)
    (tmp_path / "flags").symlink_to(ROOT / "flags")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_imagenet_in_five_commands_and_the_programs_work_as_shown(as_a_reader, capsys):
    (section,) = re.findall(r"^## ImageNet in five commands\n(.*?)^## ", (ROOT / "README.md").read_text(), re.M | re.S)
    five = commands(section)
    assert [name for name, _ in five] == ["prepare", "fit", "fit", "evaluate", "predict"]
    for name, arguments in five:
        command(name).main(*cli.parse(command(name).define_flags, arguments + SHORT * (name == "fit")))
    assert "top-1 error" in capsys.readouterr().out
    assert Path("saved_models/imagenet/report/report.html").exists()

    Path("data/quickstart").symlink_to(as_a_reader / "data")
    Path("data/images/Data/CLS-LOC").mkdir(parents=True)
    Path("data/images/Data/CLS-LOC/val").symlink_to(as_a_reader / "ILSVRC/val")
    Path("saved_models/quickstart").symlink_to("imagenet")
    programs = [program for page in PAGES for program in blocks(page, "python")]
    assert len(programs) >= 4
    for program in programs:
        exec(program.replace("epochs=5, batch_size=32", "epochs=1, batch_size=8, preset='tiny'"), {})
    assert Path("saved_models/python/model.keras").exists()
