"""Caffe's layers, blobs, settings and means, from its files."""

import gzip
import hashlib
import io
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
    v1_layer,
)
from protobuf_bytes import field, fixed, packed

from keras_alexnet.errors import UserError
from keras_alexnet.importers.caffe import reader as caffe
from keras_alexnet.importers.caffe.mean import read_mean

PARAMETERS = json.loads((REFERENCE / "caffe_parameters.json").read_text())


def read(folder, content: bytes) -> caffe.CaffeNet:
    (folder / "net.caffemodel").write_bytes(content)
    return caffe.read_caffemodel(folder / "net.caffemodel")


def read_text(folder, text: str | bytes) -> caffe.CaffeNet:
    (folder / "deploy.prototxt").write_bytes(text.encode() if isinstance(text, str) else text)
    return caffe.read_prototxt(folder / "deploy.prototxt")


@pytest.mark.parametrize("kind", ["new", "v1"])
def test_reference_weights_bit_for_bit_and_the_description_of_their_layers(kind):
    path = REFERENCE / f"caffe_alexnet_{kind}_c10_fc64"
    trained = {item.name: item for item in caffe.read_caffemodel(f"{path}.caffemodel").layers}
    found = {
        f"{name}.{letter}": [list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()]
        for name, item in trained.items()
        for letter, array in zip("Wb", item.blobs, strict=False)
    }
    assert found == PARAMETERS[kind]
    deployed = caffe.read_prototxt(f"{path}.deploy.prototxt").layers[1:-1]
    assert len(deployed) == 22
    for item in deployed:
        assert vars(item) == vars(trained[item.name]) | {"blobs": ()}


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
    def pairs(layer_type: str, number: int, settings: dict[int, list[int]]) -> list[tuple[int, int]]:
        content = b"".join(field(key, value) for key, values in settings.items() for value in values)
        parameters = read(tmp_path, layer("x", layer_type, field(number, content))).layers[0].parameters
        return [parameters.get(name) for name in ("pad", "kernel", "stride", "dilation")]

    apart = {1: [2]} | {key: [key] for key in range(9, 15)} | {18: [18, 19]}
    assert pairs("Convolution", CONVOLUTION, apart) == [(9, 10), (11, 12), (13, 14), (18, 19)]
    twice = {1: [2]} | {key: [key, key + 1] for key in (3, 4, 6)}
    assert pairs("Convolution", CONVOLUTION, twice) == [(3, 4), (4, 5), (6, 7), (1, 1)]
    apart = {key: [key] for key in range(5, 11)}
    assert pairs("Pooling", POOLING, apart) == [(9, 10), (5, 6), (7, 8), None]
    assert pairs("Pooling", POOLING, {2: [2], 3: [3], 4: [4]}) == [(4, 4), (2, 2), (3, 3), None]


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
        (with_bias(blob(BIAS, (3,))), ": layer 1 ('conv1'), blob 1 has 2 numbers. Expected 3 for its shape 3,"),
        (with_bias(blob(BIAS, (-2, -1))), "blob 1 has the shape -2 × -1. Expected at most 32 sizes, none negative."),
        (with_bias(dims(2) + field(5, BIAS.tobytes()[:-1])), "blob 1 has 7 bytes of numbers. Expected a multiple of 4"),
        (with_bias(raw_blob(BIAS, 3, "<f4")), "blob 1 has raw_data of type 3."),
        (layer("conv1", ""), ": layer 1 ('conv1') has no type."),
        (v1_layer("conv1", 40), ": layer 1 ('conv1') has the type 40. Expected 0 to 39."),
        (layer("conv1", "Convolution"), "convolution_param has no num_output. Expected one of 1 or above."),
        (convolution(parameters=field(1, 2) + field(11, 3)), "has kernel_w 0. Expected 1 or above"),
        (convolution(parameters=field(1, 2) + field(4, b"\x01\x01\x01")), "has 3 times kernel_size."),
        (layer("n", "LRN", field(LRN, fixed(2, "<f", np.nan))), ": layer 1 ('n'): lrn_param has alpha nan."),
        (layer("p", "Pooling", field(POOLING, field(1, 3) + field(2, 2))), "has pool 3. Expected 0 to 2."),
        (layer("r", "ReLU") * 1_001, " has 1,001 layers. Expected 1,000 at most."),
        (layer("r", "ReLU") + v1_layer("r", 18), " has layers of two formats."),
        (field(2, field(1, field(1, "conv1"))), "upgrade_net_proto_binary"),
        (field(1, "a name") + field(7, 1), " has no layers."),
        (small_net() + field(3, "image") + field(4, 1) * 3, "3 times input_dim"),
    ],
    ids=range(17),
)
def test_wrong_files_are_reported(tmp_path, content, expected_text):
    with pytest.raises(UserError) as raised:
        read(tmp_path, content)
    message = str(raised.value)
    assert message.startswith(f"{tmp_path}/net.caffemodel")
    assert expected_text in message
    assert len(message) < 1000


