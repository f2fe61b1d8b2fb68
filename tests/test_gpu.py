"""What can be said of GPUs without one: that a machine has one which the framework does not see, and its memory."""

import os
import subprocess
import sys
from unittest import mock

import pytest
import tensorflow as tf
from training_process import installed

from keras_alexnet.data.map_file import VAL_MAP, read_map
from keras_alexnet.errors import UserError
from keras_alexnet.inference.evaluation import evaluate_model
from keras_alexnet.inference.files import predict_images
from keras_alexnet.inference.outputs import Outputs
from keras_alexnet.model import build_alexnet, set_precision
from keras_alexnet.system import gpu
from keras_alexnet.training import memory
from keras_alexnet.training.devices.choice import choose_devices
from keras_alexnet.training.memory import bytes_needed, explained_memory


@pytest.fixture(scope="module")
def model():
    return build_alexnet(3, preset="tiny")


def error_without_gpu(backend: str) -> str:
    with mock.patch.object(gpu, "count_gpus", return_value=1), pytest.raises(UserError) as caught:
        gpu.check_gpu_is_used(backend, "cpu")
    return str(caught.value)


def test_a_training_takes_the_cpu_of_a_machine_with_a_gpu_only_if_asked_to(monkeypatch):
    """Here TensorFlow finds no driver, and says so."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert gpu.count_gpus() == 0
    monkeypatch.setattr(gpu, "count_gpus", lambda: 1)
    for name in ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS", "KERAS_TORCH_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError) as caught, choose_devices("auto"):
        pass
    message = str(caught.value)
    assert message.startswith("this machine has an NVIDIA GPU, but tensorflow does not see it: ")
    assert "cuda drivers" in message or "installed without CUDA" in message
    assert "CUDA_VISIBLE_DEVICES=-1" in message
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    with choose_devices("auto") as devices:
        assert devices.platform == "cpu"


@pytest.mark.slow
@pytest.mark.parametrize("backend", installed("jax", "torch"))
def test_other_backends_say_what_they_lack(backend_process, backend):
    message = backend_process(backend).run(error_without_gpu, backend)
    assert f"an NVIDIA GPU, but {backend} does not see it: it " in message


@pytest.mark.slow
@pytest.mark.parametrize("backend", installed("jax"))
def test_a_device_that_is_not_there_is_named(backend, tmp_path):
    command = [sys.executable, "-m", "keras_alexnet.fit", "--synthetic_data", f"--output_dir={tmp_path}"]
    environment = os.environ | {"KERAS_BACKEND": backend, "JAX_PLATFORMS": "cuda"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 1
    assert "JAX_PLATFORMS is 'cuda', which jax cannot use here: " in result.stderr
    assert "Traceback" not in result.stderr


def test_too_little_memory_is_reported_with_the_batch_that_fits(model, monkeypatch):
    fixed, per_image = bytes_needed(model)
    monkeypatch.setattr(memory, "gpu_bytes", lambda: int((fixed + 100 * per_image) / 0.9) + 1)
    for error in (
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[4096,96,55,55]"),
        tf.errors.InternalError(None, None, "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes"),
        RuntimeError("CUDA out of memory. Tried to allocate 4.00 GiB."),
        MemoryError(),
    ):
        with pytest.raises(UserError) as caught, explained_memory(model, 1024, 2, "gpu"):
            raise error
        message = str(caught.value)
        assert message.startswith("out of memory on the GPU: 1,024 images at a time need very roughly")
        assert "enough for about 200 images. Use a lower --batch_size." in message
    for error in (ValueError("something else"), UserError("out of memory, said by us"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, explained_memory(model, 8, 1, "cpu"):
            raise error
        assert caught.value is error


def test_far_too_little_memory_on_a_cpu_is_found_before_tensorflow_crashes(model, monkeypatch):
    fixed, per_image = bytes_needed(model)
    monkeypatch.setattr(memory, "total_bytes", lambda: fixed + 100 * per_image)
    message = r"out of memory on the CPU: 300 images .* enough for about \d\d images"
    with pytest.raises(UserError, match=message), explained_memory(model, 300, 1, "cpu"):
        pytest.fail("it was tried")
    with explained_memory(model, 150, 1, "cpu"):  # The estimate is rough.
        pass


def test_so_it_is_in_evaluation_and_prediction(model, data_dir, monkeypatch):
    def too_much(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(Outputs, "__call__", too_much)
    for compute in (evaluate_model, predict_images):
        with pytest.raises(UserError, match="out of memory on the CPU: 5 images at a time need"):
            compute(model, read_map(data_dir / VAL_MAP), batch_size=5)


def test_memory_needed_goes_with_precision_and_images():
    network = build_alexnet(10, preset="tiny")
    weights, per_image = bytes_needed(network)
    # The largest outputs are conv1's, relu1's and norm1's.
    assert (weights, per_image > 2 * 4 * 3 * 55 * 55 * 24) == (16 * network.count_params(), True)
    assert bytes_needed(network, training=False)[0] == 4 * network.count_params()
    set_precision(network, "mixed_bfloat16")
    assert 0.5 * per_image < bytes_needed(network)[1] < 0.8 * per_image
