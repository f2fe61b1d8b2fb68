"""Chains of layers out of CNTK's graphs: those of files that CNTK wrote (reference/README.md), and graphs made here."""

import numpy as np
import pytest
from cntk_reference import ALL, CHECKPOINT, PADDED_POOLS, PADDED_POOLS_V1, REFERENCE, TINY

from keras_alexnet.errors import UserError
from keras_alexnet.importers import chain
from keras_alexnet.importers.alexnet import match_alexnet
from keras_alexnet.importers.cntk.chain import chain_of_graph, read_cntk_chain
from keras_alexnet.importers.cntk.graph import CntkFunction, CntkVariable, make_graph
from keras_alexnet.importers.cntk.reader import read_cntk_model
from keras_alexnet.importers.weights import layer_weights
from keras_alexnet.presets import WEIGHTED, Preset

NAMES = [
    *("mean_removed_input", "conv1", "relu1", "norm1", "pool1", "conv2", "relu2", "norm2", "pool2", "conv3", "relu3"),
    *("conv4", "relu4", "conv5", "relu5", "pool5", "fc6", "relu6", "drop6", "fc7", "relu7", "drop7", "fc8"),
]
KINDS = {
    "mean": chain.Scaling,
    "conv": chain.Convolution,
    "relu": chain.Relu,
    "norm": chain.LocalResponseNorm,
    "pool": chain.MaxPool,
    "fc": chain.Dense,
    "drop": chain.Dropout,
}


def layers_of(network, kind):
    return [layer for layer in network.layers if isinstance(layer, kind)]


def parameters(network):
    layers = layers_of(network, chain.Convolution | chain.Dense)
    return [array for layer in layers for array in (layer.kernel, layer.bias)]


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_files_give_the_layers_of_alexnet(path):
    network = read_cntk_chain(path)
    kinds = [next(kind for start, kind in KINDS.items() if name.startswith(start)) for name in NAMES]
    assert [type(layer) for layer in network.layers] == kinds
    version = 1 if path == PADDED_POOLS_V1 else 2
    assert (network.path, network.kind) == (str(path), f"CNTK model (version {version})")
    assert network.image_size == (227, 227)
    assert [(layer.scale, layer.offset) for layer in layers_of(network, chain.Scaling)] == [(1, -114)]
    convolutions = layers_of(network, chain.Convolution)
    filters = [24, 48, 96, 96, 64] if path == TINY else [16, 40, 64, 72, 48]
    sizes = zip(filters, [3, *filters], [11, 5, 3, 3, 3], strict=False)
    assert [layer.kernel.shape for layer in convolutions] == [(out, into, size, size) for out, into, size in sizes]
    assert [(layer.strides, layer.groups) for layer in convolutions] == [((4, 4), 1)] + [((1, 1), 1)] * 4
    paddings = ["valid", ((2, 2), (2, 2)), *[((1, 1), (1, 1))] * 3]
    assert [layer.padding for layer in convolutions] == paddings
    norms = [(norm.size, norm.alpha, norm.beta, norm.k) for norm in layers_of(network, chain.LocalResponseNorm)]
    assert norms == [(5, 1e-4, 0.75, 1)] * 2
    pools = [(pool.window, pool.strides, pool.padding) for pool in layers_of(network, chain.MaxPool)]
    assert pools == [((3, 3), (2, 2), "valid" if path == TINY else "cntk")] * 3
    shapes = [layer.kernel.shape for layer in layers_of(network, chain.Dense)]
    assert shapes == ([(2304, 64), (64, 64), (64, 10)] if path == TINY else [(2352, 48), (48, 48), (48, 7)])
    rate = None if version == 1 else 0.5
    assert [layer.rate for layer in layers_of(network, chain.Dropout)] == [rate] * 2


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_layers_have_the_names_of_the_file(path):
    names = [layer.name for layer in read_cntk_chain(path).layers]
    if path == PADDED_POOLS_V1:
        assert names[:4] == ["mean_removed_input", "Convolution2276", "ReLU2290", "ElementTimes2320"]
    elif path == TINY:
        assert names == NAMES
    else:
        norms = ["ElementTimes2320", "ElementTimes2387"] if path == PADDED_POOLS else None
        norms = norms or ["ElementTimes5973", "ElementTimes6040"]
        assert names == [norms[int(name[-1]) - 1] if name.startswith("norm") else name for name in NAMES]


