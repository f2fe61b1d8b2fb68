"""Chains of layers out of CNTK's graphs: those of files that CNTK wrote (reference/README.md), and graphs made here."""

import numpy as np
import pytest
from cntk_graphs import Network, layers_between, normalized, numbers, refused
from cntk_reference import ALL, CHECKPOINT, PADDED_POOLS, PADDED_POOLS_V1, REFERENCE, TINY

from keras_alexnet.errors import UserError
from keras_alexnet.importers import chain
from keras_alexnet.importers.alexnet import match_alexnet
from keras_alexnet.importers.cntk.chain import chain_of_graph, read_cntk_chain
from keras_alexnet.importers.cntk.graph import CntkVariable
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


COLORS = np.float32([[[104]], [[117]], [[123]]])
CONSTANT_IMAGE = np.broadcast_to(COLORS, (3, 9, 9))


@pytest.mark.parametrize(
    ("op", "inputs", "scale", "offset"),
    [
        ("Minus", ["image", 114.0], 1, -114),
        ("Minus", ["image", np.full((1, 1), 114.0)], 1, -114),
        ("Minus", ["image", COLORS], 1, (-104, -117, -123)),
        ("Minus", ["image", CONSTANT_IMAGE], 1, (-104, -117, -123)),
        ("Minus", ["image", np.full((9, 9), 7.0)], 1, -7),
        ("Minus", [255.0, "image"], -1, 255),
        ("Plus", ["image", -114.0], 1, -114),
        ("Plus", [-COLORS, "image"], 1, (-104, -117, -123)),
        ("ElementTimes", ["image", 0.5], 0.5, 0),
        ("ElementTimes", [COLORS, "image"], (104, 117, 123), 0),
        ("Negate", ["image"], -1, 0),
        ("PerDimMeanVarNormalization", ["image", COLORS, 0.5], 0.5, (-52, -58.5, -61.5)),
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
    refused(lambda network, x: network.add("Minus", x, numbers(3, 9, 9)), "'f0'", "mean image", "per channel")
    refused(lambda network, x: network.add("Minus", x, numbers(3, 8, 8)), "(3, 8, 8)")
    refused(lambda network, x: network.add("Minus", x, x), "only the image and numbers")


def test_scalings_of_layers_are_refused():
    refused(lambda network, x: network.add("ElementTimes", network.add("ReLU", x), 2.0), "ElementTimes 'f1'", "made")


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


def test_ladders_take_no_more_time_than_lines():
    """There are 2 ** 3000 ways from the image to the end."""

    def add(network, x):
        before = x
        for _ in range(3000):
            before, x = x, network.add("Plus", x, before)
        return x

    refused(add, "branches")
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
    refused(lambda network, x: network.add("Plus", network.convolution(x), network.convolution(x)), "branches")


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