def test_prototxts_may_have_a_byte_order_mark_unknown_fields_and_any_bytes(tmp_path):
    net = read_text(
        tmp_path,
        """\ufeff# a comment: { "
        name: 'small' input: "data" input_shape: { dim: [1, 3, 5, 5] } state { phase: TEST unknown < x: -1.5e3 > }
        layer { name: "conv1" type: "Convolution" param { lr_mult: 1 }
                convolution_param { num_output: 8 num_output: 0x10 kernel_h: 3 kernel_w: 5 pad: [1, 2] } }
        layer { name: "caf\\303\\251\\n\\x41" type: "ReLU" bottom: "é" top: "\\377" }
        """,
    )
    source, conv, relu = net.layers
    assert (source.tops, source.parameters["shapes"]) == (("data",), ((1, 3, 5, 5),))
    assert [conv.parameters[name] for name in ("num_output", "kernel", "pad")] == [16, (3, 5), (1, 2)]
    assert (relu.name, relu.bottoms, relu.tops) == ("café\nA", ("é",), ("\\xff",))


def test_v1_types_have_todays_names(tmp_path):
    for number, name in {18: "ReLU", 21: "SoftmaxWithLoss", 25: "Eltwise", 39: "Deconvolution"}.items():
        assert read(tmp_path, v1_layer("x", number)).layers[0].type == name


@pytest.mark.parametrize(
    ("text", "expected_text"),
    [
        ('layer {\n  name: "a"\n  type: ReLU }', ", line 3 is not a description of a network"),
        ("a { \n" * 40_000, "too many messages within each other"),
        ("#" * 2**18 + "\n", "has 262,145 bytes"),
        ("a:1 " * 6_000, "a line of it has 24,000 characters"),
        (b"\x80", "byte 0 is not UTF-8 text. Expected a description of a network (.prototxt)"),
        (b"layer { pooling_param { kernel_size: 99999999999 } }", "is not a description of a network"),
    ],
    ids=range(6),
)
def test_wrong_prototxts_are_reported(tmp_path, text, expected_text):
    with pytest.raises(UserError) as raised:
        read_text(tmp_path, text)
    assert expected_text in str(raised.value)
    assert f"{tmp_path}/deploy.prototxt" in str(raised.value)
    assert len(str(raised.value)) < 1000


# Means of the training images, as images and arrays.

PIXELS = np.random.default_rng(3).uniform(90, 130, (3, 4, 5)).astype("<f4")


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_mean_images(tmp_path):
    for content in (
        old_blob(PIXELS, 1, 3, 4, 5),
        blob(PIXELS),
        dims(3, 4, 5) + packed(8, PIXELS, "<f8"),
        npy(PIXELS[np.newaxis]),
        npy(PIXELS.astype(">f8")),
        npy(np.asfortranarray(PIXELS)),
    ):
        (tmp_path / "mean").write_bytes(content)
        np.testing.assert_array_equal(read_mean(tmp_path / "mean"), PIXELS, strict=True)


def test_means_per_channel(tmp_path):
    for shape in [(3,), (1, 3), (1, 3, 1, 1)]:
        np.save(tmp_path / "mean.npy", np.reshape([104, 117, 123], shape))
        np.testing.assert_array_equal(read_mean(tmp_path / "mean.npy").ravel(), [104, 117, 123])


@pytest.mark.parametrize(
    ("content", "expected_text"),
    [
        (old_blob(np.full(60, np.nan), 1, 3, 4, 5), " has NaN or infinite pixels."),
        (small_net(), ": the mean image has 0 numbers"),
        (gzip.compress(b"x", mtime=0), " is a gzip archive: unpack it"),
        (npy(np.ones((4, 5, 3))), "has the shape 4 × 5 × 3. Expected .*, channels first; else pass the three numbers"),
        (npy(np.ones(3, complex)), "has 3 values of type complex128"),
        (npy(np.array([{}, 1, 2], object)), "is not a readable NumPy array"),
        (npy(PIXELS).replace(b"(3, 4, 5)", b"(3, 9**9)"), "is not a readable NumPy array"),
        (npy(PIXELS).replace(b"(3, 4, 5)", b"(3, 4, 5 "), "is not a readable NumPy array"),
    ],
    ids=range(8),
)
def test_wrong_means_are_reported(tmp_path, content, expected_text):
    (tmp_path / "mean").write_bytes(content)
    with pytest.raises(UserError, match=expected_text):
        read_mean(tmp_path / "mean")
