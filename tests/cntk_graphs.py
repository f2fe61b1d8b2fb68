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


def window_sum(network, x, weights, **changes):
    """Of neighboring channels, as CNTK's layers library writes it."""
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
