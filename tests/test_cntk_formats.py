"""CNTK's two file formats, in small files composed here."""

import struct

import numpy as np
import pytest
from cntk_files import (
    BIAS,
    HEAD,
    IMAGE,
    KERNEL,
    MATRIX,
    TIMES,
    WEIGHTS,
    Shape,
    array_of,
    block,
    dictionary_of,
    function,
    image_pooling_v1,
    image_v1,
    matrix,
    model_of,
    model_v1,
    network_v1,
    shape,
    shape_of,
    size,
    variable,
    with_matrix,
)
from protobuf_bytes import field, fixed

from keras_alexnet.errors import UserError
from keras_alexnet.importers.cntk import dictionary as cntk_dictionary
from keras_alexnet.importers.cntk.graph import CntkGraph
from keras_alexnet.importers.cntk.reader import read_cntk_model


@pytest.fixture
def read(tmp_path):
    """A function that reads bytes as a file."""

    def read(content: bytes) -> CntkGraph:
        # Some file systems write a file that takes the place of another to the disk at once.
        (tmp_path / "m.model").unlink(missing_ok=True)
        (tmp_path / "m.model").write_bytes(content)
        return read_cntk_model(tmp_path / "m.model")

    return read


def test_every_number_of_the_version_1_format(read):
    for version in range(1, 32):
        graph = read(network_v1(version))
        assert (graph.version, graph.roots, graph.variables["x"].shape) == (1, ("t",), (1, 8, 9)), version
        ops = [function.op for function in graph.functions.values()]
        assert ops == ["Convolution", "Plus", "ReLU", "Pooling", "Dropout", "Times"]
        for name, expected in (("k", KERNEL), ("b", BIAS), ("w", HEAD)):
            np.testing.assert_array_equal(graph.variables[name].value, expected, strict=True)
        assert graph.functions["c"].inputs == ("k", "x")
        convolution, pooling = graph.functions["c"].attributes, graph.functions["m"].attributes
        assert (convolution["kernelShape"], convolution["strides"]) == ((5, 3, 1), (2, 1, 1))
        assert convolution["autoPadding"] == ([True, True, False] if version >= 5 else [True])
        assert (pooling["poolingWindowShape"], pooling["strides"], pooling["poolingType"]) == ((3, 3, 1), (2, 2, 1), 0)


def test_version_1_files_of_other_kinds(read):
    # As Windows wrote a long.
    short = model_v1({"x": image_v1(16, 3), "d": ("Dropout", struct.pack("<IQ", 7, 8), ("x",))}, 16)
    assert read(short).roots == ("d",)
    # Rows and columns instead of a shape, and a shape of 64-bit channels, width and height.
    values = np.arange(6, dtype=np.float64).reshape(3, 2)
    nodes = {
        "x": ("InputValue", size(0, 0) + size(4, 5, 3), ()),
        "w": ("LearnableParameter", b"\0" + size(2, 3) + matrix(values), ()),
        "a": ("AveragePooling", image_pooling_v1(), ("x",)),
        "s": ("ErrorPrediction", b"", ("w", "a")),
    }
    graph = read(model_v1(nodes, 2, outputs=["s"]))
    assert graph.variables["x"].shape == (5, 4, 3)
    assert (graph.variables["w"].kind, graph.variables["w"].value.dtype) == ("constant", np.float64)
    np.testing.assert_array_equal(graph.variables["w"].value, values)
    assert graph.functions["a"].attributes["poolingType"] == 1
    assert graph.functions["s"].op == "ClassificationError"
    assert graph.roots == ("s",)


def test_arrays_of_every_type_and_in_pieces(read):
    def array_in(values):
        return field(1, 1) + field(3, shape_of((2, 3))) + field(4, values)

    for array in (
        array_of(WEIGHTS),
        array_of(WEIGHTS.astype("float64"), 2),
        array_of(WEIGHTS, 4),
        array_in(b"".join(field(1, row.tobytes()) for row in WEIGHTS)),
        array_in(fixed(1, "<f", *WEIGHTS.ravel())),  # not packed
    ):
        np.testing.assert_array_equal(read(with_matrix(array)).variables["W"].value, WEIGHTS)


