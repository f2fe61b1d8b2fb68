"""What other frameworks made of images: the logits beside their models in reference/."""

from pathlib import Path

import numpy as np

REFERENCE = Path(__file__).parent / "reference"


def images_and_logits(name: str, added=0) -> tuple[np.ndarray, np.ndarray]:
    """RGB pixels (1, side, side, 3) and what the framework made of them."""
    file = "cntk_tiny_activations.npz" if name == "cntk_tiny" else "import_logits.npz"
    prefix = "" if name == "cntk_tiny" else f"{name}."
    with np.load(REFERENCE / file) as arrays:
        x, logits = arrays[f"{prefix}x"] + added, arrays[f"{prefix}logits"]
    x = x.transpose(0, 2, 3, 1)
    return x if name == "torchvision" else x[..., ::-1], logits


def relative_difference(a: np.ndarray, reference: np.ndarray) -> float:
    return np.abs(a - reference).max() / np.abs(reference).max()
