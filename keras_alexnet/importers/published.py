"""Trained AlexNets that others have published: the table of saved_models/README.md."""

from typing import NamedTuple


class PublishedModel(NamedTuple):
    """Where a model file can be downloaded.

    Attributes:
        url: its address.
        checksum: "sha256:…" or "sha1:…" of the file, as its publishers state it, of SHA-256 perhaps only the first
            digits; None if they state none.
        license: its license.
    """

    url: str
    checksum: str | None
    license: str


PUBLISHED = {
    "cntk": PublishedModel("https://www.cntk.ai/Models/CNTK_Pretrained/AlexNet_ImageNet_CNTK.model", None, "MIT"),
    "cntk-caffe": PublishedModel(
        "https://www.cntk.ai/Models/Caffe_Converted/AlexNet_ImageNet_Caffe.model", None, "unrestricted"
    ),
    "bvlc": PublishedModel(
        "http://dl.caffe.berkeleyvision.org/bvlc_alexnet.caffemodel",
        "sha1:9116a64c0fbe4459d18f4bb6b56d647b63920377",
        "unrestricted",
    ),
    "caffenet": PublishedModel(
        "http://dl.caffe.berkeleyvision.org/bvlc_reference_caffenet.caffemodel",
        "sha1:4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46",
        "unrestricted",
    ),
    "torchvision": PublishedModel(
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", "sha256:7be5be79", "BSD 3-Clause"
    ),
    "onnx-zoo": PublishedModel(
        "https://github.com/onnx/models/raw/main/validated/vision/classification/alexnet/model/bvlcalexnet-12.onnx",
        "sha256:6b0da9510f27f234ee96a85dc3809dd210150fdefad87f6850f9788513216945",
        "BSD 3-Clause",
    ),
}
