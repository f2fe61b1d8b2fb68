"""AlexNets as chains of layers, as the readers of files make them."""

import numpy as np

from keras_alexnet.importers import chain
from keras_alexnet.importers.chain import Chain

FILTERS, UNITS, CLASSES = (4, 6, 6, 4, 4), (8, 7), 5
RNG = np.random.default_rng(0)


def numbers(*shape: int) -> np.ndarray:
    """An array that cannot be written to, as those in files."""
    array = RNG.normal(size=shape).astype(np.float32)
    array.flags.writeable = False
    return array


def convolution(name: str, filters: int, inputs: int, size: int, *, strides=1, padding=0, groups=1):
    return chain.Convolution(
        name,
        numbers(filters, inputs // groups, size, size),
        numbers(filters),
        (strides,) * 2,
        ((padding,) * 2,) * 2,
        groups=groups,
    )


def layers(*, groups=1, pool="valid", conv1_padding=0, side=6) -> list[chain.Layer]:
    a, b, c, d, e = FILTERS
    norms = [chain.LocalResponseNorm(f"n{n}", 5, 1e-4, 0.75, 1.0) for n in (1, 2)]
    pools = [chain.MaxPool(f"p{n}", (3, 3), (2, 2), pool) for n in (1, 2, 5)]
    relus = [chain.Relu(f"r{n}") for n in range(1, 8)]
    dense = [
        chain.Dense(name, numbers(inputs, units), numbers(units))
        for name, inputs, units in (("d6", e * side * side, 8), ("d7", 8, 7), ("d8", 7, CLASSES))
    ]
    return [
        *(convolution("c1", a, 3, 11, strides=4, padding=conv1_padding), relus[0], norms[0], pools[0]),
        *(convolution("c2", b, a, 5, padding=2, groups=groups), relus[1], norms[1], pools[1]),
        *(convolution("c3", c, b, 3, padding=1), relus[2], convolution("c4", d, c, 3, padding=1, groups=groups)),
        *(relus[3], convolution("c5", e, d, 3, padding=1, groups=groups), relus[4], pools[2]),
        *(dense[0], relus[5], chain.Dropout("o6", 0.3), dense[1], relus[6], chain.Dropout("o7", 0.6), dense[2]),
    ]


def network(made: list[chain.Layer], image_size=None) -> Chain:
    return Chain("net.file", "test model", tuple(made), image_size)
