"""Chains of layers out of Caffe's networks."""

import dataclasses
import random
from pathlib import Path

import h5py
import numpy as np
import pytest
from caffe_files import DEPLOY, INPUT, NEW, V1, alexnet, raw_blob
from caffe_files import layer as binary_layer
from protobuf_bytes import field

from keras_alexnet.errors import UserError
from keras_alexnet.importers import chain
from keras_alexnet.importers.alexnet import match_alexnet
from keras_alexnet.importers.caffe import chain as caffe_chain
from keras_alexnet.importers.caffe.chain import read_caffe_chain
from keras_alexnet.importers.caffe.reader import read_caffe_hdf5, read_caffemodel

WEIGHTS = {layer.name: list(layer.blobs) for layer in read_caffemodel(NEW).layers if layer.blobs}


def edited_deploy(folder: Path, *changes: tuple[str, str]) -> Path:
    text = DEPLOY.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    (folder / "deploy.prototxt").write_text(text)
    return folder / "deploy.prototxt"


def layer(name: str, layer_type: str, bottom: str, top: str, parameters: str = "") -> str:
    return f'layer {{ name: "{name}" type: "{layer_type}" bottom: "{bottom}" top: "{top}" {parameters} }}\n'


@pytest.mark.parametrize("path", [NEW, V1])
def test_the_layers_in_order(path):
    network = read_caffe_chain(path)
    kinds = " ".join(type(layer).__name__ for layer in network.layers)
    block = "Convolution Relu LocalResponseNorm MaxPool "
    dense = "Dense Relu Dropout "
    assert kinds == block * 2 + "Convolution Relu " * 3 + "MaxPool " + dense * 2 + "Dense"
    assert network.image_size == (227, 227)
    names = "conv1 relu1 norm1 pool1 conv2 relu2 norm2 pool2 conv3 relu3 conv4 relu4 conv5 relu5 pool5 fc6 relu6 drop6"
    assert [layer.name for layer in network.layers] == [*names.split(), "fc7", "relu7", "drop7", "fc8"]
    weights = {layer.name: layer.blobs for layer in read_caffemodel(path).layers}
    first, second, dense = network.layers[0], network.layers[4], network.layers[15]
    np.testing.assert_array_equal(first.kernel, weights["conv1"][0])
    assert (first.strides, first.padding, first.groups) == ((4, 4), ((0, 0), (0, 0)), 1)
    assert (second.strides, second.padding, second.groups) == ((1, 1), ((2, 2), (2, 2)), 2)
    np.testing.assert_array_equal(dense.kernel, weights["fc6"][0].T)
    assert network.layers[3].padding == "caffe"
    assert network.layers[17].rate == 0.5


def test_a_deploy_file_tells_the_layers_and_the_other_the_weights():
    network, own = read_caffe_chain(NEW, DEPLOY), read_caffe_chain(NEW)
    assert isinstance(network.layers[-1], chain.Softmax)
    assert [type(layer) for layer in network.layers[:-1]] == [type(layer) for layer in own.layers]
    np.testing.assert_array_equal(network.layers[4].kernel, own.layers[4].kernel)


def test_caffenets_order_is_that_of_the_deploy_file(tmp_path):
    norm = "lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }"
    pool = "pooling_param { pool: MAX kernel_size: 3 stride: 2 }"
    text = DEPLOY.read_text()
    for n in "12":
        start = text.index(f'layer {{\n  name: "norm{n}"')
        stop = text.index(f'layer {{\n  name: "conv{int(n) + 1}"')
        swapped = layer(f"pool{n}", "Pooling", f"conv{n}", f"pool{n}", pool)
        swapped += layer(f"norm{n}", "LRN", f"pool{n}", f"norm{n}", norm)
        text = text[:start] + swapped + text[stop:].replace(f'bottom: "pool{n}"', f'bottom: "norm{n}"', 1)
    (tmp_path / "deploy.prototxt").write_text(text)
    assert match_alexnet(read_caffe_chain(NEW, tmp_path / "deploy.prototxt")).preset.normalization == "after_pool"
    assert match_alexnet(read_caffe_chain(NEW)).preset.normalization == "before_pool"


@pytest.mark.parametrize(
    ("settings", "padding"), [("", "caffe"), ("round_mode: CEIL", "caffe"), ("round_mode: FLOOR", "valid")]
)
def test_pools_round_up_unless_told_otherwise(tmp_path, settings, padding):
    deploy = edited_deploy(tmp_path, ("pool: MAX", f"pool: MAX {settings}"))
    assert read_caffe_chain(NEW, deploy).layers[3].padding == padding


