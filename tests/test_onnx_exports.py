"""What PyTorch exports of an AlexNet to ONNX gives PyTorch's logits."""

import io
import warnings

import numpy as np
import pytest
from reference_logits import relative_difference

from keras_alexnet.importers.importer import import_model
from keras_alexnet.importers.preprocessing import Preprocessing

torch = pytest.importorskip("torch")
nn = torch.nn

pytestmark = pytest.mark.slow


def narrow_alexnet(norm: bool, fully_convolutional: bool) -> nn.Module:
    """torchvision's, narrower; with normalizations, or with convolutions for its dense layers."""
    parts = []
    for n, sizes in enumerate(
        [(3, 4, 11, 4, 2), (4, 6, 5, 1, 2), (6, 8, 3, 1, 1), (8, 6, 3, 1, 1), (6, 4, 3, 1, 1)], 1
    ):
        parts += [nn.Conv2d(*sizes), nn.ReLU(inplace=True)]
        parts += [nn.LocalResponseNorm(5)] * (norm and n < 3) + [nn.MaxPool2d(3, 2)] * (n in (1, 2, 5))
    dense = [nn.Linear(4 * 6 * 6, 7), nn.Linear(7, 7), nn.Linear(7, 5)]
    if fully_convolutional:
        dense = [nn.Conv2d(4, 7, 6), nn.Conv2d(7, 7, 1), nn.Conv2d(7, 5, 1)]
    elif norm:
        parts.append(nn.Flatten())
    else:
        # TorchScript does not know the sizes after a normalization.
        parts += [nn.AdaptiveAvgPool2d((6, 6)), nn.Flatten()]
    parts += [nn.Dropout(), dense[0], nn.ReLU(inplace=True), nn.Dropout(), dense[1], nn.ReLU(inplace=True), dense[2]]
    return nn.Sequential(*parts, *[nn.AdaptiveAvgPool2d(1), nn.Flatten()] * fully_convolutional)


def export(network: nn.Module, training: bool, dynamic: bool, dynamo: bool) -> bytes:
    """A network by TorchScript, or by PyTorch's other exporter, which needs onnxscript."""
    exported = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of both, something is deprecated.
        if dynamo:
            shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
            images = (torch.zeros(2, 3, 224, 224),)
            torch.onnx.export(network, images, dynamo=True, dynamic_shapes=shapes, verbose=False).save(exported)
        else:
            settings = {"input_names": ["images"], "dynamic_axes": {"images": {0: "batch"}}} if dynamic else {}
            mode = torch.onnx.TrainingMode.TRAINING if training else torch.onnx.TrainingMode.EVAL
            images = torch.zeros(1, 3, 224, 224)
            torch.onnx.export(network.train(training), images, exported, dynamo=False, training=mode, **settings)
    return exported.getvalue()


@pytest.mark.parametrize(
    ("norm", "fully_convolutional", "training", "dynamic", "dynamo"),
    [
        (False, False, True, False, False),
        (True, False, False, True, False),
        (True, True, False, True, True),
    ],
)
def test_logits_of_pytorchs_exports(tmp_path, norm, fully_convolutional, training, dynamic, dynamo):
    """As they are, and as ONNX Runtime rewrites them."""
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    network = narrow_alexnet(norm, fully_convolutional).eval()
    # Large enough that the normalization counts.
    x = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3)).astype(np.float32)
    with torch.no_grad():
        for convolution in [layer for layer in network if isinstance(layer, nn.Conv2d)][:2]:
            convolution.weight *= 4
        expected = network(torch.from_numpy(x.transpose(0, 3, 1, 2))).numpy()
    exported, rewritten = tmp_path / "a.onnx", tmp_path / "b.onnx"
    exported.write_bytes(export(network, training, dynamic, dynamo))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(rewritten)
    onnxruntime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])
    for path in (exported, rewritten):
        pixels = Preprocessing(mean=(0, 0, 0), std=(1, 1, 1), channel_order="rgb")
        imported = import_model(path, preprocessing=pixels)
        assert norm == ({"norm1", "norm2"} < {layer.name for layer in imported.model.layers})
        assert relative_difference(imported.model.predict_on_batch(x), expected) < 1e-5
