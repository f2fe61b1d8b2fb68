import os
import resource
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_alexnet.errors import UserError
from keras_alexnet.exporters import exporter as export
from keras_alexnet.exporters import litert as export_litert
from keras_alexnet.exporters import runtimes as export_runtimes
from keras_alexnet.exporters import saved_model as export_saved_model
from keras_alexnet.exporters.exporter import export_model
from keras_alexnet.exporters.formats import export_kind
from keras_alexnet.model import build_alexnet, set_precision
from keras_alexnet.presets import LRN

NARROW = {"filters": (4, 6, 5, 7, 8), "dense_units": 9}
NAMES = {"ONNX": "model.onnx", "LiteRT": "model.tflite", "SavedModel": "model"}
# Formats that are written in different ways: the file of LiteRT is placed as that of ONNX, which is faster to write.
PLACES = ("ONNX", "SavedModel")
PRESETS = ("cntk", "cntk_python", "caffenet", "paper", "torchvision")


def narrow_network(**settings) -> keras.Model:
    """With random weights of a size at which every layer's output tells."""
    network = build_alexnet(5, **NARROW | settings)
    rng = np.random.default_rng(1)
    for weight in network.weights:
        spread = np.sqrt(2 / np.prod(weight.shape[:-1])) if len(weight.shape) > 1 else 0.1
        weight.assign(rng.normal(0, spread, weight.shape))
    return network


@pytest.fixture(scope="module", params=PRESETS)
def network(request) -> keras.Model:
    # Of one of them, all that presets with a name have in common.
    others = {"lrn": LRN(3, 5e-4, 0.6, 1.5), "dense_units": (9, 7)} if request.param == "caffenet" else {}
    return narrow_network(preset=request.param, **others)


@pytest.fixture(scope="module")
def cntk() -> keras.Model:
    """On small images, for all that does not depend on their size."""
    return narrow_network(image_size=99)


def images_for(model: keras.Model, count: int) -> np.ndarray:
    shape = (count, *model.input_shape[1:])
    return np.random.default_rng(5).integers(0, 256, shape).astype("float32")


def needs_runtime(kind: str) -> None:
    """Skips the test if what writes or runs the format is not installed."""
    for module in {"ONNX": ("onnx", "onnxruntime"), "LiteRT": ("ai_edge_litert",), "SavedModel": ()}[kind]:
        pytest.importorskip(module)