def test_weights_are_those_of_cntk():
    layers = layers_of(read_cntk_chain(TINY), chain.Convolution | chain.Dense)
    with np.load(REFERENCE / "cntk_tiny_weights.npz") as expected:
        assert len(expected.files) == 2 * len(layers)
        for layer in layers:
            kernel = expected[f"{layer.name}.W"]
            kernel = kernel if isinstance(layer, chain.Convolution) else kernel.reshape(-1, kernel.shape[-1])
            np.testing.assert_array_equal(layer.kernel, kernel, strict=True)
            np.testing.assert_array_equal(layer.bias, expected[f"{layer.name}.b"].reshape(-1), strict=True)


@pytest.mark.parametrize("path", [PADDED_POOLS_V1, CHECKPOINT], ids=lambda path: path.name)
def test_formats_and_checkpoints_give_the_same_weights(path):
    arrays = parameters(read_cntk_chain(path))
    for array, expected in zip(arrays, parameters(read_cntk_chain(PADDED_POOLS)), strict=True):
        np.testing.assert_array_equal(array, expected, strict=True)


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_weights_are_views(path):
    graph = read_cntk_model(path)
    stored = [variable.value for variable in graph.variables.values() if variable.kind == "parameter"]
    arrays = parameters(chain_of_graph(graph))
    assert len(arrays) == len(stored) == 16
    for array in arrays:
        assert sum(np.shares_memory(array, other) for other in stored) == 1


# Graphs made here.

RANDOM = np.random.default_rng(0)


