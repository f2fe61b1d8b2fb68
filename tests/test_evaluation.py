"""Scores of models for the ways to cut images, against the logits themselves, and predictions by hand."""

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
from keras_alexnet.inference.predictions import best_classes, concatenate, log_softmax, predictions_of
from keras_alexnet.model import build_alexnet
from keras_alexnet.model_file import load_model
from keras_alexnet.system import progress
from keras_alexnet.training.metrics import compile_model, error_rates

NUM_CLASSES, SIDE = 7, 99
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
    model = build_alexnet(NUM_CLASSES, filters=(4, 6, 5, 7, 8), dense_units=9, image_size=SIDE)
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
    wanted = expected(model, image_map, lambda data: cut(data, SIDE, preprocessing))
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
    results = evaluate_model(confident, wrong, crops=10)
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


def ten_crop_scores(model: str, image_map: str) -> dict:
    return evaluate_model(load_model(model), read_map(image_map), 20, preprocessing="caffe", crops=10)


@pytest.mark.slow
@pytest.mark.parametrize("backend", installed("jax", "torch"))
def test_other_backends_score_alike(model, image_map, tmp_path, backend_process, backend):
    path = str(tmp_path / "model.keras")
    model.save(path)
    found = backend_process(backend).run(ten_crop_scores, path, image_map.source)
    assert found == pytest.approx(ten_crop_scores(path, image_map.source), rel=1e-4)


def logits_and_labels(num_classes, count=400):
    rng = np.random.default_rng(3)
    # Coarse steps, so that many are equal.
    logits = rng.integers(-6, 7, (count, num_classes)).astype(np.float32) / 2
    return logits, rng.integers(0, num_classes, count).astype(np.int32)


@pytest.mark.parametrize("num_classes", [2, 5, 40])
def test_error_rates_are_those_that_training_reports(num_classes):
    _, labels = logits_and_labels(num_classes)
    logits = np.random.default_rng(4).normal(0, 2, (len(labels), num_classes)).astype(np.float32)
    inputs = keras.Input((num_classes,))
    model = keras.Model(inputs, keras.layers.Identity()(inputs))
    compile_model(model)
    wanted = error_rates(model.evaluate(logits, labels, verbose=0, return_dict=True), len(labels))
    batches = [predictions_of(logits[rows], labels[rows]) for rows in (slice(0, 256), slice(256, None))]
    found = concatenate(batches).metrics()
    assert found.pop("examples") == len(labels)
    assert found == pytest.approx(wanted, rel=1e-6)


def test_equal_logits_rank_by_label():
    """A network that says the same of everything is not always right."""
    logits, labels = logits_and_labels(40)
    places = np.argsort(np.argsort(-logits, axis=1, kind="stable"), axis=1)
    assert predictions_of(logits, labels).ranks.tolist() == places[np.arange(len(labels)), labels].tolist()
    dead = predictions_of(np.zeros((40, 40), np.float32), np.arange(40, dtype=np.int32)).metrics()
    assert (dead["top1_error"], dead["top5_error"]) == (39 / 40, 35 / 40)


def test_the_best_classes_are_those_of_a_stable_sort():
    logits, _ = logits_and_labels(40)
    few = np.where(np.arange(40) % 9 == 8, 1, -np.inf)  # Fewer finite ones than asked for.
    last = np.where(np.arange(40) < 36, 1, 2)  # All but one of the best are last, and the border is a tie of the rest.
    logits = np.array([*logits, np.zeros(40), np.arange(40), -np.arange(40), few, last], np.float32)
    wanted = np.argsort(-logits, axis=1, kind="stable")
    for count in (1, 5, 39, 40, 1000):
        np.testing.assert_array_equal(best_classes(logits, count), wanted[:, :count])


def test_logits_of_any_size_have_finite_losses():
    large = np.array([[1e5, 0, -1e5]], np.float32)
    assert log_softmax(large).tolist() == [[0, -1e5, -2e5]]
    assert predictions_of(large, np.array([2], np.int32)).metrics()["loss"] == 2e5
