"""Local response normalization in CNTK's graphs."""

import pytest
from cntk_graphs import layers_between, normalized, numbers, refused

from keras_alexnet.importers import chain


@pytest.mark.parametrize(
    "constants", [(5, 1e-4, 0.75, 1), (5, 1e-4, 0.75, 2), (5, 5e-4, 0.75, 2), (3, 1e-3, 0.5, 1), (5, 1.01e-4, 0.75, 1)]
)
@pytest.mark.parametrize("channels", [3, 16])
def test_normalizations_have_their_constants(constants, channels):
    relu, norm = layers_between(
        lambda network, x: normalized(network, network.add("ReLU", x), *constants), image=(channels, 9, 9)
    )
    assert isinstance(relu, chain.Relu)
    assert (norm.size, norm.alpha, norm.beta, norm.k) == constants


def test_windows_of_brainscript():
    changes = {"kernelShape": (1, 1, 5), "strides": (1,), "autoPadding": [True], "lowerPad": (0,), "upperPad": (0,)}
    (norm,) = layers_between(lambda network, x: normalized(network, x, **changes))
    assert (norm.size, norm.alpha) == (5, 1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"autoPadding": [False] * 4, "lowerPad": (0, 0, 4, 0)},
        {"autoPadding": [False] * 4},
        {"weights": [1e-4] * 4},
        {"weights": [1e-4, 2e-4, 1e-4]},
        {"strides": (1, 1, 2, 1)},
        {"kernelShape": (5, 1, 1, 1)},
        {"kernelShape": (1, 1, 3, 1)},
    ],
    ids=str,
)
def test_other_windows_are_refused(changes):
    refused(lambda network, x: normalized(network, x, **changes), "ElementTimes 'f9'", "its window, k or beta")


@pytest.mark.parametrize("name", ["transpose", "dilation", "groups"])
def test_unusual_convolutions_in_normalizations_are_refused(name):
    value = {"transpose": True, "groups": 2, "dilation": (1, 1, 2, 1)}[name]
    refused(lambda network, x: normalized(network, x, **{name: value}), "Convolution", name)


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

    def with_array(network, x):
        return normalized(network, x, k=numbers(3, 1, 1))

    def of_another(network, x):
        """Divides something else by it."""
        normalized(network, x)
        network.functions.pop()
        return network.add("ElementTimes", network.add("ReLU", x), "f8")

    refused(residual, "belongs to branches from 'f0' that are not local response normalization", "of its squares")
    refused(cubed, "they are ElementTimes ElementTimes, not ElementTimes Reshape")
    refused(of_rows, "'f1' does not reshape just the channels")
    refused(with_array, "its window, k or beta are not constants")
    refused(of_another, "they do not multiply it by a function of its squares")
    refused(lambda network, x: network.add("Plus", x, network.add("Sigmoid", x)), "branches from 'image'")
