"""Writes a network as ONNX: one node a layer, channels first within, with a single transposition, of the image.

Keras writes ONNX by way of tf2onnx, which makes 84 nodes of the network instead of 23 and takes a minute and 12 GB.

Source: https://github.com/onnx/onnx/blob/main/docs/Operators.md.
"""

import os
from collections.abc import Sequence

import keras
import numpy as np
from keras import layers

from keras_alexnet.compute_layers import LocalResponseNorm
from keras_alexnet.errors import UserError
from keras_alexnet.exporters.layers import layers_in_order

# The newest that has another form of one of these operators. Whatever reads ONNX knows it (ONNX Runtime since 1.7).
OPSET, IR_VERSION = 13, 7


def write_onnx(model: keras.Model, path: str | os.PathLike) -> None:
    """Writes a model of `build_alexnet`, float32, of any batch size, its tensors named after its layers."""
    try:
        import onnx
    except ImportError:
        raise UserError("writing ONNX needs the package onnx: pip install 'keras_alexnet[export]'") from None
    chain = layers_in_order(model)
    proto = onnx.helper.make_model(
        _graph(chain, model.input_shape[1:], model.output_shape[-1]),
        producer_name="keras_alexnet",
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.helper.set_model_props(proto, _metadata(chain))
    onnx.save(proto, path)
    # By its path: to check the message in memory, onnx would serialize all of it again.
    onnx.checker.check_model(os.fspath(path), full_check=True)


def _metadata(chain: Sequence[keras.Layer]) -> dict[str, str]:
    """What the pixels are, which `importers.onnx` reads, and what the graph itself makes of them."""
    metadata = {"channel_order": "rgb"}
    for layer in chain:
        if isinstance(layer, layers.Rescaling):
            mean = np.broadcast_to(-np.divide(layer.offset, layer.scale), 3)
            metadata["mean"] = ",".join(f"{value:.6g}" for value in mean)
    return metadata


def _graph(chain: Sequence[keras.Layer], image_shape: tuple[int, int, int], num_classes: int):
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants = [], []
    x = "image"

    def add(name: str, operator: str, arrays: dict[str, np.ndarray] | None = None, **attributes) -> None:
        nonlocal x
        named = {f"{name}.{key}": value for key, value in (arrays or {}).items()}
        constants.extend(numpy_helper.from_array(np.float32(value), key) for key, value in named.items())
        nodes.append(helper.make_node(operator, [x, *named], [name], name=name, **attributes))
        x = name

    # Zeros around the input of the next layer. To a pool they are less than any value, which is the same behind a ReLU.
    padding = np.zeros((2, 2), int)
    flattened = None
    for layer in chain:
        name = layer.name
        match layer:
            case layers.Rescaling():
                if np.any(np.not_equal(layer.scale, 1)):
                    add(f"{name}_scale", "Mul", {"scale": layer.scale})
                add(name, "Add", {"offset": layer.offset})
                add("channels_first", "Transpose", perm=(0, 3, 1, 2))
            case layers.ZeroPadding2D():
                padding = np.array(layer.padding)
            case layers.Conv2D():
                kernel, bias = layer.get_weights()
                pads = padding + (_same_padding(layer) if layer.padding == "same" else 0)
                add(
                    name,
                    "Conv",
                    {"weight": kernel.transpose(3, 2, 0, 1), "bias": bias},
                    kernel_shape=layer.kernel_size,
                    strides=layer.strides,
                    pads=pads.T.ravel(),
                )
            case layers.ReLU():
                add(name, "Relu")
            case LocalResponseNorm(lrn=lrn):
                add(name, "LRN", size=lrn.size, alpha=lrn.alpha, beta=lrn.beta, bias=lrn.k)
            case layers.MaxPooling2D():
                add(name, "MaxPool", kernel_shape=layer.pool_size, strides=layer.strides, pads=padding.T.ravel())
            case layers.Flatten():
                flattened = layer.input.shape[1:]
                add(name, "Flatten")
            case layers.Dense():
                kernel, bias = layer.get_weights()
                if flattened:
                    kernel = kernel.reshape(*flattened, -1).transpose(2, 0, 1, 3).reshape(kernel.shape)
                    flattened = None
                add(name, "Gemm", {"weight": kernel, "bias": bias})
        if not isinstance(layer, layers.ZeroPadding2D):
            padding = np.zeros((2, 2), int)
    nodes[-1].output[0] = "logits"
    return helper.make_graph(
        nodes,
        "alexnet",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *image_shape], "RGB, 0 to 255")],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", num_classes])],
        constants,
    )


def _same_padding(layer: layers.Conv2D) -> np.ndarray:
    """The zeros of TensorFlow's rule, (before, after) for rows and columns."""
    pairs = []
    for size, kernel, stride in zip(layer.input.shape[1:3], layer.kernel_size, layer.strides, strict=True):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pairs.append((total // 2, total - total // 2))
    return np.array(pairs)
