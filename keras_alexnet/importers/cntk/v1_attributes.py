"""What each type of node has of its own in CNTK's version 1 format, as attributes with the names of version 2."""

import functools
from collections.abc import Callable
from typing import Any

from keras_alexnet.importers.cntk.stream import Stream

# Types of nodes without fields of their own.
_PLAIN = """
Abs ClassificationError Clip Cosine CrossEntropy CrossEntropyWithSoftmax DynamicAxis ElementTimes ErrorPrediction Exp
Floor Hardmax Log LogSoftmax Logistic Minus Negate Pass PerDimMeanVarNormalization Plus Reciprocal RectifiedLinear Scale
Sigmoid Sin Softmax Sqrt SquareError SumElements Tanh
"""
PLAIN_TYPES = frozenset(_PLAIN.split())


def _read_convolution(reader: Stream, version: int) -> dict[str, Any]:
    if version >= 5:
        attributes = _read_windows(reader, version)
        del attributes["poolingKind"]
        # Whether it was written as for images only; then the layout gives the order of the axes.
        attributes["convolution2D"] = reader.boolean()
        attributes["dilation"] = reader.shape() if version >= 18 else (1,)
        return attributes
    kernel_shape, strides = (reader.size(), reader.size(), 1), (reader.size(), reader.size(), 1)
    _, layout, pads, _ = reader.number("<I"), reader.number("<I"), reader.boolean(), reader.size()
    return {
        "kernelShape": kernel_shape,
        "strides": strides,
        "imageLayout": layout,
        "autoPadding": [pads],
        "sharing": [True],
        "lowerPad": (0,),
        "upperPad": (0,),
        "dilation": (1,),
        "transpose": False,
        "convolution2D": True,
    }


def _read_pooling(reader: Stream, version: int) -> dict[str, Any]:
    attributes = _read_windows(reader, version)
    attributes["poolingWindowShape"] = attributes.pop("kernelShape")
    # Counted from 1 here: 0 is a convolution.
    attributes["poolingType"] = attributes.pop("poolingKind") - 1
    return attributes


def _read_windows(reader: Stream, version: int) -> dict[str, Any]:
    """What convolution and pooling have in common from format 5 on."""
    kernel_shape, _, strides = reader.shape(), reader.shape(), reader.shape()
    attributes = {
        "kernelShape": kernel_shape,
        "strides": strides,
        "sharing": reader.booleans(),
        "autoPadding": reader.booleans(),
        "lowerPad": reader.shape(),
        "upperPad": reader.shape(),
        "poolingKind": reader.number("<i"),
        "imageLayout": reader.number("<i"),
    }
    # The most memory it may use, in samples.
    reader.size()
    attributes["transpose"] = reader.boolean() if version >= 9 else False
    if version >= 20:
        # The output's shape.
        reader.shape()
    attributes["ceilOutDim"] = reader.boolean() if version >= 21 else False
    if version >= 23:
        # Whether an average counts the padding.
        reader.boolean()
    return attributes


def _read_image_pooling(reader: Stream, version: int, pooling_type: int) -> dict[str, Any]:
    """The fields of MaxPooling and AveragePooling, which came before Pooling and never pad."""
    width, layout, height = reader.number("<I"), reader.number("<I"), reader.size()
    return {
        "poolingWindowShape": (width, height, 1),
        "strides": (reader.size(), reader.size(), 1),
        "poolingType": pooling_type,
        "imageLayout": layout,
        "autoPadding": [False],
        "lowerPad": (0,),
        "upperPad": (0,),
        "ceilOutDim": False,
    }


def _read_times(reader: Stream, version: int) -> dict[str, Any]:
    return {
        "outputRank": reader.size() if version >= 3 else 1,
        "inferInputRankToMap": reader.number("<i") if version >= 12 else -1,
    }


def _read_dropout(reader: Stream, version: int) -> dict[str, Any]:
    """Skips the state of the random numbers. The rate is not in the file: it was a setting of the training."""
    if version >= 16:
        # Format 16 has a C++ long here, which is shorter on Windows.
        after = reader.offset + 16
        is_long = version > 16 or any(reader.is_string_at(after, text) for text in ("float", "double", "ENodeList"))
        reader.number("<Q" if is_long else "<I")
        reader.size()
    return {}


def _read_reshape(reader: Stream, version: int) -> dict[str, Any]:
    # Axes are counted from 1 here, and 0 is the dimension to be inferred.
    begin, end = reader.number("<i") - 1, reader.number("<i") - 1
    return {"beginAxis": begin, "endAxis": end, "newShape": tuple(d or -1 for d in reader.shape())}


def _read_reduction(reader: Stream, version: int) -> dict[str, Any]:
    """Skips the attributes of a part of losses and metrics."""
    reader.number("<i")
    reader.string()
    if version >= 24:
        reader.boolean()
    return {}


# By the type of the node; each reads the fields that a format of this number has.
ATTRIBUTE_READERS: dict[str, Callable[[Stream, int], dict[str, Any]]] = {
    "AveragePooling": functools.partial(_read_image_pooling, pooling_type=1),
    "Convolution": _read_convolution,
    "Dropout": _read_dropout,
    "MaxPooling": functools.partial(_read_image_pooling, pooling_type=0),
    "Pooling": _read_pooling,
    "ReduceElements": _read_reduction,
    "Reshape": _read_reshape,
    "Times": _read_times,
    "TransposeTimes": _read_times,
}
