import os
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from narrow_networks import SIDE, narrow_network

from keras_alexnet.errors import UserError
from keras_alexnet.exporters import exporter, runtimes
from keras_alexnet.exporters.exporter import export_model
from keras_alexnet.exporters.formats import export_kind
from keras_alexnet.exporters.layers import layers_in_order
from keras_alexnet.exporters.saved_model import atomic_saved_model
from keras_alexnet.model import set_precision
from keras_alexnet.presets import LRN


@pytest.fixture(scope="module")
def cntk() -> keras.Model:
    return narrow_network()


def test_the_name_tells_the_format():
    for path in ("out/model", "model.savedmodel", "alexnet-1.0/"):
        assert export_kind(path) == "SavedModel"
    assert export_kind("MODEL.ONNX") == "ONNX"
    assert export_kind("alexnet-1.0") is None


@pytest.mark.parametrize(
    ("settings", "mean"),
    [
        ({}, "114,114,114"),
        ({"preset": "cntk_python"}, "114,114,114"),
        ({"preset": "caffenet", "lrn": LRN(3, 5e-4, 0.6, 1.5), "dense_units": (9, 7)}, "123,117,104"),
        ({"preset": "torchvision", "image_size": 224}, "123.675,116.28,103.53"),
    ],
)
def test_onnx(tmp_path, capfd, settings, mean):
    onnxruntime = pytest.importorskip("onnxruntime")
    network = narrow_network(**settings)
    weights = network.get_weights()
    path = tmp_path / "model.onnx"
    check = export_model(network, path)
    assert capfd.readouterr() == ("", "")
    assert check.difference < 1e-5
    assert check.same_class == check.images == 32
    assert os.listdir(tmp_path) == ["model.onnx"]
    for before, weight in zip(weights, network.get_weights(), strict=True):
        np.testing.assert_array_equal(before, weight)
    session = onnxruntime.InferenceSession(path)
    inputs = [(entry.name, entry.shape) for entry in session.get_inputs()]
    assert inputs == [("image", ["batch", *network.input_shape[1:]])]
    assert session.get_modelmeta().custom_metadata_map == {"channel_order": "rgb", "mean": mean}


def test_saved_model(cntk, tmp_path, capfd):
    check = export_model(cntk, tmp_path / "model")
    assert capfd.readouterr() == ("", "")
    assert check.difference < 1e-5
    assert os.listdir(tmp_path) == ["model"]
    loaded = tf.saved_model.load(tmp_path / "model")
    images = np.random.default_rng(5).integers(0, 256, (2, SIDE, SIDE, 3)).astype("float32")
    for function in (loaded.serve, loaded.signatures["serving_default"]):
        np.testing.assert_allclose(function(image=images)["logits"].numpy(), cntk.predict_on_batch(images), atol=1e-4)
    # Each weight once.
    shapes = tf.train.load_checkpoint(str(tmp_path / "model/variables/variables")).get_variable_to_shape_map()
    assert sum(np.prod(shape, dtype=int) for shape in shapes.values() if shape) == cntk.count_params()


def test_litert_normalizes_in_float32(tmp_path, capfd):
    Interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter
    # The converter leaves kernels of less than 1,024 weights as they are.
    network = narrow_network(preset="caffenet", filters=(8, 12, 10, 14, 16), dense_units=64, lrn=LRN(3, 5e-4, 0.6, 1.5))
    files = {quantize: tmp_path / f"{quantize}.tflite" for quantize in ("none", "float16", "int8")}
    checks = {quantize: export_model(network, path, quantize=quantize) for quantize, path in files.items()}
    assert capfd.readouterr() == ("", "")
    for quantize, largest_difference in [("none", 1e-5), ("float16", 0.01), ("int8", 0.1)]:
        assert checks[quantize].difference < largest_difference
        interpreter = Interpreter(str(files[quantize]))
        operators = [entry["op_name"] for entry in interpreter._get_ops_details()]
        assert operators.count("LOCAL_RESPONSE_NORMALIZATION") == 2
        assert not any("Flex" in name or name == "CUSTOM" for name in operators)
        tensors = {(*tensor["shape"], tensor["dtype"].__name__) for tensor in interpreter.get_tensor_details()}
        assert (12, 5, 5, 8, "float32" if quantize == "none" else quantize) in tensors
        # No matrix of the constants.
        assert not {(8, 8), (12, 12)} & {tensor[:-1] for tensor in tensors}
    assert checks["none"].size > 1.5 * checks["float16"].size > 1.5 * 1.3 * checks["int8"].size


