"""What the process of a variant of `benchmark.py step` runs: steps on request."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

from keras_alexnet import cli
from keras_alexnet.presets import PRESETS

PYTORCH = "pytorch"
_NUM_CLASSES = 1000


@dataclass(frozen=True)
class Variant:
    """What one process measures.

    Attributes:
        backend: a Keras backend, or "pytorch" for a baseline.
        mode: one of `MODES`.
        precision: one of `PRECISIONS`.
        network: one of `NETWORKS`.
        batch_size: images per step.
        device: "cpu" or "gpu".
        strategy: as of fit, "none" or "mirrored".
        batches: "copied" to the device for each step, or "resident" there.
        forms: "auto" for those that fit uses, or the forms of conv1, norm and pool, as in "blocks:slices:none".
        compiled: whether the baseline runs through torch.compile.
        layout: memory layout of the baseline's images and kernels, "contiguous" or "channels_last".
        fast_lrn: whether the baseline has this project's form of local response normalization.
    """

    backend: str
    mode: str
    precision: str
    network: str
    batch_size: int
    device: str
    strategy: str = "none"
    batches: str = "copied"
    forms: str = "auto"
    compiled: bool = False
    layout: str = "channels_last"
    fast_lrn: bool = False

    @property
    def name(self) -> str:
        """A name that is unique among variants with the same mode, precision and batch size."""
        if self.backend == PYTORCH:
            kind = "torch.compile" if self.compiled else "PyTorch eager"
            return f"{kind}, {self.layout}{', fast LRN' if self.fast_lrn else ''}"
        settings = (self.strategy, self.batches, self.forms)
        return ", ".join(["keras_alexnet", self.backend, *(s for s in settings if s not in ("none", "copied", "auto"))])


@dataclass(frozen=True)
class _Steps:
    """A function that runs a number of steps and waits for their results, and facts of the network."""

    run: Callable[[int], None]
    parameters: int
    compiled: bool


def serve(variant: Variant, connection: Connection, stderr: str) -> None:
    """Receives numbers of steps, runs them, and answers with their `seconds` and facts, or with the `error`.

    What frameworks print goes to the file `stderr`.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with open(stderr, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ["KERAS_BACKEND"] = "tensorflow" if variant.backend == PYTORCH else variant.backend
    if variant.device == "cpu":
        os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    # All processes use the GPU at once, and none may take its whole memory.
    os.environ |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    try:
        steps = torch_steps(variant) if variant.backend == PYTORCH else keras_steps(variant)
        while True:
            count = connection.recv()
            start = time.perf_counter()
            steps.run(count)
            answer = {
                "seconds": time.perf_counter() - start,
                "parameters": steps.parameters,
                "compiled": steps.compiled,
                "peak_memory_mb": _peak_memory_mb(variant),
            }
            connection.send(answer)
    except EOFError:  # The connection is closed: there are no more requests.
        return
    except Exception as error:  # torch.compile raises many kinds.
        connection.send({"error": f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"})


def keras_steps(variant: Variant) -> _Steps:
    """The steps of this project."""
    with cli.quiet_framework_start():
        from keras_alexnet.compute import Forms
        from keras_alexnet.inference.outputs import Outputs
        from keras_alexnet.model import build_alexnet, set_precision
        from keras_alexnet.training.build import build_model, build_network
        from keras_alexnet.training.config import TrainConfig
        from keras_alexnet.training.devices.choice import choose_devices

    forms = None
    if variant.forms != "auto":
        forms = Forms(*(None if form == "none" else form for form in variant.forms.split(":")))
    devices = contextlib.ExitStack().enter_context(choose_devices(variant.strategy))  # until the process ends
    if variant.mode == "train":
        config = TrainConfig(preset=variant.network, precision=variant.precision)
        with devices.scope():
            model = build_model(config, _NUM_CLASSES)
            network = build_network(model, config, 1, devices, forms)
        compiled = network.jit_compile or getattr(network, "compile_replicas", False)
        return _Steps(_fit_steps(variant, network, devices), model.count_params(), bool(compiled))
    model = build_alexnet(_NUM_CLASSES, preset=variant.network)
    set_precision(model, variant.precision)
    logits, images = Outputs(model, forms=forms), _images(variant)

    def run(steps: int) -> None:
        for _ in range(steps):
            logits(images, len(images))

    return _Steps(run, model.count_params(), bool(logits.network.jit_compile))


def _fit_steps(variant: Variant, network, devices) -> Callable[[int], None]:
    """Runs steps as `fit` does, up to the metrics of the last one."""
    from keras_alexnet.data.synthetic import SameBatch, synthetic_training_batches

    image_size = PRESETS[variant.network].image_size
    batches = synthetic_training_batches(variant.batch_size, _NUM_CLASSES, image_size=image_size)

    def fit(steps: int) -> None:
        with devices.feed(batches) as feed:
            network.fit(feed, steps_per_epoch=steps, shuffle=False, verbose=0)

    if variant.batches == "copied":
        return fit
    # What the feed returns is on the device.
    if variant.backend != "tensorflow":
        with devices.feed(batches) as feed:
            on_device = SameBatch(feed[0], None)
        return lambda steps: network.fit(on_device, steps_per_epoch=steps, shuffle=False, verbose=0)
    fit(1)  # Keras builds its function.
    with devices.feed(batches) as feed:
        batch = next(iter(network.distribute_strategy.experimental_distribute_dataset(feed)))

    def resident(steps: int) -> None:
        for _ in range(steps):
            logs = network.train_function(iter([batch]))
        for value in logs.values():
            value.numpy()

    return resident


def torch_steps(variant: Variant) -> _Steps:
    """The same network and update in plain PyTorch."""
    import torch
    from pytorch_reference import AlexNet

    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")  # as Keras's backends on a GPU
    torch.backends.cudnn.benchmark = True
    device = "cuda" if variant.device == "gpu" else "cpu"
    bfloat16 = variant.precision == "mixed_bfloat16"
    layout = torch.channels_last if variant.layout == "channels_last" else torch.contiguous_format
    model = AlexNet(variant.network, _NUM_CLASSES, dropout=0.5, matmul_norm=variant.fast_lrn).layers
    model = model.to(device, memory_format=layout)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    images = torch.from_numpy(_images(variant)).permute(0, 3, 1, 2).contiguous(memory_format=layout)
    if device == "cuda":
        images = images.pin_memory() if variant.mode == "inference" else images.to(device)
    labels = torch.randint(0, _NUM_CLASSES, (variant.batch_size,), device=device)
    compile_if_asked = torch.compile if variant.compiled else lambda function: function

    def logits_of(images):
        with torch.autocast(device, dtype=torch.bfloat16, enabled=bfloat16):
            return model(images.float() - 114).float()

    if variant.mode == "inference":
        model.eval()
        for layer in model:
            if bfloat16 and isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
                layer.to(torch.bfloat16)  # Else autocast would convert them in every step.
        logits_of = compile_if_asked(logits_of)

        @torch.inference_mode()
        def run(steps: int) -> None:
            for _ in range(steps):
                logits_of(images.to(device, non_blocking=True)).cpu()
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.0005, fused=True)

        @compile_if_asked
        def loss_of(images, labels):
            return torch.nn.functional.cross_entropy(logits_of(images), labels)

        def run(steps: int) -> None:
            for _ in range(steps):
                optimizer.zero_grad()
                loss = loss_of(images, labels)
                loss.backward()
                optimizer.step()
            loss.item()  # as Keras's metrics at the end
            if device == "cuda":
                torch.cuda.synchronize()

    return _Steps(run, parameters, variant.compiled)


def _images(variant: Variant):
    import numpy as np

    size = PRESETS[variant.network].image_size
    return np.random.default_rng(0).integers(0, 256, (variant.batch_size, size, size, 3), np.uint8)


def _peak_memory_mb(variant: Variant) -> float:
    if variant.device == "cpu":
        import resource

        # Linux counts in KiB, macOS in bytes.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    if variant.backend == PYTORCH:
        import torch

        return torch.cuda.max_memory_allocated() / 1e6
    from keras_alexnet.training.memory import peak_gpu_bytes

    return peak_gpu_bytes() / 1e6
