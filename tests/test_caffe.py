import contextlib
import gzip
import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from protobuf_bytes import field, fixed, packed, varint

from keras_alexnet.errors import UserError
from keras_alexnet.importers.caffe import reader as caffe
from keras_alexnet.importers.caffe.schema import V1_TYPES

REFERENCE = Path(__file__).parent / "reference"
PARAMETERS = json.loads((REFERENCE / "caffe_parameters.json").read_text())

CONVOLUTION, POOLING, LRN, INNER_PRODUCT, INPUT = 106, 121, 118, 117, 143
V1_CONVOLUTION, V1_POOLING, V1_LRN, V1_INNER_PRODUCT = 10, 19, 18, 17
WEIGHTS = np.linspace(-1, 1, 24, dtype="<f4").reshape(2, 3, 2, 2)
BIAS = np.float32([0.5, -0.25])


def blob(values, shape=None) -> bytes:
    values = np.asarray(values, "<f4")
    dims = b"".join(map(varint, values.shape if shape is None else shape))
    return field(7, field(1, dims)) + packed(5, values)


def old_blob(values, *dims: int) -> bytes:
    return b"".join(field(number, size) for number, size in enumerate(dims, 1)) + packed(5, values)


def layer(name: str, layer_type: str, *parts: bytes) -> bytes:
    return field(100, field(1, name) + field(2, layer_type) + b"".join(parts))


def v1_layer(name: str, layer_type: int, *parts: bytes) -> bytes:
    return field(2, b"".join(parts) + field(4, name) + field(5, layer_type))


def convolution(*blobs: bytes, parameters: bytes = field(1, 2) + field(4, 2)) -> bytes:
    return layer("conv1", "Convolution", *(field(7, content) for content in blobs), field(CONVOLUTION, parameters))


def small_net() -> bytes:
    return (
        field(1, "small")
        + layer("data", "Input", field(4, "data"), field(INPUT, field(1, field(1, b"\x01\x03\x05\x05"))))
        + convolution(blob(WEIGHTS), blob(BIAS))
        + layer("relu1", "ReLU", field(3, "conv1"), field(4, "conv1"))
        + layer("norm1", "LRN", field(LRN, fixed(2, "<f", 1e-4) + field(4, 1)))
        + layer("pool1", "Pooling", field(POOLING, field(1, 1) + field(2, 3) + field(3, 2)))
        + layer("fc2", "InnerProduct", field(7, blob(np.ones((2, 8)))), field(INNER_PRODUCT, field(1, 2) + field(2, 0)))
    )


def small_v1_net() -> bytes:
    return (
        field(1, "small")
        + v1_layer("data", 5, field(3, "data"))
        + v1_layer(
            "conv1",
            4,
            field(6, old_blob(WEIGHTS, 2, 3, 2, 2)),
            field(6, old_blob(BIAS, 1, 1, 1, 2)),
            field(V1_CONVOLUTION, field(1, 2) + field(4, 2)),
        )
        + v1_layer("relu1", 18, field(2, "conv1"), field(3, "conv1"))
        + v1_layer("norm1", 15, field(V1_LRN, fixed(2, "<f", 1e-4) + field(4, 1)))
        + v1_layer("pool1", 17, field(V1_POOLING, field(1, 1) + field(2, 3) + field(3, 2)))
        + v1_layer(
            "fc2",
            14,
            field(6, old_blob(np.ones(16), 1, 1, 2, 8)),
            field(V1_INNER_PRODUCT, field(1, 2) + field(2, 0)),
        )
    )


def read(folder, content: bytes) -> caffe.CaffeNet:
    path = folder / "net.caffemodel"
    # Not written over: the arrays of an earlier one are views of the old file.
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    return caffe.read_caffemodel(path)


def read_text(folder, text: str) -> caffe.CaffeNet:
    (folder / "deploy.prototxt").write_text(text, encoding="utf-8")
    return caffe.read_prototxt(folder / "deploy.prototxt")


def refused(folder, content: bytes) -> str:
    with pytest.raises(UserError) as raised:
        read(folder, content)
    message = str(raised.value)
    assert message.startswith(f"{folder}/net.caffemodel")
    assert "Expected " in message
    assert len(message) < 1000
    return message.removeprefix(f"{folder}/net.caffemodel")


