"""CNTK's files that CNTK 2.7 wrote (reference/README.md): variables, functions and attributes."""

import hashlib
from itertools import pairwise

import numpy as np
import pytest
from cntk_reference import ALL, CHECKPOINT, PADDED_POOLS, PADDED_POOLS_V1, REFERENCE, TINY

from keras_alexnet.importers.cntk.reader import read_cntk_model

# The beginnings of the SHA-256 of each array, as CNTK itself gave it (row-major, float32).
PADDED_POOLS_SHA256 = {
    "conv1.W": "3bafb50e83f7cbd8",
    "conv1.b": "33cfefa0cefecb22",
    "conv2.W": "b0a19171a3aace1b",
    "conv2.b": "4688be69c71a3901",
    "conv3.W": "760e6ff124ea8907",
    "conv3.b": "d0cc5da7b130263c",
    "conv4.W": "f348b152062d5685",
    "conv4.b": "937ec24399cc08e9",
    "conv5.W": "098c2fef68c73911",
    "conv5.b": "e98759b9a47c78df",
    "fc6.W": "378253f23d8172de",
    "fc6.b": "526204faeb341708",
    "fc7.W": "82aa2563cf29e70e",
    "fc7.b": "e654692b35723da5",
    "fc8.W": "d813bcf377e8b6dd",
    "fc8.b": "0ec4a185a5d56ef9",
}

CONVOLUTION = ["Convolution", "Plus", "ReLU"]
NORM = [
    "ElementTimes",
    "Reshape",
    "Convolution",
    "Reshape",
    "Plus",
    "Log",
    "ElementTimes",
    "Exp",
    "Reciprocal",
    "ElementTimes",
]
DENSE = ["Times", "Plus", "ReLU", "Dropout"]
CHAIN = [
    *("Minus", *CONVOLUTION, *NORM, "Pooling", *CONVOLUTION, *NORM, "Pooling"),
    *(*CONVOLUTION, *CONVOLUTION, *CONVOLUTION, "Pooling", *DENSE, *DENSE, "Times", "Plus"),
]


def layers(graph):
    """(name, the function with the weights, the addition of the biases) of each layer, by the order of the graph."""
    functions = list(graph.functions.values())
    names = iter(["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"])
    for function, following in pairwise(functions):
        weights = graph.variables.get(function.inputs[0])
        if function.op in ("Convolution", "Times") and weights and weights.kind == "parameter":
            yield next(names), function, following


def parameters(graph):
    arrays = {}
    for name, function, addition in layers(graph):
        arrays[f"{name}.W"] = graph.variables[function.inputs[0]].value
        arrays[f"{name}.b"] = graph.variables[addition.inputs[1]].value
    return arrays


def test_parameters_are_bit_for_bit_those_of_cntk():
    arrays = parameters(read_cntk_model(TINY))
    with np.load(REFERENCE / "cntk_tiny_weights.npz") as expected:
        assert sorted(arrays) == sorted(expected.files)
        for name in expected.files:
            np.testing.assert_array_equal(arrays[name], expected[name], strict=True)


