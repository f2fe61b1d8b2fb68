"""CNTK's files that CNTK 2.7 wrote (reference/README.md): the layers of their networks, and their weights."""

import hashlib

import numpy as np
import pytest
from cntk_reference import ALL, PADDED_POOLS_V1, TINY

from keras_alexnet.importers import chain
from keras_alexnet.importers.cntk.chain import read_cntk_chain

NAMES = [
    *("mean_removed_input", "conv1", "relu1", "norm1", "pool1", "conv2", "relu2", "norm2", "pool2", "conv3", "relu3"),
    *("conv4", "relu4", "conv5", "relu5", "pool5", "fc6", "relu6", "drop6", "fc7", "relu7", "drop7", "fc8"),
]
BLOCK = [chain.Convolution, chain.Relu, chain.LocalResponseNorm, chain.MaxPool]
KINDS = [chain.Scaling, *BLOCK, *BLOCK, *[chain.Convolution, chain.Relu] * 3, chain.MaxPool]
KINDS += [*[chain.Dense, chain.Relu, chain.Dropout] * 2, chain.Dense]
# Of the arrays as CNTK itself gave them (row-major, float32), one after the other.
PADDED_POOLS_SHA256 = "e800b4c05f9e39c068caf703dc3e70d12e578f2f16966c9399dfc668427b5252"
TINY_SHA256 = "e2275c29405b52b98d8a96855051c13b60d4a854d296e34d26e4a8cac436f59d"


def layers_of(network, kind):
    return [layer for layer in network.layers if isinstance(layer, kind)]


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_files_give_the_layers_of_alexnet(path):
    network = read_cntk_chain(path)
    assert [type(layer) for layer in network.layers] == KINDS
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
    if path == TINY:
        assert [layer.name for layer in network.layers] == NAMES
    rate = None if version == 1 else 0.5
    assert [layer.rate for layer in layers_of(network, chain.Dropout)] == [rate] * 2


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_weights_are_those_of_cntk(path):
    digest = hashlib.sha256()
    for layer in layers_of(read_cntk_chain(path), chain.Convolution | chain.Dense):
        for array in (layer.kernel, layer.bias):
            assert array.dtype == np.float32
            digest.update(array.tobytes())
    assert digest.hexdigest() == (TINY_SHA256 if path == TINY else PADDED_POOLS_SHA256)
