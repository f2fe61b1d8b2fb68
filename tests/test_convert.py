"""The command, as a user gives it, on the files of other frameworks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from protobuf_bytes import field, packed
from safetensors.numpy import load_file, save_file
from test_import import REFERENCE, images_and_logits, relative_difference

from keras_alexnet import cli, convert
from keras_alexnet.data.class_file import read_classes
from keras_alexnet.data.class_mappings import write_class_names
from keras_alexnet.data.class_names import classes_of_model
from keras_alexnet.errors import UserError
from keras_alexnet.exporters.runtimes import load_exported
from keras_alexnet.model import build_alexnet, read_preset
from keras_alexnet.model_file import load_model

CAFFE = REFERENCE / "caffe_alexnet_new_c10_fc64.caffemodel"
CNTK = REFERENCE / "alexnet_tiny_c10_fc64.model"
IDS = ["n09", "n03", "n05", "n01", "n00", "n08", "n02", "n07", "n06", "n04"]


def run(*arguments, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "keras_alexnet.convert", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def converted(*arguments: str) -> None:
    """The command within this process."""
    convert.main(*cli.parse(convert.define_flags, list(arguments)))


def class_file(folder: Path, ids=IDS, reverse: bool = False) -> Path:
    pairs = [(id_, str(label)) for label, id_ in enumerate(ids)]
    (folder / "cntk_classes.txt").write_text("".join("\t".join(pair[:: -1 if reverse else 1]) + "\n" for pair in pairs))
    return folder / "cntk_classes.txt"


def test_from_the_file_to_the_report(tmp_path):
    result = run(f"--input={CAFFE}", f"--output={tmp_path}/new/bvlc.keras")
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == f"{CAFFE}: Caffe model"
    words = [line.split() for line in lines]
    assert [
        "conv1",
        "convolution",
        "24",
        "×",
        "3",
        "×",
        "11",
        "×",
        "11",
        "conv1",
        "11",
        "×",
        "11",
        "×",
        "3",
        "×",
        "24",
        "BGR",
        "turned",
        "to",
        "RGB",
    ] in words
    assert [
        "conv2",
        "convolution",
        "64",
        "×",
        "12",
        "×",
        "5",
        "×",
        "5",
        "conv2",
        "5",
        "×",
        "5",
        "×",
        "24",
        "×",
        "64",
        "2",
        "groups,",
        "zeros",
        "between",
        "them",
    ] in words
    norm1 = "norm1 local response normalization norm1 size 5, alpha 0.0001, beta 0.75, k 1"
    assert norm1.split() in words
    assert ["fc8", "dense", "layer", "64", "×", "10", "fc8", "64", "×", "10"] in words
    assert "Pixels   of the file: BGR (assumed), less 104, 117, 123 (usual for Caffe)" in lines
    assert lines[-1] == f"Written  {tmp_path}/new/bvlc.keras"
    assert os.listdir(tmp_path / "new") == ["bvlc.keras"]
    x, logits = images_and_logits("caffe_new", np.float32([104, 117, 123])[:, None, None])
    model = keras.models.load_model(tmp_path / "new" / "bvlc.keras")
    assert relative_difference(model.predict_on_batch(x), logits) < 1e-5


@pytest.mark.parametrize("reverse", [False, True])
def test_classes_are_sorted(tmp_path, capsys, reverse):
    classes = class_file(tmp_path, reverse=reverse)
    converted(f"--input={CNTK}", f"--output={tmp_path}/a.keras", f"--classmappings={classes}")
    assert "Classes  10, in the order of their sorted ids; fc8 was reordered" in capsys.readouterr().out
    assert read_classes(tmp_path / "a.keras") == sorted(IDS)
    x, logits = images_and_logits("cntk_tiny")
    result = load_model(str(tmp_path / "a.keras")).predict_on_batch(x)
    assert relative_difference(result, logits[:, np.argsort(IDS)]) < 1e-5


def test_classes_of_cntk_that_are_not_known_are_told(tmp_path, capsys):
    converted(f"--input={CNTK}", f"--output={tmp_path}/a.keras")
    assert "pass the class list of that training as --classmappings" in capsys.readouterr().out
    assert os.listdir(tmp_path) == ["a.keras"]


def test_the_pixels_that_the_user_tells(tmp_path, capsys):
    converted(f"--input={CAFFE}", f"--output={tmp_path}/a.keras", "--mean=3,2,1", "--std=2,2,2", "--channel_order=rgb")
    assert "RGB (as given), less 3, 2, 1, divided by 2 (as given)" in capsys.readouterr().out
    preset = read_preset(load_model(str(tmp_path / "a.keras")))
    assert (preset.input_scale, preset.input_offset) == (0.5, (-1.5, -1, -0.5))


def test_one_of_several_weights_of_a_checkpoint(tmp_path, capsys):
    state = load_file(REFERENCE / "torchvision_c9_fc96.safetensors")
    both = {f"ema.{name}": array for name, array in state.items()}
    both |= {f"model.{name}": array + 1 for name, array in state.items()}
    save_file(both, tmp_path / "a.safetensors")
    arguments = [f"--input={tmp_path}/a.safetensors", f"--output={tmp_path}/a.keras"]
    with pytest.raises(UserError, match=r"has the weights of 2 networks: .*Choose one, such as --weights_key="):
        converted(*arguments)
    converted(*arguments, "--weights_key=ema")
    assert "weights at 'ema'" in capsys.readouterr().out
    x, logits = images_and_logits("torchvision")
    assert relative_difference(load_model(str(tmp_path / "a.keras")).predict_on_batch(x), logits) < 1e-5


def test_a_mean_image(tmp_path, capsys):
    image = np.stack([np.full((4, 4), mean, "<f4") for mean in (10, 20, 30)])
    numbers = packed(5, image)
    sizes = b"".join(field(number, size) for number, size in enumerate((1, *image.shape), 1))
    (tmp_path / "mean.binaryproto").write_bytes(sizes + numbers)
    converted(f"--input={CAFFE}", f"--output={tmp_path}/a.keras", f"--mean_file={tmp_path}/mean.binaryproto")
    assert "BGR (assumed), less 10, 20, 30 (as given)" in capsys.readouterr().out


def test_a_keras_file_goes_out(tmp_path, capsys):
    network = build_alexnet(10, filters=(4, 5, 6, 7, 8), dense_units=9)
    network.save(tmp_path / "a.keras")
    class_file(tmp_path, sorted(IDS)).rename(tmp_path / "a.classes.txt")
    converted(f"--input={tmp_path}/a.keras", f"--output={tmp_path}/b.savedmodel")
    assert "checked with tensorflow" in capsys.readouterr().out
    assert read_classes(tmp_path / "b.savedmodel") == sorted(IDS)
    _, function = load_exported("SavedModel", tmp_path / "b.savedmodel")
    x = images_and_logits("cntk_tiny")[0]
    assert relative_difference(function(np.ascontiguousarray(x)), network.predict_on_batch(x)) < 1e-5


@pytest.mark.slow
def test_exports_under_another_backend(tmp_path):
    pytest.importorskip("jax")
    pytest.importorskip("onnxruntime")
    result = run(f"--input={CNTK}", f"--output={tmp_path}/a.onnx", KERAS_BACKEND="jax")
    assert (result.returncode, result.stderr) == (0, "")
    assert "checked with onnxruntime" in result.stdout
    x, logits = images_and_logits("cntk_tiny")
    _, function = load_exported("ONNX", tmp_path / "a.onnx")
    assert relative_difference(function(np.ascontiguousarray(x)), logits) < 1e-5


@pytest.mark.parametrize(
    ("arguments", "expected_text"),
    [
        (["--output=a.keras"], "--input is missing"),
        ([f"--input={CAFFE}"], "--output is missing"),
        ([f"--input={CAFFE}", "--output=a.h5"], r"--output is a\.h5; expected a name that ends in \.keras, \.onnx"),
        ([f"--input={CAFFE}", "--output=a.keras", "--quantize=int8"], "--quantize=int8 is for .tflite files"),
        ([f"--input={CAFFE}", "--output=a.keras", "--mean=1,2"], "mean is 1,2; expected three numbers"),
        ([f"--input={CAFFE}", "--output=a.keras", "--mean=a,b,c"], "--mean is a,b,c; expected three numbers"),
        ([f"--input={CAFFE}", "--output=a.keras", "--mean=1,2,3", "--mean_file=b"], "both --mean and --mean_file"),
        ([f"--input={CNTK}", "--output=a.keras", "--mean=1,2,3"], "scales its pixels itself"),
        ([f"--input={CAFFE}", "--output=a.keras", "--mean=123,117,104"], "look like those of RGB"),
        ([f"--input={CNTK}", "--output=a.keras", "--deploy=b"], "is not a Caffe model, and deploy describes"),
        ([f"--input={__file__}", "--output=a.keras"], "is a text: the file with the weights is needed"),
        ([f"--input={CAFFE}", "--output=a.keras", "--weights_key=ema"], "is not a PyTorch checkpoint, and weights_key"),
        (["--input=none.onnx", "--output=a.keras"], "none.onnx, which does not exist"),
        ([f"--input={CAFFE}", "--output=a.keras", "more"], "unexpected argument 'more'"),
        ([f"--input={CAFFE}", "--output=folder/"], "the folder holds something else than a SavedModel, such as b"),
        ([f"--input={CAFFE}", "--output=folder/.."], "expected the name of a folder"),
    ],
)
def test_mistakes_leave_nothing(tmp_path, monkeypatch, arguments, expected_text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "b").write_bytes(b"something else")
    with pytest.raises(UserError, match=expected_text):
        converted(*arguments)
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "b"]


def test_class_mappings_of_another_network_are_refused(tmp_path):
    classes = class_file(tmp_path, IDS[:9])
    with pytest.raises(UserError, match=r"has 9 classes, and .* has 10"):
        converted(f"--input={CNTK}", f"--output={tmp_path}/a.keras", f"--classmappings={classes}")
    assert os.listdir(tmp_path) == ["cntk_classes.txt"]


def test_a_sorted_list_for_a_model_of_cntk_is_questioned(tmp_path, capsys):
    converted(f"--input={CNTK}", f"--output={tmp_path}/a.keras", f"--classmappings={class_file(tmp_path, sorted(IDS))}")
    assert "a sorted list is probably not CNTK's" in capsys.readouterr().out
    assert read_classes(tmp_path / "a.keras") == sorted(IDS)


def test_a_class_given_twice_is_refused(tmp_path):
    with pytest.raises(UserError, match="has the class 'n09' more than once"):
        converted(
            f"--input={CNTK}", f"--output={tmp_path}/a.keras", f"--classmappings={class_file(tmp_path, IDS[:1] * 10)}"
        )


def test_our_own_onnx_keeps_its_classes(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    classes = class_file(tmp_path)
    names = {class_id: f"name of {class_id}" for class_id in sorted(IDS)}
    write_class_names(tmp_path / "classnames.txt", list(names), list(names.values()))
    converted(f"--input={CNTK}", f"--output={tmp_path}/a.onnx", f"--classmappings={classes}")
    converted(f"--input={tmp_path}/a.onnx", f"--output={tmp_path}/b.keras")
    assert read_classes(tmp_path / "a.onnx") == read_classes(tmp_path / "b.keras") == sorted(IDS)
    assert classes_of_model(tmp_path / "a.onnx").names == classes_of_model(tmp_path / "b.keras").names
    assert classes_of_model(tmp_path / "b.keras").names == list(names.values())
    # They are sorted already: not once more.
    with pytest.raises(UserError, match=r"a\.onnx\.classes\.txt and .* list different classes for .* Leave out"):
        converted(f"--input={tmp_path}/a.onnx", f"--output={tmp_path}/c.keras", f"--classmappings={classes}")


def test_a_folder_and_a_file_of_the_same_name_do_not_share_classes(tmp_path):
    converted(f"--input={CNTK}", f"--output={tmp_path}/a.keras")
    with pytest.raises(UserError, match=r"the class file of .*/a would also count as that of .*/a\.keras"):
        converted(f"--input={CNTK}", f"--output={tmp_path}/a", f"--classmappings={class_file(tmp_path)}")
    assert sorted(os.listdir(tmp_path)) == ["a.keras", "cntk_classes.txt"]


def test_a_class_file_of_another_model_is_not_left_beside(tmp_path):
    class_file(tmp_path).rename(tmp_path / "a.classes.txt")
    with pytest.raises(UserError, match=r"a\.classes\.txt already lists classes; those of the new model are unknown"):
        converted(f"--input={CNTK}", f"--output={tmp_path}/a.keras")
    assert os.listdir(tmp_path) == ["a.classes.txt"]


@pytest.mark.slow
def test_a_converted_model_is_evaluated_in_the_right_order(data_dir, tmp_path):
    """From CNTK's order of classes to error rates; data in another order are refused."""
    network = build_alexnet(3, filters=(4, 5, 6, 7, 8), dense_units=9)
    network.save(tmp_path / "a.keras")
    (tmp_path / "cntk.txt").write_text("n03\t0\nn01\t1\nn02\t2\n")
    converted(f"--input={tmp_path}/a.keras", f"--output={tmp_path}/b.keras", f"--classmappings={tmp_path}/cntk.txt")
    command = [sys.executable, "-m", "keras_alexnet.evaluate", f"--model={tmp_path}/b.keras", "--batch_size=4"]
    result = subprocess.run(
        [*command, f"--data_dir={data_dir}", f"--metrics_file={tmp_path}/m.json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "m.json").read_text())["examples"] == 7
    (tmp_path / "b.classes.txt").write_text("n03\t0\nn01\t1\nn02\t2\n")
    result = subprocess.run([*command, f"--data_dir={data_dir}"], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "has the classes of the data in another order" in result.stderr
