"""The predict command, within this process and as one of its own, and the functions that it calls."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from map_files import write_map
from PIL import Image

from keras_alexnet import cli, extract_features, image_dataset, predict_images
from keras_alexnet import predict as predict_command
from keras_alexnet.data.class_file import write_classes
from keras_alexnet.data.class_names import Classes
from keras_alexnet.data.map_file import read_map
from keras_alexnet.errors import UserError
from keras_alexnet.inference.listing import entry_writer
from keras_alexnet.model import build_alexnet
from keras_alexnet.model_file import save_model

SIDE = 99
IDS = ["n01440764", "n01443537", "caf\udce9", "my, class"]
NAMES = ["tench, Tinca tinca", "goldfish", "", "<b>"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model, and six images of which one is damaged. Read only."""
    folder = tmp_path_factory.mktemp("predict")
    model = build_alexnet(len(IDS), filters=(8, 6, 5, 7, 8), dense_units=9, image_size=SIDE)
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if layer.weights:
            kernel, bias = layer.get_weights()
            layer.set_weights([rng.normal(0, np.sqrt(2 / np.prod(kernel.shape[:-1])), kernel.shape), bias])
    fc8 = model.get_layer("fc8")
    fc8.kernel.assign(fc8.kernel / 40)
    save_model(model, folder / "model.keras")
    write_classes(folder / "model.keras", IDS, NAMES)
    (folder / "two.txt").write_text("a\t0\nb\t1\n")
    images = folder / "images"
    images.mkdir()
    for number, suffix in enumerate(("jpg", "png", "gif", "webp", "jpg")):
        image = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
        image.resize((200 + number, 150), Image.Resampling.BILINEAR).save(images / f"{number}.{suffix}")
    (images / "2b.jpg").write_bytes((images / "0.jpg").read_bytes()[:400])
    return folder


@pytest.fixture(scope="module")
def model(folder) -> keras.Model:
    return keras.models.load_model(folder / "model.keras", compile=False)


@pytest.fixture(scope="module")
def good(folder) -> list[str]:
    """The images that can be read, in order."""
    return sorted(str(path) for path in (folder / "images").iterdir() if path.name != "2b.jpg")


def predict(*arguments) -> None:
    """Runs the command within this process."""
    predict_command.main(*cli.parse(predict_command.define_flags, list(map(str, arguments))))


def pixels_of(images, **settings) -> np.ndarray:
    return np.concatenate(list(image_dataset(images, 2, image_size=SIDE, **settings).as_numpy_iterator()))


def softmax(logits) -> np.ndarray:
    return keras.ops.convert_to_numpy(keras.ops.softmax(logits))


def test_probabilities_are_the_softmax_of_the_logits(model, good):
    """Of a network that divides by what black images do not have, so that padding has to be left out."""
    inputs = keras.Input((SIDE, SIDE, 3))
    x = keras.ops.divide(keras.ops.cast(inputs, "float32"), keras.ops.max(inputs, axis=(1, 2, 3), keepdims=True))
    scaled = keras.Model(inputs, model(255 * x))
    wanted = softmax(scaled.predict_on_batch(pixels_of(good)))
    for batch_size in (3, 32):
        found = predict_images(scaled, good, batch_size)
        assert (found.shape, found.dtype) == ((5, 4), np.float32)
        np.testing.assert_allclose(found, wanted, rtol=1e-4)
    assert np.ptp(wanted, axis=0).max() > 0.01


def test_ten_crops_give_the_mean_of_the_probabilities_and_of_the_features(model, good):
    crops = pixels_of(good, crops=10, preprocessing="caffe").reshape(50, SIDE, SIDE, 3)
    each = softmax(model.predict_on_batch(crops)).reshape(5, 10, -1)
    found = predict_images(model, good, 20, crops=10, preprocessing="caffe")
    np.testing.assert_allclose(found, each.mean(axis=1), rtol=1e-4)
    conv5 = keras.Model(model.input, model.get_layer("relu5").output).predict_on_batch(crops)
    features = extract_features(model, good, "relu5", crops=10, preprocessing="caffe")
    np.testing.assert_allclose(features, conv5.reshape(5, 10, 5, 5, 8).mean(axis=1), rtol=1e-3, atol=1e-3)


