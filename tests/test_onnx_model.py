import itertools
import os
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import (
    BIAS,
    FC,
    FC_BIAS,
    FEATURES,
    KERNEL,
    RUN_TIME_SHAPE,
    SIZE,
    constant,
    external,
    integers,
    make_model,
    node,
    small,
    torch_alexnet,
    torch_export,
)

from keras_alexnet.errors import UserError
from keras_alexnet.importers import chain
from keras_alexnet.importers.onnx.chain import read_onnx_chain

REFERENCE = Path(__file__).parent / "reference"
BVLC, CNTK = REFERENCE / "onnx_bvlc_c10_fc64.onnx", REFERENCE / "alexnet_tiny_c10_fc64.onnx"


def read(folder, model: onnx.ModelProto | bytes) -> chain.Chain:
    path = folder / "net.onnx"
    # Not written over: a mapped file has to stay.
    path.unlink(missing_ok=True)
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return read_onnx_chain(path)


def refused(folder, model: onnx.ModelProto | bytes) -> str:
    with pytest.raises(UserError) as raised:
        read(folder, model)
    message = str(raised.value)
    assert message.startswith(f"{folder}/net.onnx")
    assert "Expected " in message
    assert len(message) < 1000
    return message


def kinds(network: chain.Chain) -> list[str]:
    return [type(layer).__name__ for layer in network.layers]


def only(network: chain.Chain, kind: type) -> chain.Layer:
    (found,) = (layer for layer in network.layers if isinstance(layer, kind))
    return found


def check_small(network: chain.Chain) -> None:
    """Those weights, whatever way they were written."""
    conv, pool, dense = (only(network, kind) for kind in (chain.Convolution, chain.MaxPool, chain.Dense))
    np.testing.assert_array_equal(conv.kernel, KERNEL)
    np.testing.assert_array_equal(conv.bias, BIAS)
    assert (conv.strides, conv.padding, conv.groups) == ((1, 1), ((1, 1), (1, 1)), 1)
    assert (pool.window, pool.strides) == ((3, 3), (2, 2))
    np.testing.assert_array_equal(dense.kernel, FC.T)
    np.testing.assert_array_equal(dense.bias, FC_BIAS)
    assert {array.dtype for array in (conv.kernel, conv.bias, dense.kernel, dense.bias)} == {np.dtype("float32")}


def test_model_zoo():
    network = read_onnx_chain(BVLC)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(BVLC).graph.initializer}
    assert (network.path, network.kind, network.image_size) == (str(BVLC), "ONNX model", (227, 227))
    first, last = ["Convolution", "Relu", "LocalResponseNorm", "MaxPool"], ["Dense", "Relu", "Dropout"]
    middle = ["Convolution", "Relu"] * 3 + ["MaxPool"]
    assert kinds(network) == first * 2 + middle + last * 2 + ["Dense", "Softmax"]
    convolutions = [layer for layer in network.layers if isinstance(layer, chain.Convolution)]
    assert [layer.groups for layer in convolutions] == [1, 2, 1, 2, 2]
    assert [layer.strides[0] for layer in convolutions] == [4, 1, 1, 1, 1]
    assert [layer.padding[1][1] for layer in convolutions] == [0, 2, 1, 1, 1]
    for n, layer in enumerate(convolutions, 1):
        assert layer.name == f"conv{n}_w_0"
        np.testing.assert_array_equal(layer.kernel, tensors[f"conv{n}_w_0"])
        np.testing.assert_array_equal(layer.bias, tensors[f"conv{n}_b_0"])
    for n, layer in enumerate((layer for layer in network.layers if isinstance(layer, chain.Dense)), 6):
        np.testing.assert_array_equal(layer.kernel, tensors[f"fc{n}_w_0"].T)
        np.testing.assert_array_equal(layer.bias, tensors[f"fc{n}_b_0"])
    norm, pool = network.layers[2:4]
    assert (norm.size, norm.alpha, norm.beta, norm.k) == (5, 1e-4, 0.75, 1.0)
    assert (pool.window, pool.strides, pool.padding) == ((3, 3), (2, 2), "valid")
    assert {layer.rate for layer in network.layers if isinstance(layer, chain.Dropout)} == {0.5}


