"""Local response normalization (paper, section 3.3) out of stock Keras operations, and its constants in a model."""

import keras
import numpy as np
from keras import layers, ops

from keras_alexnet.presets import LRN, LRN_SIZE


def local_response_norm(x: keras.KerasTensor, lrn: LRN, name: str) -> keras.KerasTensor:
    """x / (k + alpha/size · Σ x²)^beta, the sum over neighboring channels, in float32 whatever the precision of x."""
    # A product with a float32 array is float32. The plain way, `ops.cast`, is not loaded by Keras before 3.13.
    x = ops.multiply(x, np.ones(1, "float32"))
    # The window sum as a product with a banded matrix: several times faster, forward and backward, than shifted slices
    # or a cumulative sum.
    denominator = lrn.k + ops.matmul(ops.square(x), lrn_band(x.shape[-1], lrn))
    return layers.Multiply(dtype="float32", name=name)([x, inverse_power(denominator, lrn.beta)])


def inverse_power(x, exponent: float):
    """x^-exponent; for 0.75 out of rsqrt and sqrt, which are much faster than `power`."""
    if exponent == 0.75:
        root = ops.rsqrt(x)
        return root * ops.sqrt(root)
    return ops.power(x, -exponent)


def lrn_band(channels: int, lrn: LRN) -> np.ndarray:
    """The float32 (channels, channels) matrix that sums over neighboring channels, scaled by alpha/size."""
    channel = np.arange(channels)
    window = np.abs(channel[:, None] - channel) <= lrn.size // 2
    return (lrn.alpha / lrn.size * window).astype("float32")


def read_lrn(x: keras.KerasTensor, y: keras.KerasTensor) -> LRN | None:
    """The constants of the local response normalization that gives the tensor `y` of a model out of its tensor `x`.

    They are read from operations as `local_response_norm` composes them; files from other versions may compose Caffe's
    normalization otherwise. Either way the values decide.

    Returns:
        The constants; None if it is another function.
    """
    try:
        network = keras.Model(x, y)
    except ValueError:  # It depends on more than x.
        return None
    lrn = _written_constants(network) or LRN()
    # Large enough that each constant of the formula shows, and exact in the bfloat16 that a file may ask for.
    values = np.random.default_rng(0).integers(0, 256, (1, *x.shape[1:])).astype("float32")
    found = ops.convert_to_numpy(network(values))
    expected = values * (lrn.k + np.square(values) @ lrn_band(x.shape[-1], lrn)) ** -lrn.beta
    # The products of GPUs may be in TF32, which is 4e-4 off at most; a constant that is off by half a percent shows.
    return lrn if np.allclose(found, expected, rtol=1e-3) else None


def _written_constants(network: keras.Model) -> LRN | None:
    """The constants in the operations of a network; None if they are not those of `local_response_norm`."""
    constants = {"Power": -0.75}
    for entry in network.get_config()["layers"]:
        for argument in entry["inbound_nodes"][0]["args"] if entry["inbound_nodes"] else ():
            if isinstance(argument, float):
                constants[entry["class_name"]] = argument
            elif isinstance(argument, dict) and argument["class_name"] == "__numpy__":
                constants[entry["class_name"]] = np.array(argument["config"]["value"], "float32")
    try:
        first_row = constants["Matmul"][0]
        size = 2 * int(np.count_nonzero(first_row)) - 1
        if first_row.all():  # Larger windows reach no other channels.
            size = max(size, LRN_SIZE)
        alpha = _shortest(float(first_row[0]) * size, size, first_row[0])
        return LRN(size, alpha, beta=-constants["Power"], k=constants["Add"])
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def _shortest(alpha: float, size: int, entry: np.float32) -> float:
    """The number with the fewest digits that gives this entry of the band."""
    candidates = (float(f"{alpha:.{digits}g}") for digits in range(1, 18))
    return next((number for number in candidates if np.float32(number / size) == entry), alpha)