def test_what_only_trains_and_measures_is_left_out(tmp_path):
    """As Caffe writes a network with accuracy: it splits what two layers take, labels too."""
    data = (
        'layer { name: "data" type: "Data" top: "data" top: "label" transform_param { crop_size: 224 mean_value: 104 '
        "mean_value: 117 mean_value: 123 } }\n"
        + layer("label_split", "Split", "label", "label_0")
        + layer("data_split", "Split", "data", "data_0")
    )
    text = DEPLOY.read_text()
    text = data + text[text.index('layer {\n  name: "conv1"') :].replace('bottom: "data"', 'bottom: "data_0"', 1)
    text = text[: text.index('layer {\n  name: "prob"')]
    text += layer("fc8_split", "Split", "fc8", "fc8_0") + layer("loss", "SoftmaxWithLoss", "fc8_0", "loss")
    text += 'layer { name: "accuracy" type: "Accuracy" bottom: "fc8_1" bottom: "label_0" top: "accuracy" }\n'
    (tmp_path / "train.prototxt").write_text(text)
    network = read_caffe_chain(NEW, tmp_path / "train.prototxt")
    assert network.image_size == (224, 224)
    first = network.layers[0]
    assert isinstance(first, chain.Scaling)
    np.testing.assert_array_equal(first.offset, [-104, -117, -123])
    assert first.scale == 1
    assert [type(layer) for layer in network.layers[1:]] == [type(layer) for layer in read_caffe_chain(NEW).layers]


def with_data_layer(folder: Path, settings: str, layer_type: str = "Data") -> Path:
    data = f'layer {{ name: "data" type: "{layer_type}" top: "data" {settings} }}\n'
    text = DEPLOY.read_text()
    (folder / "a.prototxt").write_text(data + text[text.index('layer {\n  name: "conv1"') :])
    return folder / "a.prototxt"


@pytest.mark.parametrize(
    ("settings", "scale", "offset"),
    [
        ("transform_param { mean_value: 100 }", 1, [-100]),
        ("transform_param { mean_value: 1 mean_value: 2 mean_value: 3 scale: 0.5 }", 0.5, [-0.5, -1, -1.5]),
        ("transform_param { scale: 0.25 }", 0.25, 0),
        ("data_param { scale: 0.25 }", 0.25, 0),
        ("data_param { scale: 0.25 } transform_param { scale: 0.5 }", 0.5, 0),
    ],
)
def test_what_the_data_layer_does_with_pixels(tmp_path, settings, scale, offset):
    first = read_caffe_chain(NEW, with_data_layer(tmp_path, settings)).layers[0]
    assert first.scale == scale
    np.testing.assert_allclose(first.offset, offset)


@pytest.mark.parametrize(
    ("layer_type", "message"),
    [
        ("ImageData", "image_data_param"),
        ("WindowData", "window_data_param"),
        ("MemoryData", "transform_param"),
    ],
)
def test_other_data_layers(tmp_path, layer_type, message):
    path = with_data_layer(tmp_path, f'{message} {{ scale: 0.25 crop_size: 224 mean_file: "m" }}', layer_type)
    network = read_caffe_chain(NEW, path)
    assert network.layers[0].scale == 0.25
    assert (network.image_size, network.mean_file) == ((224, 224), "m")


def test_a_description_for_use_leaves_the_data_layer_of_the_weights_its_say(tmp_path, monkeypatch):
    trained = read_caffemodel(NEW)
    settings = {"scale": 0.5, "mean_values": (1.0,), "mean_file": "", "crop_size": 0}
    data = dataclasses.replace(trained.layers[0], parameters=settings)
    assert data.type == "Data"
    layers = (data, *trained.layers[1:])
    monkeypatch.setattr(caffe_chain, "read_caffemodel", lambda path: dataclasses.replace(trained, layers=layers))
    for network in (read_caffe_chain(NEW), read_caffe_chain(NEW, DEPLOY)):
        assert network.layers[0].scale == 0.5
        np.testing.assert_array_equal(network.layers[0].offset, [-0.5])


