"""CNTK's files of both formats, composed field by field."""

import struct

import numpy as np
from protobuf_bytes import field, fixed, varint

# Composing version 2 files, by CNTK.proto.


class Shape(tuple):
    """Dimensions in CNTK's order."""


def shape_of(dimensions):
    return field(1, b"".join(map(varint, dimensions)))


def array_of(values, data_type=None, storage=0, dimensions=None):
    """An NDArrayView; `values` are in row-major order."""
    number = {"float32": 4, "float64": 5}[values.dtype.name]
    content = field(1, data_type or number - 3) + field(2, storage)
    content += field(3, shape_of(values.shape[::-1] if dimensions is None else dimensions))
    return content + field(number, field(1, values.tobytes()))


def value_of(value):
    match value:
        case bool():
            return field(2, 1) + field(3, int(value))
        case int():
            return field(2, 3) + field(5, value)
        case float():
            return field(2, 5) + fixed(7, "<d", value)
        case str():
            return field(2, 6) + field(8, value.encode())
        case Shape():
            return field(2, 7) + field(9, shape_of(value))
        case list():
            return field(2, 9) + field(11, b"".join(field(1, value_of(item)) for item in value))
        case dict():
            return field(2, 10) + field(12, dictionary_of(value))
        case bytes():
            return field(2, 11) + field(13, value)
        case np.ndarray():
            return value_of(array_of(value))


def dictionary_of(items):
    entries = (field(1, key.encode()) + field(2, value_of(value)) for key, value in items.items())
    return field(1, 2) + b"".join(field(2, entry) for entry in entries)


def variable(uid, kind, dimensions=(), value=None):
    """Kinds: 0 input, 2 parameter, 3 constant, 4 placeholder."""
    items = {"type": "Variable", "uid": uid, "kind": kind, "shape": Shape(dimensions), "name": uid.lower()}
    return items if value is None else {**items, "value": value}


def function(uid, op, *inputs, name="", **attributes):
    items = {"type": "PrimitiveFunction", "uid": uid, "op": op, "inputs": list(inputs), "attributes": attributes}
    return {**items, "name": name}


def block(uid, root, arguments, *inputs, name=""):
    return function(uid, 57, *inputs, name=name) | {
        "block_function_composite": {"type": "CompositeFunction", "root": root, "uid": f"Composite{uid}"},
        "block_function_composite_arguments_map_keys": list(arguments),
        "block_function_composite_arguments_map_values": list(arguments.values()),
    }


WEIGHTS = np.arange(6, dtype=np.float32).reshape(3, 2)
IMAGE = variable("X", 0, (3,))
MATRIX = variable("W", 2, (2, 3), WEIGHTS)
TIMES = function("T", 31, "W", "X", outputRank=1)


def model_of(root="T", variables=(IMAGE, MATRIX), functions=(TIMES,)):
    items = {"type": "CompositeFunction", "uid": "C", "root": root}
    return dictionary_of(items | {"inputs": list(variables), "primitive_functions": list(functions)})


def with_matrix(array, dimensions=(2, 3)):
    return model_of(variables=[IMAGE, variable("W", 2, dimensions, array)])


def layered():
    inner = function("T", 31, "W", "P", outputRank=1, pad=[True])
    return model_of("B", [IMAGE, MATRIX, variable("P", 4)], [block("B", "T", {"P": "X"}, "W", "X", name="fc"), inner])


# Composing version 1 files.


def text(string):
    return f"{string}\0".encode("utf-16-le")


def size(*values):
    return struct.pack(f"<{len(values)}Q", *values)


def shape(*dimensions):
    return struct.pack(f"<{1 + len(dimensions)}I", len(dimensions), *dimensions)


