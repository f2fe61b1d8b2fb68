"""The formats that models are written in, selected by the name of the output. No framework is imported."""

import os
from pathlib import Path

# Suffix → what is written; a name without one is a folder.
EXPORT_KINDS = {
    ".onnx": "ONNX",
    ".tflite": "LiteRT",
    ".savedmodel": "SavedModel",
    ".saved_model": "SavedModel",
    "": "SavedModel",
}
QUANTIZATIONS = ("none", "float16", "int8")


def export_kind(path: str | os.PathLike) -> str | None:
    """What `exporter.export_model` writes under this name, of the values of `EXPORT_KINDS`; None for an unknown suffix.

    A name that ends in a slash is a folder, whatever its suffix.
    """
    name = os.fspath(path)
    return "SavedModel" if name.endswith(("/", os.sep)) else EXPORT_KINDS.get(Path(name).suffix.lower())
