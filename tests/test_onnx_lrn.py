"""Local response normalization as PyTorch exports it to ONNX: many nodes, in different forms."""

import numpy as np
import pytest
from onnx_models import check_small, integers, kinds, node, only, read, refused, small

from keras_alexnet.importers import chain

CONV = node("Conv", "x K b", "c0", pads=[1] * 4)
SQUARE = (node("Mul", "c0 c0", "q"),)
RAISE = (node("Unsqueeze", "q one", "u"),)
POOL = node("AveragePool", "v", "a", kernel_shape=[3, 1, 1])
PAD = (integers("pads", 0, 0, 1, 0, 0, 0, 0, 1, 0, 0), node("Pad", "u pads", "v"), POOL)
LOWER = (node("Squeeze", "a one", "s"),)
DIVIDE = (node("Mul", "s alpha", "m"), node("Add", "m k", "d"), node("Pow", "d beta", "w"), node("Div", "c0 w", "c"))


def normalized(*, square=SQUARE, up=RAISE, average=PAD, down=LOWER, end=DIVIDE, opset=13, **numbers):
    numbers = {"one": np.int64([1]), "alpha": np.float32(2e-4), "k": np.float32(2), "beta": np.float32(0.75)} | numbers
    return small(conv=(CONV, *square, *up, *average, *down, *end), opset=opset, **numbers)


def window(**attributes):
    pool = {"kernel_shape": [3, 1, 1], "pads": [1, 0, 0, 1, 0, 0], "count_include_pad": 1} | attributes
    return {"average": (node("AveragePool", "u", "a", **pool),)}


def pad(*pads, **attributes):
    return {"average": (integers("pads", *pads), node("Pad", "u pads", "v", **attributes), POOL)}


def reshaped(*shape):
    return {"up": (integers("five", *shape), node("Reshape", "q five", "u"))}


@pytest.mark.parametrize(
    "parts",
    [
        window(strides=[1, 1, 1]),
        reshaped(0, 1, 4, -1, 1) | {"down": (node("Shape", "c0", "sizes"), node("Reshape", "a sizes", "s"))},
        {
            "square": (node("Pow", "c0 two", "q"),),
            "end": (*DIVIDE[:2], node("Pow", "d minus", "w"), node("Mul", "w c0", "c")),
            "two": np.float32(2),
            "minus": np.float32(-0.75),
        },
        {
            "up": (node("Unsqueeze", "q", "u", axes=[1]),),
            "average": (node("Pad", "u", "v", mode="constant", pads=[0, 0, 1, 0, 0, 0, 0, 1, 0, 0], value=0.0), POOL),
            "down": (node("Squeeze", "a", "s", axes=[1]),),
            "end": (node("Mul", "alpha s", "m"), node("Add", "k m", "d"), *DIVIDE[2:]),
            "opset": 9,
        },
    ],
)
def test_forms_of_normalization(tmp_path, parts):
    """`test_onnx_exports` has those that PyTorch writes."""
    model = normalized(**parts)
    # A batch that no memory could hold takes none.
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 10_000
    network = read(tmp_path, model)
    check_small(network)
    assert kinds(network) == ["Convolution", "LocalResponseNorm", "MaxPool", "Dense"]
    norm = only(network, chain.LocalResponseNorm)
    assert (norm.size, norm.alpha, norm.beta, norm.k) == (3, 2e-4, 0.75, 2.0)


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ({"square": (node("Mul", "c0 x", "q"),)}, "where branches meet"),
        ({"square": (node("Pow", "c0 k", "q"),), "k": np.float32(3)}, "where branches meet"),
        ({"alpha": np.float32([1, 2, 3, 4]).reshape(4, 1, 1)}, "where branches meet"),
        ({"k": np.float32("nan")}, "numbers that are not finite"),
        (window(count_include_pad=0), "averages that leave the padding out"),
        (window(kernel_shape=[2, 1, 1], pads=[1, 0, 0, 0, 0, 0]), "a window that is not centered"),
        (window(kernel_shape=[1, 3, 1], pads=[0, 1, 0, 0, 1, 0]), "a window over other axes"),
        (window(pads=[1, 0, 1, 1, 0, 1]), "padding of other axes"),
        (window(auto_pad="SAME_UPPER", pads=[0] * 6), "automatic padding"),
        (pad(0, 0, 1, 0, 0, 0, 0, 1, 0, 0, mode="reflect"), "padding by other numbers"),
        (pad(0, 0, 2**61, 0, 0, 0, 0, 2**61, 0, 0), "ends a normalization with an activation of"),
        (reshaped(1, 1, 8, 2, 4), "an axis that is not the channels"),
        ({"down": (integers("other", 1, 4, 2, 8), node("Reshape", "a other", "s"))}, "another shape in the end"),
        (
            {"up": (integers("n", 2**40), node("ConstantOfShape", "n", "five"), node("Reshape", "q five", "u"))},
            "too large",
        ),
    ],
)
def test_other_normalizations_are_refused(tmp_path, parts, problem):
    assert problem in refused(tmp_path, normalized(**parts))
