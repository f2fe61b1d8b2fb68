"""Batches on their way to the devices."""

import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from training_process import installed

from keras_alexnet.data.synthetic import synthetic_evaluation_batches
from keras_alexnet.model import build_alexnet
from keras_alexnet.presets import Preset
from keras_alexnet.training import loop
from keras_alexnet.training.build import build_network
from keras_alexnet.training.config import TrainConfig
from keras_alexnet.training.devices.choice import choose_devices
from keras_alexnet.training.devices.feed import AHEAD, DataWait, device_feed
from keras_alexnet.training.devices.tensorflow import OneGPU


def numbers() -> tf.data.Dataset:
    return tf.data.Dataset.range(10).map(lambda number: (number, -number))


def stay(batch):
    return lambda: batch


@pytest.mark.parametrize("put", [None, stay])
def test_batches_come_once_and_in_order(put):
    with device_feed(numbers(), DataWait(), put) as feed:
        assert feed.num_batches == 10
        assert [feed[index] for index in range(10)] == [(number, -number) for number in range(10)]
        for _ in range(2):
            with pytest.raises(StopIteration):
                feed[10]


def test_only_waiting_for_data_counts():
    wait = DataWait()
    slow = (time.sleep(0.1) for _ in range(3))
    for _ in range(3):
        wait.next(slow)
        time.sleep(0.1)
    assert 0.3 <= wait.seconds < 0.5


def test_a_batch_is_copied_before_it_is_asked_for_and_no_more_than_that():
    put = []
    number_of_threads = threading.active_count()
    with device_feed(numbers().repeat(), DataWait(), lambda batch: put.append(batch) or stay(batch)) as feed:
        assert feed.num_batches is None
        for taken in range(3):
            deadline = time.monotonic() + 10
            while len(put) < taken + AHEAD and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(0.05)
            assert len(put) == taken + AHEAD
            feed[taken]
    assert threading.active_count() == number_of_threads


def test_what_goes_wrong_in_the_thread_is_raised_in_its_turn():
    def put(batch):
        if batch[0] == 2:
            raise MemoryError("no room on the device")
        return stay(batch)

    with device_feed(numbers(), DataWait(), put) as feed:
        assert [feed[0][0], feed[1][0]] == [0, 1]
        for _ in range(2):
            with pytest.raises(MemoryError, match="no room"):
                feed[2]


def test_the_data_wait_of_a_training_on_tensorflow(data_dir, tmp_path, monkeypatch):
    config = TrainConfig(str(data_dir), str(tmp_path / "run"), preset="tiny", epochs=1, steps_per_epoch=4, batch_size=2)
    data_class = type(loop.open_data(config))
    batches = data_class.training_batches

    def slowly(pixels, labels):
        return tf.numpy_function(lambda x: time.sleep(0.3) or x, [pixels], tf.uint8), labels

    monkeypatch.setattr(data_class, "training_batches", lambda *args, **more: batches(*args, **more).map(slowly))
    (row,) = loop.train(config)
    assert 4 * 0.3 / row["seconds"] * 0.5 < row["data_wait"] <= 1


def test_tensorflow_copies_ahead_to_a_gpu():
    """Its CPU stands in for it: what is checked is that the batches stay what they are."""
    batches = synthetic_evaluation_batches(3, 2, 3, image_size=8)
    with OneGPU("one GPU", name="/CPU:0").feed(batches) as feed:
        assert len(list(feed)) == 3
        for found, expected in zip(next(iter(feed)), next(iter(batches)), strict=True):
            np.testing.assert_array_equal(found, expected)


class Batches(keras.utils.PyDataset):
    num_batches = 3

    def __getitem__(self, index):
        weights = np.full(4, index + 1, np.float32)
        return np.full((4, 67, 67, 3), index, np.uint8), np.zeros(4, np.int32), weights


def train_and_evaluate() -> None:
    """Under JAX, four devices of a CPU stand in for GPUs."""
    is_jax = keras.backend.backend() == "jax"
    with choose_devices("mirrored" if is_jax else "none") as devices:
        model = build_alexnet(3, preset=Preset((4, 5, 6, 7, 8), 9, image_size=67))
        put = None
        if is_jax:
            from keras_alexnet.training.devices.jax import _jax_put

            put = _jax_put()
        for name, steps in (("evaluate", "steps"), ("fit", "steps_per_epoch")):
            network = build_network(model, TrainConfig(batch_size=4), 1, devices)
            with device_feed(Batches(), DataWait(), put) as feed:
                getattr(network, name)(feed, verbose=0, **{steps: 2})
            # The weights of batches 0 and 1; the thread may have read ahead.
            (metrics,) = (metric for metric in network.metrics if metric.name == "compile_metrics")
            (weight,) = (metric.count for metric in metrics.metrics if metric.name == "cross_entropy")
            assert float(keras.ops.convert_to_numpy(weight)) == 4 * 1 + 4 * 2, name
        if put:
            with device_feed(Batches(), DataWait(), put) as feed:
                images, *_ = feed[0]
            assert [part.data.shape[0] for part in images.addressable_shards] == [1] * 4


@pytest.mark.slow
@pytest.mark.parametrize("backend", installed("jax", "torch"))
def test_no_batch_is_lost_and_each_device_gets_its_part(backend_process, backend):
    """Keras takes a batch to build what is not built, whatever is computed first."""
    backend_process(backend).run(train_and_evaluate)