def test_export_of_cntk():
    network = read_onnx_chain(CNTK)
    weights = np.load(REFERENCE / "cntk_tiny_weights.npz")
    assert (network.kind, network.image_size) == ("ONNX model (by CNTK)", (227, 227))
    assert kinds(network)[:3] == ["Scaling", "Convolution", "Relu"]
    assert kinds(network)[-1] == "Dense"
    assert (network.layers[0].scale, network.layers[0].offset) == (1.0, -114.0)
    weighted = [layer for layer in network.layers if isinstance(layer, chain.Convolution | chain.Dense)]
    for name, layer in zip([*(f"conv{n}" for n in range(1, 6)), "fc6", "fc7", "fc8"], weighted, strict=True):
        kernel = weights[f"{name}.W"]
        kernel = kernel.reshape(-1, kernel.shape[-1]) if isinstance(layer, chain.Dense) else kernel
        np.testing.assert_array_equal(layer.kernel, kernel)
        np.testing.assert_array_equal(layer.bias, weights[f"{name}.b"].reshape(-1))


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"conv": (node("Conv", "x K", "c0", pads=[1] * 4), node("Add", "c0 b3", "c")), "b3": BIAS.reshape(4, 1, 1)},
        {"conv": (node("Conv", "x K", "c0", pads=[1] * 4), node("Add", "b4 c0", "c")), "b4": BIAS.reshape(1, 4, 1, 1)},
        {
            "conv": (
                node("Conv", "x K", "c0", pads=[1] * 4),
                integers("axes", 1, 2),
                node("Unsqueeze", "b axes", "b3"),
                node("Add", "c0 b3", "c"),
            )
        },
        {
            "conv": (
                node("Conv", "x K", "c0", pads=[1] * 4),
                node("Unsqueeze", "b", "b3", axes=[1, 2]),
                node("Add", "c0 b3", "c"),
            ),
            "opset": 11,
        },
        {
            "conv": (node("Conv", "x K", "c0", pads=[1] * 4), node("Add", "c0 b", "c", broadcast=1, axis=1)),
            "opset": 6,
        },
        {"conv": (node("Conv", "x K b", "c", auto_pad="SAME_UPPER"),)},
        {"conv": (node("Conv", "x K b", "c", auto_pad="SAME_LOWER", kernel_shape=[3, 3], dilations=[1, 1]),)},
        {"conv": (node("Identity", "K", "K2"), node("Conv", "x K2 b", "c", pads=[1] * 4))},
        {
            "conv": (node("Cast", "K16", "K32", to=1), node("Conv", "x K32 b", "c", pads=[1] * 4)),
            "K16": KERNEL.astype(np.float64),
        },
        {"K": KERNEL.astype(np.float64)},
        {"conv": (node("Cast", "x", "x1", to=1), node("Conv", "x1 K b", "c", pads=[1] * 4))},
        {"pool": (node("MaxPool", "c", "p indices", kernel_shape=[3, 3], strides=[2, 2], storage_order=1),)},
        {
            "pool": (
                node("MaxPool", "c", "p0", kernel_shape=[3, 3], strides=[2, 2]),
                node("AveragePool", "p0", "p", kernel_shape=[1, 1], strides=[1, 1], pads=[0] * 4),
            )
        },
        {"flatten": (node("Flatten", "p", "f", axis=-3),)},
        *[
            {"flatten": (node("Reshape", "p shape", "f"),), "shape": np.int64(shape)}
            for shape in ([0, -1], [-1, FEATURES], [1, FEATURES], [0, FEATURES], [1, -1])
        ],
        {"flatten": (integers("shape", 8, -1), node("Reshape", "p shape", "f")), "batch": 8},
        {"flatten": (constant("shape", value_ints=[0, -1]), node("Reshape", "p shape", "f"))},
        {"flatten": RUN_TIME_SHAPE},
        {"flatten": (node("Reshape", "p", "f", shape=[1, FEATURES]),), "opset": 3},
        {"flatten": (node("Squeeze", "p", "f", axes=[2, 3]),), "opset": 11},
        {
            "flatten": (node("Squeeze", "p three", "p3"), node("Squeeze", "p3 two", "f")),
            "three": np.int64([3]),
            "two": np.int64([2]),
        },
        {
            "conv": (node("Reshape", "flat", "K4", shape=KERNEL.shape), node("Conv", "x K4 b", "c", pads=[1] * 4)),
            "opset": 3,
        },
        {"flatten": (integers("axes", -1, -2), node("Squeeze", "p axes", "f"))},
        {"dense": (node("Gemm", "f V B", "y"),), "V": FC.T},
        {"dense": (node("Gemm", "f W B1", "y", transB=1, alpha=1.0, beta=1.0),), "B1": FC_BIAS[None]},
        {"dense": (node("Gemm", "f W B", "y", transB=1, broadcast=1),), "opset": 6},
        {"dense": (node("Gemm", "f W", "y0", transB=1), node("Add", "y0 B", "y"))},
        {"dense": (node("MatMul", "f V", "y0"), node("Add", "B y0", "y")), "V": FC.T},
        {"dense": (node("Transpose", "W", "V"), node("MatMul", "f V", "y0"), node("Add", "y0 B", "y"))},
        {
            "dense": (
                node("Transpose", "W", "V", perm=[1, 0]),
                node("Reshape", "V two", "V2"),
                node("MatMul", "f V2", "y0"),
                node("Identity", "y0", "y1"),
                node("Add", "y1 B", "y"),
            ),
            "two": np.int64([0, -1]),
        },
    ],
)
def test_forms(tmp_path, parts):
    network = read(tmp_path, small(**parts, flat=KERNEL.reshape(-1)))
    check_small(network)
    assert kinds(network) == ["Convolution", "MaxPool", "Dense"]
    assert (network.kind, network.image_size) == ("ONNX model", (SIZE, SIZE))


