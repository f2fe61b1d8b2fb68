"""ONNX models for tests: small ones made node by node, and PyTorch's exports of an AlexNet."""

import io
import warnings

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FILTERS, SIZE, UNITS = 4, 4, 5
KERNEL = np.linspace(-1, 1, FILTERS * 3 * 9, dtype=np.float32).reshape(FILTERS, 3, 3, 3)
BIAS = np.float32([1, 2, 3, 4])
FEATURES = FILTERS  # After a pool of 3/2.
FC = np.linspace(-1, 1, UNITS * FEATURES, dtype=np.float32).reshape(UNITS, FEATURES)
FC_BIAS = np.float32([5, 6, 7, 8, 9])


def node(op: str, inputs: str, output: str, **attributes) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), output.split(), **attributes)


def constant(name: str, **attributes) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], **attributes)


def integers(name: str, *values: int) -> onnx.NodeProto:
    return constant(name, value=numpy_helper.from_array(np.int64(values), name))


CONV = node("Conv", "x K b", "c", pads=[1, 1, 1, 1])
POOL = node("MaxPool", "c", "p", kernel_shape=[3, 3], strides=[2, 2])
FLATTEN = node("Flatten", "p", "f")
GEMM = node("Gemm", "f W B", "y", transB=1)

# Flatten, as exporters write it for any number of images.
RUN_TIME_SHAPE = (
    node("Shape", "p", "s"),
    integers("zero", 0),
    node("Gather", "s zero", "g"),
    integers("all", -1),
    node("Concat", "g all", "shape", axis=0),
    node("Reshape", "p shape", "f"),
)


def make_model(*nodes, opset: int = 13, batch="n", inputs=(), **tensors) -> onnx.ModelProto:
    """A model of `nodes` from x to y; tensors have K, b, W, B besides those given."""
    tensors = {"K": KERNEL, "b": BIAS, "W": FC, "B": FC_BIAS} | tensors
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, SIZE, SIZE]), *inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, UNITS])],
        [
            value if isinstance(value, TensorProto) else numpy_helper.from_array(np.asarray(value), name)
            for name, value in tensors.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def small(*, conv=(CONV,), pool=(POOL,), flatten=(FLATTEN,), dense=(GEMM,), **settings) -> onnx.ModelProto:
    """Convolution, pool and dense layer, of which each part may be put otherwise."""
    return make_model(*conv, *pool, *flatten, *dense, **settings)


def external(offset=0, length=KERNEL.nbytes, location="weights.bin") -> onnx.ModelProto:
    """`small`, its kernel in another file."""
    tensor = numpy_helper.from_array(KERNEL, "K")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": offset, "length": length}.items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    return small(K=tensor)


def torch_alexnet(view: bool = False, norm: bool = False, fully_convolutional: bool = False):
    """torchvision's AlexNet in PyTorch, narrower; with normalizations, or with convolutions for its dense layers."""
    import torch
    from torch import nn

    class AlexNet(nn.Module):
        def __init__(self):
            super().__init__()
            pool = nn.MaxPool2d(3, 2)
            convolutions = [(3, 4, 11, 4, 2), (4, 6, 5, 1, 2), (6, 8, 3, 1, 1), (8, 6, 3, 1, 1), (6, 4, 3, 1, 1)]
            features = []
            for n, sizes in enumerate(convolutions, 1):
                features += [nn.Conv2d(*sizes), nn.ReLU(inplace=True)]
                features += [nn.LocalResponseNorm(5)] * (norm and n < 3) + [pool] * (n in (1, 2, 5))
            self.features = nn.Sequential(*features)
            # TorchScript does not know the sizes after a normalization.
            self.avgpool = nn.Identity() if norm else nn.AdaptiveAvgPool2d((6, 6))
            dense = [nn.Linear(4 * 6 * 6, 7), nn.Linear(7, 7), nn.Linear(7, 5)]
            if fully_convolutional:
                dense = [nn.Conv2d(4, 7, 6), nn.Conv2d(7, 7, 1), nn.Conv2d(7, 5, 1)]
            self.classifier = nn.Sequential(
                nn.Dropout(),
                dense[0],
                nn.ReLU(inplace=True),
                nn.Dropout(),
                dense[1],
                nn.ReLU(inplace=True),
                dense[2],
            )

        def forward(self, x):
            x = self.avgpool(self.features(x))
            if fully_convolutional:
                return self.classifier(x).mean((2, 3))
            return self.classifier(x.view(x.size(0), -1) if view else torch.flatten(x, 1))

    return AlexNet()


def torch_export(model, training: bool, dynamic: bool, dynamo: bool = False) -> bytes:
    """What PyTorch exports of a network, by TorchScript, or by its other exporter, which needs onnxscript."""
    import torch

    model, exported = model.train(training), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of both, something is deprecated.
        if dynamo:
            shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
            images = (torch.zeros(2, 3, 224, 224),)
            torch.onnx.export(model, images, dynamo=True, dynamic_shapes=shapes, verbose=False).save(exported)
        else:
            torch.onnx.export(
                model,
                torch.zeros(1, 3, 224, 224),
                exported,
                dynamo=False,
                input_names=["images"],
                dynamic_axes={"images": {0: "batch"}} if dynamic else None,
                training=torch.onnx.TrainingMode.TRAINING if training else torch.onnx.TrainingMode.EVAL,
            )
    return exported.getvalue()
