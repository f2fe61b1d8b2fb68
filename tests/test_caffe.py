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

PARAMETERS = json.loads((REFERENCE / "caffe_parameters.json").read_text())


def read(folder, content: bytes) -> caffe.CaffeNet:
    (folder / "net.caffemodel").write_bytes(content)
    return caffe.read_caffemodel(folder / "net.caffemodel")


def read_text(folder, text: str) -> caffe.CaffeNet:
    (folder / "deploy.prototxt").write_text(text, encoding="utf-8")
    return caffe.read_prototxt(folder / "deploy.prototxt")


def by_name(net: caffe.CaffeNet) -> dict[str, caffe.CaffeLayer]:
    return {item.name: item for item in net.layers}


@pytest.mark.parametrize("kind", ["new", "v1"])
def test_reference_weights_bit_for_bit_and_the_description_of_their_layers(kind):
    trained = by_name(caffe.read_caffemodel(REFERENCE / f"caffe_alexnet_{kind}_c10_fc64.caffemodel"))
    found = {
        f"{name}.{letter}": [list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()]
        for name, item in trained.items()
        for letter, array in zip("Wb", item.blobs, strict=False)
    }
    assert found == PARAMETERS[kind]
    deployed = by_name(caffe.read_prototxt(REFERENCE / f"caffe_alexnet_{kind}_c10_fc64.deploy.prototxt"))
    common = set(trained) & set(deployed) - {"data"}
    assert len(common) == 22
    for name in common:
        for attribute in ("type", "bottoms", "tops", "parameters"):
            assert getattr(trained[name], attribute) == getattr(deployed[name], attribute)


def test_both_encodings_give_the_same(tmp_path):
    new, old = read(tmp_path, small_net()), read(tmp_path, small_v1_net())
    assert [item.type for item in new.layers] == ["Input", "Convolution", "ReLU", "LRN", "Pooling", "InnerProduct"]
    assert [item.type for item in old.layers] == ["Data", "Convolution", "ReLU", "LRN", "Pooling", "InnerProduct"]
    for one, other in zip(new.layers[1:], old.layers[1:], strict=True):
        assert (one.name, one.bottoms, one.tops) == (other.name, other.bottoms, other.tops)
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


@pytest.mark.parametrize(
    "content",
    [
        field(7, field(1, 2)) + packed(5, BIAS),
        dims(2) + fixed(5, "<f", *BIAS),
        dims(2) + packed(5, BIAS[:1]) + packed(5, BIAS[1:]) + packed(6, [9.0, 9.0]),
        dims(2) + packed(8, BIAS, "<f8"),
        old_blob(BIAS, 1, 1, 1, 2),
        raw_blob(BIAS, None, "<f8"),
        raw_blob(BIAS, 1, "<f4") + field(11, 1) + packed(13, [9.0, 9.0]),
        raw_blob(BIAS, 2, "<f2"),
    ],
    ids=["dims not packed", "not packed", "in two pieces", "double", "old", "raw double", "raw float", "raw half"],
)
def test_every_way_to_write_a_blob(tmp_path, content):
    bias = read(tmp_path, convolution(blob(WEIGHTS), content)).layers[0].blobs[1]
    assert bias.dtype == np.float32
    np.testing.assert_array_equal(bias, BIAS)


def test_defaults_are_caffes(tmp_path):
    net = read(
        tmp_path,
        layer("c", "Convolution", field(CONVOLUTION, field(1, 4) + field(4, 3)))
        + layer("p", "Pooling", field(POOLING, field(2, 2)))
        + layer("n", "LRN")
        + layer("f", "InnerProduct", field(INNER_PRODUCT, field(1, 7)))
        + layer("d", "Dropout")
        + layer("r", "ReLU"),
    )
    conv, pool, norm, dense, dropout, relu = (item.parameters for item in net.layers)
    assert (conv["stride"], conv["pad"], conv["dilation"], conv["group"]) == ((1, 1), (0, 0), (1, 1), 1)
    assert (pool["method"], pool["global_pooling"], pool["round_mode"]) == ("MAX", False, "CEIL")
    assert (pool["kernel"], pool["stride"], pool["pad"]) == ((2, 2), (1, 1), (0, 0))
    assert norm == {"local_size": 5, "alpha": 1.0, "beta": 0.75, "k": 1.0, "norm_region": "ACROSS_CHANNELS"}
    assert dense == {"num_output": 7, "bias_term": True, "axis": 1, "transpose": False}
    assert (conv["bias_term"], dropout["dropout_ratio"], relu["negative_slope"]) == (True, 0.5, 0.0)


