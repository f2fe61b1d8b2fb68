"""How much device memory a network needs, and errors when there is too little."""

import contextlib
import math
from collections.abc import Iterator

import keras

from keras_alexnet.errors import UserError, first_line
from keras_alexnet.system import gpu
from keras_alexnet.system.machine import total_bytes
from keras_alexnet.training.devices.platform import current_platform

# In training: weights, momentum buffers and gradients in float32, and as much again while they are updated and
# converted; for each layer's output, the values and their gradient.
_COPIES_OF_WEIGHTS, _COPIES_OF_OUTPUTS = 4, 2
# In large batches the estimate is up to 1.4 times what TensorFlow takes on a CPU.
_FAR_TOO_MUCH = 1.5
_BYTES = {"float32": 4, "bfloat16": 2}
# Phrases in the out-of-memory errors of the backends.
_SIGNS = (
    "RESOURCE_EXHAUSTED",
    "Resource exhausted",
    "out of memory",
    "Out of memory",
    "OOM when allocating",
    "DefaultCPUAllocator",
)


def bytes_needed(model: keras.Model, *, training: bool = True) -> tuple[int, int]:
    """Rough estimate of the bytes that a network needs on a device: for any batch, and per image."""
    outputs = sum(
        _BYTES.get(layer.compute_dtype, 4) * math.prod(size or 1 for size in output.shape[1:])
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

    In training on a CPU it raises that error at once if the memory is far too little, since TensorFlow would crash.

    Args:
        model: in the portable form, in the precision of the run.
        batch_size: the global batch.
        num_replicas: the devices that share it.
        platform: "cpu" or "gpu".
        training: whether it is trained.
    """
    fixed, per_image = bytes_needed(model, training=training)
    if platform == "cpu":  # Whose logical devices share the memory.
        fixed, num_replicas = fixed * num_replicas, 1
    needed = fixed + batch_size // num_replicas * per_image
    total = total_bytes()
    if training and platform == "cpu" and total and needed > _FAR_TOO_MUCH * total:
        raise _too_little(batch_size, num_replicas, platform, fixed, per_image, reason="")
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        text = str(error).strip()
        if not (isinstance(error, MemoryError) or any(sign in text for sign in _SIGNS)):
            raise
        raise _too_little(
            batch_size, num_replicas, platform, fixed, per_image, reason=f" ({first_line(error)})"
        ) from None


def _too_little(
    batch_size: int, num_replicas: int, platform: str, fixed: int, per_image: int, reason: str
) -> UserError:
    needed = fixed + batch_size // num_replicas * per_image
    message = f"out of memory on the {platform.upper()}: {batch_size:,} images at a time need very roughly "
    message += f"{needed / 1e9:.1f} GB"
    if num_replicas > 1:
        message += f" on each of the {num_replicas} devices"
    total = gpu_bytes() if platform == "gpu" else total_bytes()
    if total:
        fits = max(int((0.9 * total - fixed) / per_image), 0) * num_replicas
        message += f", and {total / 1e9:.1f} GB are available"
        message += (
            f", enough for about {fits:,} images" if 0 < fits < batch_size else "; other processes may be using them"
        )
    return UserError(f"{message}. Use a lower --batch_size.{reason}")


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
