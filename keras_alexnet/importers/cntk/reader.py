"""CNTK models, in either of CNTK's two file formats."""

import os

from keras_alexnet.importers.cntk import v1, v2
from keras_alexnet.importers.cntk.graph import CntkGraph
from keras_alexnet.importers.files import open_model_file

_V1_START = "BCN\0".encode("utf-16-le")


def read_cntk_model(path: str | os.PathLike) -> CntkGraph:
    """Reads a CNTK model: v2 (protobuf, usually `.model`) or v1 (usually `.dnn`), whichever it is by content."""
    file = open_model_file(path, "a CNTK model (.model or .dnn)", is_message=True)
    is_v1 = bytes(file.data[: len(_V1_START)]) == _V1_START
    return v1.read_graph(file) if is_v1 else v2.read_graph(file)
