"""File names under locales that are not UTF-8, which people still have set on old machines."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from one_process import one_process
from PIL import Image

from keras_alexnet import cli, fit, prepare

NAMES = ("Bücher", "猫", "n01")


@pytest.fixture(scope="module")
def environments(tmp_path_factory):
    """The environment of each locale, made for these tests."""
    if not shutil.which("localedef"):
        pytest.skip("no localedef here")
    folder = tmp_path_factory.mktemp("locales")
    made = {}
    for language, encoding in (("zh_CN", "GBK"), ("ja_JP", "EUC-JP")):
        name = f"{language}.{encoding}"
        # It warns of characters that the encoding has not, and writes the locale all the same.
        subprocess.run(["localedef", "-c", "-i", language, "-f", encoding, folder / name], capture_output=True)
        if not (folder / name).exists():
            pytest.skip("no sources of locales here")
        made[encoding] = os.environ | {"LOCPATH": str(folder), "LC_ALL": name}
    return made


def run(environment, command: str, *arguments: str, status: int = 0) -> bytes:
    """Runs a command; returns its stdout, or its stderr where it is to fail."""
    command = [sys.executable, "-m", f"keras_alexnet.{command}", *arguments]
    result = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert result.returncode == status, result.stderr
    return result.stderr if status else result.stdout


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The flags for images in a folder per class, whose names are UTF-8, with one that no encoding has."""
    folder = tmp_path_factory.mktemp("Fotos ß")
    for number, name in enumerate(NAMES):
        for part in ("train", "val"):
            (folder / part / name).mkdir(parents=True)
            for image in range(3):
                path = os.fsencode(folder / part / name / f"é {image}") + b"\xff\xd5.png"
                Image.new("RGB", (60, 50), (80 * number, 0, 0)).save(path, "PNG")
    return f"--train_dir={folder}/train", f"--val_dir={folder}/val", "--val_annotations_dir="


def test_names_that_python_cannot_encode_again_are_one_message(environments, folders, tmp_path):
    message = run(environments["EUC-JP"], "prepare", *folders, f"--output_dir={tmp_path}/data", status=1)
    assert b"cannot be used under the locale's encoding, euc_jp. Set PYTHONUTF8=1" in message
    assert b"Traceback" not in message


@pytest.mark.slow
def test_a_training_and_its_model(environments, folders, tmp_path):
    data, model = tmp_path / "données", tmp_path / "modèle 猫"
    run(environments["GBK"], "prepare", *folders, f"--output_dir={data}", "--check_images")
    with one_process():
        arguments = [*folders, f"--output_dir={tmp_path}/expected", "--check_images"]
        prepare.main(*cli.parse(prepare.define_flags, arguments))
    # The maps have the bytes of the file system.
    for name in ("train_map.txt", "val_map.txt", "classmappings.txt", "bad_images.tsv"):
        assert (data / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()
    settings = ("--preset=tiny", "--batch_size=4", "--lr_drop_epochs=", "--tensorboard", "--report", "--epochs=1")
    run(environments["GBK"], "fit", *settings, f"--data_dir={data}", f"--output_dir={model}")
    # The same run continues under another locale, from its own flags.
    fit.main(*cli.parse(fit.define_flags, [f"--flagfile={model}/flags.txt", "--epochs=2"]))
    assert f"--output_dir={model}\n".encode() in (model / "flags.txt").read_bytes()
    assert json.loads((model / "run.json").read_text())["epochs"] == 2
    assert list((model / "tensorboard").glob("events*"))
    assert "Bücher" in (model / "report/report.html").read_text()
    images = folders[1].removeprefix("--val_dir=")
    assert os.fsencode(images) in (model / "report/predictions.csv").read_bytes()
    printed = run(environments["GBK"], "predict", f"--model={model}/model.keras", images, "--format=csv")
    assert "Bücher".encode() in printed
    assert os.fsencode(images) in printed
