"""Scores of models for the ways to cut images, against the logits themselves."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from drawn_images import draw, encode
from map_files import write_map
from training_process import installed

from keras_alexnet.data.crops import PREPROCESSINGS
from keras_alexnet.data.image_map import ImageMap
from keras_alexnet.data.map_file import read_map
from keras_alexnet.data.transforms import evaluation_image, ten_crops
from keras_alexnet.errors import UserError
from keras_alexnet.inference import evaluation
from keras_alexnet.inference.evaluation import evaluate_model
from keras_alexnet.model import build_alexnet
from keras_alexnet.model_file import load_model
from keras_alexnet.system import progress

NUM_CLASSES = 7
SIDES = {"cntk": 227, "torchvision": 224}


@pytest.fixture(scope="module")
def image_map(tmp_path_factory) -> ImageMap:
    """Seven images, whose middle and corners differ. Read only."""
    folder = tmp_path_factory.mktemp("images")
    rows = []
    for number, (width, height) in enumerate(
        [(60, 40), (40, 60), (300, 256), (90, 90), (257, 130), (31, 33), (80, 40)]
    ):
        path = folder / f"{number}.JPEG"
        path.write_bytes(encode(draw(width, height, number), "JPEG", quality=95))
        rows.append((str(path), (3 * number) % NUM_CLASSES))
    write_map(folder / "map.txt", rows)
    return read_map(folder / "map.txt")


def build(preset: str) -> keras.Model:
    """A network whose predictions depend strongly on the image."""
    keras.utils.set_random_seed(5)
    model = build_alexnet(NUM_CLASSES, preset=preset, filters=(4, 6, 5, 7, 8), dense_units=9)
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if layer.weights:
            kernel, bias = layer.get_weights()
            fan_in = np.prod(kernel.shape[:-1])
            layer.set_weights([rng.normal(0, np.sqrt(2 / fan_in), kernel.shape), np.zeros_like(bias)])
    fc8 = model.get_layer("fc8")
    pixels = rng.integers(0, 256, (4, *model.input_shape[1:]))
    fc8.kernel.assign(fc8.kernel * 2 / np.std(model.predict_on_batch(pixels)))
    return model


@pytest.fixture(scope="module")
def networks() -> dict[str, keras.Model]:
    return {preset: build(preset) for preset in SIDES}


def expected(model: keras.Model, image_map: ImageMap, cut) -> dict:
    """Of the mean of the probabilities for the crops that `cut` makes of a file, in float64."""
    ranks, losses = [], []
    for path, label in zip(image_map.paths, image_map.labels, strict=True):
        pixels = cut(tf.io.read_file(path)).numpy()
        logits = model.predict_on_batch(pixels.reshape(-1, *pixels.shape[-3:])).astype(np.float64)
        exponentials = np.exp(logits - logits.max(-1, keepdims=True))
        mean = (exponentials / exponentials.sum(-1, keepdims=True)).mean(0)
        ranks.append((mean > mean[label]).sum())
        losses.append(-np.log(mean[label]))
    ranks = np.array(ranks)
    return {
        "examples": len(ranks),
        "top1_error": np.mean(ranks >= 1),
        "top1_accuracy": np.mean(ranks < 1),
        "top5_error": np.mean(ranks >= 5),
        "top5_accuracy": np.mean(ranks < 5),
        "loss": np.mean(losses),
    }


@pytest.mark.parametrize("crops", [1, 10])
@pytest.mark.parametrize("preprocessing", PREPROCESSINGS)
@pytest.mark.parametrize("preset", SIDES)
def test_scores_are_those_of_the_crops(networks, image_map, preset, preprocessing, crops):
    model, side = networks[preset], SIDES[preset]
    cut = ten_crops if crops == 10 else evaluation_image
    wanted = expected(model, image_map, lambda data: cut(data, side, preprocessing))
    for batch_size in (30, 256) if preset == "cntk" else (10,):
        results = evaluate_model(model, image_map, batch_size, preprocessing=preprocessing, crops=crops)
        assert results == pytest.approx(wanted, rel=1e-4)


def test_a_single_square_as_cntks_is_the_default(networks, image_map):
    model = networks["cntk"]
    assert evaluate_model(model, image_map) == evaluate_model(model, image_map, preprocessing="cntk", crops=1)


def test_the_loss_of_ten_confident_mistakes_is_finite(networks, image_map):
    """Their probability is 0 in float32, and their loss still a number."""
    model = keras.models.clone_model(networks["cntk"])
    model.get_layer("fc8").set_weights([np.zeros((9, NUM_CLASSES)), np.array([0.0] + 6 * [-1000.0])])
    wrong = dataclasses.replace(image_map, labels=[1] * 7)
    for crops in (1, 10):
        results = evaluate_model(model, wrong, crops=crops)
        assert results["loss"] == pytest.approx(1000)
        assert results["top1_error"] == 1


def test_ten_crops_come_as_many_at_a_time_as_the_batch_size(networks, image_map, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_PLAIN_INTERVAL", 0.0)
    seen = []
    real = evaluation.padded_evaluation_dataset

    def noting(*arguments, **settings):
        dataset = real(*arguments, **settings)
        seen.append(tuple(dataset.element_spec[0].shape[:2]))
        return dataset

    monkeypatch.setattr(evaluation, "padded_evaluation_dataset", noting)
    for batch_size in (39, 5, 256):
        evaluate_model(networks["cntk"], image_map, batch_size, crops=10)
    assert seen == [(3, 10), (1, 10), (7, 10)]
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines[:3]] == [f"{number} of 7 images evaluated" for number in (3, 6, 7)]


def test_ways_that_there_are_not(networks, image_map):
    with pytest.raises(UserError, match="crops is 2; expected 1 or 10"):
        evaluate_model(networks["cntk"], image_map, crops=2)
    with pytest.raises(UserError, match="preprocessing is 'whole'; expected one of"):
        evaluate_model(networks["cntk"], image_map, preprocessing="whole")
    large = build_alexnet(NUM_CLASSES, filters=(1, 1, 1, 1, 1), dense_units=1, image_size=259)
    for preprocessing in ("caffe", "torchvision"):
        with pytest.raises(
            UserError, match=rf"the model takes images of 259×259 pixels, but preprocessing={preprocessing}"
        ):
            evaluate_model(large, image_map, preprocessing=preprocessing)
    assert evaluate_model(large, image_map, crops=10)["examples"] == 7


def test_maps_that_cannot_be_scored(networks, image_map):
    with pytest.raises(UserError, match="the map has no images"):
        evaluate_model(networks["cntk"], ImageMap([], []))
    with pytest.raises(UserError, match="has the label -1; expected 0 or above"):
        evaluate_model(networks["cntk"], dataclasses.replace(image_map, labels=[-1] * 7))
    with pytest.raises(UserError, match="batch_size is 0; expected at least 1"):
        evaluate_model(networks["cntk"], image_map, 0)


def test_the_model_is_left_as_it_was(networks, image_map):
    model = networks["cntk"]
    before = model.get_config()
    evaluate_model(model, image_map, crops=10)
    assert model.get_config() == before
    assert not model.compiled


def scores(model: str, image_map: str) -> list[dict]:
    model, image_map = load_model(model), read_map(image_map)
    return [evaluate_model(model, image_map, 20, preprocessing="caffe", crops=crops) for crops in (1, 10)]


@pytest.mark.slow
@pytest.mark.parametrize("backend", installed("jax", "torch"))
def test_other_backends_score_alike(networks, image_map, tmp_path, backend_process, backend):
    networks["cntk"].save(tmp_path / "model.keras")
    found = backend_process(backend).run(scores, str(tmp_path / "model.keras"), image_map.source)
    for results, wanted in zip(found, scores(str(tmp_path / "model.keras"), image_map.source), strict=True):
        assert results == pytest.approx(wanted, rel=1e-4)