@pytest.mark.parametrize(("as_field", "dtype"), [(False, np.float16), (True, np.float16), (True, np.float32)])
def test_half_precision_and_fields(tmp_path, as_field, dtype):
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    kernel = np.round(KERNEL * 64) / 64
    tensor = numpy_helper.from_array(kernel.astype(dtype), "K")
    if as_field:
        tensor = helper.make_tensor("K", kind, kernel.shape, kernel.reshape(-1))
    found = only(read(tmp_path, small(K=tensor)), chain.Convolution).kernel
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, kernel)


@pytest.mark.parametrize("as_field", [False, True])
def test_bfloat16(tmp_path, as_field):
    bits = (np.arange(KERNEL.size) + 0x3F80).astype(np.uint16)
    tensor = TensorProto(name="K", data_type=TensorProto.BFLOAT16, dims=KERNEL.shape)
    if as_field:
        tensor.int32_data.extend(bits.tolist())
    else:
        tensor.raw_data = bits.tobytes()
    found = only(read(tmp_path, small(K=tensor)), chain.Convolution).kernel
    np.testing.assert_array_equal(found.reshape(-1), (bits.astype(np.uint32) << 16).view(np.float32))


@pytest.mark.parametrize(
    ("attributes", "padding"),
    [
        ({}, "valid"),
        ({"pads": [0, 0, 0, 0]}, "valid"),
        ({"auto_pad": "VALID"}, "valid"),
        ({"ceil_mode": 1}, "caffe"),
        ({"pads": [0, 0, 1, 1]}, ((0, 1), (0, 1))),
        ({"pads": [1, 2, 0, 1]}, ((1, 0), (2, 1))),
        ({"auto_pad": "SAME_UPPER"}, "same_upper"),
        ({"auto_pad": "SAME_LOWER"}, "same_lower"),
        ({"strides": [1, 1], "auto_pad": "SAME_LOWER"}, ((1, 1), (1, 1))),
    ],
)
def test_padding_of_pools(tmp_path, attributes, padding):
    pool = node("MaxPool", "c", "p", **{"kernel_shape": [3, 3], "strides": [2, 2]} | attributes)
    model = small(pool=(pool,))
    # Of unknown size, since the dense layer fits one padding only.
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "h"
    assert only(read(tmp_path, model), chain.MaxPool).padding == padding


@pytest.mark.parametrize(
    ("nodes", "opset", "expected"),
    [
        ([node("Sub", "x v", "x1")], 13, [(1, [-2, -4, -5])]),
        ([node("Sub", "v x", "x1")], 13, [(-1, [2, 4, 5])]),
        ([node("Add", "v x", "x1")], 13, [(1, [2, 4, 5])]),
        ([node("Mul", "x v", "x1")], 13, [([2, 4, 5], 0)]),
        ([node("Div", "x v", "x1")], 13, [([0.5, 0.25, 0.2], 0)]),
        ([node("Sub", "x flat", "x1", broadcast=1, axis=1)], 6, [(1, [-2, -4, -5])]),
        ([node("Mul", "x number", "x1")], 13, [(0.1, 0)]),
        ([node("Sub", "x image", "x1")], 13, [(1, [-2, -4, -5])]),
        ([node("Mul", "x number", "x0"), node("Sub", "x0 v", "x1")], 13, [(0.1, 0), (1, [-2, -4, -5])]),
    ],
)
def test_scaling_of_pixels(tmp_path, nodes, opset, expected):
    values = np.float32([2, 4, 5])
    model = small(
        conv=(*nodes, node("Conv", "x1 K b", "c", pads=[1] * 4)),
        opset=opset,
        v=values.reshape(1, 3, 1, 1),
        flat=values,
        number=np.float64(0.1),
        image=np.broadcast_to(values.reshape(3, 1, 1), (3, SIZE, SIZE)),
    )
    network = read(tmp_path, model)
    check_small(network)
    found = [layer for layer in network.layers if isinstance(layer, chain.Scaling)]
    assert network.layers[: len(found)] == tuple(found)
    for layer, (scale, offset) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(layer.scale, scale)
        np.testing.assert_array_equal(layer.offset, offset)
        assert np.asarray(layer.scale).dtype == np.asarray(layer.offset).dtype == np.float64


