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
from keras_alexnet.inference.evaluation import evaluate_model
from keras_alexnet.model import build_alexnet
from keras_alexnet.model_file import load_model
from keras_alexnet.system import progress

NUM_CLASSES = 7
SIZES = [(60, 40), (40, 60), (300, 256), (90, 90), (257, 130), (31, 33), (80, 40)]


@pytest.fixture(scope="module")
def image_map(tmp_path_factory) -> ImageMap:
    """Seven images, whose middle and corners differ. Read only."""
    folder = tmp_path_factory.mktemp("images")
    rows = []
    for number, (width, height) in enumerate(SIZES):
        path = folder / f"{number}.JPEG"
        path.write_bytes(encode(draw(width, height, number), "JPEG", quality=95))
        rows.append((str(path), (3 * number) % NUM_CLASSES))
    write_map(folder / "map.txt", rows)
    return read_map(folder / "map.txt")


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """A network whose predictions depend strongly on the image."""
    model = build_alexnet(NUM_CLASSES, filters=(4, 6, 5, 7, 8), dense_units=9)
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
def test_scores_are_those_of_the_crops(model, image_map, preprocessing, crops, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_PLAIN_INTERVAL", 0.0)
    before = model.get_config()
    # With ten crops, three images at a time.
    results = evaluate_model(model, image_map, 39, preprocessing=preprocessing, crops=crops)
    cut = ten_crops if crops == 10 else evaluation_image
    wanted = expected(model, image_map, lambda data: cut(data, 227, preprocessing))
    assert results == pytest.approx(wanted, rel=1e-4)
    assert model.get_config() == before
    assert not model.compiled
    lines = capsys.readouterr().err.splitlines()
    finished = [3, 6, 7] if crops == 10 else [7]
    assert [line.split(",")[0] for line in lines] == [f"{number} of 7 images evaluated" for number in finished]


def test_the_loss_of_ten_confident_mistakes_is_finite(model, image_map):
    """Their probability is 0 in float32, and their loss still a number."""
    confident = keras.models.clone_model(model)
    confident.get_layer("fc8").set_weights([np.zeros((9, NUM_CLASSES)), np.array([0.0] + 6 * [-1000.0])])
    wrong = dataclasses.replace(image_map, labels=[1] * 7)
    for crops in (1, 10):
        results = evaluate_model(confident, wrong, crops=crops)
        assert results["loss"] == pytest.approx(1000)
        assert results["top1_error"] == 1


def test_what_cannot_be_scored_is_refused(model, image_map):
    large = build_alexnet(NUM_CLASSES, filters=(1, 1, 1, 1, 1), dense_units=1, image_size=259)
    for network, images, settings, message in (
        (model, image_map, {"crops": 2}, "crops is 2; expected 1 or 10"),
        (model, image_map, {"preprocessing": "whole"}, "preprocessing is 'whole'; expected one of"),
        (large, image_map, {"preprocessing": "caffe"}, "images of 259×259 pixels, but preprocessing=caffe"),
        (model, ImageMap([], []), {}, "the map has no images"),
        (model, dataclasses.replace(image_map, labels=[-1] * 7), {}, "has the label -1; expected 0 or above"),
        (model, image_map, {"batch_size": 0}, "batch_size is 0; expected at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate_model(network, images, **settings)


def scores(model: str, image_map: str) -> list[dict]:
    model, image_map = load_model(model), read_map(image_map)
    return [evaluate_model(model, image_map, 20, preprocessing="caffe", crops=crops) for crops in (1, 10)]


@pytest.mark.slow
@pytest.mark.parametrize("backend", installed("jax", "torch"))
def test_other_backends_score_alike(model, image_map, tmp_path, backend_process, backend):
    path = str(tmp_path / "model.keras")
    model.save(path)
    found = backend_process(backend).run(scores, path, image_map.source)
    for results, wanted in zip(found, scores(path, image_map.source), strict=True):
        assert results == pytest.approx(wanted, rel=1e-4)
