"""ONNX models that are no AlexNet, that are damaged, or that are made to do harm."""

import os
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import BIAS, FC_BIAS, FEATURES, KERNEL, SIZE, check_small, integers, node, read, refused, small

from keras_alexnet.errors import UserError
from keras_alexnet.importers.onnx.chain import read_onnx_chain

ONE = np.ones(1, np.float32)
IMAGE = np.arange(3 * SIZE * SIZE).reshape(3, SIZE, SIZE)
LOGITS = node("Gemm", "f W B", "g", transB=1)


def conv(**attributes) -> dict:
    return {"conv": (node("Conv", "x K b", "c", **attributes),)}


def pool(op: str = "MaxPool", **attributes) -> dict:
    return {"pool": (node(op, "c", "p", **attributes),)}


def scaled(op: str, inputs: str, values) -> dict:
    return {"conv": (node(op, inputs, "x1"), node("Conv", "x1 K b", "c", pads=[1] * 4)), "v": np.float32(values)}


def reshaped(*shape: int) -> dict:
    return {"flatten": (integers("s", *shape), node("Reshape", "p s", "f"))}


def referring(proto):
    """A node whose only attribute is one of a function that it is not in."""
    (attribute,) = proto.attribute
    name, kind = attribute.name, attribute.type
    attribute.Clear()
    attribute.name, attribute.type, attribute.ref_attr_name = name, kind, "of_the_function"
    return proto


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ({"pool": (node("Sigmoid", "c", "q"), node("MaxPool", "q", "p", kernel_shape=[3, 3]))}, "Sigmoid 'q' is not a"),
        ({"pool": (node("Relu", "c", "r"), node("Add", "c r", "p"))}, "Add 'p' combines 'c' and 'r', where"),
        ({"dense": (node("Dropout", "f", "d mask"), node("Gemm", "mask W B", "y", transB=1))}, "gives 'mask' next to"),
        ({"inputs": [helper.make_tensor_value_info("z", 1, [1])]}, "2 inputs ('x', 'z')"),
        ({"pool": (node("Identity", "b", "p"),)}, "does not only depend on the image 'x', but on 'p'"),
        ({"conv": (node("Conv", "x x", "c"),)}, "takes 'x', which is not in the file"),
        (conv(dilations=[2, 2]), "has dilations [2, 2]"),
        (conv(pads=[0, 0, -1, 0]), "pads [0, 0, -1, 0]"),
        ({"b": BIAS[:3]}, "has 3 biases"),
        (pool(kernel_shape=[3, 3], ceil_mode=1, pads=[1] * 4), "both ceil_mode and padding"),
        (pool("AveragePool", kernel_shape=[2, 2]), "averages over 2 × 2"),
        (pool("GlobalAveragePool"), "averages over pixels"),
        (pool("Cast", to=TensorProto.INT64), "casts to ONNX's type 7"),
        (pool("Transpose", perm=[0, 2, 3, 1]), "puts axes into the order [0, 2, 3, 1]"),
        (pool(), "is not a valid ONNX model: Required attribute 'kernel_shape'"),
        ({"flatten": (node("Relu", "p", "f"),)}, "Gemm 'y' is given images"),
        ({"dense": (node("MaxPool", "f", "q", kernel_shape=[3, 3]), node("Gemm", "q W B", "y"))}, "'q' comes after"),
        (reshaped(-1, 2), "makes the shape [2, 2] of [1, 4, 1, 1]"),
        ({"flatten": (node("Cast", "p", "s", to=7), node("Reshape", "p s", "f"))}, "a shape that cannot be computed"),
        (
            {"flatten": (node("ConstantOfShape", "t", "s"), node("Reshape", "p s", "f")), "t": np.complex64([1])},
            "a shape that cannot be computed",
        ),
        ({"pool": (referring(node("MaxPool", "c", "p", kernel_shape=[2, 2])),)}, "refers to attributes of a function"),
        ({"dense": (node("Gemm", "f W B", "y", transB=1, alpha=2.0),)}, "has alpha 2.0"),
        ({"flatten": (node("Mul", "p one", "q"), node("Flatten", "q", "f")), "one": ONE}, "Mul 'q' changes activation"),
        ({"dense": (LOGITS, node("Add", "g B", "y"))}, "Add 'y' changes activations"),
        ({"B": FC_BIAS[:2]}, "adds numbers of the shape 2"),
        ({"dense": (node("Dropout", "f r", "d"), node("Gemm", "d W B", "y")), "r": np.float32(1)}, "ratio 1.0"),
        ({"dense": (LOGITS, node("Softmax", "g", "y", axis=0))}, "is along axis 0"),
        ({"K": KERNEL.astype(np.int8)}, "takes 'K', which is int8"),
        (scaled("Sub", "x v", IMAGE), "differ from pixel to pixel"),
        (scaled("Sub", "x v", np.ones((2, 1, 1, 1))), "shape 2 × 1 × 1 × 1"),
        (scaled("Div", "x v", 0), "not finite"),
        (scaled("Div", "v x", 2), "divides a constant"),
        (
            {"dense": (node("Transpose", "W", "V", perm=[0, 0]), node("Gemm", "f V B", "y"))},
            "takes 'V', which cannot be computed: repeated axis",
        ),
    ],
)
def test_what_is_no_alexnet_is_refused(tmp_path, parts, problem):
    assert problem in refused(tmp_path, small(**parts))