def litert_tensors(path) -> tuple[list[dict], list[str]]:
    """The tensors and the operators of a file."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    return interpreter.get_tensor_details(), [entry["op_name"] for entry in interpreter._get_ops_details()]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("out/model.onnx", "ONNX"),
        ("MODEL.ONNX", "ONNX"),
        ("model.tflite", "LiteRT"),
        ("out/model", "SavedModel"),
        ("model.savedmodel", "SavedModel"),
        ("alexnet-1.0/", "SavedModel"),
        ("alexnet-1.0", None),
        ("model.keras", None),
    ],
)
def test_the_name_tells_the_format(path, kind):
    assert export_kind(path) == kind


@pytest.mark.parametrize("kind", NAMES)
def test_the_logits_are_those_of_keras(network, tmp_path, capfd, kind):
    needs_runtime(kind)
    weights = network.get_weights()
    check = export_model(network, tmp_path / NAMES[kind])
    assert check.kind == kind
    assert check.difference < 1e-5
    assert check.same_class == check.images == 32
    assert os.listdir(tmp_path) == [NAMES[kind]]
    assert capfd.readouterr() == ("", "")
    for before, weight in zip(weights, network.get_weights(), strict=True):
        np.testing.assert_array_equal(before, weight)


@pytest.mark.parametrize("preset", ["cntk", "torchvision"])
def test_onnx_is_one_node_a_layer(tmp_path, preset):
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    network = narrow_network(preset=preset)
    path = tmp_path / "model.onnx"
    export_model(network, path)
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    operators = [node.op_type for node in proto.graph.node]
    assert operators.count("Transpose") == 1
    assert operators.count("LRN") == sum(isinstance(layer, layers.Multiply) for layer in network.layers)
    assert {node.name for node in proto.graph.node} >= {"conv1", "relu1", "pool1", "conv5", "fc6", "fc8"}
    session = onnxruntime.InferenceSession(path)
    images = images_for(network, 2)
    assert [(entry.name, entry.shape) for entry in session.get_inputs()] == [
        ("image", ["batch", *network.input_shape[1:]])
    ]
    mean = {"cntk": "114,114,114", "torchvision": "123.675,116.28,103.53"}[preset]
    assert session.get_modelmeta().custom_metadata_map == {"channel_order": "rgb", "mean": mean}
    for count in (1, 2):
        (logits,) = session.run(None, {"image": images[:count]})
        np.testing.assert_allclose(logits, network.predict_on_batch(images[:count]), atol=1e-4)


def test_saved_model(cntk, tmp_path):
    network = cntk
    export_model(network, tmp_path / "model")
    loaded = tf.saved_model.load(tmp_path / "model")
    images = images_for(network, 2)
    for function in (loaded.serve, loaded.signatures["serving_default"]):
        np.testing.assert_allclose(
            function(image=images)["logits"].numpy(), network.predict_on_batch(images), atol=1e-4
        )
    # Each weight once.
    shapes = tf.train.load_checkpoint(str(tmp_path / "model/variables/variables")).get_variable_to_shape_map()
    assert sum(np.prod(shape, dtype=int) for shape in shapes.values() if shape) == network.count_params()


def test_litert_normalizes_in_float32(tmp_path):
    pytest.importorskip("ai_edge_litert")
    # The converter leaves kernels of less than 1,024 weights as they are.
    network = narrow_network(filters=(8, 12, 10, 14, 16), dense_units=64, image_size=99)
    sizes = []
    for quantize, largest_difference in [("none", 1e-5), ("float16", 0.01), ("int8", 0.1)]:
        path = tmp_path / f"{quantize}.tflite"
        check = export_model(network, path, quantize=quantize)
        assert check.difference < largest_difference
        tensors, operators = litert_tensors(path)
        assert operators.count("LOCAL_RESPONSE_NORMALIZATION") == 2
        assert not any("Flex" in name or name == "CUSTOM" for name in operators)
        conv2 = {tensor["dtype"].__name__ for tensor in tensors if tuple(tensor["shape"]) == (12, 5, 5, 8)}
        assert ("float32" if quantize == "none" else quantize) in conv2
        # No matrix of the constants.
        assert not [tensor for tensor in tensors if tuple(tensor["shape"]) in ((8, 8), (12, 12))]
        sizes.append(check.size)
    assert sizes[0] > 1.5 * sizes[1] > 1.5 * 1.3 * sizes[2]


@pytest.mark.parametrize("kind", PLACES)
def test_a_loaded_file_and_another_export_in_its_place(cntk, tmp_path, kind):
    needs_runtime(kind)
    path = tmp_path / NAMES[kind]
    narrow_network(preset="caffenet", image_size=96).save(tmp_path / "other.keras")
    export_model(keras.models.load_model(tmp_path / "other.keras", compile=False), path)
    check = export_model(cntk, path)
    assert check.difference < 1e-5
    assert sorted(os.listdir(tmp_path)) == sorted([NAMES[kind], "other.keras"])
    if kind == "SavedModel":
        assert tf.saved_model.load(path).serve.input_signature[0].shape[1] == 99


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_folder_that_cannot_be_replaced_is_put_back(tmp_path, monkeypatch, error):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/saved_model.pb").write_text("older")
    rename = Path.rename

    def interrupted(self, target):
        if self.name.startswith(".partial-"):
            raise error("stop")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with (
        pytest.raises((UserError, KeyboardInterrupt)),
        export_saved_model.atomic_saved_model(tmp_path / "model") as partial,
    ):
        (partial / "saved_model.pb").write_text("newer")
    assert (tmp_path / "model/saved_model.pb").read_text() == "older"
    assert os.listdir(tmp_path) == ["model"]


def test_a_link_to_a_folder_stays_one(cntk, tmp_path):
    (tmp_path / "first").mkdir()
    (tmp_path / "latest").symlink_to("first")
    for _ in range(2):
        export_model(cntk, tmp_path / "latest")
    assert (tmp_path / "latest").is_symlink()
    assert (tmp_path / "first/saved_model.pb").is_file()


@pytest.mark.parametrize("content", ["photo.jpg", "saved_model.pb photo.jpg", "variables"])
def test_other_folders_stay_as_they_are(cntk, tmp_path, content):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in content.split():
        (folder / name).write_text(name)
    with pytest.raises(UserError, match="something else than a SavedModel"):
        export_model(cntk, folder)
    assert sorted(os.listdir(folder)) == sorted(content.split())
    assert os.listdir(tmp_path) == ["model"]


def test_a_file_is_no_folder_and_a_folder_no_file(cntk, tmp_path):
    (tmp_path / "model").write_text("mine")
    with pytest.raises(UserError, match="a SavedModel is a folder"):
        export_model(cntk, tmp_path / "model")
    assert (tmp_path / "model").read_text() == "mine"
    (tmp_path / "model.onnx").mkdir()
    with pytest.raises(UserError, match="not a regular file"):
        export_model(cntk, tmp_path / "model.onnx")


def test_another_normalization_differs(cntk, tmp_path, monkeypatch):
    pytest.importorskip("ai_edge_litert")
    monkeypatch.setattr(export_litert, "_local_response_norm", lambda x, lrn: x / (lrn.k + 1e-3 * x))
    with pytest.raises(UserError, match="differ from those of Keras by"):
        export_model(cntk, tmp_path / "model.tflite")


@pytest.mark.parametrize("kind", PLACES)
def test_a_failing_check_keeps_the_older_export(cntk, tmp_path, monkeypatch, kind):
    needs_runtime(kind)
    path = tmp_path / NAMES[kind]
    export_model(cntk, path)
    before = {file.name: file.stat() for file in (path, *path.rglob("*"))}
    monkeypatch.setattr(export, "_TOLERANCE", -1.0)
    with pytest.raises(UserError, match=r"is not written: in .* differ from those of Keras by"):
        export_model(narrow_network(preset="torchvision", image_size=96), path)
    assert {file.name: file.stat() for file in (path, *path.rglob("*"))} == before
    assert os.listdir(tmp_path) == [NAMES[kind]]


@pytest.mark.parametrize("kind", ["ONNX", "LiteRT"])
def test_without_its_runtime_the_file_is_kept(cntk, tmp_path, monkeypatch, kind):
    if kind == "ONNX":
        pytest.importorskip("onnx")
    monkeypatch.setitem(export_runtimes.PACKAGES, kind, "a-runtime")
    check = export_model(cntk, tmp_path / NAMES[kind])
    assert check.difference is None
    assert check.describe() == "not checked: a-runtime is not installed (pip install 'keras_alexnet[export]')."
    assert (tmp_path / NAMES[kind]).stat().st_size == check.size


@pytest.mark.parametrize("kind", PLACES)
def test_a_runtime_that_fails(cntk, tmp_path, monkeypatch, kind):
    needs_runtime(kind)

    def write(model, kind, path, quantize):
        (path / "saved_model.pb" if kind == "SavedModel" else path).write_bytes(b"no network")

    monkeypatch.setattr(export, "_write", write)
    with pytest.raises(UserError, match="cannot "):
        export_model(cntk, tmp_path / NAMES[kind])
    assert os.listdir(tmp_path) == []


def test_without_onnx(cntk, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"pip install 'keras_alexnet\[export\]'"):
        export_model(cntk, tmp_path / "model.onnx")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", PLACES)
def test_no_room(cntk, tmp_path, kind):
    needs_runtime(kind)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        with pytest.raises(UserError, match="cannot write "):
            export_model(cntk, tmp_path / NAMES[kind])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", PLACES)
def test_a_parent_that_is_a_file(cntk, tmp_path, kind):
    needs_runtime(kind)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot write "):
        export_model(cntk, tmp_path / "file" / NAMES[kind])
    assert (tmp_path / "file").read_text() == "mine"


def test_wrong_arguments(cntk, tmp_path):
    for path, quantize, message in [
        ("model.h5", "none", "the suffix is unknown"),
        ("model.tflite", "int4", "expected one of none, float16, int8"),
        ("model.onnx", "int8", "only LiteRT has it"),
    ]:
        with pytest.raises(UserError, match=message):
            export_model(cntk, tmp_path / path, quantize=quantize)


def test_weights_that_are_no_numbers(tmp_path):
    network = narrow_network(image_size=99)
    network.get_layer("fc8").bias.assign(np.full(5, np.nan))
    with pytest.raises(UserError, match="NaN or Inf logits"):
        export_model(network, tmp_path / "model")
    assert os.listdir(tmp_path) == []


def test_other_precisions_are_refused(tmp_path):
    network = narrow_network(image_size=99)
    set_precision(network, "mixed_bfloat16")
    with pytest.raises(UserError, match=r"computes in bfloat16.*set_precision"):
        export_model(network, tmp_path / "model")


def other_networks() -> dict[str, keras.Model]:
    image = keras.Input((32, 32, 3), name="image")
    scaled = layers.Rescaling(1 / 255, name="input_mean")(image)
    convolved = layers.Conv2D(4, 3, name="conv1")(scaled)
    pooled = layers.GlobalAveragePooling2D(name="average")(convolved)
    masked = layers.Multiply(name="norm1")([convolved, convolved])
    heads = {
        "GlobalAveragePooling2D": pooled,
        "not a local response normalization": layers.Dense(3)(layers.Flatten()(masked)),
        "the activation of its layer fc8": layers.Dense(3, "softmax", name="fc8")(layers.Flatten()(convolved)),
        "not the output of the layer before": layers.Dense(3, name="fc8")(layers.Flatten()(convolved + convolved)),
    }
    return {reason: keras.Model(image, head) for reason, head in heads.items()}


@pytest.mark.parametrize("name", ["model.onnx", "model.tflite"])
def test_other_networks_are_refused(tmp_path, name):
    needs_runtime("ONNX" if name.endswith("onnx") else "LiteRT")
    for reason, network in other_networks().items():
        with pytest.raises(UserError, match=reason):
            export_model(network, tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_a_saved_model_holds_other_networks(tmp_path):
    for network in other_networks().values():
        assert export_model(network, tmp_path / "model").difference < 1e-5


def test_other_shapes_are_refused(tmp_path):
    with pytest.raises(UserError, match="expected square RGB"):
        export_model(keras.Sequential([keras.Input((4,)), layers.Dense(3)]), tmp_path / "model")


def test_other_backends_are_refused(cntk, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(UserError, match=r"the jax backend.*Set KERAS_BACKEND=tensorflow\."):
        export_model(cntk, tmp_path / "model")
    assert os.listdir(tmp_path) == []