def numbers(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


class Network:
    """A graph in the making; `add` and `value` give uids."""

    def __init__(self, version=2, image=(3, 9, 9)):
        self._version = version
        self.variables = [CntkVariable("image", "input", "features", image)]
        self.functions = []

    def value(self, array, kind="constant"):
        uid = f"v{len(self.variables)}"
        self.variables.append(CntkVariable(uid, kind, "W", np.shape(array), np.asarray(array)))
        return uid

    def add(self, op, *inputs, name="", blocks=(), **attributes):
        uid = f"f{len(self.functions)}"
        inputs = tuple(i if isinstance(i, str) else self.value(i) for i in inputs)
        self.functions.append(CntkFunction(uid, op, name, inputs, attributes, blocks))
        return uid

    def convolution(self, x, channels=3, filters=4, **changes):
        attributes = {
            "kernelShape": (3, 3, channels),
            "strides": (1, 1, channels),
            "autoPadding": [True, True, False],
            "lowerPad": (0,),
            "upperPad": (0,),
            "dilation": (1,),
            "sharing": [True],
            "transpose": False,
            **changes,
        }
        return self.add("Convolution", numbers(filters, channels, 3, 3), x, **attributes)

    def pool(self, x, **changes):
        attributes = {"poolingWindowShape": (3, 3), "strides": (2, 2), "autoPadding": [False], "poolingType": 0}
        attributes |= {"lowerPad": (0,), "upperPad": (0,), "ceilOutDim": False, **changes}
        return self.add("Pooling", x, **attributes)

    def dense(self, x, shape=(4, 4, 4, 5)):
        return self.add("Plus", self.add("Times", numbers(*shape), x, outputRank=1), numbers(shape[-1]))

    def graph(self, *roots):
        return make_graph("made.model", self._version, self.variables, self.functions, roots)

    def chain(self, *roots):
        return chain_of_graph(self.graph(*roots))


def layers_between(add, version=2, image=(3, 9, 9)):
    """The layers of an image, what `add(network, uid)` adds after it, and a dense layer."""
    network = Network(version, image)
    return network.chain(network.dense(add(network, "image"))).layers[:-1]


def refused(add, *messages, **changes):
    with pytest.raises(UserError) as error:
        layers_between(add, **changes)
    assert str(error.value).startswith("made.model: ")
    assert "Expected" in str(error.value)
    for message in messages:
        assert message in str(error.value)


COLOURS = np.float32([[[104]], [[117]], [[123]]])
CONSTANT_IMAGE = np.broadcast_to(COLOURS, (3, 9, 9))


@pytest.mark.parametrize(
    ("op", "inputs", "scale", "offset"),
    [
        ("Minus", ["image", 114.0], 1, -114),
        ("Minus", ["image", np.full((1, 1), 114.0)], 1, -114),
        ("Minus", ["image", COLOURS], 1, (-104, -117, -123)),
        ("Minus", ["image", CONSTANT_IMAGE], 1, (-104, -117, -123)),
        ("Minus", ["image", np.full((9, 9), 7.0)], 1, -7),
        ("Minus", [255.0, "image"], -1, 255),
        ("Plus", ["image", -114.0], 1, -114),
        ("Plus", [-COLOURS, "image"], 1, (-104, -117, -123)),
        ("ElementTimes", ["image", 0.5], 0.5, 0),
        ("ElementTimes", [COLOURS, "image"], (104, 117, 123), 0),
        ("Negate", ["image"], -1, 0),
        ("PerDimMeanVarNormalization", ["image", COLOURS, 0.5], 0.5, (-52, -58.5, -61.5)),
    ],
)
def test_arithmetic_on_pixels_is_a_scaling(op, inputs, scale, offset):
    (layer,) = layers_between(lambda network, x: network.add(op, *inputs))
    assert isinstance(layer, chain.Scaling)
    assert np.shape(layer.scale) == np.shape(scale)
    assert np.shape(layer.offset) == np.shape(offset)
    np.testing.assert_array_equal(layer.scale, scale)
    np.testing.assert_array_equal(layer.offset, offset)


def test_scalings_come_one_after_the_other():
    scalings = layers_between(lambda network, x: network.add("ElementTimes", network.add("Minus", x, 114.0), 0.25))
    assert [(layer.scale, layer.offset) for layer in scalings] == [(1, -114), (0.25, 0)]


def test_images_of_means_are_refused():
    refused(lambda network, x: network.add("Minus", x, numbers(3, 9, 9)), "'f0'", "mean image", "a channel")
    refused(lambda network, x: network.add("Minus", x, numbers(3, 8, 8)), "(3, 8, 8)")
    refused(lambda network, x: network.add("Minus", x, x), "numbers alone")


def test_scalings_of_layers_are_refused():
    refused(lambda network, x: network.add("ElementTimes", network.add("ReLU", x), 2.0), "ElementTimes 'f1'", "made")


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


def test_layers_without_biases():
    network = Network()
    x = network.add("Times", numbers(4, 4, 4, 5), network.convolution("image"), outputRank=1)
    convolution, dense = network.chain(x).layers
    assert convolution.bias is None
    assert dense.bias is None
    assert dense.kernel.shape == (64, 5)


@pytest.mark.parametrize("shape", [(5,), (1, 5), (1,)])
def test_biases_of_dense_layers(shape):
    network, bias = Network(), numbers(*shape)
    x = network.add("Plus", bias, network.add("Times", numbers(243, 5), "image"))
    (dense,) = network.chain(x).layers
    np.testing.assert_array_equal(dense.bias, np.broadcast_to(bias.reshape(-1), 5))


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


def grouped(add, channels=4):
    """The layers of an image of so many channels, what `add(network, uid)` adds after it, and a dense layer."""
    return layers_between(add, image=(channels, 9, 9))


def refused_slices(*messages, channels=4, **changes):
    refused(lambda network, x: convolved_slices(network, x, **changes), *messages, image=(channels, 9, 9))


@pytest.mark.parametrize("axis", [2, -1])
@pytest.mark.parametrize("ranges", [((0, 2), (2, 4)), ((0, -2), (-2, 0)), ((-4, 2), (2, 4))])
def test_convolutions_of_slices_are_one_in_groups(ranges, axis):
    bias, weights = numbers(6, 1, 1), []

    def add(network, x):
        x = convolved_slices(network, x, ranges, axis=axis)
        weights.extend(v.value for v in network.variables if v.kind == "constant")
        return network.add("ReLU", network.add("Plus", x, bias))

    convolution, relu = grouped(add)
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

    (convolution,) = grouped(add, 6)
    assert (convolution.groups, convolution.bias) == (3, None)
    np.testing.assert_array_equal(convolution.kernel, np.concatenate([weights[i] for i in (1, 2, 0)]))


@pytest.mark.parametrize(
    ("channels", "ranges", "order", "messages"),
    [
        (4, ((0, 2), (2, 4)), (1, 0), ["Slice 'f2' takes channels 2 to 4 of 4", "should be 0 to 2"]),
        (4, ((0, 2), (1, 3)), None, ["Slice 'f2' takes channels 1 to 3 of 4", "should be 2 to 4"]),
        (4, ((0, 2), (0, 2)), None, ["Slice 'f2' takes channels 0 to 2 of 4"]),
        (4, ((0, 1), (1, 4)), None, ["Slice 'f0' takes channels 0 to 1 of 4"]),
        (4, ((0, 2), (2, 9)), None, ["Slice 'f2' takes channels 2 to 9 of 4"]),
        (6, ((0, 2), (4, 6)), None, ["Slice 'f0' takes channels 0 to 2 of 6", "should be 0 to 3"]),
        (4, ((0, 2),), None, ["Slice 'f0' takes channels 0 to 2 of 4", "should be 0 to 4"]),
        (4, ((0, 2), (2, 4)), (0, 0, 1), ["Splice 'f4' joins 3 results"]),
        (5, ((0, 2), (2, 4)), None, ["Splice 'f4' joins 2 convolutions of slices of 5 channels"]),
        (1, ((0, 1), (0, 1)), None, ["Splice 'f4' joins 2 convolutions of slices of 1 channels"]),
        (-1, ((0, 2), (2, 4)), None, ["Splice 'f4'", "-1 channels"]),
        (4, ((0, 2), (2, None)), None, ["Slice 'f2' has beginIndex and endIndex [2, None]"]),
        (4, ((0, 2), (2.0, 4)), None, ["Slice 'f2' has beginIndex and endIndex [2.0, 4]"]),
    ],
)
def test_other_slices_than_equal_ones_in_order_are_refused(channels, ranges, order, messages):
    refused_slices(*messages, channels=channels, ranges=ranges, order=order)


@pytest.mark.parametrize("axis", [0, 1, -3, None, "defaultBatchAxis", (2,)])
def test_slices_of_other_axes_are_refused(axis):
    refused_slices("Splice 'f4'", f"axis {axis}", axis=axis)


def test_unusual_slices_are_refused():
    def add(network, x, **attributes):
        parts = [
            network.add("Slice", x, **{"axis": 2, "beginIndex": i, "endIndex": i + 2} | attributes) for i in (0, 2)
        ]
        return network.add("Splice", *(network.convolution(part, 2) for part in parts), axis=2)

    refused(lambda network, x: add(network, x, axis=1), "Slice 'f0'", "axis 1", image=(4, 9, 9))
    refused(lambda network, x: add(network, x, sliceStrides=2), "Slice 'f0'", "sliceStrides", image=(4, 9, 9))
    flat = {"newShape": (9, 9, 4)}
    refused(lambda network, x: add(network, network.add("Reshape", x, **flat)), "Slice 'f1'", "after a Reshape")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"filters": 4}, "Convolution 'f3' has weights, strides and padding of ((4, 2, 3, 3)"),
        ({"strides": (2, 2, 2), "autoPadding": [False]}, "Convolution 'f3' has weights, strides and padding of"),
        ({"autoPadding": [False]}, "Convolution 'f3' has weights, strides and padding of"),
        ({"channels": 3}, "Convolution 'f3' has weights of (3, 3, 3, 3) for a slice of 2 channels"),
        ({"groups": 2}, "Convolution 'f3' has groups 2"),
        ({"dilation": (2, 2, 1)}, "Convolution 'f3' has dilation"),
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
    def sliced(network, x, begin=0):
        return network.add("Slice", x, axis=2, beginIndex=begin, endIndex=begin + 2)

    def with_all(network, x):
        return network.add("Splice", network.convolution(sliced(network, x), 2), network.convolution(x, 4), axis=2)

    def alone(network, x):
        return network.convolution(sliced(network, x), 2)

    def of_two(network, x):
        return network.add("Splice", sliced(network, x), sliced(network, x, 2), axis=2)

    def with_biases(network, x):
        parts = [network.convolution(sliced(network, x, begin), 2) for begin in (0, 2)]
        return network.add("Splice", *(network.add("Plus", part, numbers(4, 1, 1)) for part in parts), axis=2)

    def twice(network, x):
        part = sliced(network, x)
        return network.add("Splice", network.convolution(part, 2), network.convolution(part, 2), axis=2)

    def in_two(network, x):
        parts = [network.convolution(sliced(network, x, begin), 2) for begin in (0, 2)]
        return network.add("Plus", *(network.add("Splice", part, axis=2) for part in parts))

    def with_another(network, x):
        parts = [network.convolution(sliced(network, x, begin), 2) for begin in (0, 2)]
        return network.add("Splice", *parts, numbers(4, 9, 9), axis=2)

    def of_shared_weights(network, x):
        weights = network.value(numbers(4, 2, 3, 3))
        attributes = {"kernelShape": (3, 3, 2), "autoPadding": [False]}
        parts = [network.add("Convolution", weights, sliced(network, x, begin), **attributes) for begin in (0, 2)]
        return network.add("Splice", *parts, axis=2)

    def of_slices_as_weights(network, x):
        return network.add("Splice", network.add("Convolution", sliced(network, x), sliced(network, x)), axis=2)

    for add, *messages in [
        (with_all, "Convolution 'f2' takes all channels of what a Slice takes some of"),
        (alone, "Convolution 'f1' is followed by Times 'f2', not by one Splice alone"),
        (of_two, "Slice 'f0' is followed by Splice 'f2', not by one Convolution alone"),
        (with_biases, "Convolution 'f1' is followed by Plus 'f4', not by one Splice alone"),
        (twice, "Slice 'f0' is followed by Convolution 'f1', Convolution 'f2', not by one Convolution alone"),
        (in_two, "Splice 'f5' and Splice 'f4' each join some"),
        (with_another, "Splice 'f4' joins 3 results"),
        (of_shared_weights, "Convolution 'f3' has the same weights as another convolution beside it"),
        (of_slices_as_weights, "Convolution 'f2' does not take weights"),
        (lambda network, x: network.add("Slice", x, 1.0), "Slice 'f0' does not take what the layer before it gives"),
    ]:
        refused(add, *messages, image=(4, 9, 9))