def matrix(values, rows=None):
    """A matrix as of a tensor whose first dimension, in CNTK's order, is that of the rows."""
    rows = rows or values.shape[-1]
    header = b"d" + text("BMAT") + size(values.itemsize) + text("unnamed") + struct.pack("<i", 0)
    return header + size(rows, values.size // values.shape[-1]) + values.tobytes() + text("EMAT")


def model_v1(nodes, version=31, outputs=()):
    """A file of nodes: name → (type, fields, inputs)."""
    parts = [text("BCN")]
    if version > 1:
        parts += [text("BVersion"), size(version), text("EVersion")]
    parts += [size(len(nodes)), text("BNodeList")]
    for name, (kind, fields, _) in nodes.items():
        parts += [text("float")] * (version >= 7) + [text(kind), text(name), fields]
    parts += [text("ENodeList"), text("BRelation")]
    for name, (_, _, inputs) in nodes.items():
        parts += [text(name), size(len(inputs)), *map(text, inputs)]
    parts += [text("ERelation"), text("BRootNodes"), text("BFeatureNodes"), size(1), text("x"), text("EFeatureNodes")]
    parts += [text("BCriteriaNodes"), size(0), text("ECriterionNodes")]
    parts += [text("BOutputNodes"), size(len(outputs)), *map(text, outputs), text("EOutputNodes")]
    return b"".join([*parts, text("ERootNodes"), text("ECN")])


def image_v1(version, *dimensions):
    axes = (struct.pack("<I", 1) + text("")) * (version >= 8)
    return "InputValue", size(0, 0) + shape(*dimensions) + axes + struct.pack("<f", 0) * (version >= 10), ()


def parameter_v1(version, values):
    dimensions = values.shape[::-1]
    if version >= 3:
        return "LearnableParameter", struct.pack("<f", 1) + shape(*dimensions) + matrix(values), ()
    return "LearnableParameter", b"\1" + size(0, 1) + shape(*dimensions) + matrix(values), ()


def image_pooling_v1():
    return struct.pack("<II", 3, 1) + size(3, 2, 2)


def booleans(*values):
    return size(len(values)) + bytes(values)


def windows_v1(version, kernel, strides, pads, pooling_kind):
    parts = [shape(*kernel), shape(1, 1, 2), shape(*strides), booleans(1, 1, 1), booleans(*pads), shape(0), shape(0)]
    parts += [struct.pack("<ii", pooling_kind, 1), size(0), b"\0" * (version >= 9), shape(0) * (version >= 20)]
    return b"".join([*parts, b"\0" * (version >= 21), b"\0" * (version >= 23)])


def convolution_v1(version):
    if version < 5:
        return size(5, 3, 2, 1) + struct.pack("<II", 2, 1) + b"\1" + size(0)
    windows = windows_v1(version, (5, 3, 1), (2, 1, 1), (1, 1, 0), 0)
    return windows + b"\0" + shape(1, 1, 1) * (version >= 18)


KERNEL = np.arange(30, dtype=np.float32).reshape(2, 1, 3, 5)
BIAS = np.arange(2, dtype=np.float32).reshape(2, 1, 1)
HEAD = np.arange(8, dtype=np.float32).reshape(2, 4)


def network_v1(version):
    dropout = size(1, 2) * (version >= 16)
    pooling = windows_v1(version, (3, 3, 1), (2, 2, 1), (0, 0, 0), 1) if version >= 5 else None
    times = size(1) * (version >= 3) + struct.pack("<i", -1) * (version >= 12)
    nodes = {
        "axis": ("DynamicAxis", b"", ()),
        "x": image_v1(version, 9, 8, 1),
        "k": parameter_v1(version, KERNEL),
        "b": parameter_v1(version, BIAS),
        "w": parameter_v1(version, HEAD),
        "c": ("Convolution", convolution_v1(version), ("k", "x")),
        "p": ("Plus", b"", ("c", "b")),
        "r": ("RectifiedLinear", b"", ("p",)),
        "m": ("Pooling", pooling, ("r",)) if pooling else ("MaxPooling", image_pooling_v1(), ("r",)),
        "d": ("Dropout", dropout, ("m",)),
        "t": ("Times", times, ("w", "d")),
    }
    return model_v1(nodes, version)