@pytest.mark.parametrize("path", [PADDED_POOLS, PADDED_POOLS_V1, CHECKPOINT], ids=lambda path: path.name)
def test_parameters_of_every_format_are_those_of_cntk(path):
    arrays = parameters(read_cntk_model(path))
    digests = {name: hashlib.sha256(array.tobytes()).hexdigest()[:16] for name, array in arrays.items()}
    assert digests == PADDED_POOLS_SHA256
    assert {array.dtype for array in arrays.values()} == {np.dtype("float32")}
    assert arrays["conv1.W"].shape == (16, 3, 11, 11)
    assert arrays["fc6.W"].shape == (48, 7, 7, 48)
    assert arrays["fc8.W"].shape == (48, 7)


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_functions_are_those_of_alexnet_in_order(path):
    graph = read_cntk_model(path)
    functions = list(graph.functions.values())
    assert [function.op for function in functions[: len(CHAIN)]] == CHAIN
    assert (len(functions) == len(CHAIN)) == (path != CHECKPOINT)
    assert functions[len(CHAIN) - 1].uid == graph.roots[0]
    known = set(graph.variables)
    for function in functions:
        assert known.issuperset(function.inputs)
        known.add(function.uid)
    # Each takes what the one before it gives: only the norms take the image a second time.
    for before, function in pairwise(functions[: len(CHAIN)]):
        assert before.uid in function.inputs
    features, mean = (graph.variables[uid] for uid in functions[0].inputs)
    assert (features.kind, features.shape, features.value) == ("input", (3, 227, 227), None)
    assert (mean.kind, mean.shape, mean.value) == ("constant", (), 114)


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_windows_are_those_of_alexnet(path):
    graph = read_cntk_model(path)
    windows = {name: f.attributes for name, f, _ in layers(graph) if f.op == "Convolution"}
    assert [a["kernelShape"] for a in windows.values()][:2] == [(11, 11, 3), (5, 5, 24 if path == TINY else 16)]
    assert [a["kernelShape"][:2] for a in windows.values()] == [(11, 11), (5, 5), (3, 3), (3, 3), (3, 3)]
    assert [a["strides"][:2] for a in windows.values()] == [(4, 4), *[(1, 1)] * 4]
    assert [a["autoPadding"] for a in windows.values()] == [[False] * 3, *[[True, True, False]] * 4]
    assert {a["lowerPad"] + a["upperPad"] + a["dilation"] for a in windows.values()} == {(0, 0, 0, 0, 0, 0, 1, 1, 1)}
    assert {a["transpose"] for a in windows.values()} == {False}
    pools = [f.attributes for f in graph.functions.values() if f.op == "Pooling"]
    assert {a["poolingWindowShape"][:2] + a["strides"][:2] for a in pools} == {(3, 3, 2, 2)}
    assert {tuple(a["autoPadding"][:2]) for a in pools} == {(path != TINY,) * 2}
    assert {a["lowerPad"] + a["upperPad"] for a in pools} in ({(0,) * 2}, {(0,) * 6})
    assert {(a["poolingType"], a["ceilOutDim"]) for a in pools} == {(0, False)}


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_norms_have_their_constants(path):
    graph = read_cntk_model(path)
    constants = [v.value for v in graph.variables.values() if v.kind == "constant" and v.name == "W"]
    assert [value.shape for value in constants] == [(1, 5, 1, 1)] * 2
    assert all((value == np.float32(2e-5)).all() for value in constants)
    reshapes = [f.attributes for f in graph.functions.values() if f.op == "Reshape"]
    splitting, joining = (2, 3, (-1, 1)), (2, 4, (-1,))
    assert [(a["beginAxis"], a["endAxis"], a["newShape"]) for a in reshapes] == [splitting, joining] * 2


def test_blocks_name_the_layers():
    graph = read_cntk_model(TINY)
    names = list(dict.fromkeys(f.blocks[0] for f in graph.functions.values() if f.blocks))
    convolutional = "conv1 relu1 norm1 pool1 conv2 relu2 norm2 pool2 conv3 relu3 conv4 relu4 conv5 relu5 pool5"
    assert " ".join(names) == f"{convolutional} fc6 relu6 drop6 fc7 relu7 drop7 fc8"
    (division,) = (f for f in graph.functions.values() if f.uid == "ElementTimes17167")
    assert division.blocks == ("norm1", "")
    rates = [f.attributes["dropoutRate"] for f in graph.functions.values() if f.op == "Dropout"]
    assert rates == [0.5, 0.5]


def test_checkpoint_has_labels_loss_and_metric():
    graph = read_cntk_model(CHECKPOINT)
    assert [v.shape for v in graph.variables.values() if v.kind == "input"] == [(3, 227, 227), (7,)]
    assert len(graph.roots) == 5
    ops = [graph.functions[uid].op for uid in graph.roots]
    assert ops == ["Plus", "Minus", "ReduceElements", "Minus", "ReduceElements"]
