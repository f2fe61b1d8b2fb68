"""Chains of layers out of CNTK's files, and of graphs made here; test_import.py compares the logits of whole files."""

import hashlib

import numpy as np
import pytest
from cntk_graphs import Network, layers_between, normalized, numbers, refused
from cntk_reference import ALL, TINY

from keras_alexnet.errors import UserError
from keras_alexnet.importers import chain
from keras_alexnet.importers.cntk.chain import read_cntk_chain

# Of the arrays of files that CNTK 2.7 wrote, as CNTK itself gave them (row-major, float32), one after the other.
PADDED_POOLS_SHA256 = "e800b4c05f9e39c068caf703dc3e70d12e578f2f16966c9399dfc668427b5252"
TINY_SHA256 = "e2275c29405b52b98d8a96855051c13b60d4a854d296e34d26e4a8cac436f59d"

COLORS = np.float32([[[104]], [[117]], [[123]]])
CONSTANT_IMAGE = np.broadcast_to(COLORS, (3, 9, 9))


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_weights_are_those_of_cntk_and_names_those_of_the_file(path):
    network = read_cntk_chain(path)
    digest = hashlib.sha256()
    for layer in network.layers:
        if isinstance(layer, chain.Convolution | chain.Dense):
            for array in (layer.kernel, layer.bias):
                assert array.dtype == np.float32
                digest.update(array.tobytes())
    assert digest.hexdigest() == (TINY_SHA256 if path == TINY else PADDED_POOLS_SHA256)
    if path == TINY:
        names = "conv1 relu1 norm1 pool1 conv2 relu2 norm2 pool2 conv3 relu3 conv4 relu4 conv5 relu5 pool5 fc6 relu6"
        assert [layer.name for layer in network.layers[1:18]] == names.split()


