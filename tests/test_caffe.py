"""Caffe's layers, blobs and settings, from `.caffemodel` and `.prototxt` files."""

import hashlib
import json

import numpy as np
import pytest
from caffe_files import (
    BIAS,
    CONVOLUTION,
    INNER_PRODUCT,
    LRN,
    POOLING,
    REFERENCE,
    WEIGHTS,
    blob,
    convolution,
    dims,
    layer,
    old_blob,
    raw_blob,
    small_net,
    small_v1_net,
    v1_layer,
)
from protobuf_bytes import field, fixed, packed

from keras_alexnet.errors import UserError
from keras_alexnet.importers.caffe import reader as caffe
from keras_alexnet.importers.caffe.schema import V1_TYPES

PARAMETERS = json.loads((REFERENCE / "caffe_parameters.json").read_text())


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


@pytest.mark.parametrize(
    "content",
    [
        packed(5, BIAS) + dims(2),
        field(7, field(1, 2)) + packed(5, BIAS),
        dims(2) + fixed(5, "<f", *BIAS),
        dims(2) + packed(5, BIAS[:1]) + packed(5, BIAS[1:]),
        dims(2) + packed(8, BIAS, "<f8"),
        dims(2) + packed(5, BIAS) + packed(6, [9.0, 9.0]) + field(99, "unknown"),
        old_blob(BIAS, 1, 1, 1, 2),
        dims(2) + old_blob(BIAS, 1, 1, 1, 2),
        raw_blob(BIAS, 0, "<f8"),
        raw_blob(BIAS, None, "<f8"),
        raw_blob(BIAS, 1, "<f4"),
        raw_blob(BIAS, 2, "<f2"),
        raw_blob(BIAS, 1, "<f4") + field(11, 1) + packed(13, [9.0, 9.0]),
    ],
    ids=[
        *("shape last", "dims not packed", "not packed", "in two pieces", "double", "gradients too", "old dims"),
        *("both dims", "raw double", "raw by default", "raw float", "raw half", "raw gradients too"),
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
    ("content", "expected_text"),
    [
        (blob(BIAS, (3,)), "blob 1 has 2 numbers. Expected 3 for its shape 3,"),
        (blob(BIAS, (2**21,) * 4), "blob 1 has 2 numbers. Expected beyond 2^63 for its shape 2,097,152 × "),
        (blob(BIAS, (-2, -1)), "blob 1 has the shape -2 × -1. Expected at most 32 sizes, none negative."),
        (blob(BIAS, (1,) * 33), "blob 1 has the shape 1 × 1 × "),
        (blob([], (0,)), "blob 1 has 0 numbers. Expected 0 for its shape 0, and at least one."),
        (dims(2) + field(5, BIAS.tobytes()[:-1]), "blob 1 has 7 bytes of numbers. Expected a multiple of 4"),
        (packed(5, BIAS), "blob 1 has 2 numbers. Expected 1 for its shape of a single number"),
        (old_blob(BIAS, 1, 1, 2), "blob 1 has 2 numbers. Expected 0 for its shape 1 × 1 × 2 × 0"),
        (raw_blob(BIAS, 0, "<f4"), "blob 1 has 1 numbers. Expected 2"),
        (raw_blob(BIAS, None, "<f4"), "blob 1 has 1 numbers. Expected 2"),
        (raw_blob(BIAS, 1, "<f2"), "blob 1 has 1 numbers. Expected 2"),
        (raw_blob(BIAS, 1, "<f4")[:-1] + b"", "is something else, corrupted, or truncated"),
        (raw_blob(BIAS, 3, "<f4"), "blob 1 has raw_data of type 3. Expected 0 (double), 1 (float) or 2 (half"),
    ],
)
def test_wrong_blobs_are_told_with_their_layer(tmp_path, content, expected_text):
    message = refused(tmp_path, field(1, "net") + convolution(blob(WEIGHTS), content))
    assert expected_text in message
    assert message.startswith(": layer 1 ('conv1'), ") or "truncated" in expected_text


@pytest.mark.parametrize(
    ("content", "expected_text"),
    [
        (layer("conv1", ""), ": layer 1 ('conv1') has no type."),
        (v1_layer("conv1", 0), ": layer 1 ('conv1') has no type."),
        (v1_layer("conv1", 40), ": layer 1 ('conv1') has the type 40. Expected 0 to 39."),
        (layer("conv1", "Convolution"), "convolution_param has no num_output. Expected one of 1 or above."),
        (convolution(parameters=field(1, 2)), "has no kernel_size."),
        (convolution(parameters=field(1, 2) + field(11, 3)), "has kernel_w 0. Expected 1 or above"),
        (convolution(parameters=field(1, 2**31) + field(4, 1)), "has num_output 2,147,483,648."),
        (convolution(parameters=field(1, 2) + field(4, b"\x01\x01\x01")), "has 3 times kernel_size."),
        (layer("n", "LRN", field(LRN, fixed(2, "<f", np.nan))), ": layer 1 ('n'): lrn_param has alpha nan."),
        (
            layer("p", "Pooling", field(POOLING, field(1, 3) + field(2, 2))),
            ": pooling_param has pool 3. Expected 0 to 2.",
        ),
        (layer("x" * 1001, "ReLU"), ": layer 1 has a name of 1,001 bytes. Expected at most 1,000."),
        (layer("r", "ReLU") * 1_001, " has 1,001 layers. Expected 1,000 at most."),
        (layer("r", "ReLU", field(3, "") * 51), " has 51 bottoms or tops. Expected 50 at most."),
        (field(6, 1) * 100_001, " has more than 100,000 fields in one message"),
        (layer("r", "ReLU", field(7, blob(BIAS)) * 11), " has 11 blobs. Expected 10 at most."),
        (layer("r", "ReLU") + v1_layer("r", 18), " has layers of two formats."),
        (field(2, field(1, field(1, "conv1"))), "upgrade_net_proto_binary"),
        (field(1, "a name") + field(7, 1), " has no layers."),
    ],
)
def test_wrong_layers_are_told(tmp_path, content, expected_text):
    assert expected_text in refused(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "expected_text"),
    [
        (b"", " is empty."),
        (b"\x08\x07\x12\x07pytorch", " is something else, corrupted, or truncated."),
        (bytes(range(255, 155, -1)), " is something else, corrupted, or truncated."),
    ],
    ids=["empty", "onnx", "noise"],
)
def test_other_files_are_refused(tmp_path, content, expected_text):
    assert expected_text in refused(tmp_path, content)


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
    ("text", "expected_text"),
    [
        ('layer {\n  name: "a"\n  type: ReLU }', ", line 3 is not a description of a network"),
        ("layers { type: Convolution }", "has no value named Convolution"),
        ("unknown: ", "Invalid field value"),
        ("a { \n" * 40_000, "too many messages within each other"),
        ("layers { layer { name: 'conv1' } }", "upgrade_net_proto_text"),
        ('layer { name: "c" type: "Convolution" }', ": layer 1 ('c'): convolution_param has no num_output"),
        ("#" * 2**18 + "\n", "has 262,145 bytes"),
        ("", "is empty"),
    ],
)
def test_wrong_prototxts_are_told(tmp_path, text, expected_text):
    with pytest.raises(UserError) as raised:
        read_text(tmp_path, text)
    message = str(raised.value)
    assert expected_text in message
    assert f"{tmp_path}/deploy.prototxt" in message
    assert len(message) < 1000


def test_binary_file_given_as_prototxt(tmp_path):
    (tmp_path / "net.prototxt").write_bytes(small_net())
    with pytest.raises(UserError, match=r"byte 7 is not UTF-8 text. Expected a description of a network \(.prototxt\)"):
        caffe.read_prototxt(tmp_path / "net.prototxt")
