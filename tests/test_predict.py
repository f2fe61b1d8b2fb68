"""The predict command, within this process and as one of its own, and the functions that it calls."""

import csv
import io
import json
import os
import pty
import shutil
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
from keras_alexnet.inference import files
from keras_alexnet.inference.feature_file import feature_file
from keras_alexnet.inference.listing import entry_writer
from keras_alexnet.inference.outputs import Outputs, layer_names
from keras_alexnet.model import build_alexnet
from keras_alexnet.model_file import save_model

IDS = ["n01440764", "n01443537", "caf\udce9", "my, class"]
NAMES = ["tench, Tinca tinca", "goldfish", "", "<b>"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model, and six images of which one is damaged. Read only."""
    folder = tmp_path_factory.mktemp("predict")
    keras.utils.set_random_seed(1)
    model = build_alexnet(len(IDS), filters=(8, 6, 5, 7, 8), dense_units=9)
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if layer.weights:
            kernel, bias = layer.get_weights()
            layer.set_weights([rng.normal(0, np.sqrt(2 / np.prod(kernel.shape[:-1])), kernel.shape), bias])
    fc8 = model.get_layer("fc8")
    fc8.kernel.assign(fc8.kernel / 40)
    save_model(model, folder / "model.keras")
    write_classes(folder / "model.keras", IDS, NAMES)
    images = folder / "images"
    images.mkdir()
    for number, suffix in enumerate(("jpg", "png", "gif", "webp", "jpg")):
        pixels = rng.integers(0, 256, (6, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((200 + number, 150), Image.Resampling.BILINEAR).save(
            images / f"{number}.{suffix}"
        )
    (images / "2b.jpg").write_bytes((images / "0.jpg").read_bytes()[:400])
    return folder


@pytest.fixture(scope="module")
def model(folder) -> keras.Model:
    return keras.models.load_model(folder / "model.keras", compile=False)


def good(folder: Path) -> list[str]:
    return sorted(str(path) for path in (folder / "images").iterdir() if path.name != "2b.jpg")


def run(*arguments, **settings) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "keras_alexnet.predict", *map(str, arguments)],
        **{"capture_output": True, "check": False, **settings},
    )


def messages(result: subprocess.CompletedProcess) -> list[bytes]:
    """The lines on stderr, without those of progress, which only a slow machine prints."""
    return [line for line in result.stderr.splitlines() if b", ETA " not in line]


def assert_told(result: subprocess.CompletedProcess, *parts: str) -> None:
    stderr = result.stderr.decode()
    assert result.returncode == 1
    assert "Traceback" not in stderr
    for part in parts:
        assert part in stderr


def predict(capsys, *arguments) -> str:
    """What the command prints, within this process."""
    sys.stdout.reconfigure(errors="backslashreplace")
    predict_command.main(*cli.parse(predict_command.define_flags, list(map(str, arguments))))
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


def test_probabilities_are_the_softmax_of_the_logits(folder, model):
    paths = good(folder)
    pixels = np.concatenate([np.asarray(batch) for batch in image_dataset(paths, 2)])
    wanted = keras.ops.convert_to_numpy(keras.ops.softmax(model.predict_on_batch(pixels)))
    for batch_size in (1, 3, 32):
        found = predict_images(model, paths, batch_size)
        assert (found.shape, found.dtype) == ((5, 4), np.float32)
        np.testing.assert_allclose(found, wanted, rtol=1e-4)
    assert np.ptp(wanted, axis=0).max() > 0.01


def test_ten_crops_give_the_mean_of_the_probabilities_and_of_the_features(folder, model):
    paths = good(folder)
    crops = np.concatenate([np.asarray(batch) for batch in image_dataset(paths, 5, crops=10, preprocessing="caffe")])
    assert crops.shape == (5, 10, 227, 227, 3)
    each = keras.ops.convert_to_numpy(keras.ops.softmax(model.predict_on_batch(crops.reshape(-1, 227, 227, 3))))
    found = predict_images(model, paths, 20, crops=10, preprocessing="caffe")
    np.testing.assert_allclose(found, each.reshape(5, 10, -1).mean(axis=1), rtol=1e-4)
    conv5 = keras.Model(model.input, model.get_layer("relu5").output).predict_on_batch(crops.reshape(-1, 227, 227, 3))
    features = extract_features(model, paths, "relu5", crops=10, preprocessing="caffe")
    assert features.shape == (5, 13, 13, 8)
    np.testing.assert_allclose(features, conv5.reshape(5, 10, 13, 13, 8).mean(axis=1), rtol=1e-3, atol=1e-3)


def test_the_librarys_errors(folder, model):
    with pytest.raises(UserError, match=r"cannot read the image .*2b\.jpg: .*Leave it out"):
        predict_images(model, [*good(folder), folder / "images/2b.jpg"])
    with pytest.raises(UserError, match="cannot read the image gone: the file is missing"):
        extract_features(model, ["gone"])
    for paths in ([], "photo.jpg"):
        with pytest.raises(UserError, match="expected"):
            image_dataset(paths)
    for paths in ([], "photo.jpg", Path("photo.jpg")):
        with pytest.raises(UserError, match=r"the images are .*; expected a list of paths"):
            predict_images(model, paths)
    with pytest.raises(UserError, match="crops is 0; expected 1 or 10"):
        predict_images(model, good(folder), crops=0)
    for function in (predict_images, image_dataset):
        with pytest.raises(UserError, match="batch_size is 0; expected at least 1"):
            function(*([model] if function is predict_images else []), good(folder), batch_size=0)
    with pytest.raises(UserError, match=r"no layer 'fc9'; it has input_mean, conv1, relu1, .*, fc8\."):
        extract_features(model, good(folder), "fc9")
    probabilities = keras.Model(model.input, keras.layers.Softmax(name="prob")(model.output))
    with pytest.raises(UserError, match="the model's last layer, prob, outputs probabilities; expected logits"):
        predict_images(probabilities, good(folder))
    broken = keras.models.clone_model(model)
    broken.get_layer("fc8").bias.assign(np.full(4, np.nan))
    with pytest.raises(UserError, match="NaN or Inf outputs"):
        predict_images(broken, good(folder))
    broken.get_layer("fc8").bias.assign([0, np.inf, 0, 0])
    with pytest.raises(UserError, match="NaN or Inf outputs"):
        predict_images(broken, good(folder))
    assert extract_features(broken, good(folder), "relu7").shape == (5, 9)


def test_padding_does_not_matter(folder, model):
    """A network that divides by what black images do not have."""
    inputs = keras.Input((227, 227, 3))
    x = keras.ops.divide(keras.ops.cast(inputs, "float32"), keras.ops.max(inputs, axis=(1, 2, 3), keepdims=True))
    scaled = keras.Model(inputs, model(255 * x))
    found = predict_images(scaled, good(folder), 4)
    np.testing.assert_allclose(found, predict_images(scaled, good(folder), 5), rtol=1e-4)


def test_probabilities_too_small_for_float32_still_rank_their_classes(folder, model, capsys):
    confident = keras.models.clone_model(model)
    confident.set_weights(model.get_weights())
    fc8 = confident.get_layer("fc8")
    fc8.kernel.assign(fc8.kernel * 2000)
    fc8.bias.assign(fc8.bias * 2000)
    confident.save(folder / "confident.keras")
    try:
        text = predict(capsys, f"--model={folder}/confident.keras", *good(folder), "--format=json")
    finally:
        os.unlink(folder / "confident.keras")
    pixels = np.concatenate(list(image_dataset(good(folder)).as_numpy_iterator()))
    logits = confident.predict_on_batch(pixels)
    order = [[best["label"] for best in json.loads(line)["predictions"]] for line in text.splitlines()]
    assert order == np.argsort(-logits, axis=1).tolist()
    assert (np.exp(logits - logits.max(1, keepdims=True)) == 0).sum() > 5


def test_as_many_crops_at_a_time_as_the_batch_size(folder, model, monkeypatch):
    sizes = []
    compute = Outputs.__call__

    def noting(self, images, count):
        sizes.append(images.shape[:2])
        return compute(self, images, count)

    monkeypatch.setattr(Outputs, "__call__", noting)
    list(files.FileOutputs(model, 25, crops=10)(good(folder), lambda *_: None))
    assert sizes == [(2, 10)] * 3


def test_a_map_gives_images_with_labels(folder, tmp_path):
    write_map(tmp_path / "map.txt", [(path, label) for label, path in enumerate(good(folder))])
    batches = list(image_dataset(read_map(tmp_path / "map.txt"), 3).as_numpy_iterator())
    assert [labels.tolist() for _, labels in batches] == [[0, 1, 2], [3, 4]]
    alone = np.concatenate(list(image_dataset([Path(path) for path in good(folder)], 4).as_numpy_iterator()))
    np.testing.assert_array_equal(alone, np.concatenate([images for images, _ in batches]))


def test_bad_files_are_told_in_their_turn_and_leave_the_others_as_they_are(folder, model):
    paths = ["gone", *good(folder)[:3], str(folder / "images/2b.jpg"), "gone too", *good(folder)[3:], str(folder)]
    told: list[tuple[str, str, int]] = []
    seen: dict[int, np.ndarray] = {}

    def skip(path: str, reason: str) -> None:
        told.append((path, reason, len(seen)))

    for positions, values in files.FileOutputs(model, 2)(paths, skip):
        seen.update(zip(positions, values, strict=True))
    assert list(seen) == [1, 2, 3, 6, 7]
    np.testing.assert_allclose(np.exp(list(seen.values())), predict_images(model, good(folder)), rtol=1e-4)
    assert [path for path, *_ in told] == ["gone", str(folder / "images/2b.jpg"), "gone too", str(folder)]
    assert told[0][1] == told[2][1] == "the file is missing"
    assert told[3][1] == "Is a directory"
    assert [count for *_, count in told] == [0, 2, 2, 5]


def test_layers(model):
    assert layer_names(model)[:3] == ["input_mean", "conv1", "relu1"]
    assert Outputs(model, layer="pool5").shape == (6, 6, 8)


def test_the_table(folder, model, capsys):
    lines = predict(capsys, f"--model={folder}/model.keras", "--top_k=2", *good(folder)[:2]).splitlines()
    probabilities = predict_images(model, good(folder)[:2])
    assert lines[0] == good(folder)[0]
    for line, label in zip(lines[1:3], np.argsort(-probabilities[0]), strict=False):
        share = probabilities[0, label]
        assert line.startswith(f"  {100 * share:5.1f}%  ")
        assert line.count("█") == int(20 * share + 1 / 16)
        name = IDS[label].replace("\udce9", "\\udce9")
        assert line.endswith(f"  {name}  {NAMES[label]}".rstrip())
    assert lines[3] == ""
    assert lines[4] == good(folder)[1]


def test_a_table_on_a_terminal_fits_it_and_has_color_if_that_is_wanted(folder):
    def on_terminal(**environment) -> str:
        ours, theirs = pty.openpty()
        settings = {"COLUMNS": "70", "TERM": "xterm", "NO_COLOR": "", **environment}
        result = run(
            f"--model={folder}/model.keras",
            good(folder)[0],
            stdout=theirs,
            stderr=subprocess.PIPE,
            capture_output=False,
            env={**os.environ, **settings},
        )
        os.close(theirs)
        text = os.read(ours, 100_000).decode().replace("\r\n", "\n")
        os.close(ours)
        assert (result.returncode, messages(result)) == (0, [])
        return text

    colored, plain = on_terminal(), on_terminal(NO_COLOR="1", PYTHONIOENCODING="ascii:backslashreplace")
    assert f"\x1b[1m{good(folder)[0]}\x1b[0m\n" in colored
    assert "\x1b" not in plain
    for text in (colored, plain):
        assert [len(line) <= 70 for line in text.splitlines()[1:]] == [True] * 5
    # Where there are no blocks, bars are drawn otherwise.
    assert ("█" in colored, "█" in plain) == (True, False)
    assert "#" in plain


def test_json_and_csv_say_the_same(folder, model, capsys):
    odd = os.fsencode(folder / "images") + b'/caf\xe9, "a".jpg'
    shutil.copy(folder / "images/0.jpg", odd)
    try:
        arguments = [f"--model={folder}/model.keras", "--top_k=9", os.fsdecode(odd), good(folder)[1]]
        text = predict(capsys, "--format=json", *arguments)
        table = run("--format=csv", *arguments)
    finally:
        os.unlink(odd)
    assert text.isascii()
    assert (table.returncode, messages(table)) == (0, [])
    objects = [json.loads(line) for line in text.splitlines()]
    assert [os.fsencode(item["path"]) for item in objects] == [odd, os.fsencode(good(folder)[1])]
    probabilities = predict_images(model, good(folder)[:2])
    rows = list(csv.DictReader(io.StringIO(table.stdout.decode("utf-8", "surrogateescape"))))
    assert len(rows) == 8
    for number, item in enumerate(objects):
        order = np.argsort(-probabilities[number])
        assert [best["label"] for best in item["predictions"]] == order.tolist()
        for rank, best in enumerate(item["predictions"]):
            assert best["class"] == IDS[best["label"]]
            assert best["name"] == NAMES[best["label"]]
            assert best["probability"] == pytest.approx(probabilities[number, best["label"]], rel=1e-5)
            row = rows[4 * number + rank]
            assert row.pop("path") == item["path"]
            assert row.pop("rank") == str(rank + 1)
            assert row == {name: str(value) for name, value in best.items()}


def test_a_bad_file_does_not_stop_the_others(folder):
    result = run("--format=json", f"--model={folder}/model.keras", folder / "images", "gone.jpg", "--top_k=1")
    assert [json.loads(line)["path"] for line in result.stdout.splitlines()] == good(folder)
    assert_told(
        result,
        "cannot read gone.jpg: there is no such file or folder\n",
        f"\ncannot read {folder}/images/2b.jpg: ",
        "2 of 7 images could not be read; see above. The others were processed.",
    )
    # Nothing of libjpeg's own words.
    assert len(messages(result)) == 3


def test_a_list_in_standard_input_and_an_output_file(folder, tmp_path, capsys, monkeypatch):
    output = tmp_path / "new" / "predictions.csv"
    paths = "\n".join(good(folder)).encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    with pytest.raises(UserError, match="standard input lists no images"):
        predict(capsys, f"--model={folder}/model.keras", "-", f"--output={output}")
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UserError, match="standard input is closed"):
        predict(capsys, f"--model={folder}/model.keras", "-")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(paths)))
    assert predict(capsys, f"--model={folder}/model.keras", "-", "--format=csv", f"--output={output}") == ""
    rows = list(csv.reader(output.read_text(errors="surrogateescape").splitlines()))
    assert len(rows) == 1 + 5 * 4
    assert os.listdir(output.parent) == ["predictions.csv"]


@pytest.mark.parametrize("suffix", ["npz", "csv"])
def test_features_go_into_a_file(folder, model, tmp_path, suffix, capsys):
    output = tmp_path / f"features.{suffix}"
    settings = [f"--model={folder}/model.keras", "--features=pool5", f"--output={output}", "--batch_size=2"]
    with pytest.raises(UserError, match="1 of 6 images could not be read"):
        predict(capsys, *settings, folder / "images")
    printed = capsys.readouterr()
    assert printed.out == f"pool5 of 5 images, 5×6×6×8: {output}\n"
    assert "2b.jpg" in printed.err
    wanted = extract_features(model, good(folder), "pool5")
    if suffix == "npz":
        with np.load(output) as found:
            assert found["paths"].tolist() == good(folder)
            assert found["layer"] == "pool5"
            assert found["features"].dtype == np.float32
            np.testing.assert_allclose(found["features"], wanted, rtol=1e-5, atol=1e-5)
    else:
        header, *rows = csv.reader(output.read_text().splitlines())
        assert header[:3] == ["path", "pool5_0", "pool5_1"]
        assert [row[0] for row in rows] == good(folder)
        found = np.array([row[1:] for row in rows], np.float32)
        np.testing.assert_allclose(found, wanted.reshape(5, -1), rtol=1e-5, atol=1e-5)
        with feature_file(str(output), "pool5", (4,)) as file:
            file.write(["a\rb"], np.float32([[1 / 3, 1e-7 / 3, 2**24 + 2, -1e30]]))
        with open(output, newline="") as written:
            _, row = csv.reader(written)
        assert row[0] == "a\rb"
        assert np.float32(row[1:]).tolist() == np.float32([1 / 3, 1e-7 / 3, 2**24 + 2, -1e30]).tolist()
    assert os.listdir(tmp_path) == [output.name]


def test_nothing_is_written_where_no_image_can_be_read(folder, tmp_path, capsys):
    settings = [f"--model={folder}/model.keras", "--features=fc7", f"--output={tmp_path}/f.npz"]
    with pytest.raises(UserError, match="none of the images could be read"):
        predict(capsys, *settings, folder / "images/2b.jpg")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no images are given. Name files, directories, quoted patterns, or - for a list"),
        (["{0}/images/0.jpg", "--features=fc9", "--output=f.npz"], "no layer 'fc9'; it has input_mean, conv1"),
        (["{0}/images/0.jpg", "--features=fc7"], "give --output=features.npz"),
        (["{0}/images/0.jpg", "--features=fc7", "--output=f.txt"], "ends in .npz or .csv"),
        (["{0}/images/0.jpg", "--features=fc7", "--output=f.csv", "--top_k=3"], "--top_k applies to classes"),
        (["{0}/images/0.jpg", "--output={0}/images/0.jpg"], "0.jpg, which is also an input. Choose another file"),
        (["{0}/images/0.jpg", "--output={0}/model.classes.txt"], "model.classes.txt, which is also an input"),
        (["{0}/images/2b.jpg", "--output=f.csv"], "none of the images could be read; f.csv was not written"),
        (["{0}/images/0.jpg", "--model="], "flag --model=: the path is empty"),
        (["{0}/images/0.jpg", "--model=gone.keras"], "cannot load the model gone.keras: there is no such file."),
        (["{0}/images/0.jpg", "--top_k=0"], "top_k is 0; expected at least 1"),
        (["{0}/images/0.jpg", "--batch_size=0"], "batch_size is 0; expected at least 1"),
        (["{0}/images/0.jpg", "--crops=3"], "crops is 3; expected 1 or 10"),
        (["{0}/images/0.jpg", "--output={0}"], "it is not a regular file"),
        (["{0}/images/0.jpg", "--data_dir=a", "--classmappings=b"], "both --data_dir and --classmappings"),
        (["{0}/images/0.jpg", "--data_dir={0}"], "cannot read {0}/classmappings.txt"),
        (["{0}/images/0.jpg", "--classmappings={0}/two.txt"], "model.keras has 4 classes, but {0}/two.txt has 2"),
        (["{0}/images/0.jpg", "--model={0}/images/0.jpg"], "cannot load the model"),
        (["{0}/images/0.jpg", "--model={0}/bare.keras", "--classmappings={0}/two.txt"], "4 classes, but {0}/two.txt"),
        (["{0}/images/0.jpg", "--model={0}/text.keras"], "expected square RGB images"),
        (["{0}/empty"], "{0}/empty: the folder has no images"),
    ],
)  # fmt: skip
def test_mistakes(folder, tmp_path, arguments, message, capsys, monkeypatch):
    (folder / "empty").mkdir(exist_ok=True)
    (folder / "two.txt").write_text("a\t0\nb\t1\n")
    if not (folder / "bare.keras").exists():
        shutil.copy(folder / "model.keras", folder / "bare.keras")
        inputs = keras.Input((7,))
        keras.Model(inputs, keras.layers.Dense(2)(inputs)).save(folder / "text.keras")
    before = sorted(folder.iterdir())
    model = [] if any("--model" in argument for argument in arguments) else [f"--model={folder}/model.keras"]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as told:
        predict(capsys, *model, *(argument.format(folder) for argument in arguments))
    printed = capsys.readouterr()
    assert message.format(folder) in f"{printed.err}{told.value}"
    assert printed.out == ""
    assert sorted(folder.iterdir()) == before
    assert os.listdir(tmp_path) == []


def test_a_model_without_classes_tells_labels(folder, tmp_path, capsys):
    shutil.copy(folder / "model.keras", tmp_path / "bare.keras")
    lines = predict(capsys, f"--model={tmp_path}/bare.keras", good(folder)[0], "--top_k=1").splitlines()
    assert lines[1].rpartition("  ")[2] in [f"label {label}" for label in range(4)]


def test_names_cannot_command_the_terminal(folder):
    classes = Classes(["a\x1b[31m"], ["caf\u00e9\u202e"], "")
    text = entry_writer("table", classes)("new\nline\x1b.jpg", [(0, 0.5)])
    assert text == "new\\nline\\x1b.jpg\n   50.0%  ██████████            a\\x1b[31m  café\\u202e\n\n"
    assert entry_writer("table", classes, width=40)("a", [(0, 0.5)]) == "a\n   50.0%  a\\x1b[31m  café\\u202e\n\n"


@pytest.mark.parametrize(("redirection", "status"), [(">&-", 1), (">/dev/full", 1), ("2>&-", 1), ("2>/dev/full", 1)])
@pytest.mark.slow
def test_streams_that_take_nothing(folder, redirection, status):
    arguments = f"--model={folder}/model.keras --format=json {good(folder)[0]} gone.jpg {redirection}"
    result = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m keras_alexnet.predict {arguments}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == status
    assert "Traceback" not in result.stderr
    assert "gone.jpg" not in result.stdout
    assert len(result.stdout.splitlines()) == (redirection[0] == "2")


def test_help_starts_no_framework():
    program = (
        "import runpy, sys; sys.argv = ['predict', '--help']\n"
        "try: runpy.run_module('keras_alexnet.predict', run_name='__main__')\n"
        "except SystemExit: print({'keras', 'tensorflow'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "[--FLAG=VALUE …] IMAGE …" in result.stdout
    assert result.stdout.endswith("set()\n")
