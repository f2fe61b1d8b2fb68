"""Local response normalization as PyTorch exports it to ONNX: many nodes, in different forms."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import check_small, constant, integers, kinds, node, only, read, refused, small

from keras_alexnet.errors import UserError
from keras_alexnet.importers import chain

CONV = node("Conv", "x K b", "c0", pads=[1] * 4)
SQUARE = (node("Mul", "c0 c0", "q"),)
RAISE = (node("Unsqueeze", "q one", "u"),)
AVERAGE = (
    node(
        "AveragePool", "u", "a", kernel_shape=[3, 1, 1], strides=[1, 1, 1], pads=[1, 0, 0, 1, 0, 0], count_include_pad=1
    ),
)
LOWER = (node("Squeeze", "a one", "s"),)
DIVIDE = (node("Mul", "s alpha", "m"), node("Add", "m k", "d"), node("Pow", "d beta", "w"), node("Div", "c0 w", "c"))

# Its parts in the forms that exporters give them.
RUN_TIME = (
    node("Shape", "c0", "shape"),
    integers("start", 0),
    integers("two", 2),
    integers("three", 3),
    node("Slice", "shape start one", "batch"),
    node("Slice", "shape one two", "channels"),
    node("Slice", "shape two three", "rows"),
    integers("rest", -1),
    node("Concat", "batch one channels rows rest", "five", axis=0),
    node("Reshape", "q five", "u"),
)
POOL = node("AveragePool", "v", "a", kernel_shape=[3, 1, 1])
PAD = (integers("pads", 0, 0, 1, 0, 0, 0, 0, 1, 0, 0), node("Pad", "u pads", "v"), POOL)
PAD_OF_TORCHSCRIPT = (
    integers("four", 4),
    constant("start0", value_ints=[0]),
    node("ConstantOfShape", "four", "zeros", value=helper.make_tensor("z", TensorProto.INT64, [1], [0])),
    integers("last", 0, 0, 0, 0, 1, 1),
    node("Concat", "last zeros", "pairs", axis=0),
    integers("by_two", -1, 2),
    node("Reshape", "pairs by_two", "table"),
    node("Transpose", "table", "columns", perm=[1, 0]),
    integers("backwards", -1),
    integers("before_first", -(2**62)),
    integers("axis1", 1),
    node("Slice", "columns backwards before_first axis1 backwards", "reversed"),
    integers("flat", -1),
    node("Reshape", "reversed flat", "pads"),
    node("Cast", "pads", "pads64", to=TensorProto.INT64),
    node("Pad", "u pads64", "v"),
    POOL,
)


def branch(result, **tensors):
    """A graph of an If, with constants of its own, as ONNX Runtime writes it."""
    constants = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    output = helper.make_empty_tensor_value_info(result.output[0])
    return helper.make_graph([result], "branch", [], [output], constants)


CHOICE = (
    node("Shape", "a", "sizes"),
    node("Gather", "sizes one", "size"),
    node("Equal", "size one", "is_one"),
    node(
        "If",
        "is_one",
        "s0",
        then_branch=branch(node("Squeeze", "a axis0", "squeezed"), axis0=np.int64([1])),
        else_branch=branch(node("Identity", "a", "same"), axis=np.int64([1])),
    ),
    node("Shape", "c0", "c0_sizes"),
    node("Reshape", "s0 c0_sizes", "s"),
)


def normalized(*, square=SQUARE, up=RAISE, average=AVERAGE, down=LOWER, end=DIVIDE, opset=13, **numbers):
    numbers = {"one": np.int64([1]), "alpha": np.float32(2e-4), "k": np.float32(2), "beta": np.float32(0.75)} | numbers
    return small(conv=(CONV, *square, *up, *average, *down, *end), opset=opset, **numbers)


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {
            "square": (node("Pow", "c0 two", "q"),),
            "end": (*DIVIDE[:2], node("Pow", "d minus", "w"), node("Mul", "w c0", "c")),
            "two": np.float32(2),
            "minus": np.float32(-0.75),
        },
        {
            "up": (integers("five", 0, 1, 4, -1, 1), node("Reshape", "q five", "u")),
            "average": (integers("pads", 0, 0, 1, 0, 0, 0, 0, 1, 0, 0), node("Pad", "u pads zero", "v"), POOL),
            "down": (node("Shape", "c0", "c0_sizes"), node("Reshape", "a c0_sizes", "s")),
            "zero": np.float32(0),
        },
        {"up": RUN_TIME, "average": PAD, "down": CHOICE},
        {"average": PAD_OF_TORCHSCRIPT},
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
    model = normalized(**parts)
    # A batch that no memory could hold takes none.
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 10_000
    network = read(tmp_path, model)
    check_small(network)
    assert kinds(network) == ["Convolution", "LocalResponseNorm", "MaxPool", "Dense"]
    norm = only(network, chain.LocalResponseNorm)
    assert (norm.size, norm.alpha, norm.beta, norm.k) == (3, 2e-4, 0.75, 2.0)


def window(**attributes):
    pool = {"kernel_shape": [3, 1, 1], "pads": [1, 0, 0, 1, 0, 0], "count_include_pad": 1} | attributes
    return {"average": (node("AveragePool", "u", "a", **pool),)}


def pad(*pads, **attributes):
    return {"average": (integers("pads", *pads), node("Pad", "u pads", "v", **attributes), POOL)}


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
        (pad(0, 0, 2**61, 0, 0, 0, 0, 2**61, 0, 0), "an activation of impossible size"),
        ({"up": (integers("five", 1, 1, 8, 2, 4), node("Reshape", "q five", "u"))}, "an axis that is not the channels"),
        ({"down": (integers("other", 1, 4, 2, 8), node("Reshape", "a other", "s"))}, "another shape in the end"),
        (
            {"up": (integers("n", 2**40), node("ConstantOfShape", "n", "five"), node("Reshape", "q five", "u"))},
            "too large",
        ),
    ],
)
def test_other_normalizations_are_refused(tmp_path, parts, problem):
    assert problem in refused(tmp_path, normalized(**parts))


def test_damaged_files_are_refused_or_read(tmp_path):
    """Nothing but `UserError` is raised, and a normalization that is read is one that may have been written."""
    content = normalized(up=RUN_TIME, average=PAD_OF_TORCHSCRIPT, down=CHOICE).SerializeToString()
    rng = np.random.default_rng(3)
    damaged = [content[: rng.integers(1, len(content))] for _ in range(50)]
    for at in rng.integers(0, len(content), 150):
        mutated = bytearray(content)
        mutated[at : at + int(rng.integers(1, 4))] = rng.bytes(int(rng.integers(0, 4)))
        damaged.append(bytes(mutated))
    num_refused = 0
    for altered in damaged:
        try:
            norms = [x for x in read(tmp_path, altered).layers if isinstance(x, chain.LocalResponseNorm)]
            assert [norm.size for norm in norms] == [3]
        except UserError:
            num_refused += 1
    assert 100 < num_refused < 200
