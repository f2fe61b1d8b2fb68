import dataclasses

import numpy as np
import pytest
from alexnet_chains import CLASSES, FILTERS, UNITS, layers, network, numbers

from keras_alexnet.errors import UserError
from keras_alexnet.importers import chain, formats
from keras_alexnet.importers.alexnet import match_alexnet
from keras_alexnet.importers.preprocessing import Preprocessing, resolve_preprocessing
from keras_alexnet.importers.weights import layer_weights
from keras_alexnet.presets import PRESETS, WEIGHTED, Preset


def changed(name: str, **settings) -> list[chain.Layer]:
    return [dataclasses.replace(layer, **settings) if layer.name == name else layer for layer in layers()]


def without(*names: str) -> list[chain.Layer]:
    return [layer for layer in layers() if layer.name not in names]


def test_every_layer_is_recognized_whatever_its_name():
    made = layers()
    found = match_alexnet(network(made))
    assert (found.preset, found.size_is_assumed) == (Preset(FILTERS, UNITS), True)
    assert (found.num_classes, found.dropout, found.scalings) == (CLASSES, (0.3, 0.6), ())
    names = "conv1 relu1 norm1 pool1 conv2 relu2 norm2 pool2 conv3 relu3 conv4 relu4 conv5 relu5 pool5"
    dense = "fc6 relu6 drop6 fc7 relu7 drop7 fc8"
    assert [(layer, name) for layer, name in found.mapping] == list(
        zip(made, [*names.split(), *dense.split()], strict=True)
    )
    assert list(found.sources) == list(WEIGHTED)


@pytest.mark.parametrize(
    ("before", "left_out", "rates", "targets"),
    [
        ([0.2], ("o6",), (0.2, 0.6), ["drop6", "drop7"]),  # Where torchvision has them.
        ([None], ("o6",), (0.6, 0.6), ["–", "drop6, drop7"]),
        ([], ("o6", "o7"), (0.5, 0.5), []),
        ([], ("o6",), (0.0, 0.6), ["drop7"]),
        ([], ("o7",), (0.3, 0.0), ["drop6"]),
    ],
)
def test_dropout_anywhere(before, left_out, rates, targets):
    made = [*(chain.Dropout("a", rate) for rate in before), *without(*left_out), chain.Softmax("s")]
    found = match_alexnet(network(made))
    assert found.dropout == rates
    assert [name for layer, name in found.mapping if isinstance(layer, chain.Dropout)] == targets


def test_normalization_after_the_pool_and_none():
    made = layers()
    made[2:4], made[6:8] = made[3:1:-1], made[7:5:-1]
    assert match_alexnet(network(made)).preset.normalization == "after_pool"
    assert match_alexnet(network(without("n1", "n2"))).preset.normalization == "none"


@pytest.mark.parametrize(
    ("settings", "image_size", "expected"),
    [
        ({"pool": "caffe"}, (224, 224), ("caffe", 224)),
        ({"pool": "cntk", "side": 7}, None, ("cntk", 227)),
        # Where no size is stated, the one that fc6 fits; padding that no window reaches is none.
        ({"pool": "valid", "conv1_padding": 2}, None, ("valid", 224)),
        ({"pool": "valid", "side": 5}, None, ("valid", 224)),
        ({"pool": ((0, 1), (0, 1))}, (224, 224), ("caffe", 224)),
        ({"pool": ((0, 1), (0, 1))}, (227, 227), ("valid", 227)),
    ],
)
def test_pools_and_image_sizes(settings, image_size, expected):
    preset = match_alexnet(network(layers(**settings), image_size)).preset
    assert (preset.pool_padding, preset.image_size) == expected
    assert preset.conv1_padding == settings.get("conv1_padding", 0)


def test_paddings_by_other_rules():
    """CNTK's rule for all three sizes is what ONNX calls SAME_LOWER; the model zoo's is Caffe's for 224×224 images."""
    assert match_alexnet(network(layers(pool="same_lower", side=7))).preset.pool_padding == "cntk"
    with pytest.raises(UserError, match=r"max pools, of 55, 28, 14 pixels, are padded by \(\(1, 1\)"):
        match_alexnet(network(layers(pool="same_upper", side=7)))
    made = layers(pool=((0, 0), (0, 0)))
    made[3] = dataclasses.replace(made[3], padding=((0, 1), (0, 1)))
    assert match_alexnet(network(made, (224, 224))).preset.pool_padding == "caffe"


