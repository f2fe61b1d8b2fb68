"""An ONNX file as onnx loads it, after its checker has passed it.

The file is not trusted. The checker makes sure that the graph is sorted and that nodes have the attributes of their
operators; what it allows, memory that a small file asks for included, is limited here and in `graph`.
"""

import math
import os
from collections.abc import Iterator, Sequence

from keras_alexnet.errors import UserError
from keras_alexnet.importers.arrays import shape_text
from keras_alexnet.importers.files import open_model_file
from keras_alexnet.system.file_names import from_utf8, to_utf8

MODEL = "an ONNX model (.onnx)"
AGAIN = "Export or download it again, with the files of its weights if it has any."
_MAX_NAME = 100

# Protobuf's limit, and ours for a model with its weights in other files: an AlexNet has 250 MB.
_MAX_BYTES = 2**31


def load_model(path: str | os.PathLike) -> tuple:
    """Loads an ONNX model, with weights in other files of its folder, after onnx has checked it.

    Returns:
        (onnx's ModelProto, without its initializers; the initializers by name).
    """
    try:
        import onnx
    except ImportError:
        raise UserError(
            f"{os.fspath(path)}: to read {MODEL} the package onnx is needed: pip install 'keras_alexnet[onnx]'"
        ) from None

    file = open_model_file(path, MODEL)
    if len(file) >= _MAX_BYTES:
        raise UserError(
            f"{file.path} has {len(file):,} bytes. Expected {MODEL} of less than 2 GiB, as the format allows no more."
        )
    try:
        model = onnx.load(file.path, format="protobuf", load_external_data=False)
        _require_known_versions(model, file.path)
        _load_external_data(model, os.path.dirname(os.path.abspath(file.path)))
        initializers = list(model.graph.initializer)
        del model.graph.initializer[:]
        # Without the weights, of which the checker would make copies.
        onnx.checker.check_model(_checkable(model, initializers).SerializeToString())
    except UserError:
        raise
    # onnx and protobuf raise errors of many kinds.
    except Exception as error:
        reason = " ".join(str(error).split())[:400].rstrip(".") or type(error).__name__
        raise UserError(f"{file.path} is not a valid ONNX model: {reason}. Expected {MODEL}. {AGAIN}") from None
    return model, {text(tensor.name): tensor for tensor in initializers}


def _require_known_versions(model, path: str) -> None:
    from onnx import IR_VERSION, __version__, defs

    versions = [("IR version", model.ir_version, IR_VERSION), ("opset", opset(model), defs.onnx_opset_version())]
    for what, found, known in versions:
        # Far above, it is not a version but damage, which the checker reports.
        if known < found < 10 * known:
            raise UserError(
                f"{path} has {what} {found}. Expected at most {known}, which the installed onnx {__version__} reads: "
                "update it with pip install --upgrade onnx, or export the model for an older version, such as with "
                "torch.onnx.export(…, opset_version=18)."
            )


def opset(model) -> int:
    """The version of ONNX's operators."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)


def _checkable(model, initializers: Sequence):
    """The model with initializers as inputs, and with the shapes that it need not have: the checker demands them."""
    from onnx import ModelProto

    checkable = ModelProto()
    checkable.CopyFrom(model)
    inputs = {value.name for value in checkable.graph.input}
    for tensor in initializers:
        if tensor.name not in inputs:
            value = checkable.graph.input.add(name=tensor.name)
            value.type.tensor_type.elem_type = tensor.data_type
    for value in (*checkable.graph.input, *checkable.graph.output):
        # A value without any type counts as one of floats.
        if not value.type.WhichOneof("value"):
            value.type.tensor_type.elem_type = 1
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()
    return checkable


def _load_external_data(model, folder: str) -> None:
    """Has onnx read the weights that are in other files, each byte once."""
    from onnx import external_data_helper, helper

    unread: dict[str, int] = {}
    left = _MAX_BYTES
    for tensor in _tensors(model.graph):
        if not external_data_helper.uses_external_data(tensor):
            continue
        info = external_data_helper.ExternalDataInfo(tensor)
        num_bytes = math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        if info.length is None:
            tensor.external_data.add(key="length", value=str(num_bytes))
        file = os.path.realpath(os.path.join(folder, from_utf8(info.location)))
        in_file = unread.setdefault(file, os.path.getsize(file))
        if not 0 < num_bytes <= min(in_file, left) or info.length not in (None, num_bytes):
            raise ValueError(
                f"the tensor {truncate(text(tensor.name))!r} has {shape_text(tensor.dims)} numbers, and its weights in "
                f"{truncate(info.location)!r} another length, or a length beyond the file"
            )
        unread[file] -= num_bytes
        left -= num_bytes
        external_data_helper.load_external_data_for_tensor(tensor, to_utf8(folder))


def _tensors(graph) -> Iterator:
    yield from graph.initializer
    for node in graph.node:
        if node.op_type == "Constant":
            yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))


def text(value: str | bytes) -> str:
    """A string of the file; protobuf gives one that is not UTF-8 as bytes."""
    return value if isinstance(value, str) else value.decode("utf-8", "backslashreplace")


def truncate(name: str) -> str:
    """A name of the file for messages."""
    return name if len(name) <= _MAX_NAME else name[:_MAX_NAME] + "…"


def ints_text(values: Sequence[int] | None) -> str:
    """A list of integers for messages."""
    if values is None:
        return "that is not given"
    return f"[{', '.join(map(str, values[:8]))}{', …' if len(values) > 8 else ''}]"
