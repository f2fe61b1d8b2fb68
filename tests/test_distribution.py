import json
from pathlib import Path

import numpy as np
import pytest
from backend_processes import NUM_DEVICES
from training_process import arrays_of, assert_close, finish, history_of, installed, start_training

from keras_alexnet.data.synthetic import synthetic_evaluation_batches, synthetic_training_batches
from keras_alexnet.errors import UserError
from keras_alexnet.training import loop
from keras_alexnet.training.build import build_model, build_network
from keras_alexnet.training.config import TrainConfig
from keras_alexnet.training.devices.base import Devices, check_batch_size, check_same_settings
from keras_alexnet.training.devices.choice import choose_devices

BACKENDS = installed("tensorflow", "jax")


@pytest.mark.parametrize(
    ("batch_size", "replicas", "choices"), [(6, 4, "4 and 8"), (3, 4, "4"), (255, 2, "254 and 256"), (1, 8, "8")]
)
def test_a_batch_that_does_not_divide_is_refused_with_the_nearest_that_do(batch_size, replicas, choices):
    with pytest.raises(UserError, match=rf"not divisible by the {replicas} devices; .* are: {choices}\."):
        check_batch_size(batch_size, replicas)


def test_batches_that_divide_are_taken():
    check_batch_size(8, 4)
    check_batch_size(7, 1)


class WithoutXLA(Devices):
    can_use_xla = False


def test_compilation_that_devices_cannot_do_is_refused():
    fast, torch = Devices("GPU", xla=True), WithoutXLA("one device, torch")
    assert [fast.jit_compile(setting) for setting in ("auto", "on", "off")] == [True, True, False]
    assert [torch.jit_compile(setting) for setting in ("auto", "off")] == [False, False]
    with pytest.raises(UserError, match="jit_compile is on, which one device, torch cannot do"):
        torch.jit_compile("on")


def test_workers_with_other_settings_are_told():
    numbers = []

    class Workers(Devices):
        def agree(self, values):
            numbers.append(values)
            return [max(pair) for pair in zip(*numbers, strict=True)]

    devices = Workers("2 workers")
    check_same_settings(devices, {"learning_rate": 0.1}, 3)
    check_same_settings(devices, {"learning_rate": 0.1}, 3)
    with pytest.raises(UserError, match="not started with the same settings"):
        check_same_settings(devices, {"learning_rate": 0.2}, 3)


def test_compiled_and_not_give_nearly_the_same(data_dir, tmp_path):
    for setting in ("on", "off"):
        folder = str(tmp_path / setting)
        loop.train(
            TrainConfig(str(data_dir), folder, preset="tiny", epochs=1, batch_size=8, dropout=0.0, jit_compile=setting)
        )
    on, off = (history_of(tmp_path / setting) for setting in ("on", "off"))
    assert on[0] == pytest.approx(off[0], rel=1e-4)
    weights = [arrays_of(tmp_path / setting) for setting in ("on", "off")]
    assert any(not np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize(
    ("strategy", "tf_config", "told"),
    [
        ("multi_worker", "", "TF_CONFIG names no cluster"),
        ("auto", "{", "TF_CONFIG is not JSON"),
        (
            "multi_worker",
            json.dumps({"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 2}}),
            "worker 2, counted from 0, but its cluster has 2 worker",
        ),
    ],
)
def test_bad_clusters_are_told(monkeypatch, strategy, tf_config, told):
    monkeypatch.setenv("TF_CONFIG", tf_config)
    with pytest.raises(UserError, match=told), choose_devices(strategy):
        pass


def test_a_cluster_of_one_is_this_process(monkeypatch):
    one = {"cluster": {"worker": ["localhost:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(one))
    with choose_devices("auto") as devices:
        assert (devices.num_workers, devices.num_replicas, devices.description) == (1, 1, "CPU")


@pytest.mark.slow
@pytest.mark.parametrize(("jit_compile", "count"), [("on", 1), ("off", 0)])
def test_xla_compiles_the_passes_of_a_replica(jit_compile, count):
    config = TrainConfig(preset="tiny", batch_size=2, jit_compile=jit_compile)
    with choose_devices("mirrored") as devices:
        with devices.scope():
            network = build_network(build_model(config, 3), config, 1, devices)
        network.fit(synthetic_training_batches(2, 3), steps_per_epoch=1, shuffle=False, verbose=0)
        network.evaluate(synthetic_evaluation_batches(1, 2, 3), verbose=0)
    passes = (network._compiled_gradients, network._compiled_forward)
    assert [each.experimental_get_tracing_count() for each in passes] == [count, count]


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_several_devices_do_what_one_does(backend, data_dir, tmp_path):
    """24 training and 7 validation images, in batches of 8: the last one of validation has an image of padding."""
    config = {"data_dir": str(data_dir), "preset": "tiny", "epochs": 1, "batch_size": 8, "dropout": 0.0}
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


def strategy_error(strategy: str) -> str:
    with pytest.raises(UserError) as caught, choose_devices(strategy):
        pass
    return str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("backend", installed("torch"))
def test_torch_trains_on_one_device(backend_process, backend):
    message = backend_process(backend).run(strategy_error, "multi_worker")
    assert message.startswith("strategy is multi_worker, but Keras trains on one device under torch")
