"""Convolutions and pools of CNTK's graphs."""

import numpy as np
import pytest
from cntk_graphs import layers_between, numbers, refused

from keras_alexnet.importers import chain


@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1), ()])
def test_biases_of_convolutions(shape):
    bias = np.float32(numbers(*shape))
    for order in (1, -1):

        def add(network, x, order=order):
            return network.add("ReLU", network.add("Plus", *[network.convolution(x), bias][::order]))

        convolution, relu = layers_between(add)
        assert isinstance(relu, chain.Relu)
        np.testing.assert_array_equal(convolution.bias, np.broadcast_to(bias.reshape(-1), 4))


@pytest.mark.parametrize("shape", [(4,), (4, 9, 9), (5, 1, 1)])
def test_other_sums_than_biases_are_refused(shape):
    refused(lambda network, x: network.add("Plus", network.convolution(x), numbers(*shape)), "Plus 'f1'", str(shape))


@pytest.mark.parametrize(
    ("changes", "padding"),
    [
        ({}, ((1, 1), (1, 1))),
        ({"size": (4, 2)}, ((0, 1), (1, 2))),  # The automatic one of even kernels is larger behind.
        ({"autoPadding": [False]}, "valid"),
        ({"autoPadding": [True, False, False]}, ((0, 0), (1, 1))),
        ({"autoPadding": [False, False, False], "lowerPad": (1, 2, 0), "upperPad": (3, 4, 0)}, ((2, 4), (1, 3))),
        ({"strides": (2, 2, 3)}, "cntk"),
    ],
)
def test_paddings_of_convolutions(changes, padding):
    (layer,) = layers_between(lambda network, x: network.convolution(x, **changes))
    assert layer.padding == padding


def test_groups_and_strides_are_kept():
    changes = {"kernelShape": (3, 3, 1), "strides": (2, 1, 1), "autoPadding": [False], "groups": 3}
    (layer,) = layers_between(lambda network, x: network.convolution(x, 1, 6, **changes))
    assert (layer.groups, layer.strides, layer.kernel.shape) == (3, (1, 2), (6, 1, 3, 3))


# Groups, as convolutions of slices.


def convolved_slices(network, x, ranges=((0, 2), (2, 4)), order=None, axis=2, own=None, **slicing):
    """As CNTK's converter of Caffe's models writes them.

    Args:
        ranges: of the channels of each slice.
        order: in which the results are joined.
        axis: by which the channels are given.
        own: settings of the second convolution alone.
        slicing: attributes of the slices.
    """
    results = []
    for begin, end in ranges:
        part = network.add("Slice", x, axis=axis, beginIndex=begin, endIndex=end, **slicing)
        settings = {"channels": 2, "filters": 3, "strides": (1, 1, -1)} | (own or {} if results else {})
        results.append(network.convolution(part, **settings))
    return network.add("Splice", *(results[i] for i in order or range(len(results))), axis=axis)


@pytest.mark.parametrize("axis", [2, -1])
def test_convolutions_of_slices_are_one_in_groups_in_the_order_of_the_splice(axis):
    bias, weights = numbers(9, 1, 1), []

    def add(network, x):
        x = convolved_slices(network, x, ((4, 6), (0, 2), (2, 4)), order=(1, 2, 0), axis=axis)
        weights.extend(v.value for v in network.variables if v.kind == "constant")
        return network.add("ReLU", network.add("Plus", x, bias))

    convolution, relu = layers_between(add, image=(6, 9, 9))
    assert isinstance(relu, chain.Relu)
    assert (convolution.name, convolution.groups, convolution.strides) == ("f6", 3, (1, 1))
    assert convolution.padding == ((1, 1), (1, 1))
    np.testing.assert_array_equal(convolution.kernel, np.concatenate([weights[i] for i in (1, 2, 0)]), strict=True)
    np.testing.assert_array_equal(convolution.bias, bias.reshape(-1), strict=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": (1, 0)}, "Slice 'f2' takes channels (2, 4), where by its place they should be 0 to 2"),
        ({"ranges": ((0, 2), (1, 3))}, "Slice 'f2' takes channels (1, 3)"),
        ({"order": (0, 0, 1)}, "Splice 'f4' does not join just the convolutions of the 2 slices of 'image'"),
        ({"axis": 1}, "Splice 'f4' has axis 1"),
        ({"sliceStrides": 2}, "Slice 'f0' has sliceStrides 2"),
        ({"own": {"filters": 4}}, "Convolution 'f3' has weights, strides and padding of ((4, 2, 3, 3)"),
        ({"own": {"autoPadding": [False]}}, "Convolution 'f3' has weights, strides and padding of"),
        ({"own": {"channels": 3}}, "and the first one, of 2 channels,"),
        ({"own": {"groups": 2}}, "Convolution 'f3' has groups 2"),
    ],
)
def test_other_slices_than_equal_ones_in_order_are_refused(changes, message):
    refused(lambda network, x: convolved_slices(network, x, **changes), message, image=(4, 9, 9))