@pytest.mark.parametrize(
    ("dropout", "opset", "rate"),
    [
        (node("Dropout", "f", "d mask", ratio=0.3, is_test=1), 3, 0.3),
        (node("Dropout", "f", "d", ratio=0.3), 7, 0.3),
        (node("Dropout", "f", "d"), 12, 0.5),
        (node("Dropout", "f ratio training", "d"), 13, 0.25),
    ],
)
def test_the_rest_of_the_layers(tmp_path, dropout, opset, rate):
    nodes = (
        node("Relu", "f", "r"),
        dropout,
        node("Gemm", "d W B", "g", transB=1, **{"broadcast": 1} if opset < 7 else {}),
        node("Softmax", "g", "y", axis=1),
    )
    dropout.input[0] = "r"
    lrn = helper.make_node("LRN", ["p"], ["l"], "norm", size=5)
    flatten = (lrn, node("Flatten", "l", "f"))
    settings = {"ratio": np.float32(0.25), "training": np.int64(0)}
    network = read(tmp_path, small(flatten=flatten, dense=nodes, opset=opset, **settings))
    check_small(network)
    assert kinds(network) == ["Convolution", "MaxPool", "LocalResponseNorm", "Relu", "Dropout", "Dense", "Softmax"]
    assert [layer.name for layer in network.layers] == ["K", "p", "norm", "r", "d", "W", "y"]
    norm = only(network, chain.LocalResponseNorm)
    assert (norm.size, norm.alpha, norm.beta, norm.k) == (5, 1e-4, 0.75, 1.0)
    assert only(network, chain.Dropout).rate == rate


COVERING = [(f"c{n}", f"K{n}", [1] * 4) for n in range(1, 6)] + [("c6", "K6", [0] * 4), ("c7", "K7", [0] * 4)]


@pytest.mark.parametrize("size", [SIZE, None])
@pytest.mark.parametrize("ending", ["Flatten", "GlobalAveragePool", "ReduceMean", "Softmax", ""])
def test_convolutions_of_the_whole_input_are_dense_layers(tmp_path, size, ending):
    kernels = {f"K{n}": np.random.default_rng(n).normal(size=(3, 3, 3, 3)).astype(np.float32) for n in range(1, 6)}
    kernels |= {"K6": np.ones((7, 3, 4, 4), np.float32), "K7": np.ones((5, 7, 1, 1), np.float32)}
    kernels["K6"] *= np.arange(7 * 48).reshape(7, 3, 4, 4)
    nodes, last = [], "x"
    for output, kernel, pads in COVERING:
        nodes.append(node("Conv", f"{last} {kernel}", output, pads=pads))
        last = output
    attributes = {"axes": [2, 3], "keepdims": 0} if ending == "ReduceMean" else {}
    if ending == "Softmax":
        attributes = {"axis": 1}
    nodes.append(node(ending or "Identity", last, "y", **attributes))
    model = make_model(*nodes, opset=13, **kernels)
    if size is None:
        for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
            dim.dim_param = "side"
    network = read(tmp_path, model)
    assert kinds(network) == ["Convolution"] * 5 + ["Dense"] * 2 + ["Softmax"] * (ending == "Softmax")
    dense = [layer.kernel for layer in network.layers if isinstance(layer, chain.Dense)]
    np.testing.assert_array_equal(dense[0], kernels["K6"].reshape(7, -1).T)
    np.testing.assert_array_equal(dense[1], kernels["K7"].reshape(5, 7).T)
    if size:
        model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 5
        assert "'c6' is the sixth convolution or a later one, with a kernel of 4 × 4 on 5 × 4" in refused(
            tmp_path, model
        )


def test_first_opsets_form_of_the_model_zoo(tmp_path):
    """Opset 3, batch 1, pool1 padded below and to the right, weights among the inputs, Reshape's shape an attribute."""
    model = onnx.load(BVLC)
    graph = model.graph
    model.opset_import[0].version = 3
    model.producer_name = "onnx-caffe2"
    sizes = graph.input[0].type.tensor_type.shape.dim
    for dim, size in zip(sizes, (1, 3, 224, 224), strict=True):
        dim.Clear()
        dim.dim_value = size
    for tensor in graph.initializer:
        graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    for item in graph.node:
        if item.op_type == "Reshape":
            del item.input[1:]
            item.attribute.append(helper.make_attribute("shape", [1, 64 * 6 * 6]))
        if item.op_type == "Gemm":
            item.attribute.append(helper.make_attribute("broadcast", 1))
        if item.op_type == "Dropout":
            item.attribute.extend([helper.make_attribute("is_test", 1), helper.make_attribute("ratio", 0.5)])
            item.output.append(f"_{item.output[0]}_mask")
        if item.op_type == "MaxPool" and item.output[0] == "pool1_1":
            next(setting for setting in item.attribute if setting.name == "pads").ints[:] = [0, 0, 1, 1]
    network = read(tmp_path, model)
    assert (network.kind, network.image_size) == ("ONNX model (by onnx-caffe2)", (224, 224))
    assert [type(layer) for layer in network.layers] == [type(layer) for layer in read_onnx_chain(BVLC).layers]
    pools = [layer.padding for layer in network.layers if isinstance(layer, chain.MaxPool)]
    assert pools == [((0, 1), (0, 1)), "valid", "valid"]


