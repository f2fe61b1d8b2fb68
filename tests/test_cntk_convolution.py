"""Convolutions and pools of CNTK's graphs."""

import numpy as np
import pytest
from cntk_graphs import layers_between, numbers, refused

from keras_alexnet.importers import chain


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1), (), (1, 1, 1)])
def test_biases_of_convolutions(shape, flipped):
    bias = np.float32(numbers(*shape))

    def add(network, x):
        inputs = [network.convolution(x), bias]
        return network.add("ReLU", network.add("Plus", *inputs[:: -1 if flipped else 1]))

    convolution, relu = layers_between(add)
    assert isinstance(relu, chain.Relu)
    np.testing.assert_array_equal(convolution.bias, np.broadcast_to(bias.reshape(-1), 4))


@pytest.mark.parametrize("shape", [(4,), (4, 9, 9), (1, 1, 4), (5, 1, 1)])
def test_other_sums_than_biases_are_refused(shape):
    refused(lambda network, x: network.add("Plus", network.convolution(x), numbers(*shape)), "Plus 'f1'", str(shape))


@pytest.mark.parametrize(
    ("changes", "padding"),
    [
        ({}, ((1, 1), (1, 1))),
        ({"autoPadding": [False]}, "valid"),
        ({"autoPadding": [True, False, False]}, ((0, 0), (1, 1))),
        ({"autoPadding": [False, False, False], "lowerPad": (1, 2, 0), "upperPad": (3, 4, 0)}, ((2, 4), (1, 3))),
        ({"strides": (2, 2, 3)}, "cntk"),
    ],
)
def test_paddings_of_convolutions(changes, padding):
    (layer,) = layers_between(lambda network, x: network.convolution(x, **changes))
    assert layer.padding == padding


def test_automatic_padding_of_even_kernels_is_larger_behind():
    def add(network, x):
        attributes = {"kernelShape": (4, 2, 3), "autoPadding": [True, True, False]}
        return network.add("Convolution", numbers(4, 3, 2, 4), x, **attributes)

    (layer,) = layers_between(add)
    assert (layer.kernel.shape, layer.padding) == ((4, 3, 2, 4), ((0, 1), (1, 2)))


def test_groups_and_strides_are_kept():
    def add(network, x):
        attributes = {"kernelShape": (3, 3, 1), "strides": (2, 1, 1), "autoPadding": [False], "groups": 3}
        return network.add("Convolution", numbers(6, 1, 3, 3), x, **attributes)

    (layer,) = layers_between(add)
    assert (layer.groups, layer.strides, layer.kernel.shape) == (3, (1, 2), (6, 1, 3, 3))


# Groups, as convolutions of slices.


def convolved_slices(network, x, ranges=((0, 2), (2, 4)), order=None, axis=2):
    """As CNTK's converter of Caffe's models writes them; `order` is that in which the results are joined."""
    results = []
    for begin, end in ranges:
        part = network.add("Slice", x, axis=axis, beginIndex=begin, endIndex=end)
        # The stride over the channels is to be inferred.
        results.append(network.convolution(part, 2, 3, strides=(1, 1, -1)))
    results = [results[i] for i in order or range(len(results))]
    return network.add("Splice", *results, axis=axis)


@pytest.mark.parametrize("axis", [2, -1])
def test_convolutions_of_slices_are_one_in_groups(axis):
    bias, weights = numbers(6, 1, 1), []

    def add(network, x):
        x = convolved_slices(network, x, axis=axis)
        weights.extend(v.value for v in network.variables if v.kind == "constant")
        return network.add("ReLU", network.add("Plus", x, bias))

    convolution, relu = layers_between(add, image=(4, 9, 9))
    assert isinstance(relu, chain.Relu)
    assert (convolution.name, convolution.groups, convolution.strides) == ("f4", 2, (1, 1))
    assert convolution.padding == ((1, 1), (1, 1))
    np.testing.assert_array_equal(convolution.kernel, np.concatenate(weights), strict=True)
    np.testing.assert_array_equal(convolution.bias, bias.reshape(-1), strict=True)


def test_convolutions_of_slices_are_joined_in_the_order_of_the_splice():
    weights = []

    def add(network, x):
        x = convolved_slices(network, x, ((4, 6), (0, 2), (2, 4)), order=(1, 2, 0))
        weights.extend(v.value for v in network.variables if v.kind == "constant")
        return x

    (convolution,) = layers_between(add, image=(6, 9, 9))
    assert (convolution.groups, convolution.bias) == (3, None)
    np.testing.assert_array_equal(convolution.kernel, np.concatenate([weights[i] for i in (1, 2, 0)]))


@pytest.mark.parametrize(
    ("channels", "changes", "message"),
    [
        (
            4,
            {"order": (1, 0)},
            "Slice 'f2' takes channels (2, 4), where by its place they should be 0 to 2",
        ),
        (4, {"ranges": ((0, 2), (1, 3))}, "Slice 'f2' takes channels (1, 3)"),
        (6, {"ranges": ((0, 2), (4, 6))}, "Slice 'f0' takes channels (0, 2)"),
        (4, {"ranges": ((0, 2), (2, None))}, "Slice 'f2' takes channels (2, None)"),
        (4, {"order": (0, 0, 1)}, "Splice 'f4' does not join just the convolutions of the 2 slices of 'image'"),
        (5, {}, "Splice 'f4' joins 2 convolutions of slices of 5 channels"),
        (-1, {}, "Splice 'f4' joins 2 convolutions of slices of -1 channels"),
        (4, {"axis": 1}, "Splice 'f4' has axis 1"),
    ],
)
def test_other_slices_than_equal_ones_in_order_are_refused(channels, changes, message):
    refused(lambda network, x: convolved_slices(network, x, **changes), message, image=(channels, 9, 9))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"filters": 4}, "Convolution 'f3' has weights, strides and padding of ((4, 2, 3, 3)"),
        ({"strides": (2, 2, 2), "autoPadding": [False]}, "Convolution 'f3' has weights, strides and padding of"),
        ({"autoPadding": [False]}, "Convolution 'f3' has weights, strides and padding of"),
        ({"channels": 3}, "and the first one, of 2 channels,"),
        ({"groups": 2}, "Convolution 'f3' has groups 2"),
    ],
)
def test_different_convolutions_of_slices_are_refused(changes, message):
    def add(network, x):
        parts = []
        for i, own in enumerate([{}, changes]):
            part = network.add("Slice", x, axis=2, beginIndex=2 * i, endIndex=2 * i + 2)
            parts.append(network.convolution(part, **{"channels": 2, "filters": 3} | own))
        return network.add("Splice", *parts, axis=2)

    refused(add, message, image=(4, 9, 9))