def by_name(net: caffe.CaffeNet) -> dict[str, caffe.CaffeLayer]:
    return {item.name: item for item in net.layers}


@pytest.mark.parametrize("kind", ["new", "v1"])
def test_reference_weights_bit_for_bit(kind):
    net = caffe.read_caffemodel(REFERENCE / f"caffe_alexnet_{kind}_c10_fc64.caffemodel")
    found = {
        f"{item.name}.{letter}": [list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()]
        for item in net.layers
        for letter, array in zip("Wb", item.blobs, strict=False)
    }
    assert found == PARAMETERS[kind]
    arrays = [array for item in net.layers for array in item.blobs]
    assert {array.dtype for array in arrays} == {np.dtype("float32")}


@pytest.mark.parametrize("kind", ["new", "v1"])
def test_reference_description_is_that_of_the_weights(kind):
    trained = by_name(caffe.read_caffemodel(REFERENCE / f"caffe_alexnet_{kind}_c10_fc64.caffemodel"))
    deployed = by_name(caffe.read_prototxt(REFERENCE / f"caffe_alexnet_{kind}_c10_fc64.deploy.prototxt"))
    common = set(trained) & set(deployed) - {"data"}
    assert len(common) == 22
    for name in common:
        for attribute in ("type", "bottoms", "tops", "parameters"):
            assert getattr(trained[name], attribute) == getattr(deployed[name], attribute)
    (source,) = (item for item in deployed.values() if item.type == "Input")
    assert (source.tops, source.parameters) == (("data",), {"shapes": ((4, 3, 227, 227),)})
    assert trained["data"].type == "Data"
    assert trained["loss"].type == "SoftmaxWithLoss"
    assert deployed["prob"].type == "Softmax"
    assert deployed["conv2"].parameters == {
        "num_output": 64,
        "bias_term": True,
        "kernel": (5, 5),
        "stride": (1, 1),
        "pad": (2, 2),
        "dilation": (1, 1),
        "group": 2,
    }
    assert deployed["norm1"].parameters == {
        "local_size": 5,
        "alpha": 0.0001,
        "beta": 0.75,
        "k": 1.0,
        "norm_region": "ACROSS_CHANNELS",
    }


def test_both_encodings_give_the_same(tmp_path):
    new, old = read(tmp_path, small_net()), read(tmp_path, small_v1_net())
    assert [item.type for item in new.layers] == ["Input", "Convolution", "ReLU", "LRN", "Pooling", "InnerProduct"]
    assert [item.type for item in old.layers] == ["Data", "Convolution", "ReLU", "LRN", "Pooling", "InnerProduct"]
    for one, other in zip(new.layers[1:], old.layers[1:], strict=True):
        assert (one.name, one.type, one.bottoms, one.tops) == (other.name, other.type, other.bottoms, other.tops)
        assert one.parameters == other.parameters
        for a, b in zip(one.blobs, other.blobs, strict=True):
            np.testing.assert_array_equal(a, b, strict=True)
    layers = by_name(new)
    assert layers["data"].parameters == {"shapes": ((1, 3, 5, 5),)}
    assert layers["relu1"].bottoms == layers["relu1"].tops == ("conv1",)
    assert layers["norm1"].parameters["alpha"] == 1e-4
    assert layers["norm1"].parameters["norm_region"] == "WITHIN_CHANNEL"
    assert layers["pool1"].parameters["method"] == "AVE"
    assert not layers["fc2"].parameters["bias_term"]
    np.testing.assert_array_equal(layers["conv1"].blobs[0], WEIGHTS, strict=True)
    np.testing.assert_array_equal(layers["conv1"].blobs[1], BIAS, strict=True)
    assert layers["fc2"].blobs[0].shape == (2, 8)


DIMS = field(7, field(1, varint(2)))


