"""ONNX models as chains of layers, in the forms that exporters write."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_models import (
    BIAS,
    FC,
    FC_BIAS,
    FEATURES,
    KERNEL,
    SIZE,
    check_small,
    constant,
    integers,
    kinds,
    make_model,
    node,
    only,
    read,
    refused,
    small,
)

from keras_alexnet.importers import chain
from keras_alexnet.importers.onnx.chain import read_onnx_chain

REFERENCE = Path(__file__).parent / "reference"
BVLC, CNTK = REFERENCE / "onnx_bvlc_c10_fc64.onnx", REFERENCE / "alexnet_tiny_c10_fc64.onnx"


def test_layers_of_the_model_zoos_network_and_of_cntks_export():
    """`test_import` compares their logits with those of their frameworks."""
    network = read_onnx_chain(BVLC)
    assert (network.path, network.kind, network.image_size) == (str(BVLC), "ONNX model", (227, 227))
    first, last = ["Convolution", "Relu", "LocalResponseNorm", "MaxPool"], ["Dense", "Relu", "Dropout"]
    middle = ["Convolution", "Relu"] * 3 + ["MaxPool"]
    assert kinds(network) == first * 2 + middle + last * 2 + ["Dense", "Softmax"]
    convolutions = [layer for layer in network.layers if isinstance(layer, chain.Convolution)]
    assert [layer.name for layer in convolutions] == [f"conv{n}_w_0" for n in range(1, 6)]
    assert {layer.rate for layer in network.layers if isinstance(layer, chain.Dropout)} == {0.5}
    network = read_onnx_chain(CNTK)
    assert (network.kind, network.image_size) == ("ONNX model (by CNTK)", (227, 227))
    assert kinds(network)[:3] == ["Scaling", "Convolution", "Relu"]
    assert (network.layers[0].scale, network.layers[0].offset) == (1.0, -114.0)


NO_BIAS = node("Conv", "x K", "c0", pads=[1] * 4)


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"conv": (NO_BIAS, node("Add", "b3 c0", "c")), "b3": BIAS.reshape(4, 1, 1)},
        {"conv": (NO_BIAS, integers("axes", 1, 2), node("Unsqueeze", "b axes", "b3"), node("Add", "c0 b3", "c"))},
        {"conv": (NO_BIAS, node("Add", "c0 b", "c", broadcast=1, axis=1)), "opset": 6},
        {"conv": (node("Conv", "x K b", "c", auto_pad="SAME_LOWER", kernel_shape=[3, 3], dilations=[1, 1]),)},
        {"conv": (node("Identity", "K", "K2"), node("Conv", "x K2 b", "c", pads=[1] * 4))},
        {"conv": (node("Cast", "x", "x1", to=1), node("Conv", "x1 K b", "c", pads=[1] * 4))},
        {"pool": (node("MaxPool", "c", "p indices", kernel_shape=[3, 3], strides=[2, 2], storage_order=1),)},
        {
            "pool": (
                node("MaxPool", "c", "p0", kernel_shape=[3, 3], strides=[2, 2]),
                node("AveragePool", "p0", "p", kernel_shape=[1, 1], strides=[1, 1], pads=[0] * 4),
            )
        },
        {"flatten": (node("Flatten", "p", "f", axis=-3),)},
        {"flatten": (node("Reshape", "p shape", "f"),), "shape": np.int64([-1, FEATURES])},
        {"flatten": (integers("shape", 8, -1), node("Reshape", "p shape", "f")), "batch": 8},
        {"flatten": (constant("shape", value_ints=[0, -1]), node("Reshape", "p shape", "f"))},
        {
            "flatten": (
                node("Shape", "p", "s"),
                node("Gather", "s zero", "g"),
                node("Concat", "g all", "shape", axis=0),
                node("Reshape", "p shape", "f"),
            ),
            "zero": np.int64([0]),
            "all": np.int64([-1]),
        },
        {"flatten": (node("Squeeze", "p", "p3", axes=[3]), node("Squeeze", "p3", "f", axes=[2])), "opset": 11},
        {"flatten": (integers("axes", -1, -2), node("Squeeze", "p axes", "f"))},
        {"dense": (node("Gemm", "f V B", "y"),), "V": FC.T},
        {"dense": (node("Gemm", "f W B1", "y", transB=1, alpha=1.0, beta=1.0),), "B1": FC_BIAS[None]},
        {"dense": (node("Gemm", "f W", "y0", transB=1), node("Add", "y0 B", "y"))},
        {
            "dense": (
                node("Transpose", "W", "V", perm=[1, 0]),
                node("Reshape", "V two", "V2"),
                node("MatMul", "f V2", "y0"),
                node("Identity", "y0", "y1"),
                node("Add", "B y1", "y"),
            ),
            "two": np.int64([0, -1]),
        },
    ],
)
def test_forms(tmp_path, parts):
    network = read(tmp_path, small(**parts))
    check_small(network)
    assert kinds(network) == ["Convolution", "MaxPool", "Dense"]
    assert network.image_size == (SIZE, SIZE)


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16, "float64"])
def test_other_float_types(tmp_path, dtype):
    kernel = KERNEL.astype(dtype)
    cast = node("Cast", "K", "K32", to=TensorProto.FLOAT), node("Conv", "x K32 b", "c", pads=[1] * 4)
    for parts in ({}, {"conv": cast}):
        found = only(read(tmp_path, small(K=kernel, **parts)), chain.Convolution).kernel
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, kernel.astype(np.float32))


@pytest.mark.parametrize(
    ("attributes", "padding"),
    [
        ({"auto_pad": "VALID"}, "valid"),
        ({"ceil_mode": 1}, "caffe"),
        ({"pads": [1, 2, 0, 1]}, ((1, 0), (2, 1))),
        ({"auto_pad": "SAME_UPPER"}, "same_upper"),
        ({"strides": [1, 1], "auto_pad": "SAME_LOWER"}, ((1, 1), (1, 1))),
    ],
)
def test_padding_of_pools(tmp_path, attributes, padding):
    pool = node("MaxPool", "c", "p", **{"kernel_shape": [3, 3], "strides": [2, 2]} | attributes)
    model = small(pool=(pool,))
    # Of unknown size, since the dense layer fits one padding only.
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "h"
    network = read(tmp_path, model)
    assert only(network, chain.MaxPool).padding == padding
    assert network.image_size is None


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([node("Sub", "x image", "x1")], [(1, [-2, -4, -5])]),
        ([node("Sub", "v x", "x1")], [(-1, [2, 4, 5])]),
        ([node("Add", "v x", "x1")], [(1, [2, 4, 5])]),
        ([node("Div", "x v", "x1")], [([0.5, 0.25, 0.2], 0)]),
        ([node("Mul", "x number", "x0"), node("Sub", "x0 v", "x1")], [(0.1, 0), (1, [-2, -4, -5])]),
    ],
)
def test_scaling_of_pixels(tmp_path, nodes, expected):
    v = np.float32([2, 4, 5]).reshape(1, 3, 1, 1)
    image = np.broadcast_to(v[0], (3, SIZE, SIZE))
    conv = (*nodes, node("Conv", "x1 K b", "c", pads=[1] * 4))
    network = read(tmp_path, small(conv=conv, v=v, image=image, number=np.float64(0.1)))
    check_small(network)
    for layer, (scale, offset) in zip(network.layers[: len(expected)], expected, strict=True):
        np.testing.assert_array_equal(layer.scale, scale)
        np.testing.assert_array_equal(layer.offset, offset)
        assert np.asarray(layer.scale).dtype == np.asarray(layer.offset).dtype == np.float64


@pytest.mark.parametrize(
    ("dropout", "opset", "rate"),
    [
        (node("Dropout", "r", "d mask", ratio=0.3), 7, 0.3),
        (node("Dropout", "r", "d"), 12, 0.5),
        (node("Dropout", "r ratio training", "d"), 13, 0.25),
    ],
)
def test_the_rest_of_the_layers(tmp_path, dropout, opset, rate):
    flatten = node("LRN", "p", "l", name="norm", size=5), node("Flatten", "l", "f")
    dense = node("Relu", "f", "r"), dropout, node("Gemm", "d W B", "g", transB=1), node("Softmax", "g", "y", axis=1)
    numbers = {"ratio": np.float32(0.25), "training": np.int64(0)}
    network = read(tmp_path, small(flatten=flatten, dense=dense, opset=opset, **numbers))
    check_small(network)
    assert kinds(network) == ["Convolution", "MaxPool", "LocalResponseNorm", "Relu", "Dropout", "Dense", "Softmax"]
    assert [layer.name for layer in network.layers] == ["K", "p", "norm", "r", "d", "W", "y"]
    norm = only(network, chain.LocalResponseNorm)
    assert (norm.size, norm.alpha, norm.beta, norm.k) == (5, 1e-4, 0.75, 1.0)
    assert only(network, chain.Dropout).rate == rate


@pytest.mark.parametrize(
    ("ending", "attributes"),
    [
        ("Flatten", {}),
        ("GlobalAveragePool", {}),
        ("ReduceMean", {"axes": [2, 3], "keepdims": 0}),
        ("Softmax", {"axis": 1}),
    ],
)
def test_convolutions_of_the_whole_input_are_dense_layers(tmp_path, ending, attributes):
    kernels = {"K6": np.arange(7 * 48, dtype=np.float32).reshape(7, 3, 4, 4), "K7": np.ones((5, 7, 1, 1), np.float32)}
    names = ["x", "c1", "c2", "c3", "c4", "c5"]
    nodes = [node("Conv", f"{names[n]} K", names[n + 1], pads=[1] * 4) for n in range(5)]
    nodes += [node("Conv", "c5 K6", "c6"), node("Conv", "c6 K7", "c7"), node(ending, "c7", "y", **attributes)]
    model = make_model(*nodes, **kernels | {"K": np.ones((3, 3, 3, 3), np.float32)})
    network = read(tmp_path, model)
    assert kinds(network) == ["Convolution"] * 5 + ["Dense"] * 2 + ["Softmax"] * (ending == "Softmax")
    dense = [layer.kernel for layer in network.layers if isinstance(layer, chain.Dense)]
    np.testing.assert_array_equal(dense[0], kernels["K6"].reshape(7, -1).T)
    np.testing.assert_array_equal(dense[1], kernels["K7"].reshape(5, 7).T)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 5
    assert "'c6' is the sixth convolution or a later one, with a kernel of 4 × 4 on 5 × 4" in refused(tmp_path, model)


def test_weights_among_the_inputs_as_in_the_first_files_of_the_model_zoo(tmp_path):
    gemm = node("Gemm", "f W B", "y", transB=1, broadcast=1)
    model = small(flatten=(node("Reshape", "p", "f", shape=[1, FEATURES]),), dense=(gemm,), opset=3)
    model.producer_name = "onnx-caffe2"
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    network = read(tmp_path, model)
    check_small(network)
    assert (network.kind, network.framework) == ("ONNX model (by onnx-caffe2)", "caffe")


def test_shapes_and_types_that_are_not_declared(tmp_path):
    without_shapes, without_types = small(), small()
    for graph in (without_shapes.graph, without_types.graph):
        for value in (graph.input[0], graph.output[0]):
            value.type.tensor_type.ClearField("shape")
    without_types.graph.input[0].ClearField("type")
    without_types.graph.output[0].ClearField("type")
    for model in (without_shapes, without_types):
        network = read(tmp_path, model)
        check_small(network)
        assert network.image_size is None