@pytest.mark.parametrize(
    ("op", "inputs", "scale", "offset"),
    [
        ("Minus", ["image", CONSTANT_IMAGE], 1, (-104, -117, -123)),
        ("Minus", [255.0, "image"], -1, 255),
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
    np.testing.assert_array_equal(layer.scale, scale)
    np.testing.assert_array_equal(layer.offset, offset)


def test_scalings_come_one_after_the_other():
    scalings = layers_between(lambda network, x: network.add("ElementTimes", network.add("Minus", x, 114.0), 0.25))
    assert [(layer.scale, layer.offset) for layer in scalings] == [(1, -114), (0.25, 0)]


def test_other_arithmetic_is_refused():
    refused(lambda network, x: network.add("Minus", x, numbers(3, 9, 9)), "'f0'", "mean image", "per channel")
    refused(lambda network, x: network.add("Minus", x, numbers(3, 8, 8)), "(3, 8, 8)")
    refused(lambda network, x: network.add("Minus", x, x), "only the image and numbers")
    refused(lambda network, x: network.add("ElementTimes", network.add("ReLU", x), 2.0), "ElementTimes 'f1'")


def test_reshaped_images_and_matrices_are_dense_layers():
    """As BrainScript writes them."""
    for shape in [(5,), (1, 5), (1,)]:
        network = Network(version=1)
        kernel, bias = numbers(243, 5), numbers(*shape)
        x = network.add("Reshape", "image", beginAxis=0, endAxis=-1, newShape=(243,))
        x = network.add("Plus", network.add("Times", kernel, x, outputRank=1, inferInputRankToMap=-1), bias)
        x = network.add("Dropout", network.add("ReLU", x, name="h1"), rngSeed=1)
        (dense, relu, dropout, last) = network.chain(network.dense(x, (5, 2))).layers
        np.testing.assert_array_equal(dense.kernel, kernel)
        np.testing.assert_array_equal(dense.bias, np.broadcast_to(bias.reshape(-1), 5))
        assert (relu.name, dropout.rate, last.kernel.shape) == ("h1", None, (5, 2))


def test_images_after_a_reshape_are_refused():
    for add in (Network.convolution, Network.pool, normalized):
        refused(
            lambda network, x, add=add: add(network, network.add("Reshape", x, newShape=(9, 9, 3))),
            "comes after a Reshape",
        )


def test_numbers_are_float32_and_biases_may_be_missing():
    network = Network()
    # What is beyond float32 becomes infinite, which `match_alexnet` refuses.
    x = network.add("Times", np.full((4, 4, 4, 5), 1e300), network.convolution("image"))
    convolution, dense = network.chain(x).layers
    assert (convolution.bias, dense.bias, dense.kernel.dtype) == (None, None, np.float32)
    assert np.isinf(dense.kernel).all()


def test_ladders_take_no_more_time_than_lines():
    """There are 2 ** 3000 ways from the image to the end."""

    def add(network, x):
        before = x
        for _ in range(3000):
            before, x = x, network.add("Plus", x, before)
        return x

    refused(add, "branches")


def test_other_operations_and_inputs_are_refused():
    for op in ("BatchNormalization", "Softmax"):
        message = f"{op} 'f0' (odd)"
        refused(lambda network, x, op=op: network.add(op, x, name="odd"), message, "AlexNet", "convert another")
    refused(lambda network, x: network.add("ReLU", x, 1.0), "ReLU 'f0'", "nothing else")
    for own in ({"outputRank": 2}, {"inferInputRankToMap": 1}):
        refused(lambda network, x, own=own: network.add("Times", numbers(243, 5), x, **own), "Times 'f0'", *own)
    refused(lambda network, x: network.add("Plus", network.convolution(x), network.input("noise", 1)), "Plus 'f1'")
    refused(lambda network, x: network.add("Dropout", x, dropoutRate=1.0), "Dropout 'f0'", "dropoutRate 1.0")


# The ends.


def test_losses_and_metrics_are_left_out_and_a_softmax_is_not():
    network = Network()
    labels, logits = network.input("labels", 5), network.dense("image")
    loss = network.add("CrossEntropyWithSoftmax", labels, logits)
    metric = network.add("ClassificationError", labels, logits)
    log_softmax = network.add("LogSoftmax", logits)
    weighted = network.add("Times", numbers(5, 1), network.add("ElementTimes", labels, log_softmax))
    probabilities = network.add("Softmax", network.add("Pass", logits), name="probabilities")
    for roots in [(logits,), (loss, metric, weighted), (log_softmax, logits, loss)]:
        (dense,) = network.chain(*roots).layers
        assert isinstance(dense, chain.Dense)
    for roots in [(probabilities,), (loss, logits, network.add("Pass", probabilities))]:
        (dense, softmax) = network.chain(*roots).layers
        assert isinstance(softmax, chain.Softmax)
        assert softmax.name == "probabilities"


def test_functions_of_the_logits_are_refused():
    network = Network()
    root = network.add("Softmax", network.add("ReLU", network.dense("image")))
    with pytest.raises(UserError, match="comes after the last dense layer with weights, 'f1'"):
        network.chain(root, network.add("CrossEntropyWithSoftmax", network.input("labels", 5), root))


def test_networks_of_another_form_are_refused():
    def two_ends(network):
        return network.dense("image", (243, 5)), network.dense("image", (243, 7))

    def two_images(network):
        return (network.dense(network.add("Plus", "image", network.input("other", 3, 9, 9))),)

    for message, add, image in (
        ("Times 'f0' and Times 'f2' are both dense layers that no other follows", two_ends, (3, 9, 9)),
        ("from 2 images", two_images, (3, 9, 9)),
        (r"has no input of three axes, but \(3,\)\. Expected images", lambda network: [network.dense("image")], (3,)),
        ("has no dense layer", lambda network: [network.convolution("image")], (3, 9, 9)),
    ):
        network = Network(image=image)
        with pytest.raises(UserError, match=message):
            network.chain(*add(network))


def test_sizes_that_are_not_known_and_names_of_blocks():
    network = Network(image=(3, -1, -3))
    x = network.add("Pass", network.add("StopGradient", "image"))
    x = network.add("ReLU", x, name="x", blocks=("alexnet", "relu1", ""))
    found = network.chain(network.dense(x))
    assert (found.image_size, len(found.layers), found.layers[0].name) == (None, 2, "relu1")