@pytest.mark.parametrize("is_typed", [True, False])
def test_shapes_that_are_not_declared(tmp_path, is_typed):
    model = small()
    for value in (model.graph.input[0], model.graph.output[0]):
        if is_typed:
            value.type.tensor_type.ClearField("shape")
        else:
            value.ClearField("type")
    network = read(tmp_path, model)
    check_small(network)
    assert network.image_size is None


def test_versions_that_onnx_does_not_know_yet(tmp_path):
    for attribute, newest in [("ir_version", onnx.IR_VERSION), ("opset", onnx.defs.onnx_opset_version())]:
        model = small()
        if attribute == "opset":
            model.opset_import[0].version = newest + 1
        else:
            model.ir_version = newest + 1
        message = refused(tmp_path, model)
        assert f"{newest + 1}. Expected at most {newest}, which the installed onnx {onnx.__version__} reads" in message


def test_image_size_that_is_not_told(tmp_path):
    model = small()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "h"
    assert read(tmp_path, model).image_size is None


@pytest.mark.parametrize(
    ("producer", "metadata", "order"),
    [
        ("", {}, None),
        ("keras_alexnet", {}, "rgb"),  # Exports before there was metadata.
        ("someone", {"channel_order": "RGB"}, "rgb"),
        ("keras_alexnet", {"channel_order": "bgr"}, "bgr"),
        ("someone", {"channel_order": "yuv"}, None),
    ],
)
def test_channel_order(tmp_path, producer, metadata, order):
    model = small()
    model.producer_name = producer
    helper.set_model_props(model, metadata)
    assert read(tmp_path, model).channel_order == order


