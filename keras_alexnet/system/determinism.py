"""Deterministic algorithms on GPUs.

On CPUs, runs with the same settings and number of cores are bit-identical anyway. On GPUs, the order of some sums
varies, and algorithms are selected by timing them.
"""

import os

_XLA_FLAG = "--xla_gpu_deterministic_ops=true"


def set_environment() -> None:
    """Sets the environment variables that frameworks read when they are imported; call it before that."""
    if _XLA_FLAG not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_XLA_FLAG}".strip()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def make_deterministic(platform: str) -> None:
    """Makes the Keras backend deterministic if `platform` is "gpu"; call it before the backend computes anything.

    XLA also needs `set_environment`, before the framework is imported.
    """
    if platform != "gpu":
        return
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    elif keras.backend.backend() == "torch":
        import torch

        torch.use_deterministic_algorithms(True)
