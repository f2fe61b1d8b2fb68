"""CNTK's tiny reference network; reference/README.md says what CNTK computed with it."""

from pathlib import Path

import keras
import numpy as np

from keras_alexnet.model import build_alexnet

REFERENCE = Path(__file__).parent / "reference"
# Files that CNTK wrote.
TINY = REFERENCE / "alexnet_tiny_c10_fc64.model"
ALL = [TINY, *(REFERENCE / f"alexnet_padpool_c7_fc48.{kind}" for kind in ("model", "v1.dnn", "checkpoint.model"))]
FILTERS, DENSE_UNITS, NUM_CLASSES = (24, 48, 96, 96, 64), 64, 10


def build_reference_network(dropout: float = 0.5) -> keras.Model:
    """The network with CNTK's weights."""
    model = build_alexnet(NUM_CLASSES, filters=FILTERS, dense_units=DENSE_UNITS, dropout=dropout)
    with np.load(REFERENCE / "cntk_tiny_weights.npz") as file:
        for name in sorted({key.split(".")[0] for key in file.files}):
            model.get_layer(name).set_weights([to_keras(f"{name}.W", file), to_keras(f"{name}.b", file)])
    return model


def to_keras(key: str, arrays) -> np.ndarray:
    """A parameter of CNTK's (channels first, BGR, fc6 flattened by channel) as Keras has it (channels last, RGB)."""
    array = arrays[key]
    name, kind = key.split(".")[-2:]
    if kind == "b":
        return array.ravel()
    if name.startswith("conv"):
        kernel = array.transpose(2, 3, 1, 0)
        return kernel[:, :, ::-1] if name == "conv1" else kernel
    if name == "fc6":
        return array.transpose(1, 2, 0, 3).reshape(-1, array.shape[-1])
    return array


def images_to_keras(array: np.ndarray) -> np.ndarray:
    """(batch, BGR, height, width) to (batch, height, width, RGB)."""
    return array.transpose(0, 2, 3, 1)[..., ::-1]