ONE = np.ones(1, np.float32)
REFUSED = {
    "Sigmoid": (
        {"pool": (node("Sigmoid", "c", "q"), node("MaxPool", "q", "p", kernel_shape=[3, 3]))},
        "Sigmoid 'q' is",
    ),
    "branch": ({"pool": (node("Relu", "c", "r"), node("Add", "c r", "p"))}, "Add 'p' combines 'c' and 'r', where"),
    "batch norm": (
        {"pool": (node("BatchNormalization", "c one one one one", "p"),), "one": ONE},
        "BatchNormalization 'p' is not a laye",
    ),
    "log softmax": (
        {"dense": (node("Gemm", "f W B", "g", transB=1), node("LogSoftmax", "g", "y"))},
        "LogSoftmax 'y' is not a laye",
    ),
    "after softmax": (
        {"dense": (node("Gemm", "f W B", "g", transB=1), node("Softmax", "g", "s"), node("Relu", "s", "y"))},
        "Relu 'y' comes after Softmax",
    ),
    "mask": (
        {"dense": (node("Dropout", "f", "d mask"), node("Gemm", "mask W B", "y", transB=1))},
        "Dropout 'd' gives 'mask' next to",
    ),
    "two images": ({"inputs": [helper.make_tensor_value_info("z", 1, [1])]}, "2 inputs ('x', 'z')"),
    "constant": ({"pool": (node("Identity", "b", "p"),)}, "does not only depend on the image 'x', but on 'p'"),
    "weights of the image": ({"conv": (node("Conv", "x x", "c"),)}, "takes 'x', which is not in the file"),
    "dilated": ({"conv": (node("Conv", "x K b", "c", dilations=[2, 2]),)}, "has dilations [2, 2]"),
    "1-D": ({"K": KERNEL[..., 0]}, "of the shape 4 × 3 × 3"),
    "kernel_shape": ({"conv": (node("Conv", "x K b", "c", kernel_shape=[5, 5]),)}, "4 × 3 × 3 × 3"),
    "groups": ({"conv": (node("Conv", "x K b", "c", group=3),)}, "has 3 groups"),
    "biases": ({"b": BIAS[:3]}, "has 3 biases"),
    "strides": ({"conv": (node("Conv", "x K b", "c", strides=[0, 1]),)}, "has strides [0, 1]"),
    "pads": ({"conv": (node("Conv", "x K b", "c", pads=[1, 1]),)}, "pads [1, 1]"),
    "negative pads": ({"conv": (node("Conv", "x K b", "c", pads=[0, 0, -1, 0]),)}, "pads [0, 0, -1, 0]"),
    "auto_pad": ({"conv": (node("Conv", "x K b", "c", auto_pad="MOST"),)}, "auto_pad MOST"),
    "ceil and pads": (
        {"pool": (node("MaxPool", "c", "p", kernel_shape=[3, 3], ceil_mode=1, pads=[1] * 4),)},
        "both ceil_mode and padding",
    ),
    "average": ({"pool": (node("AveragePool", "c", "p", kernel_shape=[2, 2]),)}, "averages over 2 × 2"),
    "LRN alpha": ({"pool": (node("LRN", "c", "p", size=5, alpha=float("nan")),)}, "alpha nan"),
    "no flatten": ({"flatten": (node("Relu", "p", "f"),)}, "Gemm 'y' is given images"),
    "late pool": (
        {"dense": (node("MaxPool", "f", "q", kernel_shape=[3, 3]), node("Gemm", "q W B", "y"))},
        "MaxPool 'q' comes afte",
    ),
    "flatten axis": ({"flatten": (node("Flatten", "p", "f", axis=2),)}, "makes the shape [4, 1] of [1, 4, 1, 1]"),
    "squeeze": ({"flatten": (integers("axes", 0), node("Squeeze", "p axes", "f"))}, "Gemm 'y' is given images"),
    "batch": (
        {"flatten": (integers("s", 7, -1), node("Reshape", "p s", "f"))},
        "a shape that cannot be computed",
    ),
    "rows": (
        {"flatten": (integers("s", -1, 2), node("Reshape", "p s", "f"))},
        "makes the shape [2, 2]",
    ),
    "rank": ({"flatten": (integers("s", 1, -1, 1), node("Reshape", "p s", "f"))}, "Gemm 'y' is given images"),
    "inferred twice": (
        {"flatten": (integers("s", -1, -1), node("Reshape", "p s", "f"))},
        "a shape that cannot be computed",
    ),
    "shape of floats": ({"flatten": (node("Reshape", "p b", "f"),)}, "a shape that cannot be computed"),
    "shape by the pixels": (
        {"flatten": (node("Cast", "p", "s", to=7), node("Reshape", "p s", "f"))},
        "a shape that cannot be computed",
    ),
    "alpha": ({"dense": (node("Gemm", "f W B", "y", transB=1, alpha=2.0),)}, "has alpha 2.0"),
    "transA": ({"dense": (node("Gemm", "f W B", "y", transB=1, transA=1),)}, "has transA 1"),
    "late arithmetic": (
        {"flatten": (node("Mul", "p one", "q"), node("Flatten", "q", "f")), "one": ONE},
        "Mul 'q' changes activations",
    ),
    "second bias": ({"dense": (node("Gemm", "f W B", "g", transB=1), node("Add", "g B", "y"))}, "Add 'y' changes"),
    "bias per column": (
        {"conv": (node("Conv", "x K", "k", pads=[1] * 4), node("Add", "k b", "c"))},
        "Add 'c' adds numbers of the shape 4",
    ),
    "dense bias": ({"B": FC_BIAS[:2]}, "adds numbers of the shape 2"),
    "ratio": ({"dense": (node("Dropout", "f r", "d"), node("Gemm", "d W B", "y")), "r": np.float32(1)}, "ratio 1.0"),
    "softmax axis": (
        {"dense": (node("Gemm", "f W B", "g", transB=1), node("Softmax", "g", "y", axis=0))},
        "is along axis 0",
    ),
    "cast": ({"pool": (node("Cast", "c", "p", to=7),)}, "casts to ONNX's type 7"),
    "quantized": ({"K": KERNEL.astype(np.int8)}, "takes 'K', which is int8"),
    "integers": ({"K": KERNEL.astype(np.int32)}, "takes 'K', which is int32"),
    "empty": ({"K": KERNEL[:0]}, "has the shape 0 × 3 × 3 × 3"),
    "transpose": (
        {"dense": (node("Transpose", "W", "V", perm=[0, 0]), node("Gemm", "f V B", "y"))},
        "takes 'V', which cannot be computed: repeated axis",
    ),
    "reshape": (
        {"dense": (node("Reshape", "W s", "V"), node("Gemm", "f V B", "y")), "s": np.int64([7, 0])},
        "takes 'V', which cannot be computed: cannot reshape",
    ),
    "invalid": ({"pool": (node("MaxPool", "c", "p"),)}, "is not a valid ONNX model: Required attribute 'kernel_shape'"),
    "string": (
        {"conv": (constant("k", value_string="x"), node("Conv", "x k", "c"))},
        "takes 'k', which is <U1",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_chain_is_refused(tmp_path, what):
    parts, problem = REFUSED[what]
    assert problem in refused(tmp_path, small(**parts))


def scaled(tmp_path, op_node, **tensors) -> str:
    return refused(tmp_path, small(conv=(op_node, node("Conv", "x1 K b", "c", pads=[1] * 4)), **tensors))


def test_scaling_that_is_none_is_refused(tmp_path):
    mean = np.arange(3 * SIZE * SIZE, dtype=np.float32).reshape(3, SIZE, SIZE)
    assert "differ from pixel to pixel, such as a mean image" in scaled(tmp_path, node("Sub", "x v", "x1"), v=mean)
    assert "differ from pixel" in scaled(tmp_path, node("Sub", "x v", "x1"), v=np.float32([1, 2, 3, 4]))
    assert "shape 2 × 1 × 1 × 1" in scaled(tmp_path, node("Sub", "x v", "x1"), v=np.ones((2, 1, 1, 1), np.float32))
    assert "not finite" in scaled(tmp_path, node("Div", "x v", "x1"), v=np.float32(0))
    assert "divides a constant" in scaled(tmp_path, node("Div", "v x", "x1"), v=np.float32(2))
    assert "is int32" in scaled(tmp_path, node("Sub", "x v", "x1"), v=np.int32(114))


def test_other_graphs_are_refused(tmp_path):
    model = small()
    relu = helper.make_function("com.acme", "F", ["a"], ["b"], [node("Relu", "a", "b")], [helper.make_opsetid("", 13)])
    model.functions.append(relu)
    assert "has functions of its own" in refused(tmp_path, model)
    model = small(pool=(helper.make_node("Relu", ["c"], ["p"], "mine", domain="com.acme"),))
    model.opset_import.append(helper.make_opsetid("com.acme", 1))
    assert "com.acme.Relu 'mine' is not a laye" in refused(tmp_path, model)
    model = small()
    kernel, indices = (numpy_helper.from_array(array, "S") for array in (np.float32([1]), np.int64([0])))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(kernel, indices, [5]))
    assert "has sparse weights" in refused(tmp_path, model)
    model = small()
    model.graph.output.append(helper.make_tensor_value_info("p", TensorProto.FLOAT, [1]))
    assert "2 outputs ('y', 'p')" in refused(tmp_path, model)
    model = small()
    model.graph.input[0].type.tensor_type.shape.dim.pop()
    assert "images of the shape 0 × 3 × 4" in refused(tmp_path, model)


@pytest.mark.parametrize(
    "content",
    [
        b"plain text, and no model",
        b"<!DOCTYPE html><html><body>404</body></html>",
        b"\x08\x07",
        b"PK\x03\x04zip",
        b"\0",
    ],
)
def test_other_files_are_refused(tmp_path, content):
    refused(tmp_path, content)


def test_missing_empty_and_no_file(tmp_path):
    for path, problem in [(tmp_path / "none.onnx", "cannot read"), (tmp_path, "not a regular file")]:
        with pytest.raises(UserError, match=problem):
            read_onnx_chain(path)
    assert "is empty" in refused(tmp_path, b"")


@pytest.mark.parametrize("dims", [[2**40, 3, 3, 3], [2**62, 2**62], [4, 3, 3], [1] * 100])
def test_lying_dims(tmp_path, dims):
    tensor = numpy_helper.from_array(KERNEL, "K")
    tensor.dims[:] = dims
    refused(tmp_path, small(K=tensor))


def row_of(op: str, first: str, count: int, others: str = "", **attributes) -> tuple[list, str]:
    """Nodes one after the other, and the name of what the last one gives."""
    names = [first, *(f"{first}{n}" for n in range(count))]
    return [node(op, f"{before} {others}", after, **attributes) for before, after in itertools.pairwise(names)], names[
        -1
    ]


def test_small_files_that_ask_for_much_memory_are_refused(tmp_path):
    """A few bytes each would make arrays as large as the file, any number of times."""
    deep, last = row_of("Cast", "K", 20, to=TensorProto.DOUBLE)
    message = refused(tmp_path, small(conv=(*deep, node("Conv", f"x {last} b", "c"))))
    assert "takes 'K19', which is not in the file" in message
    layers, last = row_of("MatMul", "f", 9, "V")
    square = small(dense=(*layers, node("Gemm", f"{last} W B", "y", transB=1)), V=np.eye(FEATURES, dtype=np.float32))
    assert "comes after 8 layers with weights" in refused(tmp_path, square)
    layers, last = row_of("Relu", "c", 300)
    assert "has 200 nodes after it" in refused(tmp_path, small(pool=(*layers, node("Relu", last, "p"))))
    layers, last = row_of("Relu", "c", 1000)
    assert "has more than 1,000 nodes" in refused(tmp_path, small(pool=(*layers, node("Relu", last, "p"))))


def test_names_of_files_that_are_no_utf8(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff.onnx")
    path.write_bytes(small().SerializeToString())
    check_small(read_onnx_chain(path))


def test_weights_in_another_file(tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"12345678" + KERNEL.tobytes() + b"more")
    check_small(read(tmp_path, external(offset=8)))
    check_small(read(tmp_path, external(offset=8, length=None)))
    (tmp_path / "ö.bin").write_bytes(KERNEL.tobytes())
    check_small(read(tmp_path, external(location="ö.bin")))


@pytest.mark.parametrize(
    "settings",
    [
        {"offset": 1},
        {"length": KERNEL.nbytes - 4},
        {"length": 2**62},
        {"location": "missing.bin"},
        {"location": "pipe"},
    ],
)
def test_lies_about_another_file(tmp_path, settings):
    (tmp_path / "weights.bin").write_bytes(KERNEL.tobytes())
    os.mkfifo(tmp_path / "pipe")
    assert "is not a valid ONNX model: " in refused(tmp_path, external(**settings))


def test_weights_outside_of_the_folder_are_refused(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(KERNEL.tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "weights.bin")
    for location in ("../weights.bin", str(tmp_path / "weights.bin"), "link.bin", "../model/../weights.bin"):
        assert "is not a valid ONNX model: " in refused(folder, external(location=location))


def test_bytes_of_another_file_are_not_read_twice(tmp_path):
    (tmp_path / "weights.bin").write_bytes(KERNEL.tobytes())
    model = external()
    twin = model.graph.initializer.add()
    twin.CopyFrom(model.graph.initializer[0])
    twin.name = "K2"
    twin.external_data[0].value = "./weights.bin"
    model.graph.node.insert(0, node("Conv", "x K2", "c2"))
    model.graph.node[1].input[0] = "c2"
    assert "'K2' has 4 × 3 × 3 × 3 numbers, and its weights in './weights.bin'" in refused(tmp_path, model)


def test_damaged_files_are_refused_or_read(tmp_path):
    """Cut off at any place, a file is refused; with wrong bytes it may be read, but nothing else is raised."""
    content = small(flatten=RUN_TIME_SHAPE).SerializeToString()
    path = tmp_path / "net.onnx"
    rng = np.random.default_rng(5)
    damaged = [content[:size] for size in range(1, len(content), 7)]
    for at in rng.integers(0, 8 * len(content), 400):
        flipped = bytearray(content)
        flipped[at // 8] ^= 1 << at % 8
        damaged.append(bytes(flipped))
    for _ in range(400):
        mutated = bytearray(content)
        start = int(rng.integers(0, len(content)))
        mutated[start : start + int(rng.integers(0, 9))] = rng.bytes(int(rng.integers(0, 9)))
        damaged.append(bytes(mutated))
    problems = []
    for content in damaged:
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        try:
            read_onnx_chain(path)
        except UserError as error:
            problems.append(str(error))
    assert all(problem.startswith(str(path)) and len(problem) < 1000 for problem in problems)
    assert len(problems) > len(damaged) // 3


def test_a_reference_to_an_attribute_outside_of_a_function_is_ignored(tmp_path):
    model = small()
    unused = model.graph.node.add(op_type="Foo", domain="my", input=["x"], output=["unused"])
    unused.attribute.add(name="a", type=onnx.AttributeProto.INT, ref_attr_name="b")
    model.opset_import.add(domain="my", version=1)
    check_small(read(tmp_path, model))


def test_weights_that_become_strings_are_not_computed(tmp_path):
    casts = (node("Cast", "K", "S", to=TensorProto.STRING), node("Cast", "S", "K2", to=TensorProto.FLOAT))
    assert "'K2'" in refused(tmp_path, small(conv=(*casts, node("Conv", "x K2 b", "c", pads=[1] * 4))))


def test_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"pip install 'keras_alexnet\[onnx\]'"):
        read_onnx_chain(BVLC)


@pytest.mark.slow
@pytest.mark.parametrize(("training", "dynamic", "view"), [(0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_export_of_torch(tmp_path, training, dynamic, view):
    torch = pytest.importorskip("torch")
    nn = torch.nn
    model = torch_alexnet(view)
    network = read(tmp_path, torch_export(model, bool(training), bool(dynamic)))
    assert (network.kind, network.image_size) == ("ONNX model (by pytorch)", (224, 224))
    dropout = ["Dropout"] * training
    expected = [
        *["Convolution", "Relu", "MaxPool"] * 2,
        *["Convolution", "Relu"] * 3,
        "MaxPool",
        *[*dropout, "Dense", "Relu"] * 2,
        "Dense",
    ]
    assert kinds(network) == expected
    weighted = [layer for layer in network.layers if isinstance(layer, chain.Convolution | chain.Dense)]
    modules = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    for layer, module in zip(weighted, modules, strict=True):
        weight = module.weight.detach().numpy()
        np.testing.assert_array_equal(layer.kernel, weight.T if isinstance(layer, chain.Dense) else weight)
        np.testing.assert_array_equal(layer.bias, module.bias.detach().numpy())
    assert weighted[0].padding == ((2, 2), (2, 2))
    assert {layer.padding for layer in network.layers if isinstance(layer, chain.MaxPool)} == {"valid"}
