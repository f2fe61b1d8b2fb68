"""What an ONNX model's pixels are: never a guess where two readings are usual."""

import dataclasses

import numpy as np
import onnx
import pytest
from test_alexnet import layers, network, without

from keras_alexnet.errors import UserError
from keras_alexnet.exporters.onnx import write_onnx
from keras_alexnet.importers import chain, formats
from keras_alexnet.importers.alexnet import match_alexnet
from keras_alexnet.importers.importer import import_model
from keras_alexnet.importers.preprocessing import Preprocessing, resolve_preprocessing
from keras_alexnet.model import build_alexnet
from keras_alexnet.presets import PRESETS


def pixels(made=None, given=None, **expected_text):
    """Those of an ONNX model, whose chain has `told`."""
    found = match_alexnet(dataclasses.replace(network(made or layers()), **expected_text))
    return resolve_preprocessing(found, formats.ONNX, Preprocessing(**(given or {})))


def asked(made=None, given=None, **expected_text) -> str:
    with pytest.raises(UserError) as raised:
        pixels(made, given, **expected_text)
    return str(raised.value)


def test_a_model_with_normalization_may_be_of_pytorch_or_caffe():
    message = asked()
    readings = [
        "--channel_order=rgb --mean=123.675,116.28,103.53 --std=58.395,57.12,57.375",
        "--channel_order=bgr --mean=104,117,123",
    ]
    assert all(f"{flags} for images" in message for flags in readings)
    for flags, preset in zip(readings, ("torchvision", "bvlc"), strict=True):
        given = dict(flag.removeprefix("--").split("=") for flag in flags.split())
        given |= {name: tuple(map(float, given[name].split(","))) for name in ("mean", "std") if name in given}
        found = pixels(given=given)
        assert found.preset.input_offset == pytest.approx(PRESETS[preset].input_offset, rel=1e-5)
        assert found.preset.input_scale == pytest.approx(PRESETS[preset].input_scale, rel=1e-5)
        assert (found.order_source, found.source) == ("as given", "as given")


def test_the_flags_follow_the_order_that_is_known():
    for message in (asked(channel_order="rgb"), asked(given={"channel_order": "rgb"})):
        assert "--channel_order=rgb --mean=123,117,104 for images as in Caffe" in message
    assert "--channel_order=bgr --mean=104,117,123 for" in asked(given={"mean": (1, 2, 3)})
    assert pixels(given={"mean": (1, 2, 3)}, channel_order="rgb").mean == (1, 2, 3)


def test_a_model_that_scales_its_pixels_is_asked_for_the_order_only():
    made = [chain.Scaling("mean", 1.0, -114.0), *layers()]
    assert "--channel_order=rgb if" in asked(made)
    assert "--mean" not in asked(made)
    assert pixels(made, {"channel_order": "bgr"}).mean == (114, 114, 114)
    assert pixels(made, channel_order="rgb").order_source == "the file"


@pytest.mark.parametrize(("framework", "preset"), [("caffe", "bvlc"), ("cntk", "cntk")])
def test_where_the_file_says_its_framework_one_reading_is_usual(framework, preset):
    found = pixels(framework=framework)
    assert (found.preset.input_offset, found.channel_order) == (PRESETS[preset].input_offset, "bgr")


def test_torchvisions_architecture_has_torchvisions_pixels():
    made = without("n1", "n2")
    assert "--mean" in asked(made)
    padded = [dataclasses.replace(made[0], padding=((2, 2), (2, 2))), *made[1:]]
    found = pixels(padded)
    assert (found.preset.input_offset, found.channel_order) == (PRESETS["torchvision"].input_offset, "rgb")


@pytest.mark.parametrize("preset", ["cntk", "bvlc", "torchvision"])
def test_our_own_export_that_a_tool_has_rewritten(tmp_path, preset):
    """Simplifiers and quantizers replace the producer; the metadata suffices. Without them, the order is asked for."""
    built = build_alexnet(5, preset=preset, filters=(4, 6, 5, 7, 8), dense_units=9)
    write_onnx(built, tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    model.producer_name = "onnxsim"
    onnx.save(model, tmp_path / "b.onnx")
    x = np.random.default_rng(0).integers(0, 256, (2, *built.input_shape[1:]))
    expected = built.predict_on_batch(x)
    imported = import_model(tmp_path / "b.onnx")
    np.testing.assert_allclose(imported.model.predict_on_batch(x), expected, atol=1e-5 * np.abs(expected).max())
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "c.onnx")
    if preset != "torchvision":
        with pytest.raises(UserError, match=r"c\.onnx scales its pixels itself, but .*Add --channel_order=rgb if"):
            import_model(tmp_path / "c.onnx")
    imported = import_model(tmp_path / "c.onnx", preprocessing=Preprocessing(channel_order="rgb"))
    np.testing.assert_allclose(imported.model.predict_on_batch(x), expected, atol=1e-5 * np.abs(expected).max())


def test_what_is_given_leaves_nothing_to_a_guess():
    """torchvision's architecture: BGR is not its order, and a mean alone says nothing about the division."""
    found = match_alexnet(network([layer for layer in layers(conv1_padding=2) if layer.name not in ("n1", "n2")]))
    assert "--mean=104,117,123" in asked_of(found, formats.ONNX, channel_order="bgr")
    caffes = resolve_preprocessing(found, formats.ONNX, Preprocessing(mean=(104.0, 117.0, 123.0), channel_order="bgr"))
    assert (caffes.std, caffes.source) == ((1.0, 1.0, 1.0), "as given")
    assert "--std=58.395,57.12,57.375, and --std=1,1,1" in asked_of(found, formats.TORCHVISION, mean=(1.0, 2.0, 3.0))
    halves = resolve_preprocessing(match_alexnet(network(layers())), formats.CAFFE, Preprocessing(std=(2.0, 2.0, 2.0)))
    assert (halves.mean, halves.source) == ((104.0, 117.0, 123.0), "mean usual for Caffe, std as given")


def asked_of(found, kind: str, **given) -> str:
    with pytest.raises(UserError) as raised:
        resolve_preprocessing(found, kind, Preprocessing(**given))
    return str(raised.value)