def test_errors_of_the_functions(folder, model, good):
    with pytest.raises(UserError, match=r"cannot read the image .*2b\.jpg: .*Leave it out"):
        predict_images(model, [*good, folder / "images/2b.jpg"])
    for paths in ([], "photo.jpg"):
        with pytest.raises(UserError, match=r"the images are .*; expected a list of paths"):
            predict_images(model, paths)
    with pytest.raises(UserError, match=r"no layer 'fc9'; it has input_mean, conv1, relu1, .*, fc8\."):
        extract_features(model, good, "fc9")
    nested = keras.Sequential([keras.Input(model.input.shape[1:]), model])
    np.testing.assert_array_equal(predict_images(nested, good), predict_images(model, good))
    with pytest.raises(UserError, match="alexnet is a model inside the model"):
        extract_features(nested, good, "alexnet")
    probabilities = keras.Model(model.input, keras.layers.Softmax(name="prob")(model.output))
    with pytest.raises(UserError, match="the model's last layer, prob, outputs probabilities; expected logits"):
        predict_images(probabilities, good)
    broken = keras.models.clone_model(model)
    broken.get_layer("fc8").bias.assign([0, np.inf, 0, 0])
    with pytest.raises(UserError, match="NaN or Inf outputs"):
        predict_images(broken, good)


def test_probabilities_too_small_for_float32_still_rank_their_classes(model, good, tmp_path, capsys):
    confident = keras.models.clone_model(model)
    confident.set_weights(model.get_weights())
    fc8 = confident.get_layer("fc8")
    fc8.kernel.assign(fc8.kernel * 2000)
    confident.save(tmp_path / "confident.keras")
    predict(f"--model={tmp_path}/confident.keras", *good, "--format=json")
    found = [json.loads(line)["predictions"] for line in capsys.readouterr().out.splitlines()]
    logits = confident.predict_on_batch(pixels_of(good))
    assert [[best["label"] for best in each] for each in found] == np.argsort(-logits, axis=1).tolist()
    assert (np.exp(logits - logits.max(1, keepdims=True)) == 0).sum() > 5


def test_a_map_gives_images_with_labels(good, tmp_path):
    write_map(tmp_path / "map.txt", [(path, label) for label, path in enumerate(good)])
    batches = list(image_dataset(read_map(tmp_path / "map.txt"), 3, image_size=SIDE).as_numpy_iterator())
    assert [labels.tolist() for _, labels in batches] == [[0, 1, 2], [3, 4]]
    np.testing.assert_array_equal(pixels_of(map(Path, good)), np.concatenate([images for images, _ in batches]))


def test_a_table_on_a_terminal_fits_it(folder, good, monkeypatch, capsys):
    for name, value in (("COLUMNS", "70"), ("TERM", "xterm"), ("NO_COLOR", "")):
        monkeypatch.setenv(name, value)
    sys.stdout.reconfigure(errors="backslashreplace")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    predict(f"--model={folder}/model.keras", good[0])
    path, *lines = capsys.readouterr().out.splitlines()
    assert path == f"\x1b[1m{good[0]}\x1b[0m"
    assert [len(line) <= 70 for line in lines] == [True] * 5
    assert {line.split()[2] for line in lines[:4]} == {*IDS[:2], "caf\\udce9", "my,"}


def test_json_and_csv_say_the_same_and_bad_files_do_not_stop_the_others(folder, model, good, tmp_path, capsys):
    odd = os.fsencode(tmp_path) + b'/caf\xe9, "a".jpg'
    os.symlink(folder / "images/0.jpg", odd)
    images = [os.fsdecode(odd), str(folder / "images"), "gone.jpg"]
    arguments = [f"--model={folder}/model.keras", "--top_k=9", *images]
    with pytest.raises(UserError, match=r"2 of 8 images could not be read; see above. The others were processed"):
        predict("--format=json", *arguments)
    text = capsys.readouterr().out
    assert text.isascii()
    objects = [json.loads(line) for line in text.splitlines()]
    command = [sys.executable, "-m", "keras_alexnet.predict", "--format=csv", *arguments]
    result = subprocess.run(command, capture_output=True, check=False)
    assert result.returncode == 1
    # Nothing of libjpeg's own words; a slow machine prints progress.
    messages = [line for line in result.stderr.decode().splitlines() if ", ETA " not in line]
    assert messages[0] == "cannot read gone.jpg: there is no such file or folder"
    assert messages[1].startswith(f"cannot read {folder}/images/2b.jpg: ")
    assert len(messages) == 3
    entries = [
        {"path": item["path"], "rank": rank, **best}
        for item in objects
        for rank, best in enumerate(item["predictions"], 1)
    ]
    rows = list(csv.DictReader(io.StringIO(result.stdout.decode("utf-8", "surrogateescape"))))
    assert rows == [{name: str(value) for name, value in entry.items()} for entry in entries]
    paths = [os.fsdecode(odd), *good]
    assert [item["path"] for item in objects] == paths
    probabilities = predict_images(model, paths)
    order = np.argsort(-probabilities)
    assert [(entry["class"], entry["name"]) for entry in entries] == [(IDS[n], NAMES[n]) for n in order.ravel()]
    assert [entry["label"] for entry in entries] == order.ravel().tolist()
    found = np.array([entry["probability"] for entry in entries]).reshape(6, 4)
    np.testing.assert_allclose(found, np.take_along_axis(probabilities, order, 1), rtol=1e-5)


