"""The files that `benchmark.py convert` begins with, and the network in PyTorch."""

import dataclasses
from pathlib import Path

import numpy as np

from keras_alexnet.errors import UserError
from keras_alexnet.presets import LRN_ALPHA, LRN_BETA, LRN_K, LRN_SIZE, PRESETS, Preset, per_channel

TORCHVISION_NAMES = (*(f"features.{n}" for n in (0, 3, 6, 8, 10)), *(f"classifier.{n}" for n in (1, 4, 6)))

_NUM_CLASSES = 1000
_CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4", "conv5")
# As BVLC's network has them, the rest has one.
_GROUPS = {"conv2": 2, "conv4": 2, "conv5": 2}

Weights = dict[str, tuple[np.ndarray, np.ndarray]]


def make_sources(network: str, folder: Path) -> dict[str, str]:
    """Writes the files to convert, and beside each `.npz` with images and the logits that they have to give.

    Returns:
        By the name of a file that could not be made, why.
    """
    import keras

    from keras_alexnet.exporters.onnx import write_onnx
    from keras_alexnet.model import build_alexnet

    left_out = {}
    widths = {"filters": PRESETS[network].filters, "dense_units": PRESETS[network].dense_units}
    for name, preset in (("cntk", "cntk"), ("caffe", "bvlc"), ("torchvision", "torchvision")):
        model = build_alexnet(_NUM_CLASSES, preset=preset, **widths)
        _fill(model, _GROUPS if name == "caffe" else {})
        images = np.random.default_rng(1).uniform(0, 255, (1, *model.input_shape[1:])).astype("float32")
        np.savez(folder / f"{name}.npz", images=images, logits=keras.ops.convert_to_numpy(model(images)))
        weights = _channels_first(model)
        if name == "caffe":
            (folder / "caffe.caffemodel").write_bytes(_caffemodel(weights))
            continue
        try:
            _save_state_dict(weights, PRESETS[preset], folder / f"{name}.pth")
        except ImportError as error:
            left_out[f"{name}.pth"] = str(error)
        if name == "cntk":
            model.save(folder / "cntk.keras")
            try:
                write_onnx(model, folder / "cntk.onnx")
            except UserError as error:
                left_out["cntk.onnx"] = str(error)
        else:
            try:
                from safetensors.numpy import save_file

                save_file(_torchvision_arrays(weights), folder / "torchvision.safetensors")
            except ImportError as error:
                left_out["torchvision.safetensors"] = str(error)
    return left_out


