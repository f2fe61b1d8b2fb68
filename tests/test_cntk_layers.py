"""Convolutions, pools and local response normalization of CNTK's graphs."""

import numpy as np
import pytest
from cntk_graphs import layers_between, normalized, numbers, refused


def test_biases_of_convolutions():
    for shape in [(4, 1, 1), (1, 4, 1, 1), ()]:
        bias = np.float32(numbers(*shape))
        (layer,) = layers_between(lambda network, x, bias=bias: network.add("Plus", bias, network.convolution(x)))
        np.testing.assert_array_equal(layer.bias, np.broadcast_to(bias.reshape(-1), 4))
    for shape in [(4,), (4, 9, 9), (5, 1, 1)]:
        bias = numbers(*shape)
        refused(lambda network, x, bias=bias: network.add("Plus", network.convolution(x), bias), "'f1'", str(shape))


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


def test_unusual_windows_are_refused():
    for name, changes in (
        ("transpose", {"transpose": True}),
        ("sequential", {"sequential": True}),
        ("ceilOutDim", {"ceilOutDim": True}),
        ("dilation", {"dilation": (2, 2, 1)}),
        ("sharing", {"sharing": [False]}),
        ("imageLayout", {"imageLayout": 0}),
        ("kernelShape", {"kernelShape": (5, 5, 3)}),
        ("autoPadding", {"autoPadding": [True] * 3, "strides": (1, 1, 1)}),
        ("autoPadding", {"autoPadding": [True, False, False], "strides": (2, 2, 3)}),
        ("strides", {"strides": (0, 0, 1)}),
    ):
        refused(lambda network, x, own=changes: network.convolution(x, **own), "Convolution 'f0'", name)
    for changes in (
        {"poolingType": 1},
        {"imageLayout": 0},
        {"poolingWindowShape": (3, 3, 3)},
        {"strides": (2, 2, 2)},
        {"lowerPad": (0, 0, 1)},
        {"ceilOutDim": True, "autoPadding": [True, True]},
    ):
        refused(lambda network, x, own=changes: network.pool(x, **own), "Pooling 'f0'")


# Groups, as convolutions of slices.


def convolved_slices(network, x, ranges=((0, 2), (2, 4)), order=None, own=None, **slicing):
    """As CNTK's converter of Caffe's models writes them.

    Args:
        ranges: of the channels of each slice.
        order: in which the results are joined.
        own: settings of the second convolution alone.
        slicing: attributes of the slices.
    """
    results = []
    for begin, end in ranges:
        part = network.add("Slice", x, **{"axis": 2, "beginIndex": begin, "endIndex": end} | slicing)
        settings = {"channels": 2, "filters": 3, "strides": (1, 1, -1)} | (own or {} if results else {})
        results.append(network.convolution(part, **settings))
    return network.add("Splice", *(results[i] for i in order or range(len(results))), axis=slicing.get("axis", 2))


@pytest.mark.parametrize("axis", [2, -1])
def test_convolutions_of_slices_are_one_in_groups_in_the_order_of_the_splice(axis):
    bias, weights = numbers(9, 1, 1), []

    def add(network, x):
        x = convolved_slices(network, x, ((4, 6), (0, 2), (2, 4)), order=(1, 2, 0), axis=axis)
        weights.extend(v.value for v in network.variables if v.kind == "constant")
        return network.add("Plus", x, bias)

    (layer,) = layers_between(add, image=(6, 9, 9))
    assert (layer.name, layer.groups, layer.strides, layer.padding) == ("f6", 3, (1, 1), ((1, 1), (1, 1)))
    np.testing.assert_array_equal(layer.kernel, np.concatenate([weights[i] for i in (1, 2, 0)]), strict=True)
    np.testing.assert_array_equal(layer.bias, bias.reshape(-1), strict=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": (1, 0)}, "Slice 'f2' takes channels (2, 4), where by its place they should be 0 to 2"),
        ({"ranges": ((0, 2), (1, 3))}, "Slice 'f2' takes channels (1, 3)"),
        ({"order": (0, 0, 1)}, "Splice 'f4' does not join just the convolutions of the 2 slices of 'image'"),
        ({"ranges": ((0, 2), (2, 4), (4, 6))}, "joins 3 convolutions of slices of 4 channels"),
        ({"axis": 1}, "Splice 'f4' has axis 1"),
        ({"sliceStrides": 2}, "Slice 'f0' has sliceStrides 2"),
        ({"own": {"filters": 4}}, "Convolution 'f3' has weights, strides and padding of ((4, 2, 3, 3)"),
        (
            # Padded as the first one, so that only the strides differ.
            {"own": {"strides": (2, 2, 2), "autoPadding": [False], "lowerPad": (1, 1, 0), "upperPad": (1, 1, 0)}},
            "Convolution 'f3' has weights, strides and padding of",
        ),
        ({"own": {"autoPadding": [False]}}, "Convolution 'f3' has weights, strides and padding of"),
        ({"own": {"groups": 2}}, "Convolution 'f3' has groups 2"),
    ],
)
def test_other_slices_than_equal_ones_in_order_are_refused(changes, message):
    refused(lambda network, x: convolved_slices(network, x, **changes), message, image=(4, 9, 9))


