"""What an ONNX model's pixels are: never a guess where two readings are usual."""

import dataclasses

import pytest
from alexnet_chains import layers, network

from keras_alexnet.errors import UserError
from keras_alexnet.importers import chain, formats
from keras_alexnet.importers.alexnet import match_alexnet
from keras_alexnet.importers.preprocessing import Preprocessing, resolve_preprocessing
from keras_alexnet.presets import PRESETS


def pixels(made=None, kind=formats.ONNX, said=(), **given):
    """The pixels of a network of these layers, whose file says what `said` has, and whose user gives `given`."""
    found = match_alexnet(dataclasses.replace(network(made or layers()), **dict(said)))
    return resolve_preprocessing(found, kind, Preprocessing(**given))


def question(*arguments, **given) -> str:
    with pytest.raises(UserError) as raised:
        pixels(*arguments, **given)
    return str(raised.value)


def without_normalization(conv1_padding: int) -> list[chain.Layer]:
    made = layers(conv1_padding=conv1_padding)
    return [layer for layer in made if not isinstance(layer, chain.LocalResponseNorm)]


def test_a_model_with_normalization_may_be_of_pytorch_or_caffe():
    message = question()
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    assert "--channel_order=rgb --mean=123.675,116.28,103.53 --std=58.395,57.12,57.375 for images" in message
    assert "--channel_order=bgr --mean=104,117,123 for images" in message
    for preset, given in [
        ("torchvision", {"channel_order": "rgb", "mean": mean, "std": std}),
        ("bvlc", {"channel_order": "bgr", "mean": (104, 117, 123)}),
    ]:
        found = pixels(**given)
        assert found.preset.input_offset == pytest.approx(PRESETS[preset].input_offset, rel=1e-5)
        assert found.preset.input_scale == pytest.approx(PRESETS[preset].input_scale, rel=1e-5)
        assert (found.order_source, found.source) == ("as given", "as given")


def test_the_flags_follow_the_order_that_is_known():
    for message in (question(said={"channel_order": "rgb"}), question(channel_order="rgb")):
        assert "--channel_order=rgb --mean=123,117,104 for images as in Caffe" in message
    assert "--channel_order=bgr --mean=104,117,123 for" in question(mean=(1, 2, 3))
    assert pixels(said={"channel_order": "rgb"}, mean=(1, 2, 3)).mean == (1, 2, 3)


def test_a_model_that_scales_its_pixels_is_asked_for_the_order_only():
    made = [chain.Scaling("mean", 1.0, -114.0), *layers()]
    assert "--channel_order=rgb if" in question(made)
    assert "--mean" not in question(made)
    assert pixels(made, channel_order="bgr").mean == (114, 114, 114)
    assert pixels(made, said={"channel_order": "rgb"}).order_source == "the file"


@pytest.mark.parametrize(("framework", "preset"), [("caffe", "bvlc"), ("cntk", "cntk")])
def test_where_the_file_says_its_framework_one_reading_is_usual(framework, preset):
    found = pixels(said={"framework": framework})
    assert (found.preset.input_offset, found.channel_order) == (PRESETS[preset].input_offset, "bgr")


def test_a_cntk_model_whose_pools_round_as_caffes_has_caffes_pixels():
    for pool, mean in (("caffe", (104, 117, 123)), ("valid", (114, 114, 114))):
        assert pixels(layers(pool=pool), formats.CNTK).mean == mean


def test_torchvisions_architecture_has_torchvisions_pixels():
    found = pixels(without_normalization(conv1_padding=2))
    assert (found.preset.input_offset, found.channel_order) == (PRESETS["torchvision"].input_offset, "rgb")
    assert "--mean" in question(without_normalization(conv1_padding=0))


def test_what_is_given_leaves_nothing_to_a_guess():
    """torchvision's architecture: BGR is not its order, and a mean alone says nothing about the division."""
    made = without_normalization(conv1_padding=2)
    assert "--mean=104,117,123" in question(made, channel_order="bgr")
    found = pixels(made, mean=(104.0, 117.0, 123.0), channel_order="bgr")
    assert (found.std, found.source) == ((1.0, 1.0, 1.0), "as given")
    assert "--std=58.395,57.12,57.375, and --std=1,1,1" in question(made, formats.TORCHVISION, mean=(1, 2, 3))
    found = pixels(kind=formats.CAFFE, std=(2.0, 2.0, 2.0))
    assert (found.mean, found.source) == ((104.0, 117.0, 123.0), "mean usual for Caffe, std as given")