def test_weights_in_keras_form():
    made = layers(groups=2)
    made[8] = dataclasses.replace(made[8], bias=None)
    found = match_alexnet(network(made))
    result = {name: layer_weights(found, "bgr", name) for name in WEIGHTED}
    source = found.sources
    kernel = result["conv1"][0]
    assert kernel.shape == (11, 11, 3, FILTERS[0])
    np.testing.assert_array_equal(kernel[2, 5, 0], source["conv1"].kernel[:, 2, 2, 5])
    np.testing.assert_array_equal(layer_weights(found, "rgb", "conv1")[0][2, 5, 0], source["conv1"].kernel[:, 0, 2, 5])
    kernel = result["conv2"][0]
    assert kernel.shape == (5, 5, 4, 6)
    np.testing.assert_array_equal(kernel[1, 3, :2, :3], source["conv2"].kernel[:3, :, 1, 3].T)
    np.testing.assert_array_equal(kernel[1, 3, 2:, 3:], source["conv2"].kernel[3:, :, 1, 3].T)
    assert not kernel[:, :, :2, 3:].any()
    assert not kernel[:, :, 2:, :3].any()
    # Row 1, column 4, channel 3: channels first in the file, last here.
    np.testing.assert_array_equal(result["fc6"][0][(1 * 6 + 4) * 4 + 3], source["fc6"].kernel[(3 * 6 + 1) * 6 + 4])
    np.testing.assert_array_equal(result["fc7"][0], source["fc7"].kernel)
    np.testing.assert_array_equal(result["fc8"][1], source["fc8"].bias)
    np.testing.assert_array_equal(result["conv3"][1], np.zeros(6))  # It has no bias.
    arrays = [array for arrays in result.values() for array in arrays]
    assert {array.dtype for array in arrays} == {np.dtype("float32")}
    assert all(array.flags.c_contiguous and array.flags.writeable for array in arrays)


@pytest.mark.parametrize(
    ("made", "expected_text"),
    [
        ([], r"there are no layers. Expected an AlexNet, with a convolution \(conv1\) there"),
        (without("r3"), "layer 'c4' is a convolution. Expected a ReLU there, AlexNet's relu3"),
        (without("n1"), r"normalization at different places \(none and before_pool\)"),
        ([*layers(), chain.Relu("r8")], "layer 'r8' comes after fc8. Expected nothing there but a softmax"),
        (changed("c2", kernel=numbers(6, 4, 3, 3)), "layer 'c2' has a kernel of 3 × 3 and strides of 1 × 1. Expected"),
        (changed("c1", padding=((0, 1), (0, 1))), "layer 'c1' is padded by .* Expected as much on all sides"),
        (changed("c2", padding="valid"), r"layer 'c2' is padded by \(\(0, 0\), \(0, 0\)\). Expected 2"),
        (changed("c2", padding="same_upper"), "layer 'c2' is padded by the rule same_upper. Expected"),
        (changed("c3", kernel=numbers(6, 5, 3, 3)), "layer 'c3' has 1 groups of 5 inputs .* Expected 6 inputs"),
        (changed("c3", groups=0), "layer 'c3' has 0 groups .* Expected"),
        (changed("c3", bias=numbers(5)), "layer 'c3' has a bias of 5 numbers. Expected 6"),
        (changed("n2", beta=0.5), "layer 'n2' has size 5, .* beta 0.5, k 1. Expected those of the first one"),
        (changed("n1", size=4), "layer 'n1' has normalization size 4, expected an odd number"),
        (changed("d7", kernel=numbers(9, 8)), "layer 'd7' has 9 inputs. Expected 8, the units before it"),
        (layers(side=7), "layer 'd6' has 196 inputs. Expected 4 × 6 × 6 for images of 227 .*is assumed"),
        (changed("d8", bias=np.full(5, np.nan)), "layer 'd8' has a bias with no numbers, or with some .* Expected"),
        ([chain.Scaling("s", 1.0, np.nan), *layers()], "layer 's' scales pixels by .* Expected"),
    ],
)
def test_other_networks_are_refused_with_the_layer(made, expected_text):
    with pytest.raises(UserError, match=f"^net.file.*{expected_text}"):
        match_alexnet(network(made))


