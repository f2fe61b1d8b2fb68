"""Whole files of other frameworks: the Keras models that come of them give those frameworks' own logits."""

import random
import time
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
from reference_logits import REFERENCE, images_and_logits, relative_difference

from keras_alexnet.data.class_file import write_classes
from keras_alexnet.errors import UserError
from keras_alexnet.exporters.onnx import write_onnx
from keras_alexnet.importers.importer import import_model, read_alexnet
from keras_alexnet.importers.preprocessing import Preprocessing
from keras_alexnet.model import build_alexnet

NARROW = {"filters": (4, 6, 5, 7, 8), "dense_units": 9}
MUTATIONS = 40

# A file, the name of its images and logits in import_logits.npz, and what is added to those images to make them pixels.
CAFFE_MEAN = np.float32([104, 117, 123])[:, None, None]
FILES = [
    ("alexnet_tiny_c10_fc64.model", "cntk_tiny", 0),
    ("alexnet_tiny_c10_fc64.onnx", "cntk_tiny", 0),
    ("alexnet_padpool_c7_fc48.model", "cntk_padpool", 0),
    ("alexnet_padpool_c7_fc48.v1.dnn", "cntk_padpool", 0),
    ("alexnet_padpool_c7_fc48.checkpoint.model", "cntk_padpool", 0),
    ("caffe_alexnet_new_c10_fc64.caffemodel", "caffe_new", CAFFE_MEAN),
    ("caffe_alexnet_v1_c10_fc64.caffemodel", "caffe_v1", CAFFE_MEAN),
    ("onnx_bvlc_c10_fc64.onnx", "onnx_bvlc", 0),
    ("torchvision_c9_fc96.safetensors", "torchvision", 0),
    ("torchvision_c9_fc96.pth", "torchvision", 0),
]


@pytest.mark.parametrize(("file", "name", "added"), FILES)
def test_logits_are_those_of_the_framework(file, name, added):
    x, logits = images_and_logits(name, added)
    imported = import_model(REFERENCE / file)
    assert relative_difference(imported.model.predict_on_batch(x), logits) < 1e-5
    assert imported.classes is None
    assert file in imported.summary


@pytest.mark.parametrize("preset", ["caffenet", "torchvision"])
def test_what_we_export_comes_back(tmp_path, preset):
    """With its pixels' order and scale, also where simplifiers and quantizers have replaced the producer."""
    network = build_alexnet(5, preset=preset, **NARROW)
    x = np.random.default_rng(0).integers(0, 256, (2, *network.input_shape[1:]), np.uint8)
    expected = network.predict_on_batch(x)
    write_onnx(network, tmp_path / "a.onnx")
    exported = onnx.load(tmp_path / "a.onnx")
    exported.producer_name = "onnxsim"
    onnx.save(exported, tmp_path / "rewritten.onnx")
    older = onnx.load(tmp_path / "a.onnx")
    del older.metadata_props[:]  # Our exports were RGB before they said so.
    onnx.save(older, tmp_path / "older.onnx")
    for name in ("a.onnx", "rewritten.onnx", "older.onnx"):
        model = import_model(tmp_path / name).model
        assert [layer.name for layer in model.layers] == [layer.name for layer in network.layers]
        for weight, original in zip(model.weights, network.weights, strict=True):
            np.testing.assert_array_equal(weight.numpy(), original.numpy())
        assert relative_difference(model.predict_on_batch(x), expected) < 1e-5
    bgr, rgb = Preprocessing(channel_order="bgr"), Preprocessing(channel_order="rgb")
    with pytest.raises(UserError, match=r"channel_order is bgr, and .*a\.onnx says rgb"):
        import_model(tmp_path / "a.onnx", preprocessing=bgr)
    # Without metadata and producer, the order is asked for.
    del exported.metadata_props[:]
    onnx.save(exported, tmp_path / "bare.onnx")
    if preset == "caffenet":
        with pytest.raises(UserError, match=r"scales its pixels itself, but .*Add --channel_order=rgb if"):
            import_model(tmp_path / "bare.onnx")
    model = import_model(tmp_path / "bare.onnx", preprocessing=rgb).model
    assert relative_difference(model.predict_on_batch(x), expected) < 1e-5


def test_a_keras_file_and_its_classes(tmp_path):
    network = build_alexnet(3, **NARROW)
    network.save(tmp_path / "a.keras")
    assert import_model(tmp_path / "a.keras").classes is None
    with pytest.raises(UserError, match=r"is a Keras model, which scales pixels itself. Leave out mean"):
        import_model(tmp_path / "a.keras", preprocessing=Preprocessing(mean=(1, 2, 3)))
    order = tmp_path / "order.txt"
    for text, problem in [
        ("b\t0\nc\t1\n", r"has 2 classes, and .* has 3"),
        ("b\t0\nb\t1\na\t2\n", "has the class 'b' more than once"),
    ]:
        order.write_text(text)
        with pytest.raises(UserError, match=problem):
            import_model(tmp_path / "a.keras", classmappings=order)
    order.write_text("b\t0\nc\t1\na\t2\n")
    imported = import_model(tmp_path / "a.keras", classmappings=order)
    assert imported.classes == ["a", "b", "c"]
    kernels = [model.get_layer("fc8").get_weights()[0] for model in (imported.model, network)]
    np.testing.assert_array_equal(kernels[0], kernels[1][:, [2, 0, 1]])
    # Where it says itself which order it has, that counts.
    write_classes(tmp_path / "a.keras", ["a", "b", "c"])
    with pytest.raises(UserError, match=r"a\.classes\.txt and .* list different classes .*, or another order"):
        import_model(tmp_path / "a.keras", classmappings=order)
    keras.Sequential([keras.Input((8, 8, 3)), keras.layers.GlobalAveragePooling2D()]).save(tmp_path / "b.keras")
    with pytest.raises(UserError, match=r"ends in a layer .* \(GlobalAveragePooling2D\). Expected fc8"):
        import_model(tmp_path / "b.keras", classmappings=order)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """`content` cut off, or with some bytes changed, added or left out: mostly outside of the weights."""
    at = rng.choice([rng.randrange(len(content)), rng.randrange(4000), len(content) - 1 - rng.randrange(4000)])
    if rng.randrange(5) == 0:
        return content[:at]
    return content[:at] + rng.randbytes(rng.randrange(9)) + content[at + rng.randrange(9) :]


@pytest.mark.parametrize("file", [FILES[number][0] for number in (2, 3, 5, 6, 7, 8, 9)])
def test_damaged_files_are_refused_or_the_same_network(file, tmp_path):
    """Some flipped bits are in the weights, where nothing can tell."""
    content = (REFERENCE / file).read_bytes()
    rng = random.Random(0)
    started = time.process_time()
    num_refused = 0
    for number in range(MUTATIONS):
        # A new name each time: arrays are views of their files.
        path = tmp_path / f"{number}{Path(file).suffix}"
        path.write_bytes(mutated(content, rng))
        try:
            assert len(read_alexnet(path).sources) == 8
        except UserError:
            num_refused += 1
        path.unlink()
    assert num_refused > MUTATIONS / 4
    # A file of a few megabytes never takes long.
    assert time.process_time() - started < MUTATIONS * 0.5


@pytest.mark.parametrize("name", ["a.caffemodel", "a.model", "a.onnx", "a.pth", "a.keras", "a"])
def test_files_that_are_no_models_are_refused(tmp_path, name):
    for content in (b"", b"\0" * 5000, b"\xff" * 5000, b"<html>" * 500, bytes(range(256)) * 20):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=str(tmp_path)):
            import_model(tmp_path / name)