def test_a_list_in_standard_input_and_an_output_file(folder, good, tmp_path, capsys, monkeypatch):
    output = tmp_path / "new" / "predictions.csv"
    arguments = [f"--model={folder}/model.keras", "-", f"--output={output}"]  # The suffix is the format.
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    with pytest.raises(UserError, match="standard input lists no images"):
        predict(*arguments)
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UserError, match="standard input is closed"):
        predict(*arguments)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(good).encode())))
    predict(*arguments)
    assert capsys.readouterr() == ("", "")
    _, *rows = csv.reader(output.read_text(errors="surrogateescape").splitlines())
    assert [row[0] for row in rows[::4]] == good
    predict(f"--model={folder}/model.keras", good[0], "--output=-")
    assert good[0] in capsys.readouterr().out
    assert os.listdir(output.parent) == ["predictions.csv"]


def test_features_go_into_a_file(folder, model, good, tmp_path, capsys):
    settings = [f"--model={folder}/model.keras", "--features=pool5", "--batch_size=2", folder / "images"]
    for suffix in ("npz", "csv"):
        with pytest.raises(UserError, match="1 of 6 images could not be read"):
            predict(*settings, f"--output={tmp_path}/features.{suffix}")
        assert capsys.readouterr().out == f"pool5 of 5 images, 5×2×2×8: {tmp_path}/features.{suffix}\n"
    assert sorted(os.listdir(tmp_path)) == ["features.csv", "features.npz"]
    with np.load(tmp_path / "features.npz") as archive:
        assert (archive["paths"].tolist(), archive["layer"]) == (good, "pool5")
        features = archive["features"]
    np.testing.assert_allclose(features, extract_features(model, good, "pool5"), rtol=1e-5, atol=1e-5)
    header, *rows = csv.reader((tmp_path / "features.csv").read_text().splitlines())
    assert header[:3] == ["path", "pool5_0", "pool5_1"]
    assert [row[0] for row in rows] == good
    # The digits of a text identify each float32.
    np.testing.assert_array_equal(np.array([row[1:] for row in rows], np.float32), features.reshape(5, -1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no images are given. Name files, directories, quoted patterns, or - for a list"),
        (["{0}/images/0.jpg", "--features=fc7"], "add --output=features.npz"),
        (["{0}/images/0.jpg", "--features=fc7", "--output=f.txt"], "ends in .npz or .csv"),
        (["{0}/images/0.jpg", "--features=fc7", "--output=f.csv", "--top_k=3"], "--top_k applies to classes"),
        (["{0}/images/0.jpg", "--output={0}/images/0.jpg"], "0.jpg, which is also an input. Choose another file"),
        (["{0}/images/2b.jpg", "--output=f.csv"], "none of the images could be read; f.csv was not written"),
        (["{0}/images/2b.jpg", "--features=fc7", "--output=f.npz"], "none of the images could be read; f.npz"),
        (["{0}/images/0.jpg", "--top_k=0"], "top_k is 0; expected at least 1"),
        (["{0}/images/0.jpg", "--data_dir=a", "--classmappings=b"], "both --data_dir and --classmappings"),
        (["{0}/images/0.jpg", "--classmappings={0}/two.txt"], "model.keras has 4 classes, but {0}/two.txt has 2"),
    ],
)
def test_mistakes_are_refused_and_write_nothing(folder, tmp_path, arguments, message, capsys, monkeypatch):
    before = sorted(folder.rglob("*"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as refused:
        predict(f"--model={folder}/model.keras", *(argument.format(folder) for argument in arguments))
    assert message.format(folder) in str(refused.value)
    assert capsys.readouterr().out == ""
    assert sorted(folder.rglob("*")) == before
    assert os.listdir(tmp_path) == []


def test_a_table_escapes_names_and_needs_neither_classes_nor_block_elements():
    classes = Classes(["a\x1b[31m"], ["caf\u00e9\u202e"], "")
    text = entry_writer("table", classes)("new\nline\x1b.jpg", [(0, 0.5)])
    assert text == "new\\nline\\x1b.jpg\n   50.0%  ██████████            a\\x1b[31m  café\\u202e\n\n"
    text = entry_writer("table", None, blocks=False)("a", [(3, 0.5)])
    assert text == "a\n   50.0%  ##########            label 3\n\n"