def test_slices_of_other_images_are_refused():
    for channels in (5, -1):
        refused(convolved_slices, f"joins 2 convolutions of slices of {channels} channels", image=(channels, 9, 9))


def test_slices_of_which_something_else_is_made_are_refused():
    def sliced(network, x, begin=0):
        return network.add("Slice", x, axis=2, beginIndex=begin, endIndex=begin + 2)

    def with_all(network, x):
        return network.add("Splice", network.convolution(sliced(network, x), 2), network.convolution(x, 4), axis=2)

    def with_biases(network, x):
        parts = [network.convolution(sliced(network, x, begin), 2) for begin in (0, 2)]
        return network.add("Splice", *(network.add("Plus", part, numbers(4, 1, 1)) for part in parts), axis=2)

    def of_shared_weights(network, x):
        weights = network.value(numbers(4, 2, 3, 3))
        parts = [network.add("Convolution", weights, sliced(network, x, begin)) for begin in (0, 2)]
        return network.add("Splice", *parts, axis=2)

    for add, message in [
        (with_all, "Convolution 'f2' takes 'image', of which another function is a Slice"),
        (with_biases, "Convolution 'f1' is followed by Plus 'f4', not only by one Splice"),
        (of_shared_weights, "Splice 'f4' joins convolutions with the same weights"),
    ]:
        refused(add, message, image=(4, 9, 9))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("transpose", True),
        ("sequential", True),
        ("ceilOutDim", True),
        ("dilation", (2, 2, 1)),
        ("sharing", [False]),
        ("groups", 0),
        ("imageLayout", 0),
        ("kernelShape", (5, 5, 3)),
        ("autoPadding", [True, True, True]),
        ("lowerPad", (0, 0, 1)),
        ("strides", (0, 0, 1)),
        ("strides", (1, 1, -3)),
    ],
)
def test_unusual_convolutions_are_refused(name, value):
    changes = {"strides": (1, 1, 1), name: value}
    refused(lambda network, x: network.convolution(x, **changes), "Convolution 'f0'", name)


def test_automatic_padding_of_one_axis_with_strides_is_refused():
    changes = {"autoPadding": [True, False, False], "strides": (2, 2, 3)}
    refused(lambda network, x: network.convolution(x, **changes), "autoPadding")


def test_kernels_as_matrices_are_read_by_their_memory():
    first, second = numbers(27, 4), numbers(36, 2)

    def convolved(network, x, weights=first, **changes):
        attributes = {"kernelShape": (3, 3, 1), "strides": (1, 1, 1), "autoPadding": [True], "imageLayout": 1}
        return network.add("Convolution", weights, x, **(attributes | {"convolution2D": True} | changes))

    layers = layers_between(lambda network, x: convolved(network, convolved(network, x), second), version=1)
    np.testing.assert_array_equal(layers[0].kernel, first.reshape(4, 3, 3, 3))
    np.testing.assert_array_equal(layers[1].kernel, second.reshape(2, 4, 3, 3))
    assert (layers[0].strides, layers[0].padding) == ((1, 1), ((1, 1), (1, 1)))
    refused(lambda network, x: convolved(network, x, kernelShape=(5, 3)), "(27, 4)", "3 channels")
    refused(convolved, "(27, 4)", "-1 channels", image=(-1, 9, 9))


@pytest.mark.parametrize(
    ("changes", "window", "strides", "padding"),
    [
        ({"poolingWindowShape": (3, 3, 1), "strides": (2, 2, 1)}, (3, 3), (2, 2), "valid"),
        ({"autoPadding": [True, True]}, (3, 3), (2, 2), "cntk"),
        ({"autoPadding": [True], "strides": (1,)}, (3, 3), (1, 1), ((1, 1), (1, 1))),
        ({"ceilOutDim": True}, (3, 3), (2, 2), "caffe"),
        ({"poolingWindowShape": (2, 3), "strides": (1, 2)}, (3, 2), (2, 1), "valid"),
        ({"lowerPad": (1, 0), "upperPad": (0, 2)}, (3, 3), (2, 2), ((0, 2), (1, 0))),
    ],
)
def test_pools(changes, window, strides, padding):
    (layer,) = layers_between(lambda network, x: network.pool(x, **changes))
    assert (layer.window, layer.strides, layer.padding) == (window, strides, padding)


@pytest.mark.parametrize(
    "changes",
    [
        {"poolingType": 1},
        {"poolingWindowShape": (3, 3, 3)},
        {"poolingWindowShape": None},
        {"strides": (2, 2, 2)},
        {"lowerPad": (0, 0, 1)},
        {"imageLayout": 0},
        {"ceilOutDim": True, "autoPadding": [True, True]},
    ],
    ids=str,
)
def test_unusual_pools_are_refused(changes):
    refused(lambda network, x: network.pool(x, **changes), "Pooling 'f0'")
