"""PyTorch reference implementation: the same network, recipe and batches, trained in plain PyTorch.

    python scripts/pytorch_reference.py compare --data_dir=data --preset=tiny
    python scripts/pytorch_reference.py train --data_dir=data --preset=tiny --epochs=30 --lr_drop_epochs=7,13,20,27

`compare` trains this project and the reference from the same weights on the same batches, without dropout, and prints
both losses and their difference step by step. `train` trains the reference only, from its own weights, with dropout,
and writes --output, a CSV file with columns of `fit`'s history.csv. Only the batches come from this project, as both
need the same ones; network, initial weights, loss, update and error rates are implemented here.
It needs PyTorch: pip install -e '.[torch]'
"""

import argparse
import csv
import sys
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from keras_alexnet import cli, read_class_mappings, read_map
from keras_alexnet.errors import UserError
from keras_alexnet.system.atomic import atomic_path

MOMENTUM, WEIGHT_DECAY, DROPOUT = 0.9, 0.0005, 0.5
# Filters of conv1 to conv5, and units of fc6 and fc7.
WIDTHS = {"cntk": ((96, 192, 384, 384, 256), 4096), "tiny": ((24, 48, 96, 96, 64), 256)}
# Initial weights (standard deviation) and biases of conv1 to conv5 and fc6 to fc8 (CNTK's AlexNet.cntk).
INITIAL = [(0.01, 0.0), (0.01, 0.1), (0.01, 0.0), (0.01, 0.1), (0.01, 0.1), (0.005, 0.1), (0.005, 0.1), (0.01, 0.0)]


class MatmulNorm(nn.Module):
    """`nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0)`, its window as a matmul with a banded matrix.

    PyTorch's own form pools over the channels, which takes half of the time of a training step on a CPU.
    """

    def __init__(self, channels: int):
        super().__init__()
        numbers = torch.arange(channels)
        window = (numbers[:, None] - numbers).abs() <= 2
        self.register_buffer("window", 1e-4 / 5 * window.float(), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 2, 3, 1).float()
        with torch.autocast(x.device.type, enabled=False):
            root = torch.rsqrt(1 + torch.square(x) @ self.window)
        return (x * (root * torch.sqrt(root))).permute(0, 3, 1, 2)


