"""What each type of node has of its own in CNTK's version 1 format, as attributes with the names of version 2."""

from typing import Any

from keras_alexnet.importers.cntk.stream import Stream

# Types of nodes without fields of their own.
_PLAIN = """
Abs ClassificationError Clip Cosine CrossEntropy CrossEntropyWithSoftmax DynamicAxis ElementTimes ErrorPrediction Exp
Floor Hardmax Log LogSoftmax Logistic Minus Negate Pass PerDimMeanVarNormalization Plus Reciprocal RectifiedLinear Scale
Sigmoid Sin Softmax Sqrt SquareError SumElements Tanh
"""
_PLAIN_TYPES = frozenset(_PLAIN.split())


def read_attributes(kind: str, reader: Stream, version: int) -> dict[str, Any] | None:
    """Reads the fields that a type of node has in a format of this number; None for a type that is not known."""
    match kind:
        case "Convolution":
            return _read_convolution(reader, version)
        case "Pooling":
            attributes = _read_windows(reader, version)
            attributes["poolingWindowShape"] = attributes.pop("kernelShape")
            # Counted from 1 here: 0 is a convolution.
            attributes["poolingType"] = attributes.pop("poolingKind") - 1
            return attributes
        case "MaxPooling" | "AveragePooling":
            return _read_image_pooling(reader, pooling_type=int(kind == "AveragePooling"))
        case "Times" | "TransposeTimes":
            return {
                "outputRank": reader.size() if version >= 3 else 1,
                "inferInputRankToMap": reader.number("<i") if version >= 12 else -1,
            }
        case "Dropout":
            # The state of the random numbers. The rate is not in the file: it was a setting of the training.
            if version >= 16:
                # Format 16 has a C++ long here, which is shorter on Windows.
                after, names = reader.offset + 16, ("float", "double", "ENodeList")
                is_long = version > 16 or any(reader.is_string_at(after, text) for text in names)
                reader.number("<Q" if is_long else "<I")
                reader.size()
            return {}
        case "Reshape":
            # Axes are counted from 1 here, and 0 is the dimension to be inferred.
            begin, end = reader.number("<i") - 1, reader.number("<i") - 1
            return {"beginAxis": begin, "endAxis": end, "newShape": tuple(d or -1 for d in reader.shape())}
        case "ReduceElements":
            # A part of losses and metrics, whose attributes do not matter.
            reader.number("<i")
            reader.string()
            if version >= 24:
                reader.boolean()
            return {}
    return {} if kind in _PLAIN_TYPES else None


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


def _read_image_pooling(reader: Stream, pooling_type: int) -> dict[str, Any]:
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
