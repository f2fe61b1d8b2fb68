"""What exported networks are meant for: the runtimes, which need no Keras."""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np

# Kind of export → the package that runs it.
PACKAGES = {"ONNX": "onnxruntime", "LiteRT": "ai-edge-litert", "SavedModel": "tensorflow"}

Function = Callable[[np.ndarray], np.ndarray]


def load_exported(kind: str, path: Path) -> tuple[str, Function] | None:
    """Loads a file or folder of `export_model`.

    Args:
        kind: a key of `PACKAGES`.
        path: the file or folder, which may be moved afterwards.

    Returns:
        The runtime with its version, such as "onnxruntime 1.32.0", and a function from (batch, side, side, 3) float32
        pixels to (batch, classes) float32 logits; None if the runtime is not installed.
    """
    module = PACKAGES[kind].replace("-", "_")
    if importlib.util.find_spec(module) is None:
        return None
    return f"{PACKAGES[kind]} {importlib.import_module(module).__version__}", _function(kind, path)


def _function(kind: str, path: Path) -> Function:
    match kind:
        case "ONNX":
            import onnxruntime

            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            return lambda images: session.run(["logits"], {"image": images})[0]
        case "LiteRT":
            from ai_edge_litert.interpreter import Interpreter

            # Read rather than mapped, so that the file can take its final name on any system.
            runner = Interpreter(model_content=path.read_bytes()).get_signature_runner("serving_default")
            return lambda images: runner(image=images)["logits"]
        case "SavedModel":
            import tensorflow as tf

            loaded = tf.saved_model.load(path)  # The function keeps it, and with it its weights.
            return lambda images: loaded.signatures["serving_default"](image=tf.constant(images))["logits"].numpy()
