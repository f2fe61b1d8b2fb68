"""What kind of file a model is in, told by its first bytes."""

import os
import re
import zipfile

from keras_alexnet.errors import UserError
from keras_alexnet.importers import wire

KERAS, CAFFE, CNTK, ONNX, TORCHVISION = "keras", "caffe", "cntk", "onnx", "torchvision"

_ANY = (
    "a model of Caffe (.caffemodel), CNTK (.model, .dnn), ONNX (.onnx), torchvision (.pth, .safetensors) or Keras "
    "(.keras)"
)
_SUFFIXES = {
    ".caffemodel": CAFFE,
    ".model": CNTK,
    ".dnn": CNTK,
    ".onnx": ONNX,
    ".pth": TORCHVISION,
    ".pt": TORCHVISION,
    ".safetensors": TORCHVISION,
    ".keras": KERAS,
}

_LOOKED_AT = 256
# Trained weights hardly compress; constant ones do, but nobody needs them.
_MOST_GROWTH = 50
# Protobuf's messages begin with a field's number and type. Caffe's have text or layers there (its name, field 1; V1
# layers, field 2; layers, field 100); CNTK's dictionaries a version, or none, and then an entry, which begins with a
# key; ONNX's models a version and then anything else; Caffe's mean images two numbers.
_STARTS = {
    rb"\s*<(!doctype|html|head|body|\?xml)": "a web page: download the file itself",
    rb"version https://git-lfs": "a pointer of Git LFS: run git lfs pull",
    rb"[\t\n\r -~]+\Z": "a text: the file with the weights is needed; a .prototxt is given as --deploy, beside it",
    rb"B\0C\0N\0\0\0": CNTK,
    rb"(\x08[\0-\x7f])?\x12.{1,4}?\x0a.[a-z]": CNTK,
    rb"\x08.{1,2}\x10": "a mean image of Caffe: give it as --mean_file, with the .caffemodel as --input",
    rb"\x08[\0-\x7f]": ONNX,
    rb".{5}\0\0\0\{": TORCHVISION,
    rb"\x80[\x02-\x05]": TORCHVISION,
    rb"\x0a|\x12|\x1a|\xa2\x06": CAFFE,
    rb"\x89HDF": "an HDF5 file: save the whole model as .keras; in Caffe set snapshot_format: BINARYPROTO",
    rb"\x1f\x8b": "a gzip archive: unpack it",
}


def model_kind(path: str | os.PathLike) -> str:
    """Tells `KERAS`, `CAFFE`, `CNTK`, `ONNX` or `TORCHVISION`; the suffix counts only where the content does not tell.

    Raises:
        UserError: the file cannot be read, is empty, or is known to be something else.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        raise UserError(f"{path} is a folder. Expected {_ANY}; a SavedModel cannot be read back: give its .keras file.")
    start = bytes(wire.open_message(path, _ANY).data[:_LOOKED_AT])
    if start.startswith(b"PK"):
        return _kind_of_zip(path)
    told = (kind for pattern, kind in _STARTS.items() if re.match(pattern, start, re.DOTALL | re.IGNORECASE))
    kind = next(told, None) or _SUFFIXES.get(os.path.splitext(path)[1].lower())
    if kind is None:
        raise UserError(f"{path} begins with {start[:16]!r}, as no kind of model does that is read. Expected {_ANY}.")
    if kind not in _SUFFIXES.values():
        raise UserError(f"{path} is {kind}. Expected {_ANY}.")
    return kind


def _kind_of_zip(path: str) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            unpacked = sum(entry.file_size for entry in archive.infolist())
    # zipfile's own, and what it raises at impossible offsets and at versions of the format that it does not know.
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(
            f"{path} is a damaged zip archive ({error}), as .keras and .pth files are. Download or copy it again."
        ) from None
    if unpacked > _MOST_GROWTH * os.path.getsize(path):
        raise UserError(
            f"{path} is a zip archive that would grow to {unpacked:,} bytes, more than {_MOST_GROWTH} times its size. "
            f"Weights never do. Expected {_ANY}."
        )
    if "config.json" in names and "metadata.json" in names:
        return KERAS
    if any(name.endswith("data.pkl") for name in names):
        return TORCHVISION
    raise UserError(
        f"{path} is a zip archive of {', '.join(map(repr, names[:3])) or 'nothing'}. Expected {_ANY}: unpack it."
    )
