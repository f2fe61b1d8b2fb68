"""The PyTorch reference implementation compared with this project's training."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"

# All in one process, as it imports two frameworks. The logits are with PyTorch's own normalization, and with the matmul
# of the benchmark's baseline; with these weights they differ from image to image.
_PROGRAM = """
import sys
import numpy as np, pytorch_reference, torch

data_dir = sys.argv[1]
for arguments in (
    ["--steps=5", "--learning_rate=0.05"],  # A high rate, so that the momentum matters.
    ["--steps=2", "--learning_rate=0.0001", "--initial=he"],
):
    sys.argv = ["", "compare", data_dir, "--preset=tiny", "--batch_size=8", *arguments]
    pytorch_reference.main()

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
    reference = pytorch_reference.AlexNet("tiny", 7, dropout=0.5, matmul_norm=matmul_norm).eval()
    reference.load_from(model)
    with torch.inference_mode():
        theirs = reference(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.ptp(ours))
"""


@pytest.mark.slow
def test_losses_and_logits_are_the_same(data_dir):
    pytest.importorskip("torch")
    command = [sys.executable, "-c", _PROGRAM, f"--data_dir={data_dir}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=SCRIPTS)
    assert (result.returncode, result.stderr) == (0, "")
    lines = re.findall(r"^ +\d+ +([\d.]+) +([\d.]+) ", result.stdout, re.MULTILINE)
    losses = [tuple(map(float, line)) for line in lines]
    assert len(losses) == 7
    assert np.ptp(losses[:5]) > 1e-3
    for ours, theirs in losses[:5]:
        assert ours == pytest.approx(theirs, rel=1e-6)
    # Large weights show the slightest difference of the networks, and of the gradients in the second loss. Later,
    # rounding at the kinks of ReLU dominates.
    assert abs(losses[5][0] - losses[6][0]) > 0.1
    for ours, theirs in losses[5:]:
        assert ours == pytest.approx(theirs, rel=1e-5)
