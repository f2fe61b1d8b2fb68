"""What a run computes on: one device, several, or several processes. Real processes: see test_workers."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from backend_processes import NUM_DEVICES
from tensorflow.python.framework import config as tensorflow_config
from training_process import arrays_of, assert_close, finish, history_of, installed, small_preset, start_training

from keras_alexnet.data.synthetic import synthetic_evaluation_batches, synthetic_training_batches
from keras_alexnet.errors import UserError
from keras_alexnet.model import build_alexnet
from keras_alexnet.system.determinism import make_deterministic
from keras_alexnet.training import loop
from keras_alexnet.training.build import build_model, build_network
from keras_alexnet.training.config import TrainConfig
from keras_alexnet.training.devices import choice
from keras_alexnet.training.devices.base import Devices, check_batch_size, check_same_settings
from keras_alexnet.training.devices.choice import choose_devices
from keras_alexnet.training.run_folder import find_checkpoint

BACKENDS = installed("tensorflow", "jax")


def test_a_batch_that_does_not_divide_is_refused_with_the_nearest_that_do():
    for batch_size, replicas, choices in ((6, 4, "4 and 8"), (3, 4, "4")):
        with pytest.raises(UserError, match=rf"not divisible by the {replicas} devices; .* are: {choices}\."):
            check_batch_size(batch_size, replicas)
    check_batch_size(8, 4)


class WithoutXLA(Devices):
    can_use_xla = False


def test_compilation_that_devices_cannot_do_is_refused():
    fast, torch = Devices("GPU", xla=True), WithoutXLA("one device, torch")
    assert [fast.jit_compile(setting) for setting in ("auto", "on", "off")] == [True, True, False]
    assert [torch.jit_compile(setting) for setting in ("auto", "off")] == [False, False]
    with pytest.raises(UserError, match="jit_compile is on, which one device, torch cannot do"):
        torch.jit_compile("on")


class Workers(Devices):
    """Each call is that of another worker, which sees what the ones before gave."""

    def __init__(self):
        super().__init__("workers")
        object.__setattr__(self, "given", [])

    def agree(self, values):
        self.given.append(values)
        return [max(each) for each in zip(*self.given, strict=True)]


def test_workers_with_other_settings_or_another_checkpoint_are_reported(tmp_path):
    devices = Workers()
    check_same_settings(devices, {"learning_rate": 0.1}, 3)
    check_same_settings(devices, {"learning_rate": 0.1}, 3)
    with pytest.raises(UserError, match="not started with the same settings"):
        check_same_settings(devices, {"learning_rate": 0.2}, 3)
    devices = Workers()
    devices.agree([6, -6])
    with pytest.raises(UserError, match=r"the workers do not see the same checkpoint in .* worker 0 sees none"):
        find_checkpoint(tmp_path, {}, devices)


def test_compiled_and_not_give_nearly_the_same(data_dir, tmp_path):
    settings = {"data_dir": str(data_dir), "preset": "small", "epochs": 1, "batch_size": 8, "dropout": 0.0}
    with small_preset():
        for setting in ("on", "off"):
            loop.train(TrainConfig(**settings, output_dir=str(tmp_path / setting), jit_compile=setting))
    on, off = (history_of(tmp_path / setting) for setting in ("on", "off"))
    assert on[0] == pytest.approx(off[0], rel=1e-4)
    weights = [arrays_of(tmp_path / setting) for setting in ("on", "off")]
    assert any(not np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_clusters_of_the_environment(monkeypatch):
    for strategy, tf_config, expected_text in (
        ("multi_worker", "", "TF_CONFIG does not define a cluster"),
        ("auto", "{", "TF_CONFIG is not JSON"),
    ):
        monkeypatch.setenv("TF_CONFIG", tf_config)
        with pytest.raises(UserError, match=expected_text), choose_devices(strategy):
            pass
    one = {"cluster": {"worker": ["localhost:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(one))
    with choose_devices("auto") as devices:
        assert (devices.num_workers, devices.num_replicas, devices.description) == (1, 1, "CPU")


def error_of(strategy: str) -> str:
    with pytest.raises(UserError) as caught, choose_devices(strategy):
        pass
    return str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("backend", installed("torch"))
def test_torch_trains_on_one_device(backend_process, backend):
    message = backend_process(backend).run(error_of, "multi_worker")
    assert message.startswith("strategy is multi_worker, but Keras trains on one device under torch")


def test_tensorflows_handler_of_sigterm_does_not_stay():
    from keras_alexnet.training.devices import tensorflow_workers

    before = signal.getsignal(signal.SIGTERM)
    with tensorflow_workers._interruptible():
        signal.signal(signal.SIGTERM, lambda *_: None)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.slow
def test_xla_compiles_the_passes_of_a_replica():
    with small_preset(), choose_devices("mirrored") as devices:
        config = TrainConfig(preset="small", batch_size=2, jit_compile="on")
        with devices.scope():
            network = build_network(build_model(config, 3), config, 1, devices)
        network.fit(synthetic_training_batches(2, 3, image_size=67), steps_per_epoch=1, shuffle=False, verbose=0)
        network.evaluate(synthetic_evaluation_batches(1, 2, 3, image_size=67), verbose=0)
    for compiled in (network._compiled_gradients, network._compiled_forward):
        assert compiled.experimental_get_tracing_count() == 1


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_several_devices_do_what_one_does(backend, data_dir, tmp_path):
    """24 training and 7 validation images, in batches of 8: the last one of validation has an image of padding."""
    build_alexnet(3, preset="tiny", image_size=67).save(tmp_path / "initial.keras")
    config = {"data_dir": str(data_dir), "initial_model": f"{tmp_path}/initial.keras", "epochs": 1}
    config |= {"batch_size": 8, "dropout": 0.0}
    # Under JAX everything is compiled.
    runs = [
        config | {"output_dir": f"{tmp_path}/{strategy}-{setting}", "strategy": strategy, "jit_compile": setting}
        for setting in (["auto", "on"] if backend == "tensorflow" else ["auto"])
        for strategy in ("none", "mirrored")
    ]
    # One device evaluates for it, on batches that divide by no number of devices.
    runs[1]["report"] = True
    num_devices = 2 if backend == "tensorflow" else NUM_DEVICES
    printed, _ = finish(start_training(backend, *runs, num_devices=num_devices))
    assert printed.count(f"{num_devices} × CPU") == len(runs) // 2
    assert f"The report is {tmp_path}/mirrored-auto/report/report.html" in printed
    for one, several in zip(runs[::2], runs[1::2], strict=True):
        assert_close(Path(several["output_dir"]), Path(one["output_dir"]))


def test_deterministic_algorithms_are_for_gpus_only():
    make_deterministic("cpu")
    assert not tensorflow_config.is_op_determinism_enabled()
    make_deterministic("gpu")
    assert tensorflow_config.is_op_determinism_enabled()
    tensorflow_config.disable_op_determinism()


def test_they_are_chosen_before_anything_is_computed(monkeypatch):
    asked = []
    monkeypatch.setattr(choice, "make_deterministic", asked.append)
    for deterministic in (False, True):
        with choose_devices("none", deterministic=deterministic):
            assert asked == ["cpu"] * deterministic
