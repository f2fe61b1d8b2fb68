"""`--deterministic`, as far as it shows without a GPU."""

import os
import subprocess
import sys

import pytest
from training_process import installed

from keras_alexnet.training.devices import choice
from keras_alexnet.training.devices.choice import choose_devices

ENABLED = {
    "tensorflow": "from tensorflow.python.framework import config; print(config.is_op_determinism_enabled())",
    "torch": "import torch; print(torch.are_deterministic_algorithms_enabled())",
}


@pytest.mark.slow
@pytest.mark.parametrize("backend", installed(*ENABLED))
@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_the_backends_own_setting_is_made_for_gpus_alone(backend, platform):
    program = f"from keras_alexnet.system.determinism import make_deterministic; make_deterministic({platform!r}); "
    result = subprocess.run(
        [sys.executable, "-c", program + ENABLED[backend]],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"KERAS_BACKEND": backend},
    )
    assert result.stdout.split() == [str(platform == "gpu")], result.stderr


def test_it_is_made_before_anything_is_computed(monkeypatch):
    asked = []
    monkeypatch.setattr(choice, "make_deterministic", asked.append)
    for deterministic in (False, True):
        with choose_devices("none", deterministic=deterministic):
            assert asked == ["cpu"] * deterministic
