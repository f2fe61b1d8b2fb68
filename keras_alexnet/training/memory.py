"""How much device memory a network needs, and errors when there is too little."""

import contextlib
import math
from collections.abc import Iterator

import keras

from keras_alexnet import gpu
from keras_alexnet.errors import UserError
from keras_alexnet.training.distribution import current_platform

# In training: weights, momentum buffers and gradients in float32, and as much again while they are updated and
# converted; for each layer's output, the values and their gradient.
_COPIES_OF_WEIGHTS, _COPIES_OF_OUTPUTS = 4, 2
_BYTES = {"float32": 4, "bfloat16": 2}
# Phrases in the out-of-memory errors of the backends.
_SIGNS = ("RESOURCE_EXHAUSTED", "Resource exhausted", "out of memory", "Out of memory", "OOM when allocating")


def bytes_needed(model: keras.Model, *, training: bool = True) -> tuple[int, int]:
    """Rough estimate of the bytes that a network needs on a device: for any batch, and per image."""
    outputs = sum(
        _BYTES.get(layer.compute_dtype, 4) * math.prod(output.shape[1:])
        for layer in model.layers
        if not isinstance(layer, keras.layers.InputLayer)
        for output in keras.tree.flatten(layer.output)
    )
    weights = 4 * model.count_params()
    return (_COPIES_OF_WEIGHTS * weights, _COPIES_OF_OUTPUTS * outputs) if training else (weights, outputs)


@contextlib.contextmanager
def explained_memory(
    model: keras.Model, batch_size: int, num_replicas: int, platform: str, *, training: bool = True
) -> Iterator[None]:
    """Turns the out-of-memory errors of all backends into a `UserError` that estimates the batch size that fits.

    Args:
        model: in the portable form, in the precision of the run.
        batch_size: the global batch.
        num_replicas: the devices that share it.
        platform: "cpu" or "gpu".
        training: whether it is trained.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        text = str(error).strip()
        if not (isinstance(error, MemoryError) or any(sign in text for sign in _SIGNS)):
            raise
        share = batch_size // num_replicas
        fixed, per_image = bytes_needed(model, training=training)
        message = (
            f"out of memory on the {platform.upper()}: {batch_size} images at a time need very roughly "
            f"{(fixed + share * per_image) / 1e9:.1f} GB"
        )
        if num_replicas > 1:
            message += f" on each of the {num_replicas} devices"
        total = gpu_bytes() if platform == "gpu" else None
        if total:
            fits = max(int((0.9 * total - fixed) / per_image), 0) * num_replicas
            message += f", and {total / 1e9:.1f} GB are available"
            message += (
                f", enough for about {fits:,} images"
                if 0 < fits < batch_size
                else "; other processes may be using them"
            )
        first_line = text.splitlines()[0][:200] if text else type(error).__name__
        raise UserError(f"{message}. Use a lower --batch_size. ({first_line})") from None


def gpu_bytes() -> int | None:
    """The memory of the first GPU that this process may use; None if unknown."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        # Not all of it, unless XLA_PYTHON_CLIENT_MEM_FRACTION says so.
        return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    if backend == "torch":
        import torch

        return torch.cuda.mem_get_info()[1]
    return gpu.memory_bytes()


def peak_gpu_bytes() -> int | None:
    """The peak memory use of this process on its first GPU; None without a GPU."""
    if current_platform() != "gpu":
        return None
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    if backend == "jax":
        import jax

        return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    import torch

    return torch.cuda.max_memory_allocated()
