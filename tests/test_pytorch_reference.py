"""The PyTorch reference implementation compared with this project's training."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "pytorch_reference.py"
pytestmark = pytest.mark.slow


def run(*arguments: str) -> str:
    pytest.importorskip("torch")
    result = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def losses_of(*arguments: str) -> list[tuple[float, float]]:
    printed = run("compare", "--preset=tiny", "--batch_size=8", *arguments)
    return [tuple(map(float, pair)) for pair in re.findall(r"^ +\d+ +([\d.]+) +([\d.]+) ", printed, re.MULTILINE)]


def test_both_losses_are_the_same_step_by_step(data_dir):
    # A high rate, so that the momentum matters.
    losses = losses_of(f"--data_dir={data_dir}", "--steps=5", "--learning_rate=0.05")
    assert len(losses) == 5
    assert np.ptp(losses) > 1e-3
    for ours, theirs in losses:
        assert ours == pytest.approx(theirs, rel=1e-6)


def test_large_weights_show_the_slightest_difference_of_the_networks(data_dir):
    """And of the gradients, in the second loss. Later, rounding at the kinks of ReLU dominates."""
    losses = losses_of(f"--data_dir={data_dir}", "--steps=2", "--learning_rate=0.0001", "--initial=he")
    assert abs(losses[0][0] - losses[1][0]) > 0.1
    for ours, theirs in losses:
        assert ours == pytest.approx(theirs, rel=1e-5)


# With PyTorch's own normalization, and with the matmul of the benchmark's baseline. With these weights the logits
# differ from image to image.
_SAME_LOGITS = """
import numpy as np, torch
from pytorch_reference import AlexNet
from keras_alexnet import build_alexnet

model = build_alexnet(7, preset="tiny")
for layer in model.layers:
    if layer.weights:
        kernel, bias = layer.get_weights()
        scale = np.sqrt(2 / np.prod(kernel.shape[:-1])) / (100 if layer.name == "conv1" else 1)
        layer.set_weights([scale / kernel.std() * kernel, bias])
pixels = np.random.default_rng(0).integers(0, 256, (3, 227, 227, 3), np.uint8)
ours = model.predict_on_batch(pixels)
assert np.ptp(ours) > 0.1
for matmul_norm in (False, True):
    reference = AlexNet("tiny", 7, dropout=0.5, matmul_norm=matmul_norm).eval()
    reference.load_from(model)
    with torch.inference_mode():
        theirs = reference(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.ptp(ours))
"""


def test_both_normalizations_give_the_same_logits():
    pytest.importorskip("torch")
    program = f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r})\n{_SAME_LOGITS}"
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