def test_slices_of_which_something_else_is_made_are_refused():
    def sliced(network, *inputs, begin=0):
        return network.add("Slice", *inputs, axis=2, beginIndex=begin, endIndex=begin + 2)

    def with_all(network, x):
        parts = [network.convolution(sliced(network, x), 2), network.convolution(network.add("ReLU", x), 4)]
        return network.add("Splice", *parts, axis=2)

    def of_two_inputs(network, x):
        parts = [network.convolution(sliced(network, *inputs), 2) for inputs in ([x], [x, numbers(1)])]
        return network.add("Splice", *parts, axis=2)

    def with_biases(network, x):
        parts = [network.convolution(sliced(network, x, begin=begin), 2) for begin in (0, 2)]
        return network.add("Splice", *(network.add("Plus", part, numbers(4, 1, 1)) for part in parts), axis=2)

    def of_shared_weights(network, x):
        weights = network.value(numbers(4, 2, 3, 3))
        parts = [network.add("Convolution", weights, sliced(network, x, begin=begin)) for begin in (0, 2)]
        return network.add("Splice", *parts, axis=2)

    for add, message in (
        (with_all, "ReLU 'f2' takes 'image', of which another function is a Slice"),
        (of_two_inputs, "Slice 'f2' takes 'image', of which another function is a Slice"),
        (with_biases, "Convolution 'f1' is followed by Plus 'f4', not only by one Splice"),
        (of_shared_weights, "Splice 'f4' joins convolutions with the same weights"),
    ):
        refused(add, message, image=(4, 9, 9))


# Local response normalization.


def test_normalizations_have_their_constants():
    for constants in [(5, 1e-4, 0.75, 1), (5, 5e-4, 0.75, 2), (3, 1.01e-3, 0.5, 1)]:
        (norm,) = layers_between(lambda network, x, own=constants: normalized(network, x, *own))
        assert (norm.size, norm.alpha, norm.beta, norm.k) == constants
    # As BrainScript writes it.
    changes = {"kernelShape": (1, 1, 5), "strides": (1,), "autoPadding": [True], "lowerPad": (0,), "upperPad": (0,)}
    (norm,) = layers_between(lambda network, x: normalized(network, x, **changes))
    assert (norm.size, norm.alpha) == (5, 1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"autoPadding": [False] * 4},
        {"weights": [1e-4] * 4},
        {"weights": [1e-4, 2e-4, 1e-4]},
        {"strides": (1, 1, 2, 1)},
        {"kernelShape": (5, 1, 1, 1)},
        {"k": numbers(3, 1, 1)},
    ],
    ids=range(6),
)
def test_other_windows_and_constants_of_normalizations_are_refused(changes):
    message = "its window, k or beta are not constants"
    refused(lambda network, x: normalized(network, x, **changes), "ElementTimes 'f9'", message)


def test_unusual_convolutions_in_normalizations_are_refused():
    for changes in ({"transpose": True}, {"dilation": (1, 1, 2, 1)}, {"groups": 2}):
        (name,) = changes
        refused(lambda network, x, own=changes: normalized(network, x, **own), "Convolution 'f2'", name)


def test_other_branches_are_refused():
    def residual(network, x):
        x = network.add("ReLU", x)
        return network.add("Plus", x, network.add("ReLU", network.convolution(x)))

    def cubed(network, x):
        return network.add("ElementTimes", x, network.add("ElementTimes", x, x))

    def of_rows(network, x):
        norm = normalized(network, x)
        for function in network.functions:
            if function.op == "Reshape":
                function.attributes["beginAxis"] = 1
        return norm

    def of_another(network, x):
        """Divides something else by it."""
        normalized(network, x)
        network.functions.pop()
        return network.add("ElementTimes", network.add("ReLU", x), "f8")

    refused(residual, "belongs to branches from 'f0' that are not local response normalization", "of its squares")
    refused(cubed, "they are ElementTimes ElementTimes, not ElementTimes Reshape")
    refused(of_rows, "'f1' does not reshape just the channels")
    refused(of_another, "they do not multiply it by a function of its squares")