def test_other_graphs_are_refused(tmp_path):
    model = small()
    relu = helper.make_function("com.acme", "F", ["a"], ["b"], [node("Relu", "a", "b")], [helper.make_opsetid("", 13)])
    model.functions.append(relu)
    assert "has functions of its own" in refused(tmp_path, model)
    model = small(pool=(helper.make_node("Relu", ["c"], ["p"], "mine", domain="com.acme"),))
    model.opset_import.append(helper.make_opsetid("com.acme", 1))
    assert "com.acme.Relu 'mine' is not a laye" in refused(tmp_path, model)
    model = small()
    values, indices = (numpy_helper.from_array(array, "S") for array in (np.float32([1]), np.int64([0])))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [5]))
    assert "has sparse weights" in refused(tmp_path, model)
    model = small()
    model.graph.output.append(helper.make_tensor_value_info("p", TensorProto.FLOAT, [1]))
    assert "2 outputs ('y', 'p')" in refused(tmp_path, model)
    model = small()
    model.graph.input[0].type.tensor_type.shape.dim.pop()
    assert "images of the shape 0 × 3 × 4" in refused(tmp_path, model)


def test_versions_that_onnx_does_not_know_yet(tmp_path):
    for attribute, newest in [("ir_version", onnx.IR_VERSION), ("opset", onnx.defs.onnx_opset_version())]:
        model = small()
        if attribute == "opset":
            model.opset_import[0].version = newest + 1
        else:
            model.ir_version = newest + 1
        assert f"{newest + 1}. Expected at most {newest}, which the installed onnx" in refused(tmp_path, model)


@pytest.mark.parametrize("dims", [[2**40, 3, 3, 3], [2**62, 2**62], [1] * 100])
def test_shapes_that_are_not_those_of_the_numbers(tmp_path, dims):
    tensor = numpy_helper.from_array(KERNEL, "K")
    tensor.dims[:] = dims
    refused(tmp_path, small(K=tensor))


def row_of(op: str, name: str, count: int, others: str = "", **attributes) -> list:
    """Nodes one after the other, from name0 to name<count>."""
    return [node(op, f"{name}{n} {others}", f"{name}{n + 1}", **attributes) for n in range(count)]


def test_small_files_that_ask_for_much_memory_are_refused(tmp_path):
    """A few bytes each would make arrays as large as the file, any number of times."""
    casts = row_of("Cast", "K", 20, to=TensorProto.DOUBLE)
    model = small(conv=(*casts, node("Conv", "x K20 b", "c")), K0=KERNEL)
    assert "takes 'K20', which is not in the file" in refused(tmp_path, model)
    products = row_of("MatMul", "f", 9, "V")
    model = small(flatten=(node("Flatten", "p", "f0"),), dense=(*products, node("Relu", "f9", "y")), V=np.eye(FEATURES))
    assert "comes after 8 layers with weights" in refused(tmp_path, model)
    for count, problem in [(300, "has 200 nodes after it"), (1000, "has more than 1,000 nodes")]:
        relus = node("Relu", "c", "c0"), *row_of("Relu", "c", count), node("Relu", f"c{count}", "p")
        assert problem in refused(tmp_path, small(pool=relus))


def external(offset=0, length=KERNEL.nbytes, location="weights.bin") -> onnx.ModelProto:
    """`small`, its kernel in another file."""
    tensor = numpy_helper.from_array(KERNEL, "K")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": offset, "length": length}.items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    return small(K=tensor)


def test_weights_in_another_file(tmp_path):
    (tmp_path / "ö.bin").write_bytes(b"12345678" + KERNEL.tobytes() + b"more")
    for length in (KERNEL.nbytes, None):
        check_small(read(tmp_path, external(offset=8, length=length, location="ö.bin")))


def test_another_file_is_not_read_beyond_its_end_nor_outside_of_the_folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for place in (folder, tmp_path):
        (place / "weights.bin").write_bytes(KERNEL.tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "weights.bin")
    os.mkfifo(folder / "pipe")
    for settings in (
        {"offset": 1},
        {"length": KERNEL.nbytes - 4},
        {"length": 2**62},
        *({"location": name} for name in ("missing.bin", "pipe", "link.bin", "../weights.bin")),
        {"location": "../model/../weights.bin"},
        {"location": str(tmp_path / "weights.bin")},
    ):
        assert "is not a valid ONNX model: " in refused(folder, external(**settings))


def test_bytes_of_another_file_are_not_read_twice(tmp_path):
    (tmp_path / "weights.bin").write_bytes(KERNEL.tobytes())
    model = external()
    second = model.graph.initializer.add()
    second.CopyFrom(model.graph.initializer[0])
    second.name = "K2"
    second.external_data[0].value = "./weights.bin"
    assert "'K2' has 4 × 3 × 3 × 3 numbers, and its weights in './weights.bin'" in refused(tmp_path, model)


def test_a_reference_to_an_attribute_outside_of_a_function_is_ignored(tmp_path):
    model = small()
    unused = model.graph.node.add(op_type="Foo", domain="my", input=["x"], output=["unused"])
    unused.attribute.add(name="a", type=onnx.AttributeProto.INT, ref_attr_name="b")
    model.opset_import.add(domain="my", version=1)
    check_small(read(tmp_path, model))


def test_weights_that_become_strings_are_not_computed(tmp_path):
    casts = (node("Cast", "K", "S", to=TensorProto.STRING), node("Cast", "S", "K2", to=TensorProto.FLOAT))
    assert "'K2'" in refused(tmp_path, small(conv=(*casts, node("Conv", "x K2 b", "c", pads=[1] * 4))))


def test_missing_package(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"pip install 'keras_alexnet\[onnx\]'"):
        read_onnx_chain(tmp_path / "net.onnx")