def test_image_sizes_that_the_layers_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"for images of 227 × 131 pixels. Expected squares"):
        match_alexnet(network(layers(), (227, 131)))
    with pytest.raises(UserError, match=r"layer 'd6' has 144 inputs. Expected .* for images of 20 × 20 pixels"):
        match_alexnet(network(layers(), (20, 20)))


def pixels(kind, made=None, **options):
    return resolve_preprocessing(match_alexnet(network(made or layers())), kind, Preprocessing(**options))


def test_mean_and_std_are_in_the_files_order():
    found = pixels(formats.CAFFE, mean=(1, 2, 3), std=(10, 20, 40))
    assert found.preset.input_scale == pytest.approx((1 / 40, 1 / 20, 1 / 10))
    assert found.preset.input_offset == pytest.approx((-3 / 40, -2 / 20, -1 / 10))
    assert (found.mean, found.std) == (pytest.approx((1, 2, 3)), pytest.approx((10, 20, 40)))
    # Another order alone: the usual mean is that of the colors.
    assert pixels(formats.CAFFE, channel_order="rgb").preset.input_offset == PRESETS["bvlc"].input_offset


def test_a_network_may_scale_its_pixels_itself():
    made = [chain.Scaling("a", offset=-np.array([1.0, 2.0, 3.0])), chain.Scaling("b", scale=0.5), *layers()]
    found = pixels(formats.CNTK, made)
    assert found.preset.input_scale == 0.5
    assert found.preset.input_offset == (-1.5, -1, -0.5)
    assert (found.mean, found.std, found.source) == ((1, 2, 3), (2, 2, 2), "the network itself")
    with pytest.raises(UserError, match=r"scales its pixels itself \(layer 'a'\). Leave out mean"):
        pixels(formats.CNTK, made, mean=(1, 2, 3))


def test_a_network_of_pixels_of_0_to_1_has_to_be_stated():
    """PyTorch's exports often normalize what they take for 0 to 1."""
    scalings = [chain.Scaling("a", offset=-np.array([0.485, 0.456, 0.406])), chain.Scaling("b", scale=1 / 0.225)]
    made = [*scalings, *layers()]
    with pytest.raises(UserError, match=r"net.file: layer 'a' subtracts .*, as for pixels of 0 to 1. Pass --std=255"):
        pixels(formats.ONNX, made, channel_order="rgb")
    plain = pixels(formats.ONNX, made, std=(1, 1, 1), channel_order="rgb").preset
    small = pixels(formats.ONNX, made, std=(255, 255, 255), channel_order="rgb").preset
    np.testing.assert_allclose(small.input_scale, np.array(plain.input_scale) / 255)
    np.testing.assert_allclose(small.input_offset, plain.input_offset)


def test_a_mean_image_that_the_file_names_is_subtracted_before_its_own_scale():
    named = dataclasses.replace(network([chain.Scaling("s", 0.5), *layers()]), mean_file="mean.binaryproto")
    found = match_alexnet(named)
    assert resolve_preprocessing(found, formats.CAFFE, Preprocessing()).preset.input_offset == (-61.5, -58.5, -52)
    given = resolve_preprocessing(found, formats.CAFFE, Preprocessing(mean=(10, 20, 40)))
    assert (given.preset.input_scale, given.preset.input_offset) == (0.5, (-20, -10, -5))
    assert given.source == "as given, the network itself"


def test_a_mean_in_the_other_order_is_questioned():
    with pytest.raises(UserError, match=r"assumed to be BGR, but look like those of RGB. Pass the right one"):
        pixels(formats.CAFFE, mean=(123, 117, 104))
    assert pixels(formats.CAFFE, mean=(123, 117, 104), channel_order="bgr").order_source == "as given"
    assert pixels(formats.CAFFE, mean=(1, 1, 1)).order_source == "assumed"


@pytest.mark.parametrize(
    ("options", "expected_text"),
    [
        ({"std": (1, 0, 1)}, "std is 1,0,1; expected three"),
        ({"mean": (0.485, 0.456, 0.406)}, "mean is 0.485,0.456,0.406, which is for pixels of 0 to 1"),
        ({"channel_order": "gbr"}, "channel_order is 'gbr'; expected bgr or rgb"),
    ],
)
def test_options_out_of_bounds(options, expected_text):
    with pytest.raises(UserError, match=expected_text):
        Preprocessing(**options)
