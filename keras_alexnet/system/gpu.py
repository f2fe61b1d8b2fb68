"""The NVIDIA GPUs of this machine, and why a framework does not see them. Imports a framework only to ask it."""

import contextlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from keras_alexnet.errors import UserError, first_line

# Names of the extras in pyproject.toml.
_EXTRAS = {"tensorflow": "gpu", "jax": "jax-gpu", "torch": "torch"}
_SECONDS = 60  # time limit of a command
# Phrases in the lines of TensorFlow's log that name what is missing.
_TENSORFLOW_SIGNS = ("dynamic library", "dlopen", "cuInit", "cuda drivers", "CUDA_ERROR")


def count_gpus() -> int:
    """The number of GPUs that a process may use, as far as the system shows without using the driver."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return 0
    devices = [path for path in Path("/dev").glob("nvidia*") if path.name.removeprefix("nvidia").isdigit()]
    return len(devices) or int(os.path.exists("/dev/dxg"))  # Windows' subsystem for Linux has that one.


def memory_bytes() -> int | None:
    """The memory of the first GPU, or None if nvidia-smi does not report it."""
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        query.append(f"--id={visible.split(',')[0]}")
    try:
        printed = subprocess.run(query, capture_output=True, text=True, check=True, timeout=_SECONDS).stdout
        return int(printed.splitlines()[0]) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def leave_gpus_to_the_backend() -> None:
    """Hides the GPUs from TensorFlow, if it is loaded, where it only reads images: it would take all their memory."""
    if "keras" not in sys.modules or "tensorflow" not in sys.modules:
        return
    import keras

    if keras.backend.backend() != "tensorflow":
        import tensorflow as tf

        # It cannot be changed once TensorFlow has computed something: then it has been done, or it is too late.
        with contextlib.suppress(RuntimeError):
            tf.config.set_visible_devices([], "GPU")


def check_gpu_is_used(backend: str, platform: str) -> None:
    """Raises `UserError` if training would use the CPU of a machine with a GPU, and the user has not asked for that.

    Args:
        backend: the Keras backend, which has been imported.
        platform: what the backend computes on: "cpu" or "gpu".
    """
    if platform != "cpu" or not count_gpus():
        return
    if "cpu" in (os.environ.get("JAX_PLATFORMS"), os.environ.get("KERAS_TORCH_DEVICE")):
        return
    raise UserError(
        f"this machine has an NVIDIA GPU, but {backend} does not see it: {_reason(backend)}. Training on the CPU would "
        f"take many times as long. Install the GPU version (pip install 'keras_alexnet[{_EXTRAS[backend]}]'; see the "
        "README) or fix the driver. To train on the CPU anyway, set CUDA_VISIBLE_DEVICES=-1."
    )


def _reason(backend: str) -> str:
    return {"tensorflow": _tensorflow_reason, "jax": _jax_reason, "torch": _torch_reason}[backend]()


def _tensorflow_reason() -> str:
    import tensorflow as tf

    if not tf.sysconfig.get_build_info().get("is_cuda_build"):
        return "it is installed without CUDA"
    # Only its log names what is missing, and this process has turned the log off for good.
    program = "import tensorflow as tf; tf.config.list_physical_devices('GPU')"
    try:
        log = subprocess.run(
            [sys.executable, "-c", program],
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=_SECONDS,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "0"},
        ).stderr
    except subprocess.TimeoutExpired:
        return "the driver does not respond"
    lines = [line.split("] ", 1)[-1].strip() for line in log.splitlines()]
    missing = [line.rstrip(".") for line in lines if any(sign in line for sign in _TENSORFLOW_SIGNS)]
    return "; ".join(dict.fromkeys(missing)) or "for a reason that it does not report"


def _jax_reason() -> str:
    import jax

    if not any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        return "it is installed without CUDA"
    try:
        jax.devices("cuda")
    except RuntimeError as error:
        return first_line(error)
    return "it was set to use another platform"


def _torch_reason() -> str:
    import torch

    if torch.version.cuda is None:
        return "it is installed without CUDA"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return first_line(error)
    return "it was set to use another device"