def test_a_check_that_fails_keeps_the_older_export(cntk, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "model.onnx"
    cntk.save(tmp_path / "loaded.keras")
    export_model(keras.models.load_model(tmp_path / "loaded.keras"), path)
    before = path.stat()
    write, other = exporter._write, narrow_network(lrn=LRN(alpha=2e-4))
    monkeypatch.setattr(exporter, "_write", lambda model, *arguments: write(other, *arguments))
    with pytest.raises(UserError, match=r"is not written: in .* differ from those of Keras by"):
        export_model(cntk, path)
    monkeypatch.setattr(exporter, "_write", lambda model, kind, path, quantize: path.write_bytes(b"no network"))
    with pytest.raises(UserError, match=r"is not written: onnxruntime cannot run it"):
        export_model(cntk, path)
    assert path.stat() == before
    assert sorted(os.listdir(tmp_path)) == ["loaded.keras", "model.onnx"]


def test_without_its_runtime_the_file_is_kept(cntk, tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    monkeypatch.setitem(runtimes.PACKAGES, "ONNX", "a-runtime")
    check = export_model(cntk, tmp_path / "model.onnx")
    assert check.describe() == "not checked: a-runtime is not installed (pip install 'keras_alexnet[export]')."
    assert (tmp_path / "model.onnx").stat().st_size == check.size


def write_saved_model(folder: Path, content: str) -> None:
    with atomic_saved_model(folder) as partial:
        (partial / "saved_model.pb").write_text(content)


def test_a_folder_replaces_another_one_and_a_link_to_it_stays(tmp_path):
    (tmp_path / "first").mkdir()
    (tmp_path / "latest").symlink_to("first")
    for content in ("older", "newer"):
        write_saved_model(tmp_path / "latest", content)
    assert (tmp_path / "latest").is_symlink()
    assert (tmp_path / "first/saved_model.pb").read_text() == "newer"
    assert sorted(os.listdir(tmp_path)) == ["first", "latest"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_folder_that_cannot_be_replaced_is_put_back(tmp_path, monkeypatch, error):
    write_saved_model(tmp_path / "model", "older")
    rename = Path.rename

    def interrupted(self, target):
        if self.name.startswith(".partial-"):
            raise error("stop")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises((UserError, KeyboardInterrupt)):
        write_saved_model(tmp_path / "model", "newer")
    assert (tmp_path / "model/saved_model.pb").read_text() == "older"
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("names", [["photo.jpg"], ["saved_model.pb", "photo.jpg"], ["variables"]])
def test_other_folders_stay_as_they_are(tmp_path, names):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in names:
        (folder / name).write_text(name)
    with pytest.raises(UserError, match="something other than a SavedModel"):
        write_saved_model(folder, "newer")
    assert sorted(os.listdir(folder)) == sorted(names)
    with pytest.raises(UserError, match="a SavedModel is a folder"):
        write_saved_model(folder / names[0], "newer")
    assert (folder / names[0]).read_text() == names[0]


def test_what_cannot_be_exported(cntk, tmp_path, monkeypatch):
    for name, quantize, message in [
        ("model.h5", "none", "the suffix is unknown"),
        ("model.tflite", "int4", "expected one of none, float16, int8"),
        ("model.onnx", "int8", "only LiteRT has it"),
    ]:
        with pytest.raises(UserError, match=message):
            export_model(cntk, tmp_path / name, quantize=quantize)
    network = narrow_network()
    network.get_layer("fc8").bias.assign(np.full(5, np.nan))
    with pytest.raises(UserError, match="NaN or Inf logits"):
        export_model(network, tmp_path / "model")
    set_precision(network, "mixed_bfloat16")
    with pytest.raises(UserError, match=r"computes in bfloat16.*set_precision"):
        export_model(network, tmp_path / "model")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"pip install 'keras_alexnet\[export\]'"):
        export_model(cntk, tmp_path / "model.onnx")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(UserError, match=r"the jax backend.*Set KERAS_BACKEND=tensorflow\."):
        export_model(cntk, tmp_path / "model")
    assert os.listdir(tmp_path) == []


def test_other_networks_are_only_for_saved_models(tmp_path):
    image = keras.Input((32, 32, 3), name="image")
    scaled = layers.Rescaling(1 / 255, name="input_mean")(image)
    convolved = layers.Conv2D(4, 3, name="conv1")(scaled)
    masked = layers.Multiply(name="norm1")([convolved, convolved])
    for reason, head in {
        "GlobalAveragePooling2D": layers.GlobalAveragePooling2D(name="average")(convolved),
        "not a local response normalization": layers.Dense(3)(layers.Flatten()(masked)),
        "the activation of its layer fc8": layers.Dense(3, "softmax", name="fc8")(layers.Flatten()(convolved)),
        "not the output of the layer before": layers.Dense(3, name="fc8")(layers.Flatten()(convolved + convolved)),
    }.items():
        network = keras.Model(image, head)
        with pytest.raises(UserError, match=reason):
            layers_in_order(network)
    assert export_model(network, tmp_path / "model").difference < 1e-5
