"""File names under locales that are not UTF-8, which people still have set on old machines."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from keras_alexnet.data.map_file import read_map

NAMES = ("Bücher", "猫", "n01")
LOCALES = {"de_DE": "ISO-8859-1", "zh_CN": "GBK", "ja_JP": "EUC-JP"}
ENCODINGS = ("ISO-8859-1", "GBK")


@pytest.fixture(scope="module")
def environments(tmp_path_factory):
    """The environment of each locale, made for these tests; and of UTF-8."""
    if not shutil.which("localedef"):
        pytest.skip("no localedef here")
    folder = tmp_path_factory.mktemp("locales")
    made = {"UTF-8": os.environ | {"LC_ALL": "C.UTF-8"}}
    for language, encoding in LOCALES.items():
        name = f"{language}.{encoding}"
        # It warns of characters that the encoding has not, and writes the locale all the same.
        subprocess.run(["localedef", "-c", "-i", language, "-f", encoding, folder / name], capture_output=True)
        if not (folder / name).exists():
            pytest.skip("no sources of locales here")
        made[encoding] = os.environ | {"LOCPATH": str(folder), "LC_ALL": name}
    return made


def run(environment, command: str, *arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, "-m", f"keras_alexnet.{command}", *arguments],
        capture_output=True,
        env=environment,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A folder per class, whose names are UTF-8, with one that no encoding has."""
    folder = tmp_path_factory.mktemp("Fotos ß")
    for number, name in enumerate(NAMES):
        for part in ("train", "val"):
            (folder / part / name).mkdir(parents=True)
            for image in range(3):
                path = os.fsencode(folder / part / name / f"é {image}") + b"\xff\xd5.png"
                Image.new("RGB", (60, 50), (80 * number, 0, 0)).save(path, "PNG")
    return folder


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_maps_have_the_bytes_of_the_file_system(environments, tree, tmp_path, encoding):
    written = []
    for name in ("UTF-8", encoding):
        output = tmp_path / f"données {name}"
        folders = (f"--train_dir={tree}/train", f"--val_dir={tree}/val", "--val_annotations_dir=")
        run(environments[name], "prepare", *folders, f"--output_dir={output}", "--check_images")
        names = ("train_map.txt", "val_map.txt", "classmappings.txt", "bad_images.tsv")
        written.append([(output / file).read_bytes() for file in names])
    assert written[0] == written[1]
    assert len(read_map(output / "train_map.txt")) == 9


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_annotations_name_classes(environments, tree, tmp_path, encoding):
    for folder in ("val", "xml"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (60, 50)).save(tmp_path / "val/1.png")
    (tmp_path / "xml/1.xml").write_text(f"<a><object><name>{NAMES[0]}</name></object></a>", encoding="utf-8")
    folders = (f"--train_dir={tree}/train", f"--val_dir={tmp_path}/val", f"--val_annotations_dir={tmp_path}/xml")
    run(environments[encoding], "prepare", *folders, f"--output_dir={tmp_path}/data")
    assert read_map(tmp_path / "data/val_map.txt").labels[0] == sorted(NAMES).index(NAMES[0])


def test_names_that_python_cannot_encode_again_are_one_message(environments, tree, tmp_path):
    arguments = (f"--train_dir={tree}/train", f"--val_dir={tree}/val", "--val_annotations_dir=")
    command = [sys.executable, "-m", "keras_alexnet.prepare", *arguments, f"--output_dir={tmp_path}/data"]
    result = subprocess.run(command, capture_output=True, env=environments["EUC-JP"], check=False)
    assert result.returncode == 1
    assert b"cannot be used under the locale's encoding, euc_jp. Set PYTHONUTF8=1" in result.stderr
    assert b"Traceback" not in result.stderr
    utf8 = environments["EUC-JP"] | {"PYTHONUTF8": "1"}
    assert subprocess.run(command, capture_output=True, env=utf8, check=False).returncode == 0


@pytest.mark.slow
def test_a_training_and_its_model(environments, tree, tmp_path):
    encoding = "GBK"
    environment = environments[encoding]
    data, model = tmp_path / "données", tmp_path / "modèle 猫"
    folders = (f"--train_dir={tree}/train", f"--val_dir={tree}/val", "--val_annotations_dir=")
    run(environments["UTF-8"], "prepare", *folders, f"--output_dir={data}")
    settings = ("--preset=tiny", "--batch_size=4", "--lr_drop_epochs=", "--tensorboard", "--report")
    fit = [*settings, f"--data_dir={data}", f"--output_dir={model}"]
    run(environment, "fit", *fit, "--epochs=1")
    # The same run continues under another locale, from its own flags.
    run(environments["UTF-8"], "fit", f"--flagfile={model}/flags.txt", "--epochs=2")
    assert f"--output_dir={model}\n".encode() in (model / "flags.txt").read_bytes()
    assert json.loads((model / "run.json").read_text())["epochs"] == 2
    assert list((model / "tensorboard").glob("events*"))
    predict = [f"--model={model}/model.keras", f"{tree}/val"]
    printed = run(environment, "predict", *predict, "--format=csv")
    assert "Bücher".encode() in printed
    assert os.fsencode(tree) in printed
    features = tmp_path / "é.csv"
    run(environment, "predict", *predict, "--features=fc8", f"--output={features}")
    assert os.fsencode(tree) in features.read_bytes()
    page = (model / "report" / "report.html").read_text()
    assert "Bücher" in page
    rows = (model / "report" / "predictions.csv").read_bytes()
    assert os.fsencode(tree) in rows