@pytest.mark.parametrize(
    "content",
    [
        DIMS + packed(5, BIAS),
        packed(5, BIAS) + DIMS,
        field(7, field(1, 2)) + packed(5, BIAS),
        DIMS + fixed(5, "<f", *BIAS),
        DIMS + packed(5, BIAS[:1]) + packed(5, BIAS[1:]),
        DIMS + packed(8, BIAS, "<f8"),
        DIMS + fixed(8, "<d", *BIAS),
        DIMS + packed(5, BIAS) + packed(6, [9.0, 9.0]) + field(99, "unknown"),
        old_blob(BIAS, 1, 1, 1, 2),
        DIMS + old_blob(BIAS, 1, 1, 1, 2),
    ],
    ids=[
        "packed",
        "shape last",
        "dims not packed",
        "not packed",
        "in two pieces",
        "double",
        "double, not packed",
        "gradients too",
        "old dims",
        "both dims",
    ],
)
def test_every_way_to_write_a_blob(tmp_path, content):
    net = read(tmp_path, convolution(blob(WEIGHTS), content))
    bias = net.layers[0].blobs[1]
    assert bias.dtype == np.float32
    np.testing.assert_array_equal(bias.ravel(), BIAS)


def test_scalar_blobs_have_no_axes(tmp_path):
    net = read(tmp_path, layer("bn", "BatchNorm", field(7, field(7, b"") + packed(5, [3.0]))))
    assert net.layers[0].blobs[0].shape == ()


def test_defaults_are_caffes(tmp_path):
    net = read(
        tmp_path,
        layer("c", "Convolution", field(CONVOLUTION, field(1, 4) + field(4, 3)))
        + layer("p", "Pooling", field(POOLING, field(2, 2)))
        + layer("n", "LRN")
        + layer("f", "InnerProduct", field(INNER_PRODUCT, field(1, 7)))
        + layer("d", "Dropout")
        + layer("r", "ReLU")
        + layer("i", "Input")
        + layer("x", "Softmax"),
    )
    assert [item.parameters for item in net.layers] == [
        {
            "num_output": 4,
            "bias_term": True,
            "kernel": (3, 3),
            "stride": (1, 1),
            "pad": (0, 0),
            "dilation": (1, 1),
            "group": 1,
        },
        {
            "method": "MAX",
            "global_pooling": False,
            "kernel": (2, 2),
            "stride": (1, 1),
            "pad": (0, 0),
            "round_mode": "CEIL",
        },
        {"local_size": 5, "alpha": 1.0, "beta": 0.75, "k": 1.0, "norm_region": "ACROSS_CHANNELS"},
        {"num_output": 7, "bias_term": True, "axis": 1, "transpose": False},
        {"dropout_ratio": 0.5},
        {"negative_slope": 0.0},
        {"shapes": ()},
        {},
    ]


def test_height_and_width_apart(tmp_path):
    sides = b"".join(field(number, number) for number in (9, 10, 11, 12, 13, 14))
    (conv,) = read(tmp_path, convolution(parameters=field(1, 2) + sides)).layers
    assert [conv.parameters[name] for name in ("pad", "kernel", "stride")] == [(9, 10), (11, 12), (13, 14)]
    twice = b"".join(field(number, value) for number in (3, 4, 6, 18) for value in (number, number + 1))
    (conv,) = read(tmp_path, convolution(parameters=field(1, 2) + twice)).layers
    names = ("pad", "kernel", "stride", "dilation")
    assert [conv.parameters[name] for name in names] == [(3, 4), (4, 5), (6, 7), (18, 19)]
    (conv,) = read(tmp_path, convolution(parameters=field(1, 2) + field(4, b"\x03\x05") + field(9, 1))).layers
    assert (conv.parameters["kernel"], conv.parameters["pad"]) == ((3, 5), (1, 0))
    sides = b"".join(field(number, number) for number in (5, 6, 7, 8, 9, 10))
    (pool,) = read(tmp_path, layer("p", "Pooling", field(POOLING, sides))).layers
    assert [pool.parameters[name] for name in ("kernel", "stride", "pad")] == [(5, 6), (7, 8), (9, 10)]
    (pool,) = read(tmp_path, layer("p", "Pooling", field(POOLING, field(12, 1)))).layers
    assert pool.parameters["global_pooling"]
    assert pool.parameters["kernel"] is None


