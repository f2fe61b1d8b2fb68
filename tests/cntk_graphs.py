"""CNTK's graphs made of functions, for tests of what they are translated to."""

import numpy as np
import pytest

from keras_alexnet.errors import UserError
from keras_alexnet.importers.cntk.chain import chain_of_graph
from keras_alexnet.importers.cntk.graph import CntkFunction, CntkVariable, make_graph

RANDOM = np.random.default_rng(0)


def numbers(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


class Network:
    """A graph in the making; `add`, `value` and `input` give uids."""

    def __init__(self, version=2, image=(3, 9, 9)):
        self._version = version
        self.variables = []
        self.functions = []
        self.image = self.input("image", *image)

    def input(self, uid, *shape):
        self.variables.append(CntkVariable(uid, "input", "", shape))
        return uid

    def value(self, array):
        uid = f"v{len(self.variables)}"
        self.variables.append(CntkVariable(uid, "constant", "W", np.shape(array), np.asarray(array)))
        return uid

    def add(self, op, *inputs, name="", blocks=(), **attributes):
        uid = f"f{len(self.functions)}"
        inputs = tuple(i if isinstance(i, str) else self.value(i) for i in inputs)
        self.functions.append(CntkFunction(uid, op, name, inputs, attributes, blocks))
        return uid

    def convolution(self, x, channels=3, filters=4, size=(3, 3), **changes):
        attributes = {
            "kernelShape": (*size, channels),
            "strides": (1, 1, channels),
            "autoPadding": [True, True, False],
            **changes,
        }
        return self.add("Convolution", numbers(filters, channels, *size[::-1]), x, **attributes)

    def pool(self, x, **changes):
        attributes = {"poolingWindowShape": (3, 3), "strides": (2, 2), "autoPadding": [False], "poolingType": 0}
        return self.add("Pooling", x, **attributes | changes)

    def dense(self, x, shape=(4, 4, 4, 5)):
        return self.add("Plus", self.add("Times", numbers(*shape), x, outputRank=1), numbers(shape[-1]))

    def chain(self, *roots):
        return chain_of_graph(make_graph("made.model", self._version, self.variables, self.functions, roots))


def layers_between(add, version=2, image=(3, 9, 9)):
    """The layers of an image, what `add(network, uid)` adds after it, and a dense layer."""
    network = Network(version, image)
    return network.chain(network.dense(add(network, network.image))).layers[:-1]


def refused(add, *messages, **changes):
    with pytest.raises(UserError) as error:
        layers_between(add, **changes)
    for message in ("made.model: ", "Expected", *messages):
        assert message in str(error.value)


def normalized(network, x, size=5, alpha=1e-4, beta=0.75, k=1.0, weights=None, **changes):
    """As CNTK's layers library writes it, with the sum over neighboring channels as a convolution."""
    square = network.add("ElementTimes", x, x)
    weights = weights or [alpha / size] * size
    attributes = {"kernelShape": (1, 1, len(weights), 1), "strides": (1, 1, 1, 1), "autoPadding": [True] * 4}
    split = network.add("Reshape", square, beginAxis=2, endAxis=3, newShape=(-1, 1))
    kernel = np.float32(weights).reshape(1, -1, 1, 1)
    window_sum = network.add("Convolution", kernel, split, **attributes | changes)
    joined = network.add("Reshape", window_sum, beginAxis=2, endAxis=4, newShape=(-1,))
    base = network.add("Plus", np.float32(k), joined)
    power = network.add("Exp", network.add("ElementTimes", np.float32(beta), network.add("Log", base)))
    return network.add("ElementTimes", x, network.add("Reciprocal", power))
