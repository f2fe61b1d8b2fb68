"""The command, as a user gives it, on the files of other frameworks."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from protobuf_bytes import field, packed
from reference_logits import REFERENCE, images_and_logits, relative_difference

from keras_alexnet import cli, convert
from keras_alexnet.data.class_file import read_classes
from keras_alexnet.data.class_mappings import write_class_names
from keras_alexnet.data.class_names import classes_of_model
from keras_alexnet.errors import UserError
from keras_alexnet.exporters.runtimes import load_exported
from keras_alexnet.model import read_preset
from keras_alexnet.model_file import load_model

CAFFE = REFERENCE / "caffe_alexnet_new_c10_fc64.caffemodel"
CNTK = REFERENCE / "alexnet_tiny_c10_fc64.model"
IDS = ["n09", "n03", "n05", "n01", "n00", "n08", "n02", "n07", "n06", "n04"]


def run(*arguments: str, **environment: str) -> str:
    """What the command prints, as a process of its own."""
    command = [sys.executable, "-m", "keras_alexnet.convert", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def convert_here(*arguments: str) -> None:
    """The command within this process."""
    convert.main(*cli.parse(convert.define_flags, list(arguments)))


def write_ids(path: Path, ids: list[str]) -> Path:
    path.write_text("".join(f"{class_id}\t{label}\n" for label, class_id in enumerate(ids)))
    return path


def test_from_the_file_to_the_report(tmp_path):
    lines = run(f"--input={CAFFE}", f"--output={tmp_path}/new/bvlc.keras").splitlines()
    assert lines[0] == f"{CAFFE}: Caffe model"
    rows = [" ".join(line.split()) for line in lines]
    assert "conv1 convolution 24 × 3 × 11 × 11 conv1 11 × 11 × 3 × 24 BGR turned to RGB" in rows
    assert "conv2 convolution 64 × 12 × 5 × 5 conv2 5 × 5 × 24 × 64 2 groups, zeros between them" in rows
    assert "norm1 local response normalization norm1 size 5, alpha 0.0001, beta 0.75, k 1" in rows
    assert "fc8 dense layer 64 × 10 fc8 64 × 10" in rows
    assert "Pixels   of the file: BGR (assumed), less 104, 117, 123 (usual for Caffe)" in lines
    assert lines[-1] == f"Written  {tmp_path}/new/bvlc.keras"
    assert os.listdir(tmp_path / "new") == ["bvlc.keras"]
    x, logits = images_and_logits("caffe_new", np.float32([104, 117, 123])[:, None, None])
    model = keras.models.load_model(tmp_path / "new" / "bvlc.keras")
    assert relative_difference(model.predict_on_batch(x), logits) < 1e-5


def test_classes_are_sorted_once_and_keep_their_names(tmp_path):
    """From CNTK to ONNX, which is written by TensorFlow whatever the backend is, and back."""
    pytest.importorskip("onnxruntime")
    classes = write_ids(tmp_path / "cntk_classes.txt", IDS)
    names = [f"name of {class_id}" for class_id in sorted(IDS)]
    write_class_names(tmp_path / "classnames.txt", sorted(IDS), names)
    onnx_file, keras_file = tmp_path / "a.onnx", tmp_path / "b.keras"
    printed = run(f"--input={CNTK}", f"--output={onnx_file}", f"--classmappings={classes}", KERAS_BACKEND="jax")
    assert "Classes  10, in the order of their sorted ids; fc8 was reordered" in printed
    assert "checked with onnxruntime" in printed
    convert_here(f"--input={onnx_file}", f"--output={keras_file}")
    x, logits = images_and_logits("cntk_tiny")
    _, in_onnx = load_exported("ONNX", onnx_file)
    for found in (in_onnx(np.ascontiguousarray(x)), load_model(keras_file).predict_on_batch(x)):
        assert relative_difference(found, logits[:, np.argsort(IDS)]) < 1e-5
    for path in (onnx_file, keras_file):
        assert read_classes(path) == sorted(IDS)
        assert classes_of_model(path).names == names
    with pytest.raises(UserError, match=r"a\.onnx\.classes\.txt and .* list different classes for .* Leave out"):
        convert_here(f"--input={onnx_file}", f"--output={tmp_path}/c.keras", f"--classmappings={classes}")


def test_class_lists_for_a_model_of_cntk(tmp_path, capsys):
    """A message says that there is none, or that it is probably of other labels; no list is that of another file."""
    model, folder = f"--output={tmp_path}/a.keras", f"--output={tmp_path}/a"
    convert_here(f"--input={CNTK}", model)
    assert "pass the class list of that training as --classmappings" in capsys.readouterr().out
    assert os.listdir(tmp_path) == ["a.keras"]
    classes = f"--classmappings={write_ids(tmp_path / 'sorted.txt', sorted(IDS))}"
    with pytest.raises(UserError, match=r"the class file of .*/a would also count as that of .*/a\.keras"):
        convert_here(f"--input={CNTK}", folder, classes)
    convert_here(f"--input={CNTK}", model, classes)
    assert "a sorted list is probably not CNTK's" in capsys.readouterr().out
    assert read_classes(tmp_path / "a.keras") == sorted(IDS)
    with pytest.raises(UserError, match=r"a\.classes\.txt already lists classes; those of the new model are unknown"):
        convert_here(f"--input={CNTK}", model)


def test_the_pixels_that_the_user_tells(tmp_path, capsys):
    files = f"--input={CAFFE}", f"--output={tmp_path}/a.keras"
    convert_here(*files, "--mean=3,2,1", "--std=2,2,2", "--channel_order=rgb")
    assert "RGB (as given), less 3, 2, 1, divided by 2 (as given)" in capsys.readouterr().out
    preset = read_preset(load_model(tmp_path / "a.keras"))
    assert (preset.input_scale, preset.input_offset) == (0.5, (-1.5, -1, -0.5))
    image = np.stack([np.full((4, 4), mean, "<f4") for mean in (10, 20, 30)])
    sizes = b"".join(field(number, size) for number, size in enumerate((1, *image.shape), 1))
    (tmp_path / "mean.binaryproto").write_bytes(sizes + packed(5, image))
    convert_here(*files, f"--mean_file={tmp_path}/mean.binaryproto")
    assert "BGR (assumed), less 10, 20, 30 (as given)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected_text"),
    [
        (["--output=a.keras"], "--input is missing"),
        ([f"--input={CAFFE}", "--output=a.h5"], r"--output is a\.h5; expected a name that ends in \.keras, \.onnx"),
        ([f"--input={CAFFE}", "--output=folder/.."], "expected the name of a folder"),
        ([f"--input={CAFFE}", "--output=folder/"], "the folder contains something other than a SavedModel, such as b"),
        ([f"--input={CAFFE}", "--output=a.keras", "--quantize=int8"], "--quantize=int8 is for .tflite files"),
        ([f"--input={CAFFE}", "--output=a.keras", "--mean=a,b,c"], "--mean is a,b,c; expected three numbers"),
        ([f"--input={CAFFE}", "--output=a.keras", "--mean=1,2,3", "--mean_file=b"], "both --mean and --mean_file"),
        ([f"--input={CNTK}", "--output=a.keras", "--deploy=b"], "is not a Caffe model, and deploy describes"),
        ([f"--input={CAFFE}", "--output=a.keras", "--weights_key=ema"], "is not a PyTorch checkpoint, and weights_key"),
        (["--input=none.onnx", "--output=a.keras"], "none.onnx, which does not exist"),
    ],
)
def test_mistakes_leave_nothing(tmp_path, monkeypatch, arguments, expected_text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "b").write_bytes(b"something else")
    with pytest.raises(UserError, match=expected_text):
        convert_here(*arguments)
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "b"]