def test_inputs_of_old_networks_are_a_layer(tmp_path):
    dims = b"".join(field(4, size) for size in (1, 3, 5, 5))
    net = read(tmp_path, small_net() + field(3, "image") + dims)
    source = net.layers[0]
    assert (source.type, source.tops, source.parameters) == ("Input", ("image",), {"shapes": ((1, 3, 5, 5),)})
    net = read(tmp_path, small_net() + field(3, "image") + field(8, field(1, b"\x01\x03\x05\x05")))
    assert net.layers[0].parameters == {"shapes": ((1, 3, 5, 5),)}
    assert "3 times input_dim" in refused(tmp_path, small_net() + field(3, "image") + dims[:-2])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (blob(BIAS, (3,)), "blob 1 has 2 numbers. Expected 3 for its shape 3,"),
        (blob(BIAS, (1, 1)), "blob 1 has 2 numbers. Expected 1 for its shape 1 × 1,"),
        (blob(BIAS, (2**21,) * 4), "blob 1 has 2 numbers. Expected beyond 2^63 for its shape 2,097,152 × "),
        (blob(BIAS, (-2, -1)), "blob 1 has the shape -2 × -1. Expected at most 32 sizes, none negative."),
        (blob(BIAS, (1,) * 33), "blob 1 has the shape 1 × 1 × "),
        (blob([], (0,)), "blob 1 has 0 numbers. Expected 0 for its shape 0, and at least one."),
        (DIMS, "blob 1 has 0 numbers. Expected 2"),
        (DIMS + field(5, BIAS.tobytes()[:-1]), "blob 1 has 7 bytes of numbers. Expected a multiple of 4"),
        # Of which the order is lost.
        (DIMS + packed(5, BIAS[:1]) + fixed(5, "<f", BIAS[1]), "blob 1 has 1 numbers. Expected 2"),
        (packed(5, BIAS), "blob 1 has 2 numbers. Expected 1 for its shape of a single number"),
        (b"", "blob 1 has 0 numbers."),
        (old_blob(BIAS, 1, 1, 2), "blob 1 has 2 numbers. Expected 0 for its shape 1 × 1 × 2 × 0"),
        (old_blob(BIAS, 1, 1, 1, -2), "blob 1 has the shape 1 × 1 × 1 × -2"),
    ],
)
def test_wrong_blobs_are_told_with_their_layer(tmp_path, content, told):
    message = refused(tmp_path, field(1, "net") + convolution(blob(WEIGHTS), content))
    assert message.startswith(f": layer 1 ('conv1'), {told}")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (layer("conv1", ""), ": layer 1 ('conv1') has no type."),
        (field(100, field(1, "conv1")), ": layer 1 ('conv1') has no type."),
        (v1_layer("conv1", 0), ": layer 1 ('conv1') has no type."),
        (v1_layer("conv1", 40), ": layer 1 ('conv1') has the type 40. Expected 0 to 39."),
        (layer("conv1", "Convolution"), "convolution_param has no num_output. Expected one of 1 or above."),
        (convolution(parameters=field(1, 2)), "has no kernel_size."),
        (convolution(parameters=field(1, 2) + field(11, 3)), "has kernel_w 0. Expected 1 or above"),
        (convolution(parameters=field(1, 2) + field(4, 0)), "has kernel_size 0."),
        (convolution(parameters=field(1, 2**31) + field(4, 1)), "has num_output 2,147,483,648."),
        (
            convolution(parameters=field(1, 2) + field(4, 1) + field(3, -1)),
            "has pad 4,294,967,295. Expected 0 or above, below 2^31",
        ),
        (convolution(parameters=field(1, 2) + field(4, b"\x01\x01\x01")), "has 3 times kernel_size."),
        (convolution(parameters=field(1, 2) + field(4, 1) + field(5, 0)), "has group 0."),
        (layer("n", "LRN", field(LRN, fixed(2, "<f", np.nan))), ": layer 1 ('n'): lrn_param has alpha nan."),
        (
            layer("p", "Pooling", field(POOLING, field(1, 3) + field(2, 2))),
            ": pooling_param has pool 3. Expected 0 to 2.",
        ),
        (layer("x" * 1001, "ReLU"), ": layer 1 has a name of 1,001 bytes. Expected at most 1,000."),
        (layer("r", "ReLU") * 10_001, " has 10,001 layers. Expected 10,000 at most."),
        (layer("r", "ReLU") + v1_layer("r", 18), " has layers of two formats."),
        (field(2, field(1, field(1, "conv1"))), "upgrade_net_proto_binary"),
        (field(1, "a name") + field(7, 1), " has no layers."),
    ],
)
def test_wrong_layers_are_told(tmp_path, content, told):
    assert told in refused(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", " is empty."),
        (b"\x08\x07\x12\x07pytorch", " is something else, corrupted, or truncated."),
        (bytes(range(255, 155, -1)), " is something else, corrupted, or truncated."),
    ],
    ids=["empty", "onnx", "noise"],
)
def test_other_files_are_refused(tmp_path, content, told):
    assert told in refused(tmp_path, content)


