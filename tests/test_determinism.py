"""`--deterministic`, as far as it shows without a GPU."""

import keras
import pytest
from training_process import installed

from keras_alexnet.system.determinism import make_deterministic
from keras_alexnet.training.devices import choice
from keras_alexnet.training.devices.choice import choose_devices


def enabled_for(platform: str) -> bool:
    """Whether the backend's own setting is made; it is undone again."""
    make_deterministic(platform)
    if keras.backend.backend() == "tensorflow":
        from tensorflow.python.framework import config

        enabled = config.is_op_determinism_enabled()
        config.disable_op_determinism()
    else:
        import torch

        enabled = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(False)
    return enabled


@pytest.mark.slow
@pytest.mark.parametrize("backend", installed("tensorflow", "torch"))
def test_the_backends_own_setting_is_made_for_gpus_only(backend_process, backend):
    run = backend_process(backend).run
    assert [run(enabled_for, platform) for platform in ("cpu", "gpu")] == [False, True]


def test_it_is_made_before_anything_is_computed(monkeypatch):
    asked = []
    monkeypatch.setattr(choice, "make_deterministic", asked.append)
    for deterministic in (False, True):
        with choose_devices("none", deterministic=deterministic):
            assert asked == ["cpu"] * deterministic