def test_slices_of_which_something_else_is_made_are_refused():
    def sliced(network, x, begin=0, **attributes):
        return network.add("Slice", x, **{"axis": 2, "beginIndex": begin, "endIndex": begin + 2} | attributes)

    def with_all(network, x):
        return network.add("Splice", network.convolution(sliced(network, x), 2), network.convolution(x, 4), axis=2)

    def with_biases(network, x):
        parts = [network.convolution(sliced(network, x, begin), 2) for begin in (0, 2)]
        return network.add("Splice", *(network.add("Plus", part, numbers(4, 1, 1)) for part in parts), axis=2)

    def in_two(network, x):
        parts = [network.convolution(sliced(network, x, begin), 2) for begin in (0, 2)]
        return network.add("Plus", *(network.add("Splice", part, axis=2) for part in parts))

    def of_shared_weights(network, x):
        weights = network.value(numbers(4, 2, 3, 3))
        attributes = {"kernelShape": (3, 3, 2), "autoPadding": [False]}
        parts = [network.add("Convolution", weights, sliced(network, x, begin), **attributes) for begin in (0, 2)]
        return network.add("Splice", *parts, axis=2)

    def of_strides(network, x):
        parts = [network.convolution(sliced(network, x, begin, sliceStrides=2), 2) for begin in (0, 2)]
        return network.add("Splice", *parts, axis=2)

    for add, message in [
        (with_all, "Convolution 'f2' takes 'image', of which another function is a Slice"),
        (with_biases, "Convolution 'f1' is followed by Plus 'f4', not only by one Splice"),
        (in_two, "Splice 'f4' does not join just the convolutions of the 2 slices of 'image'"),
        (of_shared_weights, "Splice 'f4' joins convolutions with the same weights"),
        (of_strides, "Slice 'f0' has sliceStrides 2"),
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
        ("strides", None),
    ],
)
def test_unusual_convolutions_are_refused(name, value):
    changes = {"strides": (1, 1, 1), name: value}
    refused(lambda network, x: network.convolution(x, **changes), "Convolution 'f0'", name)


def test_automatic_padding_of_one_axis_with_strides_is_refused():
    changes = {"autoPadding": [True, False, False], "strides": (2, 2, 3)}
    refused(lambda network, x: network.convolution(x, **changes), "autoPadding")


def test_kernels_as_matrices_are_read_by_their_memory():
    weights = numbers(27, 4)

    def add(network, x, **changes):
        attributes = {"kernelShape": (3, 3, 1), "strides": (1, 1, 1), "autoPadding": [True], "imageLayout": 1}
        return network.add("Convolution", weights, x, **(attributes | {"convolution2D": True} | changes))

    (layer,) = layers_between(add, version=1)
    np.testing.assert_array_equal(layer.kernel, weights.reshape(4, 3, 3, 3))
    assert (layer.strides, layer.padding) == ((1, 1), ((1, 1), (1, 1)))
    weights_of_second = numbers(36, 2)
    second = {"kernelShape": (3, 3, 1), "imageLayout": 1, "convolution2D": True}
    _, layer = layers_between(
        lambda network, x: network.add("Convolution", weights_of_second, add(network, x), **second)
    )
    np.testing.assert_array_equal(layer.kernel, weights_of_second.reshape(2, 4, 3, 3))
    refused(lambda network, x: add(network, x, imageLayout=0), "imageLayout 0")
    refused(lambda network, x: add(network, x, kernelShape=(5, 3)), "(27, 4)", "3 channels")
    refused(add, "(27, 4)", "-1 channels", image=(-1, 9, 9))


@pytest.mark.parametrize(
    ("changes", "window", "strides", "padding"),
    [
        ({}, (3, 3), (2, 2), "valid"),
        ({"autoPadding": [True, True]}, (3, 3), (2, 2), "cntk"),
        ({"autoPadding": [True, True, False], "strides": (2, 2, 1)}, (3, 3), (2, 2), "cntk"),
        ({"poolingWindowShape": (3, 3, 1), "strides": (2, 2, 1)}, (3, 3), (2, 2), "valid"),
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
    ("name", "value"),
    [
        ("poolingType", 1),
        ("poolingWindowShape", (3, 3, 3)),
        ("poolingWindowShape", None),
        ("strides", (2, 2, 2)),
        ("lowerPad", (0, 0, 1)),
        ("imageLayout", 0),
    ],
)
def test_unusual_pools_are_refused(name, value):
    refused(lambda network, x: network.pool(x, **{name: value}), "Pooling 'f0'")


def test_padded_pools_that_round_up_are_refused():
    refused(lambda network, x: network.pool(x, ceilOutDim=True, autoPadding=[True, True]), "ceilOutDim")