@pytest.mark.parametrize("compose", [small_net, small_v1_net])
def test_every_truncation_is_told(tmp_path, compose):
    """Only a cut between two layers leaves a file that could be meant."""
    content = compose()
    lengths = set()
    for length in range(1, len(content)):
        with contextlib.suppress(UserError):
            lengths.add(len(read(tmp_path, content[:length]).layers))
    assert lengths == {1, 2, 3, 4, 5}


def test_truncated_reference_is_told(tmp_path):
    content = (REFERENCE / "caffe_alexnet_new_c10_fc64.caffemodel").read_bytes()[:900_000]
    assert " is something else, corrupted, or truncated" in refused(tmp_path, content)


def test_files_beyond_protobufs_limit_are_told(tmp_path):
    with open(tmp_path / "net.caffemodel", "wb") as file:
        file.truncate(2**31)
    with pytest.raises(UserError, match=r"has 2,147,483,648 bytes. Expected .* of less than 2 GiB"):
        caffe.read_caffemodel(tmp_path / "net.caffemodel")


def mutated(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        at = rng.randrange(len(data))
        match rng.randrange(6):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at] = rng.randrange(256)
            case 2:
                del data[at : at + rng.randrange(1, 9)]
            case 3:
                data[at:at] = rng.randbytes(rng.randrange(1, 9))
            case 4:
                data[at : at + 1] = varint(rng.choice([2**14, 2**31, 2**32 - 1, 2**62, 2**64 - 1]))
            case 5:
                start = rng.randrange(len(data))
                data[at:at] = data[start : start + rng.randrange(100)]
        if len(data) < 2:
            return content[:2]
    return bytes(data[: rng.randrange(1, len(data))] if rng.random() < 0.1 else data)


@pytest.mark.parametrize("compose", [small_net, small_v1_net])
def test_mutations_are_read_or_told(tmp_path, compose):
    """Whatever the bytes, the outcome is a network or a UserError."""
    content, rng = compose(), random.Random(5)
    outcomes = {"net": 0, "error": 0}
    for _ in range(2000):
        try:
            assert read(tmp_path, mutated(content, rng)).layers
            outcomes["net"] += 1
        except UserError:
            outcomes["error"] += 1
    assert min(outcomes.values()) > 100