def test_blocks_are_opened(read):
    """A block within a block, an output that is passed through a block, and a root that combines two.

    Operations that are not known are kept.
    """
    functions = [
        function("All", 44, "Outer_Output_0", "Same_Output_0"),
        block("Same", "Pair", {"P3": "Outer_Output_0"}, "Outer_Output_0"),
        function("Pair", 44, "P3", "X"),
        block("Outer", "Odd", {"P": "X"}, "W", "X", name="fc"),
        function("Odd", 123, "Inner_Output_0", rate=0.25, on=True, axes=Shape([-1, 2])),
        block("Inner", "T", {"P2": "P"}, "W", "P"),
        function("T", 31, "W", "P2"),
    ]
    holes = [variable(uid, 4) for uid in ("P", "P2", "P3")]
    graph = read(model_of("All", [IMAGE, MATRIX, *holes], functions))
    assert (list(graph.functions), graph.roots) == (["T", "Odd"], ("Odd",))
    assert graph.functions["T"].inputs == ("W", "X")
    assert graph.functions["T"].blocks == ("fc", "")
    odd = graph.functions["Odd"]
    assert (odd.op, odd.blocks, odd.attributes) == ("op 123", ("fc",), {"rate": 0.25, "on": True, "axes": (-1, 2)})


def parameter_of(*parts: bytes) -> bytes:
    return model_v1({"x": ("LearnableParameter", b"".join([struct.pack("<f", 1), *parts]), ())})


@pytest.mark.parametrize(
    ("content", "expected_text"),
    [
        (b"\x08\x02", r"m\.model has no dictionary of type 'CompositeFunction'"),
        (dictionary_of({"type": "CompositeFunction"}), r"m\.model: a dictionary has no 'inputs'"),
        (dictionary_of({"Version": 3, "Learners": []}), r"the state of CNTK's trainer.* Use the \.model file"),
        (model_of(variables=[IMAGE, MATRIX, MATRIX]), r"'W' appears twice"),
        (model_of(variables=[MATRIX]), r"Times 'T' refers to 'X', which is not there\. .*copy it again"),
        (
            model_of(variables=[MATRIX, variable("X", 4)]),
            r"the placeholder 'X' is not bound to anything\. .*not a layer",
        ),
        (model_of(functions=[TIMES | {"type": "UserDefinedFunction"}]), r"'T' is a UserDefinedFunction, which is not"),
        (model_of(functions=[function("T", 31, "W", "T_Output_0")]), r"T.* is a cycle\. Expected a feed-forward"),
        (model_of(functions=[block("T", "T", {})]), r"'T_Output_0' refers to itself"),
        (model_of("U", functions=[TIMES, function("U", 3, "T_Output_1")]), r"output '1' of Times 'T' is used"),
        (with_matrix(array_of(WEIGHTS, storage=1)), r"m\.model, parameter 'W': a sparse array.* Expected a dense one"),
        (with_matrix(array_of(WEIGHTS, data_type=5)), r"parameter 'W': an array of data type 5, which is not read"),
        (with_matrix(array_of(WEIGHTS, dimensions=[2**40] * 30)), r"but of 6 values"),
        (with_matrix(array_of(WEIGHTS), (3, 2)), r"of 'W' has the shape \(2, 3\), but its array has \(3, 2\)"),
        # Of version 1.
        (network_v1(31)[:-3], r"m\.model cannot be read at byte [\d,]+: expected the marker 'ECN'\."),
        (model_v1({}).replace(size(0), size(2**60), 1), r"a number of nodes of [\d,]+, where at most 10,000 makes"),
        (model_v1({"x": image_v1(31, 3)}), r"m\.model has no outputs\. Expected a network"),
        (model_v1({"x": ("LSTM", b"", ())}), r"byte \d+, LSTM 'x': operations of type 'LSTM' are not read\. Expected"),
        (parameter_of(shape(5, 6), matrix(HEAD)), r"of 4 × 2 values for the shape \(5, 6\) \(LearnableParameter 'x'\)"),
        (parameter_of(shape(2**31, 2), matrix(HEAD, rows=2**31)), r"17,179,869,184 more bytes should follow"),
    ],
    ids=range(20),
)
def test_bad_files_are_reported(read, content, expected_text):
    with pytest.raises(UserError, match=expected_text):
        read(content)


def test_too_many_values_are_reported(read, monkeypatch):
    monkeypatch.setattr(cntk_dictionary, "_MAX_VALUES", 100)
    with pytest.raises(UserError, match="has more than 100 values, too many for a network"):
        read(model_of(functions=[TIMES, function("U", 3, *["X"] * 100)]))


def test_deep_files_are_reported(read):
    items = {}
    for _ in range(60):
        items = {"a": items}
    with pytest.raises(UserError, match="has values within more than 50 others"):
        read(dictionary_of(items))
    functions = [block(f"B{n}", f"B{n + 1}", {}) for n in range(60)] + [function("B60", 3, "X")]
    with pytest.raises(UserError, match="is within more than 50 blocks"):
        read(model_of("B0", [IMAGE], functions))
