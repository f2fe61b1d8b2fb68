"""Networks that are small, and in which every layer counts."""

import keras
import numpy as np

from keras_alexnet.model import build_alexnet

SIDE = 99
NARROW = {"filters": (4, 6, 6, 6, 6), "dense_units": 9, "image_size": SIDE}


def narrow_network(num_classes: int = 5, **settings) -> keras.Model:
    """With random weights of a size at which every layer's output counts."""
    network = build_alexnet(num_classes, **NARROW | settings)
    rng = np.random.default_rng(1)
    for weight in network.weights:
        spread = np.sqrt(2 / np.prod(weight.shape[:-1])) if len(weight.shape) > 1 else 0.1
        weight.assign(rng.normal(0, spread, weight.shape))
    return network
