"""The same bits from the same settings, on GPUs too.

On CPUs they are the same anyway, for the same number of cores. On GPUs sums whose order is left to chance are not, nor
are algorithms that are chosen by their speed at the start.
"""

import os

_XLA_FLAG = "--xla_gpu_deterministic_ops=true"


def set_environment() -> None:
    """Sets what frameworks read from the environment; to be called before they are imported."""
    if _XLA_FLAG not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_XLA_FLAG}".strip()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def make_deterministic(platform: str) -> None:
    """Has the backend of Keras compute the same bits again on a "gpu"; to be called before it computes anything.

    XLA heeds the environment alone: whoever imports a framework calls `set_environment` before that.
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