HOSTILE = {
    "bottoms": layer("r", "ReLU", field(3, "") * 1_500_000),
    "empty layers": field(100, b"") * 1_000_000,
    "layers": layer("r", "ReLU") * 9_999 + layer("r", "ReLU", b"\x08\x01" * 1_400_000),
    "empty blobs": layer("r", "ReLU", field(7, b"") * 1_500_000),
    "blobs": layer("r", "ReLU", field(7, packed(5, [1.0])) * 350_000),
    "blobs of layers": layer("r", "ReLU", field(7, packed(5, [1.0])) * 10) * 2_000,
    "dims": convolution(blob(WEIGHTS), blob(BIAS, b"\x01" * 3_000_000)),
    "pieces": convolution(blob(WEIGHTS), packed(5, BIAS[:1]) * 500_000),
    "empty pieces": convolution(blob(WEIGHTS), field(5, b"") * 1_500_000),
    "not packed": convolution(blob(WEIGHTS), field(7, field(1, varint(600_000))) + fixed(5, "<f", 1.0) * 600_000),
    "pieces not packed": convolution(blob(WEIGHTS), (fixed(5, "<f", 1.0) + field(6, b"")) * 400_000),
    "long name": field(1, "x" * 3_000_000),
    "unknown fields": small_net() + field(6, 1) * 1_500_000,
    "text": (b"a:1 " * 4_000 + b"\n") * 16,
    "text of one line": b"a:1 " * 60_000,
    "deep text": b"a{\n" * 80_000,
}
# Reads the files named and prints how much the memory grew, in MB.
MEASURE = """
import resource, sys
from keras_alexnet.errors import UserError
from keras_alexnet.importers.caffe import reader
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        (reader.read_prototxt if "text" in path else reader.read_caffemodel)(path)
    except UserError as error:
        assert len(str(error)) < 1000
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_hostile_files_take_little_memory(tmp_path):
    for name, content in HOSTILE.items():
        (tmp_path / name).write_bytes(content)
    command = [sys.executable, "-c", MEASURE, *(str(tmp_path / name) for name in HOSTILE)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(result.stdout) < 500


def test_mean_image(tmp_path):
    pixels = np.random.default_rng(3).uniform(90, 130, (3, 4, 5)).astype("<f4")
    for content in (
        old_blob(pixels, 1, 3, 4, 5),
        blob(pixels, (1, 3, 4, 5)),
        blob(pixels),
        field(7, field(1, b"\x03\x04\x05")) + packed(8, pixels, "<f8"),
    ):
        (tmp_path / "mean.binaryproto").write_bytes(content)
        np.testing.assert_array_equal(caffe.read_mean(tmp_path / "mean.binaryproto"), pixels, strict=True)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (old_blob(np.ones(40), 2, 1, 4, 5), "has the shape 2 × 1 × 4 × 5. Expected a mean image"),
        (blob(np.ones(5)), "has the shape 5. Expected a mean image"),
        (old_blob(np.ones(59), 1, 3, 4, 5), ": the mean image has 59 numbers. Expected 60"),
        (old_blob(np.full(60, np.nan), 1, 3, 4, 5), " has NaN or infinite pixels."),
        (old_blob(np.ones(60), 1, 3, 4, 5)[:-1], " is something else, corrupted, or truncated"),
        (small_net(), ": the mean image has 0 numbers"),
        (b"\n<!DOCTYPE html>", " is a web page: download the file itself. Expected a mean image"),
        (gzip.compress(b"x", mtime=0), " is a gzip archive: unpack it"),
    ],
)
def test_wrong_means_are_told(tmp_path, content, told):
    (tmp_path / "mean.binaryproto").write_bytes(content)
    with pytest.raises(UserError) as raised:
        caffe.read_mean(tmp_path / "mean.binaryproto")
    assert told in str(raised.value)


def test_prototxt_in_all_its_notations(tmp_path):
    net = read_text(
        tmp_path,
        """# a comment: { "
        name: 'small' 'er'; input: "data" input_shape: { dim: [1, 3, 5, 5] }
        state { phase: TEST stage: ["a", "b"] unknown < x: -1.5e3 > }
        layer < name: "conv1", type: "Convolution" bottom: "data" top: "conv1"  # what it takes
          param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 }
          convolution_param { num_output: 0x10 kernel_h: 3 kernel_w: 5 pad: [1, 2] bias_term: false
                              weight_filler { type: "gaussian" std: 0.01 } }
        >
        layer { name: "a \\"b\\"" type: "LRN" lrn_param { alpha: 1e-4f beta: .75 norm_region: 1 k: 2 } }
        layer { name: "p" type: "Pooling" pooling_param { pool: AVE global_pooling: true } include: { phase: TRAIN } }
        """,
    )
    source, conv, norm, pool = net.layers
    assert (source.tops, source.parameters["shapes"]) == (("data",), ((1, 3, 5, 5),))
    assert (conv.bottoms, conv.tops, conv.blobs) == (("data",), ("conv1",), ())
    assert conv.parameters == {
        "num_output": 16,
        "bias_term": False,
        "kernel": (3, 5),
        "stride": (1, 1),
        "pad": (1, 2),
        "dilation": (1, 1),
        "group": 1,
    }
    assert norm.name == 'a "b"'
    assert norm.parameters == {"local_size": 5, "alpha": 1e-4, "beta": 0.75, "k": 2.0, "norm_region": "WITHIN_CHANNEL"}
    assert (pool.parameters["method"], pool.parameters["global_pooling"]) == ("AVE", True)


def test_escapes_of_prototxts_are_the_bytes_they_stand_for(tmp_path):
    (layer,) = read_text(tmp_path, r'layer { name: "caf\303\251\n\x41" type: "ReLU" bottom: "é" top: "\377" }').layers
    assert (layer.name, layer.bottoms, layer.tops) == ("café\nA", ("é",), ("\\xff",))


def test_prototxt_with_byte_order_mark(tmp_path):
    assert read_text(tmp_path, '\ufefflayer { name: "r" type: "ReLU" }').layers[0].type == "ReLU"


def test_v1_types_have_todays_names(tmp_path):
    names = ["NONE", *(name for name in V1_TYPES if name != "NONE")]
    for number, name in enumerate(names[1:], 1):
        (binary,) = read(tmp_path, v1_layer("x", number, field(10, field(1, 1) + field(4, 1)),
                                            field(17, field(1, 1)), field(19, field(2, 1)))).layers  # fmt: skip
        (text,) = read_text(
            tmp_path,
            f'layers {{ name: "x" type: {name} convolution_param {{ num_output: 1 kernel_size: 1 }} '
            "inner_product_param { num_output: 1 } pooling_param { kernel_size: 1 } }",
        ).layers
        assert binary.type == text.type == V1_TYPES[name]
    known = {4: "Convolution", 14: "InnerProduct", 21: "SoftmaxWithLoss", 25: "Eltwise", 35: "AbsVal"}
    assert {number: V1_TYPES[names[number]] for number in known} == known
    assert len(names) == 40


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('layer {\n  name: "a"\n  type: ReLU }', ", line 3 is not a description of a network"),
        ('layer {\n name: "a" ', ", line 2 is not"),
        ("layers { type: Convolution }", "has no value named Convolution"),
        ('layer { type: "LRN" lrn_param { alpha: x } }', "Couldn't parse float: x"),
        ("input_dim: " + "9" * 5000, ", line 1 is not"),
        ("unknown { a: [ 1 ) ] }", ", line 1 is not"),
        ("unknown: ", "Invalid field value"),
        ("a { \n" * 40_000, "too many messages within each other"),
        ('name: "a"', " has no layers."),
        ("layers { layer { name: 'conv1' } }", "upgrade_net_proto_text"),
        ('layer { name: "c" type: "Convolution" }', ": layer 1 ('c'): convolution_param has no num_output"),
        ("#" * 2**18 + "\n", "has 262,145 bytes"),
        ("", "is empty"),
    ],
)
def test_wrong_prototxts_are_told(tmp_path, text, told):
    with pytest.raises(UserError) as raised:
        read_text(tmp_path, text)
    message = str(raised.value)
    assert told in message
    assert f"{tmp_path}/deploy.prototxt" in message
    assert len(message) < 1000


def test_binary_file_given_as_prototxt(tmp_path):
    (tmp_path / "net.prototxt").write_bytes(small_net())
    with pytest.raises(UserError, match=r"byte 7 is not UTF-8 text. Expected a description of a network \(.prototxt\)"):
        caffe.read_prototxt(tmp_path / "net.prototxt")


def test_mutated_prototxts_are_read_or_told(tmp_path):
    text, rng = (REFERENCE / "caffe_alexnet_v1_c10_fc64.deploy.prototxt").read_bytes(), random.Random(6)
    outcomes = {"net": 0, "error": 0}
    path = tmp_path / "deploy.prototxt"
    for _ in range(500):
        path.write_bytes(mutated(text, rng))
        try:
            assert caffe.read_prototxt(path).layers
            outcomes["net"] += 1
        except UserError:
            outcomes["error"] += 1
    assert min(outcomes.values()) > 10
