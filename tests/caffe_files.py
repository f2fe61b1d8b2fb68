"""Caffe's files, composed field by field."""

from pathlib import Path

import numpy as np
from protobuf_bytes import field, fixed, packed, varint

REFERENCE = Path(__file__).parent / "reference"
NEW, V1 = (REFERENCE / f"caffe_alexnet_{kind}_c10_fc64.caffemodel" for kind in ("new", "v1"))
DEPLOY = REFERENCE / "caffe_alexnet_new_c10_fc64.deploy.prototxt"

CONVOLUTION, POOLING, LRN, INNER_PRODUCT, INPUT = 106, 121, 118, 117, 143
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