def _fill(model, groups: dict[str, int]) -> None:
    """Random weights of a size at which every layer's output tells; zeros between groups."""
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if layer.weights:
            kernel, bias = layer.get_weights()
            kernel = rng.standard_normal(kernel.shape, np.float32) * np.sqrt(2 / kernel[..., 0].size, dtype=np.float32)
            if (count := groups.get(layer.name, 1)) > 1:
                kernel = kernel * np.kron(np.eye(count), np.ones([size // count for size in kernel.shape[2:]]))
            layer.set_weights([kernel, rng.standard_normal(bias.shape, np.float32)])


def _channels_first(model) -> Weights:
    """Kernels and biases by layer as PyTorch and Caffe have them, their channels RGB."""
    weights = {}
    for layer in model.layers:
        if layer.weights:
            kernel, bias = layer.get_weights()
            if kernel.ndim == 2:
                side = 6 if layer.name == "fc6" else 1
                kernel = kernel.reshape(side, side, -1, kernel.shape[-1])
            kernel = kernel.transpose(3, 2, 0, 1)
            if layer.name.startswith("fc"):
                kernel = kernel.reshape(len(kernel), -1)
            weights[layer.name] = np.ascontiguousarray(kernel), bias
    return weights


def _torchvision_arrays(weights: Weights) -> dict[str, np.ndarray]:
    return {
        f"{place}.{kind}": array
        for place, pair in zip(TORCHVISION_NAMES, weights.values(), strict=True)
        for kind, array in zip(("weight", "bias"), pair, strict=True)
    }


def _save_state_dict(weights: Weights, preset: Preset, path: Path) -> None:
    import torch

    kernels = [kernel for kernel, _ in weights.values()]
    preset = dataclasses.replace(
        preset, filters=tuple(len(kernel) for kernel in kernels[:5]), dense_units=len(kernels[5])
    )
    arrays = [torch.from_numpy(array) for pair in weights.values() for array in pair]
    torch.save(dict(zip(torch_network(preset).state_dict(), arrays, strict=True)), path)


def _caffemodel(weights: Weights) -> bytes:
    """A file as Caffe writes it, of BVLC's network: groups, and channels in the order blue, green, red."""
    from keras_alexnet.importers.caffe.schema import NetParameter

    layers = []

    def add(name: str, layer_type: str, **settings) -> None:
        wiring = {"bottom": layers[-1]["top"]} if layers else {}
        layers.append(
            {"name": name.encode(), "type": layer_type.encode(), **wiring, "top": [name.encode()], **settings}
        )

    add("data", "Input", input_param={"shape": [{"dim": [1, 3, 227, 227]}]})
    for name, (kernel, bias) in weights.items():
        n = name[-1]
        if name in _CONVOLUTIONS:
            groups = _GROUPS.get(name, 1)
            kernel = kernel[:, ::-1] if name == "conv1" else kernel
            inputs = kernel.shape[1] // groups
            parts = np.split(kernel, groups)
            kernel = np.concatenate([part[:, i * inputs : (i + 1) * inputs] for i, part in enumerate(parts)])
            settings = {
                "num_output": len(kernel),
                "pad": [0 if name == "conv1" else kernel.shape[-1] // 2],
                "kernel_size": [kernel.shape[-1]],
                "group": groups,
                "stride": [4 if name == "conv1" else 1],
            }
            add(name, "Convolution", blobs=[_blob(kernel), _blob(bias)], convolution_param=settings)
            add(f"relu{n}", "ReLU")
            if n in "12":
                add(f"norm{n}", "LRN", lrn_param={"local_size": LRN_SIZE, "alpha": LRN_ALPHA, "beta": LRN_BETA})
            if n in "125":
                add(f"pool{n}", "Pooling", pooling_param={"pool": "MAX", "kernel_size": 3, "stride": 2})
        else:
            settings = {"num_output": len(kernel)}
            add(name, "InnerProduct", blobs=[_blob(kernel), _blob(bias)], inner_product_param=settings)
            if name != "fc8":
                add(f"relu{n}", "ReLU")
                add(f"drop{n}", "Dropout", dropout_param={"dropout_ratio": 0.5})
    return NetParameter(name=b"AlexNet", layer=layers).SerializeToString()


def _blob(array: np.ndarray) -> dict:
    return {"shape": {"dim": array.shape}, "data": [array.astype("<f4").tobytes()]}


def torch_network(preset: Preset):
    """The network in PyTorch, of the same pixels and logits, its parameters with torchvision's names if it is that."""
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            (c1, c2, c3, c4, c5), units = preset.filters, preset.dense_units
            norms = [nn.LocalResponseNorm(LRN_SIZE, LRN_ALPHA, LRN_BETA, LRN_K)] * (preset.normalization != "none")
            self.register_buffer("scale", torch.tensor(per_channel(preset.input_scale)), persistent=False)
            self.register_buffer("offset", torch.tensor(per_channel(preset.input_offset)), persistent=False)
            self.features = nn.Sequential(
                *(nn.Conv2d(3, c1, 11, 4, preset.conv1_padding), nn.ReLU(), *norms, nn.MaxPool2d(3, 2)),
                *(nn.Conv2d(c1, c2, 5, padding=2), nn.ReLU(), *norms, nn.MaxPool2d(3, 2)),
                *(nn.Conv2d(c2, c3, 3, padding=1), nn.ReLU()),
                *(nn.Conv2d(c3, c4, 3, padding=1), nn.ReLU()),
                *(nn.Conv2d(c4, c5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
            )
            self.classifier = nn.Sequential(
                *(nn.Dropout(), nn.Linear(c5 * 6 * 6, units), nn.ReLU()),
                *(nn.Dropout(), nn.Linear(units, units), nn.ReLU()),
                nn.Linear(units, _NUM_CLASSES),
            )

        def forward(self, image):
            x = (image * self.scale + self.offset).permute(0, 3, 1, 2)
            return self.classifier(torch.flatten(self.features(x), 1))

    return Network().eval()
