"""The machine's limits: the rate of matrix products on all cores, and the memory's bandwidth."""

import functools
import importlib.util
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from keras_alexnet.system.process_pool import cpu_count

# A turn of a limit takes at least so long, and its fastest call counts.
_SECONDS = 0.2


def product_sides(dtypes: list[str], sizes: list[int]) -> dict[str, Callable[[], float]]:
    """Sides that return the GFLOP/s of the best of square matrix products."""
    import tensorflow as tf

    product = tf.function(tf.linalg.matmul)
    rng = np.random.default_rng(0)
    matrices = [rng.standard_normal((2, size, size), np.float32) for size in sizes]

    def side(calls: list[Callable[[], object]]) -> Callable[[], float]:
        return lambda: max(2e-9 * size**3 / _best_seconds(call) for size, call in zip(sizes, calls, strict=True))

    sides = {}
    for dtype in dtypes:
        pairs = [tf.unstack(tf.cast(pair, dtype)) for pair in matrices]
        sides[f"{dtype} products, TensorFlow"] = side([functools.partial(product, *pair) for pair in pairs])
        if importlib.util.find_spec("torch"):
            import torch

            pairs = [torch.from_numpy(pair).to(getattr(torch, dtype)) for pair in matrices]
            sides[f"{dtype} products, PyTorch"] = side([functools.partial(torch.mm, *pair) for pair in pairs])
    return sides


def memory_sides(mb: int) -> dict[str, Callable[[], float]]:
    """Sides that return the GB/s of reading and writing float32 arrays of `mb` MB each, a += b and a = b."""
    import tensorflow as tf

    a, b = np.ones((2, mb * 1_000_000 // 4), np.float32)
    threads = cpu_count()
    pool = ThreadPoolExecutor(threads)
    parts = [slice(len(a) * n // threads, len(a) * (n + 1) // threads) for n in range(threads)]
    variable, addend = tf.Variable(a), tf.constant(b)
    calls = {
        "a += b, NumPy in threads": lambda: list(pool.map(lambda part: np.add(a[part], b[part], out=a[part]), parts)),
        "a = b, NumPy in threads": lambda: list(pool.map(lambda part: np.copyto(a[part], b[part]), parts)),
        "a += b, TensorFlow": lambda: variable.assign_add(addend, read_value=False),
    }
    if importlib.util.find_spec("torch"):
        import torch

        calls["a += b, PyTorch"] = functools.partial(torch.from_numpy(a).add_, torch.from_numpy(b))
        calls["a = b, PyTorch"] = functools.partial(torch.from_numpy(a).copy_, torch.from_numpy(b))

    def side(name: str, call: Callable[[], object]) -> Callable[[], float]:
        passes = 3 if name.startswith("a +=") else 2
        return lambda: 1e-9 * passes * a.nbytes / _best_seconds(call)

    return {f"memory, {name}": side(name, call) for name, call in calls.items()}


def _best_seconds(call: Callable[[], object]) -> float:
    """The least that a call takes; it is called at least once, and until `_SECONDS` are over."""
    seconds, begin = [], time.perf_counter()
    while not seconds or time.perf_counter() - begin < _SECONDS:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