def alexnet_of_caffe(network, classes=7):
    """An AlexNet as CNTK's converter of Caffe's models writes it, narrow; the uid of its probabilities."""

    def block(name, op):
        return (name,)

    def convolution(x, name, inputs, filters, size, stride=1, pad=True, groups=1):
        blocks, parts, each = block(name, "Convolution"), [], inputs // groups
        for i in range(groups):
            part = x
            if groups > 1:
                part = network.add("Slice", x, axis=2, beginIndex=i * each, endIndex=(i + 1) * each, blocks=blocks)
            attributes = {
                "kernelShape": (size, size, each),
                "strides": (stride, stride, -1),
                "autoPadding": [pad, pad, False],
                "blocks": blocks,
            }
            parts.append(network.add("Convolution", numbers(filters // groups, each, size, size), part, **attributes))
        x = network.add("Splice", *parts, axis=2, blocks=blocks) if groups > 1 else parts[0]
        x = network.add("Plus", x, numbers(filters, 1, 1), blocks=blocks)
        return network.add("ReLU", x, name=name.replace("conv", "relu"))

    def pool(x, name):
        return network.pool(x, ceilOutDim=True, name=name)

    x = pool(normalized(network, convolution("image", "conv1", 3, 16, 11, 4, pad=False)), "pool1")
    x = pool(normalized(network, convolution(x, "conv2", 16, 24, 5, groups=2)), "pool2")
    x = convolution(x, "conv3", 24, 32, 3)
    x = convolution(x, "conv4", 32, 40, 3, groups=2)
    x = pool(convolution(x, "conv5", 40, 8, 3, groups=2), "pool5")
    for name, shape in [("fc6", (8, 6, 6, 20)), ("fc7", (20, 20)), ("fc8", (20, classes))]:
        blocks = block(name, "linear")
        x = network.add("Times", numbers(*shape), x, outputRank=1, inferInputRankToMap=-1, blocks=blocks)
        x = network.add("Plus", x, numbers(shape[-1]), blocks=blocks)
        if name != "fc8":
            x = network.add("Dropout", network.add("ReLU", x, name=name.replace("fc", "relu")), dropoutRate=0.5)
    return network.add("Softmax", x, name="prob")


def test_alexnets_that_were_converted_from_caffe():
    network = Network(image=(3, 227, 227))
    found = match_alexnet(network.chain(alexnet_of_caffe(network)))
    expected = Preset(
        filters=(16, 24, 32, 40, 8),
        dense_units=20,
        image_size=227,
        conv1_padding=0,
        normalization="before_pool",
        pool_padding="caffe",
    )
    assert (found.preset, found.num_classes, found.scalings) == (expected, 7, ())
    names = {name: layer.name for name, layer in found.sources.items()}
    assert names == {name: name for name in WEIGHTED}
    convolutions = list(found.sources.values())[:5]
    assert [layer.groups for layer in convolutions] == [1, 2, 1, 2, 2]
    assert [layer.kernel.shape[1] for layer in convolutions] == [3, 8, 24, 16, 20]
    arrays = {name: layer_weights(found, "bgr", name) for name in found.sources}
    # Nothing goes from one group to the other.
    kernel = arrays["conv2"][0]
    assert kernel.shape == (5, 5, 16, 24)
    assert not kernel[:, :, :8, 12:].any()
    assert not kernel[:, :, 8:, :12].any()
    parts = [variable.value for variable in network.variables if variable.shape == (12, 8, 5, 5)]
    np.testing.assert_array_equal(kernel[:, :, :8, :12], parts[0].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(kernel[:, :, 8:, 12:], parts[1].transpose(2, 3, 1, 0))


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
        ("kernelShape", (3, 3, 1)),
        ("kernelShape", (3, 3, 3, 1)),
        ("autoPadding", [True, True, True]),
        ("lowerPad", (0, 0, 1)),
        ("strides", (0, 0, 1)),
        ("strides", (-1, 1, 1)),
        ("strides", (1, 1, -3)),
        ("strides", ()),
        ("strides", "1"),
        ("strides", None),
        ("upperPad", (-1, 0, 0)),
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
        ("poolingType", None),
        ("poolingWindowShape", (3, 3, 3)),
        ("poolingWindowShape", (-2,)),
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


def test_reshaped_images_and_matrices_are_dense_layers():
    """As BrainScript writes them."""
    network = Network(version=1)
    kernel, bias = numbers(243, 5), numbers(1, 5)
    x = network.add("Reshape", "image", beginAxis=0, endAxis=-1, newShape=(243,))
    x = network.add("Plus", network.add("Times", kernel, x, outputRank=1, inferInputRankToMap=-1), bias)
    x = network.add("Dropout", network.add("ReLU", x, name="h1"), rngSeed=1)
    (dense, relu, dropout, last) = network.chain(network.dense(x, (5, 2))).layers
    np.testing.assert_array_equal(dense.kernel, kernel)
    np.testing.assert_array_equal(dense.bias, bias[0])
    assert (relu.name, dropout.rate, last.kernel.shape) == ("h1", None, (5, 2))


def test_images_after_a_reshape_are_refused():
    def reshaped(network, x):
        return network.add("Reshape", x, newShape=(9, 9, 3))

    refused(lambda network, x: network.convolution(reshaped(network, x)), "comes after a Reshape")
    refused(lambda network, x: network.pool(reshaped(network, x)), "comes after a Reshape")
    refused(lambda network, x: normalized(network, reshaped(network, x)), "comes after a Reshape")


@pytest.mark.parametrize("attributes", [{"outputRank": 2}, {"inferInputRankToMap": 1}, {"inferInputRankToMap": -2}])
def test_products_that_leave_axes_are_refused(attributes):
    refused(lambda network, x: network.add("Times", numbers(243, 5), x, **attributes), "Times 'f0'", *attributes)


def test_numbers_are_float32():
    network = Network()
    x = network.add("Plus", network.convolution("image"), np.ones((4, 1, 1)))
    x = network.add("Plus", network.add("Times", np.ones((4, 4, 4, 5)), x), np.ones(5))
    assert {array.dtype for array in parameters(network.chain(x))} == {np.dtype("float32")}
    # What is beyond float32 becomes infinite, which `match_alexnet` refuses.
    (dense,) = layers_between(lambda network, x: network.add("Times", np.full((243, 5), 1e300), x))
    assert np.isinf(dense.kernel).all()


# Local response normalization.


def window_sum(network, x, weights, **changes):
    """Of neighbouring channels, as CNTK's layers library writes it."""
    attributes = {"kernelShape": (1, 1, len(weights), 1), "strides": (1, 1, 1, 1), "autoPadding": [True] * 4}
    attributes |= {"lowerPad": (0, 0, 0, 0), "upperPad": (0, 0, 0, 0), **changes}
    x = network.add("Reshape", x, beginAxis=2, endAxis=3, newShape=(-1, 1))
    x = network.add("Convolution", np.float32(weights).reshape(1, -1, 1, 1), x, **attributes)
    return network.add("Reshape", x, beginAxis=2, endAxis=4, newShape=(-1,))


def normalized(network, x, size=5, alpha=1e-4, beta=0.75, k=1.0, **changes):
    square = network.add("ElementTimes", x, x)
    weights = changes.pop("weights", [alpha / size] * size)
    base = network.add("Plus", np.float32(k), window_sum(network, square, weights, **changes))
    power = network.add("Exp", network.add("ElementTimes", np.float32(beta), network.add("Log", base)))
    return network.add("ElementTimes", x, network.add("Reciprocal", power))


def normalized_by_powers(network, x, size, alpha, beta, k):
    base = network.add("Plus", window_sum(network, network.add("Pow", x, 2.0), [alpha / size] * size), k)
    return network.add("ElementTimes", network.add("Pow", base, np.full((1, 1), -beta)), x)


def normalized_by_others(network, x, size, alpha, beta, k):
    """With alpha behind the sum, k taken off, and the exponent negated; the axes of one length in BrainScript's way."""
    changes = {"kernelShape": (1, 1, size), "strides": (1,), "autoPadding": [True]}
    total = window_sum(network, network.add("Pass", network.add("Pow", x, 2.0)), [1] * size, **changes)
    base = network.add("Minus", network.add("ElementTimes", total, alpha / size), np.full((1, 1, 1), -k))
    exponent = network.add("Negate", network.add("ElementTimes", network.add("Log", base), beta))
    return network.add("ElementTimes", network.add("Exp", exponent), x)


LRN = (5, 1e-4, 0.75, 1)


@pytest.mark.parametrize("compose", [normalized, normalized_by_powers, normalized_by_others])
def test_normalizations_are_recognized_by_what_they_compute(compose):
    def add(network, x):
        return compose(network, network.add("ReLU", x), *LRN)

    relu, norm = layers_between(add, image=(16, 9, 9))
    assert isinstance(relu, chain.Relu)
    assert (norm.size, norm.alpha, norm.beta, norm.k) == LRN


@pytest.mark.parametrize("compose", [normalized, normalized_by_powers, normalized_by_others])
@pytest.mark.parametrize(
    "constants", [(3, 1e-4, 0.75, 1), (5, 1.01e-4, 0.75, 1), (5, 1e-4, 0.7501, 1), (5, 1e-4, 0.75, 1.0001)]
)
def test_normalizations_with_other_constants_are_refused(compose, constants):
    refused(lambda network, x: compose(network, x, *constants), "not those of size 5, alpha 0", image=(16, 9, 9))


def test_normalizations_of_few_channels():
    (norm,) = layers_between(lambda network, x: normalized(network, x))
    assert (norm.size, norm.alpha) == (5, 1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"autoPadding": [False] * 4, "lowerPad": (0, 0, 4, 0)},
        {"weights": [1e-4] * 4},
        {"weights": [1e-4, 2e-4, 1e-4]},
        {"alpha": -1e-4},
        {"alpha": 0},
        {"beta": -0.75},
        {"k": -1},
        {"k": 0},
        {"size": 101},
        {"strides": (1, 1, 2, 1)},
        {"kernelShape": (5, 1, 1, 1)},
        {"kernelShape": (1, 1, 3, 1)},
    ],
    ids=str,
)
def test_what_is_no_normalization_is_refused(changes):
    def add(network, x):
        return normalized(network, x, **changes)

    refused(add, "ElementTimes 'f9'", "'image'", "something other than AlexNet's local response", image=(16, 9, 9))


@pytest.mark.parametrize("name", ["transpose", "sequential", "dilation", "groups"])
def test_unusual_convolutions_in_normalizations_are_refused(name):
    value = True if name in ("transpose", "sequential") else 2 if name == "groups" else (1, 1, 2, 1)
    refused(lambda network, x: normalized(network, x, **{name: value}), "Convolution", name)


def test_other_branches_are_refused():
    def residual(network, x):
        x = network.add("ReLU", x)
        return network.add("Plus", x, network.add("ReLU", network.convolution(x)))

    def cubed(network, x):
        return network.add("ElementTimes", x, network.add("ElementTimes", x, x))

    def with_labels(network, x):
        network.variables.append(CntkVariable("labels", "input", "", (7,)))
        return network.add("ElementTimes", x, network.add("Plus", x, "labels"))

    def with_learned_array(network, x):
        return network.add("ElementTimes", x, network.add("Plus", x, numbers(30, 90, 9)))

    def before_the_bias(network, x):
        x = network.convolution(x)
        return network.add("Plus", network.add("Plus", x, numbers(4, 1, 1)), network.add("ReLU", x))

    def larger(network, x):
        return network.add("Plus", x, network.add("Reshape", x, newShape=(1, 1, 1, -1)))

    refused(before_the_bias, "Plus 'f3'", "ReLU 'f2'", "branches from 'f0' meet")
    refused(larger, "Plus 'f1' gives more numbers")
    refused(residual, "Plus 'f3'", "Convolution 'f1'", "branches from 'f0' meet")
    refused(cubed, "ElementTimes 'f1'")
    refused(with_labels, "'labels'")
    refused(with_learned_array, "not a constant")
    refused(lambda network, x: network.add("Plus", x, network.add("Sigmoid", x)), "Sigmoid 'f0'")
    refused(lambda network, x: network.add("Pow", network.add("Exp", x), x), "Pow 'f1'")
    refused(lambda network, x: network.add("Plus", x, network.add("Reshape", x, newShape=(7,))), "Reshape 'f0'")
    refused(lambda network, x: network.add("Plus", x, network.add("Reshape", x, newShape=9)), "unknown axes")


def test_ladders_take_no_more_time_than_lines():
    """There are 2 ** 3000 ways from the image to the end."""

    def add(network, x):
        before = x
        for _ in range(3000):
            before, x = x, network.add("Plus", x, before)
        return x

    refused(add, "something other")
    network = Network()
    logits = network.dense("image")
    network.variables.append(CntkVariable("labels", "input", "", (5,)))
    loss = network.add("CrossEntropyWithSoftmax", "labels", logits)
    assert len(network.chain(logits, add(network, loss)).layers) == 1


# The ends.


@pytest.mark.parametrize("op", ["BatchNormalization", "Sigmoid", "Softmax", "op 123"])
def test_other_operations_are_refused(op):
    refused(lambda network, x: network.add(op, x, name="odd"), f"{op} 'f0' (odd)", "AlexNet", "convert another")


@pytest.mark.parametrize("op", ["ReLU", "Pooling", "Dropout", "Reshape", "Pass"])
def test_operations_with_more_inputs_than_they_have_are_refused(op):
    refused(lambda network, x: network.add(op, x, 1.0), f"{op} 'f0'", "nothing else")


def test_sums_of_nothing_but_the_image_are_refused():
    refused(lambda network, x: network.add("Plus", network.convolution(x), network.convolution(x)), "Plus 'f2'")


def test_identities_are_left_out():
    assert layers_between(lambda network, x: network.add("Pass", network.add("StopGradient", x))) == ()


def test_losses_and_metrics_are_left_out_and_a_softmax_is_not():
    network = Network()
    network.variables.insert(0, CntkVariable("labels", "input", "", (5,)))
    logits = network.dense("image")
    loss = network.add("CrossEntropyWithSoftmax", "labels", logits)
    metric = network.add("ClassificationError", "labels", logits)
    log_softmax = network.add("LogSoftmax", logits)
    weighted = network.add("Times", numbers(5, 1), network.add("ElementTimes", "labels", log_softmax))
    probabilities = network.add("Softmax", network.add("Pass", logits), name="probabilities")
    for roots in [(logits,), (loss, metric, weighted), (log_softmax, logits, loss)]:
        (dense,) = network.chain(*roots).layers
        assert isinstance(dense, chain.Dense)
    for roots in [(probabilities,), (loss, logits, network.add("Pass", probabilities))]:
        (dense, softmax) = network.chain(*roots).layers
        assert isinstance(softmax, chain.Softmax)
        assert softmax.name == "probabilities"


@pytest.mark.parametrize("op", ["ReLU", "Exp", "Softmax"])
def test_functions_of_the_logits_are_refused(op):
    for last, *operand in [("Softmax",), ("ElementTimes", 2.0)]:
        network = Network()
        network.variables.append(CntkVariable("labels", "input", "", (5,)))
        root = network.add(last, network.add(op, network.dense("image")), *operand)
        with pytest.raises(UserError, match="comes after the last dense layer with weights, 'f1'"):
            network.chain(root, network.add("CrossEntropyWithSoftmax", "labels", root))


def test_two_ends_are_refused():
    network = Network()
    roots = network.dense("image", (243, 5)), network.dense("image", (243, 7))
    with pytest.raises(UserError, match="Times 'f0' and Times 'f2' are both dense layers that no other follows"):
        network.chain(*roots)


def test_networks_without_an_image_are_refused():
    network = Network(image=(3,))
    with pytest.raises(UserError, match=r"made\.model has no input of three axes, but \(3,\)\. Expected images"):
        network.chain(network.dense("image", (3, 5)))


def test_networks_of_two_images_are_refused():
    network = Network()
    network.variables.append(CntkVariable("other", "input", "", (3, 9, 9)))
    with pytest.raises(UserError, match="from 2 images"):
        network.chain(network.dense(network.add("Plus", "image", "other")))


def test_networks_without_dense_layers_are_refused():
    network = Network()
    with pytest.raises(UserError, match="has no dense layer"):
        network.chain(network.convolution("image"))


def test_second_inputs_are_refused():
    def add(network, x):
        network.variables.append(CntkVariable("noise", "input", "", (1,)))
        return network.add("Plus", network.convolution(x), "noise")

    refused(add, "Plus 'f1'")


def test_sizes_that_are_not_known():
    network = Network(image=(3, -1, -3))
    assert network.chain(network.dense("image")).image_size is None


def test_the_innermost_block_with_a_name_names_a_layer():
    network = Network()
    blocks = ("alexnet", "relu1", "")
    relu, _ = network.chain(network.dense(network.add("ReLU", "image", name="x", blocks=blocks))).layers
    assert relu.name == "relu1"


def test_dropout_rates_are_checked():
    refused(lambda network, x: network.add("Dropout", x, dropoutRate=1.0), "Dropout 'f0'", "dropoutRate 1.0")
