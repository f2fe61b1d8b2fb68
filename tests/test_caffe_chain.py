"""Chains of layers out of Caffe's networks; test_import.py compares the logits of whole files."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from caffe_files import BIAS, DEPLOY, NEW, WEIGHTS, blob, convolution, layer
from protobuf_bytes import field, fixed

from keras_alexnet.errors import UserError
from keras_alexnet.importers import chain
from keras_alexnet.importers.alexnet import match_alexnet
from keras_alexnet.importers.caffe.chain import read_caffe_chain
from keras_alexnet.importers.caffe.reader import read_caffemodel

TRAINED = {layer.name: list(layer.blobs) for layer in read_caffemodel(NEW).layers if layer.blobs}


def written(folder: Path, text: str) -> Path:
    (folder / "net.prototxt").write_text(text)
    return folder / "net.prototxt"


def edited_deploy(folder: Path, old: str, new: str) -> Path:
    text = DEPLOY.read_text()
    assert old in text
    return written(folder, text.replace(old, new, 1))


def place_of(name: str, text: str) -> int:
    return text.index(f'layer {{\n  name: "{name}"')


def with_data_layer(folder: Path, data: str, end: str = "") -> Path:
    """A description with other layers in place of the input and of the softmax."""
    text = DEPLOY.read_text()
    return written(folder, data + text[place_of("conv1", text) : place_of("prob", text)] + end)


def kinds(network: chain.Chain) -> list[type]:
    return [type(layer) for layer in network.layers]


def check_weights(network: chain.Chain) -> None:
    weighted = [each for each in network.layers if isinstance(each, chain.Convolution | chain.Dense)]
    for found, (kernel, bias) in zip(weighted, TRAINED.values(), strict=True):
        expected = kernel if isinstance(found, chain.Convolution) else kernel.T
        np.testing.assert_array_equal(found.kernel, expected, strict=True)
        np.testing.assert_array_equal(found.bias, bias, strict=True)


def test_caffenets_order_is_that_of_the_deploy_file(tmp_path):
    text = DEPLOY.read_text()
    for n in "12":
        norm, pool, conv = (place_of(name, text) for name in (f"norm{n}", f"pool{n}", f"conv{int(n) + 1}"))
        swapped = text[pool:conv].replace(f'"norm{n}"', f'"conv{n}"')
        swapped += text[norm:pool].replace(f'"conv{n}"', f'"pool{n}"')
        text = text[:norm] + swapped + text[conv:].replace(f'bottom: "pool{n}"', f'bottom: "norm{n}"', 1)
    assert match_alexnet(read_caffe_chain(NEW, written(tmp_path, text))).preset.normalization == "after_pool"
    assert match_alexnet(read_caffe_chain(NEW)).preset.normalization == "before_pool"


def test_pools_round_as_the_file_says(tmp_path):
    for settings, padding in (("round_mode: CEIL", "caffe"), ("round_mode: FLOOR", "valid")):
        deploy = edited_deploy(tmp_path, "pool: MAX", f"pool: MAX {settings}")
        assert read_caffe_chain(NEW, deploy).layers[3].padding == padding


def test_what_only_trains_and_measures_is_left_out(tmp_path):
    """As Caffe writes a network with accuracy: it splits what two layers take, labels too."""
    data = """
        layer { name: "data" type: "Python" top: "data_0" top: "label" }
        layer { name: "slice" type: "Slice" bottom: "label" top: "label_0" top: "label_1" }
        layer { name: "weights" type: "DummyData" top: "weights" }
        layer { name: "data_split" type: "Split" bottom: "data_0" top: "data" }
    """
    end = """
        layer { name: "fc8_split" type: "Split" bottom: "fc8" top: "fc8_0" top: "fc8_1" top: "fc8_2" }
        layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc8_0" bottom: "label_0" top: "loss" }
        layer { name: "difference" type: "Eltwise" bottom: "fc8_1" bottom: "label_1" top: "difference" }
        layer { name: "square" type: "Power" bottom: "difference" top: "square" }
        layer { name: "accuracy" type: "Accuracy" bottom: "fc8_1" bottom: "label_0" top: "accuracy" }
        layer { name: "shown" type: "Silence" bottom: "fc8_2" }
    """
    network = read_caffe_chain(NEW, with_data_layer(tmp_path, data, end))
    assert network.image_size is None
    assert kinds(network) == kinds(read_caffe_chain(NEW))


@pytest.mark.parametrize(
    ("layer_type", "settings", "scale", "offset"),
    [
        ("Data", "transform_param { mean_value: 100 }", 1, [-100]),
        ("Data", "transform_param { mean_value: 1 mean_value: 2 mean_value: 3 scale: 0.5 }", 0.5, [-0.5, -1, -1.5]),
        ("Data", "data_param { scale: 0.25 } transform_param { scale: 0.5 }", 0.5, 0),
        ("ImageData", "image_data_param { scale: 0.25 }", 0.25, 0),
        ("WindowData", "window_data_param { scale: 0.25 }", 0.25, 0),
        ("MemoryData", "transform_param { scale: 0.25 }", 0.25, 0),
    ],
)
def test_what_the_data_layer_does_with_pixels(tmp_path, layer_type, settings, scale, offset):
    settings = settings.replace("{", '{ crop_size: 224 mean_file: "m"', 1)
    data = f'layer {{ name: "data" type: "{layer_type}" top: "data" {settings} }}\n'
    network = read_caffe_chain(NEW, with_data_layer(tmp_path, data))
    assert network.layers[0].scale == scale
    np.testing.assert_allclose(network.layers[0].offset, offset)
    assert (network.image_size, network.mean_file) == ((224, 224), None if "mean_value" in settings else "m")


def test_a_description_for_use_leaves_the_data_layer_of_the_weights_its_say(tmp_path):
    transformation = field(100, fixed(1, "<f", 0.5) + fixed(5, "<f", 1.0))
    data = layer("data", "Data", field(4, "data"), transformation)
    (tmp_path / "net.caffemodel").write_bytes(data + convolution(blob(WEIGHTS), blob(BIAS)))
    deploy = written(
        tmp_path,
        'layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" '
        "convolution_param { num_output: 2 kernel_size: 2 } }",
    )
    first = read_caffe_chain(tmp_path / "net.caffemodel", deploy).layers[0]
    assert (first.scale, first.offset) == (0.5, [-0.5])


def test_of_two_data_layers_that_with_means_counts(tmp_path):
    data = """
        layer { name: "train" type: "Data" top: "data" transform_param { crop_size: 224 scale: 0.5 } }
        layer { name: "test" type: "Data" top: "data" transform_param { mean_value: 100 } }
    """
    network = read_caffe_chain(NEW, with_data_layer(tmp_path, data))
    assert (network.layers[0].name, network.layers[0].scale, network.image_size) == ("test", 1, (224, 224))
    assert kinds(network) == [chain.Scaling, *kinds(read_caffe_chain(NEW))]


@pytest.mark.parametrize(
    ("old", "new", "expected_text"),
    [
        ("group: 2", "group: 3", r"layer 'conv2' \(Convolution\) has group 3. Expected a divisor of 64"),
        ("kernel_size: 5", "kernel_size: 7", r"'conv2' .* shape 64 × 12 × 5 × 5, and .* should have 64 × 12 × 7 × 7"),
        ("num_output: 10", "num_output: 9", r"'fc8' .* shape 64 × 10, and .* should have 64 × 9"),
        ("pad: 2", "pad: 2 dilation: 2", r"'conv2' \(Convolution\) has dilation \(2, 2\). Expected 1"),
        ("dropout_ratio: 0.5", "dropout_ratio: 1.5", r"'drop6' \(Dropout\) has dropout_ratio 1.5. Expected 0 up to"),
        ("pool: MAX", "pool: AVE", r"'pool1' \(Pooling\) has pool AVE. Expected MAX"),
        ("pool: MAX", "pool: MAX pad: 1", r"'pool1' \(Pooling\) has pad \(1, 1\). Expected 0"),
        ("local_size: 5", "local_size: 5 norm_region: WITHIN_CHANNEL", "'norm1' .* norm_region WITHIN_CHANNEL"),
        ('bottom: "pool1"', 'bottom: "pool1" bottom: "conv1"', r"'conv2' .* takes 'pool1', 'conv1'\. Exp"),
        ('bottom: "fc7"\n  top: "fc8"', 'bottom: "data" top: "fc8"', "'conv1' and 'fc8' both have weights"),
        ('name: "conv3"', 'name: "other"', "'other' .* has no weights in .*, whose layers with weights are 'conv1'"),
        ('type: "Softmax"', 'type: "Sigmoid"', r"'prob' \(Sigmoid\): layers of this type are not read"),
        ('type: "ReLU"', 'type: "ReLU" relu_param { negative_slope: 0.1 }', "'relu1' .* negative_slope 0.1"),
        ("inner_product_param {", "inner_product_param { axis: 2", r"'fc6' \(InnerProduct\) has axis 2. Expected 1"),
    ],
)
def test_other_networks_are_refused_with_the_layer(tmp_path, old, new, expected_text):
    with pytest.raises(UserError, match=expected_text):
        read_caffe_chain(NEW, edited_deploy(tmp_path, old, new))


# Weights as HDF5.


def hdf5(folder: Path, weights=TRAINED) -> Path:
    path = folder / "net.caffemodel.h5"
    with h5py.File(path, "w") as file:
        file.create_group("diff")
        file.create_group("data/relu1")
        for name, arrays in weights.items():
            for index, array in enumerate(arrays):
                file[f"data/{name}/{index}"] = array
    return path


def test_a_deploy_file_gives_the_layers_and_another_file_the_weights(tmp_path):
    path = hdf5(tmp_path)
    for file in (NEW, path):
        network = read_caffe_chain(file, DEPLOY)
        check_weights(network)
        assert kinds(network) == [*kinds(read_caffe_chain(NEW)), chain.Softmax]
    with pytest.raises(UserError, match=r"h5 has weights, but no layers\. Pass the \.prototxt .* as --deploy"):
        read_caffe_chain(path)


def test_transposed_dense_layers(tmp_path):
    kernel, bias = TRAINED["fc8"]
    deploy = edited_deploy(tmp_path, "num_output: 10", "num_output: 10 transpose: true")
    check_weights(read_caffe_chain(hdf5(tmp_path, TRAINED | {"fc8": [kernel.T, bias]}), deploy))


@pytest.mark.parametrize(("declared", "size"), [(227, (227, 227)), (224, (224, 224)), (451, None)])
def test_fully_convolutional_networks_have_dense_layers(tmp_path, declared, size):
    """Casts usually declare larger images, for which they give a map of results."""
    weights, text = dict(TRAINED), DEPLOY.read_text().replace("dim: 227", f"dim: {declared}")
    for name, kernel in (("fc6", 6), ("fc7", 1), ("fc8", 1)):
        weight, bias = TRAINED[name]
        weights[name] = [weight.reshape(len(weight), -1, kernel, kernel), bias]
        text = text.replace('"InnerProduct"', '"Convolution"', 1)
        text = text.replace("inner_product_param {", f"convolution_param {{ kernel_size: {kernel}", 1)
    network = read_caffe_chain(hdf5(tmp_path, weights), written(tmp_path, text))
    check_weights(network)
    assert kinds(network) == kinds(read_caffe_chain(NEW, DEPLOY))
    assert network.image_size == size
    assert match_alexnet(network).preset.image_size == (declared if size else 227)


def test_wrong_hdf5_is_reported(tmp_path):
    external = [(str(tmp_path / "numbers"), 0, 40)]
    not_floats = "/data/fc8/1 is not an array of floats stored in this file"
    for expected_text, change in (
        (r"'fc8' .* has as its weights 10 × 64\. Expected a kernel and a bias", lambda group: None),
        ("/data/fc8 has no dataset '1'", lambda group: group.update({"1": h5py.ExternalLink("other.h5", "/data")})),
        (not_floats, lambda group: group.create_dataset("1", data=[b"text"])),
        (not_floats, lambda group: group.create_dataset("1", (10,), "f4")),
        (not_floats, lambda group: group.create_dataset("1", (10**10,), "f4", chunks=(10**5,))),
        (not_floats, lambda group: group.create_dataset("1", (10,), "f4", external=external)),
    ):
        path = hdf5(tmp_path)
        with h5py.File(path, "a") as file:
            del file["data/fc8/1"]
            change(file["data/fc8"])
        with pytest.raises(UserError, match=expected_text):
            read_caffe_chain(path, DEPLOY)
