"""Local response normalization in CNTK's graphs."""

import pytest
from cntk_graphs import layers_between, normalized, numbers, refused

from keras_alexnet.importers import chain


@pytest.mark.parametrize("constants", [(5, 1e-4, 0.75, 1), (5, 5e-4, 0.75, 2), (3, 1.01e-3, 0.5, 1)])
def test_normalizations_have_their_constants(constants):
    relu, norm = layers_between(lambda network, x: normalized(network, network.add("ReLU", x), *constants))
    assert isinstance(relu, chain.Relu)
    assert (norm.size, norm.alpha, norm.beta, norm.k) == constants


def test_windows_of_brainscript():
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
        {"kernelShape": (1, 1, 3, 1)},
    ],
    ids=str,
)
def test_other_windows_are_refused(changes):
    refused(lambda network, x: normalized(network, x, **changes), "ElementTimes 'f9'", "its window, k or beta")


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
    refused(lambda network, x: normalized(network, x, k=numbers(3, 1, 1)), "its window, k or beta are not constants")
    refused(lambda network, x: normalized(network, x, transpose=True), "Convolution", "transpose")
    refused(of_another, "they do not multiply it by a function of its squares")
