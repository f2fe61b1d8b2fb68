"""Caffe's files, composed field by field."""

from pathlib import Path

import numpy as np
from protobuf_bytes import field, fixed, packed, varint

REFERENCE = Path(__file__).parent / "reference"
NEW, V1 = (REFERENCE / f"caffe_alexnet_{kind}_c10_fc64.caffemodel" for kind in ("new", "v1"))
DEPLOY = REFERENCE / "caffe_alexnet_new_c10_fc64.deploy.prototxt"

CONVOLUTION, POOLING, LRN, INNER_PRODUCT, INPUT = 106, 121, 118, 117, 143
V1_CONVOLUTION, V1_POOLING, V1_LRN, V1_INNER_PRODUCT = 10, 19, 18, 17
WEIGHTS = np.linspace(-1, 1, 24, dtype="<f4").reshape(2, 3, 2, 2)
BIAS = np.float32([0.5, -0.25])


def dims(*sizes: int) -> bytes:
    """A blob's shape."""
    return field(7, field(1, b"".join(map(varint, sizes))))


def blob(values, shape=None) -> bytes:
    values = np.asarray(values, "<f4")
    return dims(*(values.shape if shape is None else shape)) + packed(5, values)


def raw_blob(values, kind: int | None, dtype: str) -> bytes:
    """As NVIDIA's Caffe writes it."""
    raw_type = b"" if kind is None else field(10, kind)
    return dims(*np.shape(values)) + raw_type + packed(12, values, dtype)


def old_blob(values, *sizes: int) -> bytes:
    return b"".join(field(number, size) for number, size in enumerate(sizes, 1)) + packed(5, values)


def layer(name: str, layer_type: str, *parts: bytes) -> bytes:
    return field(100, field(1, name) + field(2, layer_type) + b"".join(parts))


def v1_layer(name: str, layer_type: int, *parts: bytes) -> bytes:
    return field(2, b"".join(parts) + field(4, name) + field(5, layer_type))


def convolution(*blobs: bytes, parameters: bytes = field(1, 2) + field(4, 2)) -> bytes:
    return layer("conv1", "Convolution", *(field(7, content) for content in blobs), field(CONVOLUTION, parameters))


def small_net() -> bytes:
    return (
        field(1, "small")
        + layer("data", "Input", field(4, "data"), field(INPUT, field(1, field(1, b"\x01\x03\x05\x05"))))
        + convolution(blob(WEIGHTS), blob(BIAS))
        + layer("relu1", "ReLU", field(3, "conv1"), field(4, "conv1"))
        + layer("norm1", "LRN", field(LRN, fixed(2, "<f", 1e-4) + field(4, 1)))
        + layer("pool1", "Pooling", field(POOLING, field(1, 1) + field(2, 3) + field(3, 2)))
        + layer("fc2", "InnerProduct", field(7, blob(np.ones((2, 8)))), field(INNER_PRODUCT, field(1, 2) + field(2, 0)))
    )


def small_v1_net() -> bytes:
    return (
        field(1, "small")
        + v1_layer("data", 5, field(3, "data"))
        + v1_layer(
            "conv1",
            4,
            field(6, old_blob(WEIGHTS, 2, 3, 2, 2)),
            field(6, old_blob(BIAS, 1, 1, 1, 2)),
            field(V1_CONVOLUTION, field(1, 2) + field(4, 2)),
        )
        + v1_layer("relu1", 18, field(2, "conv1"), field(3, "conv1"))
        + v1_layer("norm1", 15, field(V1_LRN, fixed(2, "<f", 1e-4) + field(4, 1)))
        + v1_layer("pool1", 17, field(V1_POOLING, field(1, 1) + field(2, 3) + field(3, 2)))
        + v1_layer(
            "fc2",
            14,
            field(6, old_blob(np.ones(16), 1, 1, 2, 8)),
            field(V1_INNER_PRODUCT, field(1, 2) + field(2, 0)),
        )
    )


# What the layers with weights of the reference files have besides weights: kernel size, stride, padding, groups.
_CONVOLUTIONS = {"conv1": (11, 4, 0, 1), "conv2": (5, 1, 2, 2), "conv3": (3, 1, 1, 1)}
_CONVOLUTIONS |= dict.fromkeys(("conv4", "conv5"), (3, 1, 1, 2))


def alexnet(
    weights: dict[str, list[np.ndarray]],
    write=blob,
    fully_convolutional: bool = False,
    data: bytes = layer("data", "Data", field(4, "data"), field(4, "label")),
    end: bytes = layer("loss", "SoftmaxWithLoss", field(3, "fc8"), field(3, "label"), field(4, "loss")),
) -> bytes:
    """BVLC's AlexNet with the weights given by name, as a `.caffemodel`.

    Args:
        weights: kernel and bias of conv1 to fc8.
        write: makes a blob of an array.
        fully_convolutional: whether fc6 to fc8 are convolutions.
        data, end: the layers before conv1 and after fc8.
    """
    parts, at = [field(1, "AlexNet"), data], "data"
    for name, arrays in weights.items():
        outputs = field(1, len(arrays[0]))
        kernel, stride, pad, groups = _CONVOLUTIONS.get(name, (6 if name == "fc6" else 1, 1, 0, 1))
        is_convolution = fully_convolutional or name in _CONVOLUTIONS
        settings = outputs + field(3, pad) + field(4, kernel) + field(5, groups) + field(6, stride)
        if is_convolution and name not in _CONVOLUTIONS:
            arrays = [arrays[0].reshape(len(arrays[0]), -1, kernel, kernel), arrays[1]]
        kind = "Convolution" if is_convolution else "InnerProduct"
        settings = field(CONVOLUTION, settings) if is_convolution else field(INNER_PRODUCT, outputs)
        parts.append(
            layer(name, kind, field(3, at), field(4, name), *(field(7, write(array)) for array in arrays), settings)
        )
        at = name
        if name != "fc8":
            parts.append(layer(f"relu{name}", "ReLU", field(3, at), field(4, at)))
        if name in ("conv1", "conv2"):
            parts.append(
                layer(f"norm{name}", "LRN", field(3, at), field(4, f"norm{name}"), field(LRN, fixed(2, "<f", 1e-4)))
            )
            at = f"norm{name}"
        if name in ("conv1", "conv2", "conv5"):
            parts.append(
                layer(
                    f"pool{name}",
                    "Pooling",
                    field(3, at),
                    field(4, f"pool{name}"),
                    field(POOLING, field(2, 3) + field(3, 2)),
                )
            )
            at = f"pool{name}"
    return b"".join([*parts, end])