@pytest.mark.parametrize(
    ("change", "expected_text"),
    [
        (("group: 2", "group: 3"), r"layer 'conv2' \(Convolution\) has group 3. Expected a divisor of 64"),
        (("kernel_size: 5", "kernel_size: 7"), r"'conv2' .* shape 64 × 12 × 5 × 5, and .* should have 64 × 12 × 7 × 7"),
        (("num_output: 10", "num_output: 9"), r"'fc8' .* shape 64 × 10, and .* should have 64 × 9"),
        (("pad: 2", "pad: 2 dilation: 2"), r"'conv2' \(Convolution\) has dilation \(2, 2\). Expected 1"),
        (("dropout_ratio: 0.5", "dropout_ratio: 1.5"), r"'drop6' \(Dropout\) has dropout_ratio 1.5. Expected 0 up to"),
        (("pool: MAX", "pool: AVE"), r"'pool1' \(Pooling\) has pool AVE. Expected MAX"),
        (("pool: MAX", "pool: MAX pad: 1"), r"'pool1' \(Pooling\) has pad \(1, 1\). Expected 0"),
        (("local_size: 5", "local_size: 5 norm_region: WITHIN_CHANNEL"), "'norm1' .* norm_region WITHIN_CHANNEL"),
        (
            ('bottom: "pool1"', 'bottom: "pool1" bottom: "conv1"'),
            r"'conv2' \(Convolution\) takes 'pool1', 'conv1'\. Exp",
        ),
        (('name: "conv3"', 'name: "other"'), "'other' .* has no weights in .*, whose layers with weights are 'conv1'"),
        (('type: "Softmax"', 'type: "Sigmoid"'), r"'prob' \(Sigmoid\): layers of this type are not read"),
        (('type: "ReLU"', 'type: "ReLU" relu_param { negative_slope: 0.1 }'), "'relu1' .* negative_slope 0.1"),
        (("inner_product_param {", "inner_product_param { axis: 2"), r"'fc6' \(InnerProduct\) has axis 2. Expected 1"),
    ],
)
def test_other_networks_are_refused_with_the_layer(tmp_path, change, expected_text):
    deploy = edited_deploy(tmp_path, change)
    with pytest.raises(UserError, match=expected_text) as raised:
        read_caffe_chain(NEW, deploy)
    assert str(raised.value).startswith(f"{deploy}: layer '")


def test_a_layer_may_be_in_the_file_without_its_weights(tmp_path, monkeypatch):
    net = read_caffemodel(NEW)
    bare = tuple(dataclasses.replace(item, blobs=()) if item.name == "conv2" else item for item in net.layers)
    monkeypatch.setattr(caffe_chain, "read_caffemodel", lambda path: dataclasses.replace(net, layers=bare))
    with pytest.raises(UserError, match=r"layer 'conv2' .* has as its weights nothing. Expected a kernel and a bias"):
        read_caffe_chain(NEW)


# Networks of others, as their `.caffemodel` has them.


def chain_of(folder: Path, **changes) -> chain.Chain:
    (folder / "net.caffemodel").write_bytes(alexnet(WEIGHTS, **changes))
    return read_caffe_chain(folder / "net.caffemodel")


def check_weights(network: chain.Chain, dtype: str = "<f4") -> None:
    weighted = [layer for layer in network.layers if isinstance(layer, chain.Convolution | chain.Dense)]
    for layer, (kernel, bias) in zip(weighted, WEIGHTS.values(), strict=True):
        expected = kernel if isinstance(layer, chain.Convolution) else kernel.T
        np.testing.assert_array_equal(layer.kernel, expected.astype(dtype).astype("<f4"), strict=True)
        np.testing.assert_array_equal(layer.bias, bias.astype(dtype).astype("<f4"), strict=True)


@pytest.mark.parametrize(("kind", "dtype"), [(0, "<f8"), (1, "<f4"), (2, "<f2")])
def test_weights_of_nvidias_caffe(tmp_path, kind, dtype):
    network = chain_of(tmp_path, write=lambda array: raw_blob(array, kind, dtype))
    check_weights(network, dtype)
    assert match_alexnet(network).preset.normalization == "before_pool"


def test_layers_of_labels_are_left_out(tmp_path):
    """As in training on several labels, whose data layer is Python code."""
    data = binary_layer("data", "Python", field(4, "data"), field(4, "labels"))
    data += binary_layer("slice", "Slice", field(3, "labels"), field(4, "label1"), field(4, "label2"))
    data += binary_layer("weights", "DummyData", field(4, "weights"))
    end = binary_layer("copies", "Split", field(3, "fc8"), field(4, "fc8_0"), field(4, "fc8_1"), field(4, "fc8_2"))
    end += binary_layer("loss1", "SigmoidCrossEntropyLoss", field(3, "fc8_0"), field(3, "label1"), field(4, "loss1"))
    end += binary_layer("difference", "Eltwise", field(3, "fc8_1"), field(3, "label2"), field(4, "difference"))
    end += binary_layer("square", "Power", field(3, "difference"), field(4, "square"))
    end += binary_layer("shown", "Silence", field(3, "fc8_2"))
    network = chain_of(tmp_path, data=data, end=end)
    check_weights(network)
    assert network.image_size is None
    assert [type(layer) for layer in network.layers] == [
        type(layer) for layer in read_caffe_chain(NEW).layers if not isinstance(layer, chain.Dropout)
    ]


