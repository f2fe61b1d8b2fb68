"""The weights of torchvision's AlexNet, as a state dict, and what the reader makes of files."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from keras_alexnet.errors import UserError
from keras_alexnet.importers import chain
from keras_alexnet.importers.torchvision import read_torchvision

REFERENCE = Path(__file__).parent / "reference"
STATE = load_file(REFERENCE / "torchvision_c9_fc96.safetensors")


def check(network: chain.Chain, state: dict[str, np.ndarray]) -> None:
    """The chain has those arrays."""
    weighted = [layer for layer in network.layers if isinstance(layer, chain.Convolution | chain.Dense)]
    assert len(weighted) == 8
    for layer in weighted:
        weight = state[f"{layer.name}.weight"].astype(np.float32)
        np.testing.assert_array_equal(layer.kernel, weight.T if isinstance(layer, chain.Dense) else weight)
        np.testing.assert_array_equal(layer.bias, state[f"{layer.name}.bias"].astype(np.float32))
        assert layer.kernel.dtype == layer.bias.dtype == np.float32


def refused(path) -> str:
    """The message with which a file is refused."""
    with pytest.raises(UserError) as raised:
        read_torchvision(path)
    message = str(raised.value)
    assert str(path) in message
    assert "Expected " in message
    assert len(message) < 1000
    return message