def test_height_and_width_apart(tmp_path):
    names = ("pad", "kernel", "stride")
    sides = b"".join(field(number, number) for number in (9, 10, 11, 12, 13, 14))
    (conv,) = read(tmp_path, convolution(parameters=field(1, 2) + sides)).layers
    assert [conv.parameters[name] for name in names] == [(9, 10), (11, 12), (13, 14)]
    twice = b"".join(field(number, value) for number in (3, 4, 6) for value in (number, number + 1))
    (conv,) = read(tmp_path, convolution(parameters=field(1, 2) + twice)).layers
    assert [conv.parameters[name] for name in names] == [(3, 4), (4, 5), (6, 7)]
    sides = b"".join(field(number, number) for number in (5, 6, 7, 8, 9, 10))
    (pool,) = read(tmp_path, layer("p", "Pooling", field(POOLING, sides))).layers
    assert [pool.parameters[name] for name in ("kernel", "stride", "pad")] == [(5, 6), (7, 8), (9, 10)]


def test_inputs_of_old_networks_are_a_layer(tmp_path):
    old_dims = b"".join(field(4, size) for size in (1, 3, 5, 5))
    for shape in (old_dims, field(8, field(1, b"\x01\x03\x05\x05"))):
        source = read(tmp_path, small_net() + field(3, "image") + shape).layers[0]
        assert (source.type, source.tops, source.parameters) == ("Input", ("image",), {"shapes": ((1, 3, 5, 5),)})


def with_bias(content: bytes) -> bytes:
    return convolution(blob(WEIGHTS), content)


@pytest.mark.parametrize(
    ("content", "expected_text"),
    [
        (b"", " is empty."),
        (bytes(range(255, 155, -1)), " is something else, corrupted, or truncated."),
        (with_bias(blob(BIAS, (3,))), ": layer 1 ('conv1'), blob 1 has 2 numbers. Expected 3 for its shape 3,"),
        (with_bias(blob(BIAS, (-2, -1))), "blob 1 has the shape -2 × -1. Expected at most 32 sizes, none negative."),
        (with_bias(dims(2) + field(5, BIAS.tobytes()[:-1])), "blob 1 has 7 bytes of numbers. Expected a multiple of 4"),
        (with_bias(raw_blob(BIAS, 3, "<f4")), "blob 1 has raw_data of type 3."),
        (layer("conv1", ""), ": layer 1 ('conv1') has no type."),
        (v1_layer("conv1", 40), ": layer 1 ('conv1') has the type 40. Expected 0 to 39."),
        (layer("conv1", "Convolution"), "convolution_param has no num_output. Expected one of 1 or above."),
        (convolution(parameters=field(1, 2)), "has no kernel_size."),
        (convolution(parameters=field(1, 2) + field(11, 3)), "has kernel_w 0. Expected 1 or above"),
        (convolution(parameters=field(1, 2) + field(4, b"\x01\x01\x01")), "has 3 times kernel_size."),
        (layer("n", "LRN", field(LRN, fixed(2, "<f", np.nan))), ": layer 1 ('n'): lrn_param has alpha nan."),
        (layer("p", "Pooling", field(POOLING, field(1, 3) + field(2, 2))), "has pool 3. Expected 0 to 2."),
        (layer("x" * 1001, "ReLU"), ": layer 1 has a name of 1,001 bytes. Expected at most 1,000."),
        (layer("r", "ReLU") * 1_001, " has 1,001 layers. Expected 1,000 at most."),
        (layer("r", "ReLU", field(3, "") * 51), " has 51 bottoms or tops. Expected 50 at most."),
        (field(6, 1) * 100_001, " has more than 100,000 fields in one message"),
        (layer("r", "ReLU", field(7, blob(BIAS)) * 11), " has 11 blobs. Expected 10 at most."),
        (layer("r", "ReLU") + v1_layer("r", 18), " has layers of two formats."),
        (field(2, field(1, field(1, "conv1"))), "upgrade_net_proto_binary"),
        (field(1, "a name") + field(7, 1), " has no layers."),
        (small_net() + field(3, "image") + field(4, 1) * 3, "3 times input_dim"),
    ],
    ids=range(23),
)
def test_wrong_files_are_told(tmp_path, content, expected_text):
    with pytest.raises(UserError) as raised:
        read(tmp_path, content)
    message = str(raised.value)
    assert message.startswith(f"{tmp_path}/net.caffemodel")
    assert expected_text in message
    assert len(message) < 1000