@pytest.mark.parametrize(
    ("end", "expected_text"),
    [
        (
            binary_layer("fc9", "InnerProduct", field(3, "fc7"), field(4, "fc9"), field(117, field(1, 2))),
            "'fc8' and 'fc9' ",
        ),
        (
            binary_layer("prob", "Sigmoid", field(3, "fc8"), field(4, "prob")),
            r"'prob' \(Sigmoid\): layers of this type",
        ),
    ],
)
def test_other_ends_are_refused(tmp_path, end, expected_text):
    with pytest.raises(UserError, match=expected_text):
        chain_of(tmp_path, end=end)


def input_of(size: int) -> bytes:
    shape = field(1, field(1, 1) + field(1, 3) + field(1, size) + field(1, size))
    return binary_layer("data", "Input", field(4, "data"), field(INPUT, shape))


@pytest.mark.parametrize(("declared", "size"), [(227, (227, 227)), (224, (224, 224)), (451, None)])
def test_fully_convolutional_networks_have_dense_layers(tmp_path, declared, size):
    """Casts usually declare larger images, for which they give a map of results."""
    network = chain_of(tmp_path, fully_convolutional=True, data=input_of(declared), end=b"")
    check_weights(network)
    assert [isinstance(layer, chain.Dense) for layer in network.layers[-5:]] == [True, False, True, False, True]
    assert network.image_size == size
    assert match_alexnet(network).preset.image_size == (declared if size else 227)


def test_dense_layers_do_not_change_the_image_size(tmp_path):
    assert chain_of(tmp_path, data=input_of(451)).image_size == (451, 451)


# Weights as HDF5.


def hdf5(folder: Path, weights=WEIGHTS) -> Path:
    path = folder / "net.caffemodel.h5"
    with h5py.File(path, "w") as file:
        file.create_group("diff")
        file.create_group("data/relu1")
        for name, arrays in weights.items():
            for index, array in enumerate(arrays):
                file[f"data/{name}/{index}"] = array
    return path


def test_weights_as_hdf5(tmp_path):
    path = hdf5(tmp_path)
    network = read_caffe_chain(path, DEPLOY)
    check_weights(network)
    assert [type(layer) for layer in network.layers] == [type(layer) for layer in read_caffe_chain(NEW, DEPLOY).layers]
    with pytest.raises(UserError, match=r"h5 has weights, but no layers\. Give the \.prototxt .* as --deploy"):
        read_caffe_chain(path)


def test_wrong_hdf5_is_told(tmp_path):
    def expected_text(change) -> str:
        path = hdf5(tmp_path)
        with h5py.File(path, "a") as file:
            change(file["data/fc8"])
        with pytest.raises(UserError) as raised:
            read_caffe_chain(path, DEPLOY)
        return str(raised.value)

    def replaced(group, create, *arguments, **settings):
        del group["1"]
        getattr(group, create)("1", *arguments, **settings)

    def linked(group):
        del group["1"]
        group["1"] = h5py.ExternalLink("other.h5", "/data")

    assert "'fc8' (InnerProduct) has no weights in" in expected_text(lambda group: group.clear())
    assert "/data/fc8 has no dataset '1'" in expected_text(linked)
    not_floats = "/data/fc8/1 is not an array of floats stored in this file"
    assert not_floats in expected_text(lambda group: replaced(group, "create_dataset", data=[b"text"]))
    assert not_floats in expected_text(lambda group: replaced(group, "create_dataset", (10,), "f4"))
    assert not_floats in expected_text(
        lambda group: replaced(group, "create_dataset", (10**10,), "f4", chunks=(10**5,))
    )
    external = [(str(tmp_path / "numbers"), 0, 40)]
    assert not_floats in expected_text(lambda group: replaced(group, "create_dataset", (10,), "f4", external=external))


def test_damaged_hdf5_is_read_or_told(tmp_path):
    """Mutations of its structures, which are at the beginning and between small arrays."""
    weights = {name: [array.ravel()[:4] for array in arrays] for name, arrays in WEIGHTS.items()}
    content, rng = hdf5(tmp_path, weights).read_bytes(), random.Random(7)
    outcomes = {"read": 0, "error": 0}
    for number in range(300):
        damaged = bytearray(content)
        for _ in range(rng.choice([1, 3])):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path = tmp_path / f"{number}.h5"
        path.write_bytes(damaged[: rng.randrange(len(damaged))] if number % 10 == 0 else damaged)
        try:
            read_caffe_hdf5(path)
            outcomes["read"] += 1
        except UserError:
            outcomes["error"] += 1
    assert min(outcomes.values()) > 20
