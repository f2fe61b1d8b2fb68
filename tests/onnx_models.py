"""ONNX models for tests: small ones made node by node, and how to read them as chains of layers."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from keras_alexnet.errors import UserError
from keras_alexnet.importers import chain
from keras_alexnet.importers.onnx.chain import read_onnx_chain

FILTERS, SIZE, UNITS = 4, 4, 5
KERNEL = np.linspace(-1, 1, FILTERS * 3 * 9, dtype=np.float32).reshape(FILTERS, 3, 3, 3)
BIAS = np.float32([1, 2, 3, 4])
FEATURES = FILTERS  # After a pool of 3/2.
FC = np.linspace(-1, 1, UNITS * FEATURES, dtype=np.float32).reshape(UNITS, FEATURES)
FC_BIAS = np.float32([5, 6, 7, 8, 9])


def node(op: str, inputs: str, output: str, **attributes) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), output.split(), **attributes)


def constant(name: str, **attributes) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], **attributes)


def integers(name: str, *values: int) -> onnx.NodeProto:
    return constant(name, value=numpy_helper.from_array(np.int64(values), name))


CONV = node("Conv", "x K b", "c", pads=[1, 1, 1, 1])
POOL = node("MaxPool", "c", "p", kernel_shape=[3, 3], strides=[2, 2])
FLATTEN = node("Flatten", "p", "f")
GEMM = node("Gemm", "f W B", "y", transB=1)


def make_model(*nodes, opset: int = 13, batch="n", inputs=(), **tensors) -> onnx.ModelProto:
    """A model of `nodes` from x to y; tensors have K, b, W, B besides those given."""
    tensors = {"K": KERNEL, "b": BIAS, "W": FC, "B": FC_BIAS} | tensors
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, SIZE, SIZE]), *inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, UNITS])],
        [
            value if isinstance(value, TensorProto) else numpy_helper.from_array(np.asarray(value), name)
            for name, value in tensors.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def small(*, conv=(CONV,), pool=(POOL,), flatten=(FLATTEN,), dense=(GEMM,), **settings) -> onnx.ModelProto:
    """Convolution, pool and dense layer, of which each part may be put otherwise."""
    return make_model(*conv, *pool, *flatten, *dense, **settings)


def read(folder, model: onnx.ModelProto | bytes) -> chain.Chain:
    path = folder / "net.onnx"
    # Not written over: a mapped file has to stay.
    path.unlink(missing_ok=True)
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return read_onnx_chain(path)


def refused(folder, model: onnx.ModelProto) -> str:
    """The message with which a model is refused."""
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
    """The layers and weights of `small`, whatever way they were written."""
    conv, pool, dense = (only(network, kind) for kind in (chain.Convolution, chain.MaxPool, chain.Dense))
    np.testing.assert_array_equal(conv.kernel, KERNEL)
    np.testing.assert_array_equal(conv.bias, BIAS)
    assert (conv.strides, conv.padding, conv.groups) == ((1, 1), ((1, 1), (1, 1)), 1)
    assert (pool.window, pool.strides) == ((3, 3), (2, 2))
    np.testing.assert_array_equal(dense.kernel, FC.T)
    np.testing.assert_array_equal(dense.bias, FC_BIAS)
    assert {array.dtype for array in (conv.kernel, conv.bias, dense.kernel, dense.bias)} == {np.dtype("float32")}
