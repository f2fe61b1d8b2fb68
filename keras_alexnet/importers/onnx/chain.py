"""An ONNX model as a chain of layers."""

import os
from collections.abc import Sequence

from keras_alexnet.errors import UserError
from keras_alexnet.importers.chain import Chain, Convolution, Layer
from keras_alexnet.importers.onnx.builder import OPERATORS, LayerBuilder
from keras_alexnet.importers.onnx.file import load_model, text, truncate
from keras_alexnet.importers.onnx.graph import ONLY_ALEXNET, Graph, Node
from keras_alexnet.importers.onnx.layers import ARITHMETIC
from keras_alexnet.importers.onnx.lrn import LrnNodes, find_lrn
from keras_alexnet.importers.onnx.values import ImpossibleSizeError

# Far more than any export of AlexNet has from the image to the output.
_MAX_CHAIN = 200


def read_onnx_chain(path: str | os.PathLike) -> Chain:
    """Reads an ONNX model as a chain; weights in other files of its folder are read too.

    Returns:
        Layers from the only input to the only output. Weights of float16, bfloat16 and float64 are given as float32.
        Arithmetic with constants ahead of the first convolution becomes a `Scaling` each, in float64.

    Raises:
        UserError: onnx is not installed, or the file cannot be read, is something else, is damaged, or has what no
            chain of AlexNet's layers can have: branches, other operators, control flow, functions.
    """
    model, tensors = load_model(path)
    graph = Graph(os.fspath(path), model, tensors)
    steps = _steps_to_output(graph)
    channels_last = any(node.op == "Transpose" for node, _, _ in steps)
    try:
        builder = LayerBuilder(graph, channels_last)
        for step in steps:
            builder.add(*step)
    except ImpossibleSizeError as error:
        raise UserError(f"{graph.path} has {error}. {ONLY_ALEXNET}.") from None
    producer = truncate(text(model.producer_name))
    sizes = graph.image_shape and (graph.image_shape[:2] if channels_last else graph.image_shape[1:])
    return Chain(
        graph.path,
        f"ONNX model (by {producer})" if producer else "ONNX model",
        tuple(builder.layers),
        image_size=sizes if sizes and all(sizes) else None,
        channel_order=_channel_order(model),
        framework=_framework(producer, builder.layers),
    )


def _channel_order(model) -> str | None:
    """That of the pixels, which is in the metadata of this project's exports; older ones only have their producer."""
    metadata = {text(entry.key): text(entry.value) for entry in model.metadata_props}
    order = metadata.get("channel_order", "rgb" if model.producer_name == "keras_alexnet" else "").lower()
    return order if order in ("bgr", "rgb") else None


def _framework(producer: str, layers: Sequence[Layer]) -> str | None:
    """The framework that the network was trained in, if that determines its preprocessing.

    The ONNX model zoo's AlexNet was trained in Caffe and exported by Caffe2. Tools that rewrite a model replace the
    producer's name, but keep the name that Caffe2 gave to the weights of conv1.
    """
    first = next((layer.name for layer in layers if isinstance(layer, Convolution)), "")
    if "caffe" in producer.lower() or first == "conv1_w_0":
        return "caffe"
    return "cntk" if producer == "CNTK" else None


def _steps_to_output(graph: Graph) -> list[tuple[Node, int, LrnNodes | None]]:
    """The nodes from the image to the output, with what `LayerBuilder.add` takes."""
    found = []
    name = graph.output
    while name != graph.image:
        node = graph.producers.get(name)
        if node is None or graph.is_constant(name):
            raise UserError(
                f"{graph.path}: the output does not only depend on the image {truncate(graph.image)!r}, but on "
                f"{truncate(name)!r}. Expected a chain of layers. {ONLY_ALEXNET}."
            )
        if node.op not in OPERATORS:
            operators = ", ".join(sorted(OPERATORS))
            raise graph.error(node, "is not a layer of an AlexNet", f"one of {operators}. {ONLY_ALEXNET}")
        if node.has_references:  # onnx's checker permits that outside of functions.
            raise graph.error(node, "refers to attributes of a function", "their values")
        if name != node.outputs[0]:
            raise graph.error(node, f"gives {truncate(name)!r} next to its result, which is used", "only the result")
        if len(found) == _MAX_CHAIN:
            raise graph.error(node, f"has {_MAX_CHAIN} nodes after it", f"an AlexNet. {ONLY_ALEXNET}")
        name, main, lrn = _step(graph, node)
        found.append((node, main, lrn))
    return found[::-1]


def _step(graph: Graph, node: Node) -> tuple[str, int, LrnNodes | None]:
    """The name of the activation that a node takes, the index of that input, and a normalization that it ends."""
    if node.op not in ARITHMETIC:
        return graph.source(node), 0, None
    varying = [at for at, given in enumerate(node.inputs) if not graph.is_constant(given)]
    if len(node.inputs) == 2 and len(varying) == 1:
        return node.inputs[varying[0]], varying[0], None
    lrn = find_lrn(graph, node)
    if lrn is None:
        names = " and ".join(repr(truncate(name)) for name in node.inputs[:3])
        raise graph.error(
            node,
            f"combines {names or 'nothing'}, where branches meet",
            "an activation and a constant, or a normalization as torch.nn.LocalResponseNorm: an AlexNet has no other "
            f"branches. {ONLY_ALEXNET}",
        )
    return lrn.image, 0, lrn