class AlexNet(nn.Module):
    """(batch, 227, 227, 3) RGB pixels of 0 to 255 → (batch, num_classes) logits.

    Args:
        preset: a key of `WIDTHS`.
        num_classes: units of fc8.
        dropout: rate after fc6 and fc7.
        matmul_norm: use `MatmulNorm` instead of PyTorch's own.
    """

    def __init__(self, preset: str, num_classes: int, dropout: float, matmul_norm: bool = False):
        super().__init__()
        filters, units = WIDTHS[preset]
        c1, c2, c3, c4, c5 = filters

        def norm(channels: int) -> nn.Module:
            return MatmulNorm(channels) if matmul_norm else nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)

        self.layers = nn.Sequential(
            *(nn.Conv2d(3, c1, 11, 4), nn.ReLU(), norm(c1), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(c1, c2, 5, padding=2), nn.ReLU(), norm(c2), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(c2, c3, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(c3, c4, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(c4, c5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Flatten()),
            *(nn.Linear(36 * c5, units), nn.ReLU(), nn.Dropout(dropout)),
            *(nn.Linear(units, units), nn.ReLU(), nn.Dropout(dropout)),
            nn.Linear(units, num_classes),
        )
        for layer, (deviation, bias) in zip(self.weighted(), INITIAL, strict=True):
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.constant_(layer.bias, bias)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.layers(pixels.permute(0, 3, 1, 2).float() - 114)

    def weighted(self) -> list[nn.Module]:
        """Conv1 to conv5 and fc6 to fc8."""
        return [layer for layer in self.layers if isinstance(layer, nn.Conv2d | nn.Linear)]

    def load_from(self, model) -> None:
        """Copies the weights of a Keras model, whose kernels have another order of axes."""
        with torch.no_grad():
            for name, layer in zip(LAYERS, self.weighted(), strict=True):
                kernel, bias = (np.asarray(weights) for weights in model.get_layer(name).get_weights())
                if kernel.ndim == 4:
                    kernel = kernel.transpose(3, 2, 0, 1)
                elif name == "fc6":
                    # Keras flattens (row, column, channel), PyTorch (channel, row, column).
                    kernel = (
                        kernel.reshape(6, 6, -1, kernel.shape[-1]).transpose(3, 2, 0, 1).reshape(kernel.shape[::-1])
                    )
                else:
                    kernel = kernel.T
                layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(kernel)))
                layer.bias.copy_(torch.from_numpy(bias))


LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")


class MomentumSGD:
    """v ← 0.9·v + rate·(gradient + 0.0005·w); w ← w - v.

    PyTorch's SGD multiplies v by the rate of the current step, so that a lower rate rescales the momentum buffers.
    """

    def __init__(self, parameters):
        self.parameters = list(parameters)
        self.velocities = [torch.zeros_like(parameter) for parameter in self.parameters]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        gradients = [parameter.grad for parameter in self.parameters]
        torch._foreach_add_(gradients, self.parameters, alpha=WEIGHT_DECAY)
        torch._foreach_mul_(self.velocities, MOMENTUM)
        torch._foreach_add_(self.velocities, gradients, alpha=rate)
        torch._foreach_sub_(self.parameters, self.velocities)
        for parameter in self.parameters:
            parameter.grad = None


def training_step(reference: AlexNet, optimizer: MomentumSGD, pixels: np.ndarray, labels: np.ndarray, rate: float):
    """The loss and the logits before the update."""
    logits = reference(torch.from_numpy(pixels))
    loss = functional.cross_entropy(logits, torch.from_numpy(labels).long())
    loss.backward()
    optimizer.step(rate)
    return loss.item(), logits.detach()


def batches_of(dataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Writable copies, which PyTorch requires."""
    for pixels, labels in dataset.as_numpy_iterator():
        yield pixels.copy(), labels.copy()


def compare(options: argparse.Namespace) -> None:
    """Trains both from the same weights on the same batches without dropout, and prints their losses."""
    with cli.quiet_framework_start():
        import keras

        from keras_alexnet.data.pipeline import training_dataset
        from keras_alexnet.training.build import build_model, build_network
        from keras_alexnet.training.config import TrainConfig
        from keras_alexnet.training.devices.choice import choose_devices
    train_map, num_classes = _read(options)
    config = TrainConfig(
        preset=options.preset,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        lr_drop_epochs=(),
        dropout=0.0,
        seed=options.seed,
    )
    with choose_devices("none") as devices:
        model = build_model(config, num_classes)
        network = build_network(model, config, 1, devices)
    if options.initial == "he":
        rng = np.random.default_rng(options.seed)
        for name in LAYERS:
            kernel, bias = model.get_layer(name).get_weights()
            kernel = rng.normal(0, np.sqrt(2 / np.prod(kernel.shape[:-1])), kernel.shape)
            # Pixels are about 100 times as large as the inputs of the next layers.
            model.get_layer(name).set_weights([kernel / 100 if name == "conv1" else kernel, bias])
    reference = AlexNet(options.preset, num_classes, dropout=0.0)
    reference.load_from(model)
    optimizer = MomentumSGD(reference.parameters())
    dataset = training_dataset(train_map, options.batch_size, seed=options.seed).take(options.steps)
    differences = []
    print(f"keras_alexnet on {keras.backend.backend()}, PyTorch {torch.__version__}; {options.preset}, float32")
    print(f"{'step':>5} {'our loss':>12} {'PyTorch':>12} {'difference':>11}")
    for step, (pixels, labels) in enumerate(batches_of(dataset), 1):
        network.reset_metrics()
        ours = float(network.train_on_batch(pixels, labels, return_dict=True)["cross_entropy"])
        theirs, _ = training_step(reference, optimizer, pixels, labels, options.learning_rate)
        differences.append(abs(ours - theirs) / theirs)
        if step <= 5 or step % 10 == 0:
            print(f"{step:5} {ours:12.6f} {theirs:12.6f} {differences[-1]:11.1e}", flush=True)
    for first in sorted({min(50, options.steps), options.steps}):
        print(f"first {first} steps: relative difference at most {max(differences[:first]):.1e}")


def train(options: argparse.Namespace) -> None:
    """Trains only the reference and writes its history."""
    with cli.quiet_framework_start():
        from keras_alexnet.data.pipeline import evaluation_dataset, training_dataset
    train_map, num_classes = _read(options)
    val_map = read_map(f"{options.data_dir}/val_map.txt", num_classes)
    torch.manual_seed(options.seed)
    reference = AlexNet(options.preset, num_classes, DROPOUT, matmul_norm=True)
    optimizer = MomentumSGD(reference.parameters())
    steps = len(train_map) // options.batch_size
    drops = [int(epoch) for epoch in options.lr_drop_epochs.split(",") if epoch]
    batches = batches_of(training_dataset(train_map, options.batch_size, seed=options.seed))
    history = []
    for epoch in range(options.epochs):
        start = time.perf_counter()
        rate = options.learning_rate * 0.1 ** sum(epoch >= drop for drop in drops)
        reference.train()
        trained = Errors()
        for _ in range(steps):
            pixels, labels = next(batches)
            _, logits = training_step(reference, optimizer, pixels, labels, rate)
            trained.add(logits, labels)
        seconds = time.perf_counter() - start
        reference.eval()
        validated = Errors()
        with torch.no_grad():
            for pixels, labels in batches_of(evaluation_dataset(val_map, options.batch_size)):
                validated.add(reference(torch.from_numpy(pixels)), labels)
        row = {
            "epoch": epoch + 1,
            "steps": (epoch + 1) * steps,
            "learning_rate": rate,
            **trained.rates(""),
            **validated.rates("val_"),
            "images_per_second": round(steps * options.batch_size / seconds, 1),
        }
        history.append(row)
        print("  ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)
    with atomic_path(options.output) as partial, open(partial, "w", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)


class Errors:
    """Sums error rates and the loss over batches."""

    def __init__(self) -> None:
        self._sums = np.zeros(4)

    def add(self, logits: torch.Tensor, labels: np.ndarray) -> None:
        labels = torch.from_numpy(labels).long()
        above = (logits > logits.gather(1, labels[:, None])).sum(dim=1)
        loss = functional.cross_entropy(logits, labels, reduction="sum").item()
        self._sums += [len(labels), (above >= 1).sum().item(), (above >= 5).sum().item(), loss]

    def rates(self, prefix: str) -> dict[str, float]:
        images, top1, top5, loss = self._sums
        return {
            f"{prefix}top1_error": top1 / images,
            f"{prefix}top5_error": top5 / images,
            f"{prefix}loss": loss / images,
        }


def _read(options: argparse.Namespace):
    num_classes = len(read_class_mappings(f"{options.data_dir}/classmappings.txt"))
    return read_map(f"{options.data_dir}/train_map.txt", num_classes), num_classes


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["compare", "train"])
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--preset", choices=list(WIDTHS), default="cntk")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--learning_rate", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--initial",
        choices=["cntk", "he"],
        default="cntk",
        help="of compare: the recipe's small weights, with which any network's loss starts at ln(classes); or larger "
        "ones (He et al., 2015), with which the loss shows the slightest difference (%(default)s)",
    )
    parser.add_argument("--steps", type=int, default=200, help="of compare")
    parser.add_argument("--epochs", type=int, default=30, help="of train")
    parser.add_argument("--lr_drop_epochs", default="7,13,20,27", help="of train")
    parser.add_argument("--output", default="pytorch.csv", help="of train")
    options = parser.parse_args()
    try:
        {"compare": compare, "train": train}[options.command](options)
    except UserError as error:
        print(f"{sys.argv[0]}: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