def test_prototxt_in_all_its_notations(tmp_path):
    net = read_text(
        tmp_path,
        """\ufeff# a comment: { "
        name: 'small' 'er'; input: "data" input_shape: { dim: [1, 3, 5, 5] }
        state { phase: TEST stage: ["a", "b"] unknown < x: -1.5e3 > }
        layer < name: "conv1", type: "Convolution" bottom: "data" top: "conv1"  # what it takes
          param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 }
          convolution_param { num_output: 0x10 kernel_h: 3 kernel_w: 5 pad: [1, 2] bias_term: false
                              weight_filler { type: "gaussian" std: 0.01 } }
        >
        layer { name: "a \\"b\\"" type: "LRN" lrn_param { alpha: 1e-4f beta: .75 norm_region: 1 k: 2 } }
        layer { name: "p" type: "Pooling" pooling_param { pool: AVE global_pooling: true } include: { phase: TRAIN } }
        layer { name: "caf\\303\\251\\n\\x41" type: "ReLU" bottom: "é" top: "\\377" }
        """,
    )
    source, conv, norm, pool, relu = net.layers
    assert (source.tops, source.parameters["shapes"]) == (("data",), ((1, 3, 5, 5),))
    assert (conv.bottoms, conv.tops, conv.blobs) == (("data",), ("conv1",), ())
    settings = [conv.parameters[name] for name in ("num_output", "bias_term", "kernel", "pad")]
    assert settings == [16, False, (3, 5), (1, 2)]
    assert norm.name == 'a "b"'
    assert norm.parameters == {"local_size": 5, "alpha": 1e-4, "beta": 0.75, "k": 2.0, "norm_region": "WITHIN_CHANNEL"}
    assert [pool.parameters[name] for name in ("method", "global_pooling", "kernel")] == ["AVE", True, None]
    # Escapes are the bytes that they stand for.
    assert (relu.name, relu.bottoms, relu.tops) == ("café\nA", ("é",), ("\\xff",))


def test_v1_types_have_todays_names(tmp_path):
    for number, name in {18: "ReLU", 21: "SoftmaxWithLoss", 25: "Eltwise", 39: "Deconvolution"}.items():
        (binary,) = read(tmp_path, v1_layer("x", number)).layers
        assert binary.type == name


@pytest.mark.parametrize(
    ("text", "expected_text"),
    [
        ('layer {\n  name: "a"\n  type: ReLU }', ", line 3 is not a description of a network"),
        ("a { \n" * 40_000, "too many messages within each other"),
        ("layers { layer { name: 'conv1' } }", "upgrade_net_proto_text"),
        ('layer { name: "c" type: "Convolution" }', ": layer 1 ('c'): convolution_param has no num_output"),
        ("#" * 2**18 + "\n", "has 262,145 bytes"),
        ("a:1 " * 6_000, "a line of it has 24,000 characters"),
    ],
)
def test_wrong_prototxts_are_told(tmp_path, text, expected_text):
    with pytest.raises(UserError) as raised:
        read_text(tmp_path, text)
    assert expected_text in str(raised.value)
    assert f"{tmp_path}/deploy.prototxt" in str(raised.value)
    assert len(str(raised.value)) < 1000


def test_binary_file_given_as_prototxt(tmp_path):
    (tmp_path / "net.prototxt").write_bytes(small_net())
    with pytest.raises(UserError, match=r"byte 7 is not UTF-8 text. Expected a description of a network \(.prototxt\)"):
        caffe.read_prototxt(tmp_path / "net.prototxt")
