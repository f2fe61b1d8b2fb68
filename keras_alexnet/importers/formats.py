"""The format of a model file, detected from its first bytes."""

import os
import re
import zipfile

from keras_alexnet.errors import UserError
from keras_alexnet.importers.files import ModelFile, open_model_file

KERAS, CAFFE, CNTK, ONNX, TORCHVISION = "keras", "caffe", "cntk", "onnx", "torchvision"

_EXPECTED = (
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

_HEADER_BYTES = 256
# Trained weights hardly compress; constant ones do, but nobody needs them.
_MAX_GROWTH = 50

MEAN_IMAGE = "a mean image of Caffe"
_ZIP = "a zip archive"

# A varint of protobuf, which no shorter match may split.
_VARINT = rb"[\x80-\xff]*+[\0-\x7f]"
# What a file may begin with. Protobuf's messages begin with a field's number and type. Of Caffe's networks that is the
# name (field 1, text), V1 layers (field 2) or layers (field 100); of CNTK's dictionaries an entry (field 2), which is a
# key (field 1, text) and a value (field 2), maybe after the version (field 1, a varint); of ONNX's models a version
# (field 1, a varint) and then anything else; of Caffe's mean images two numbers (fields 1 and 2, varints).
_SIGNATURES = {
    rb"PK": _ZIP,
    rb"\s*<(?i:!doctype|html|head|body|\?xml)": "a web page",
    rb"version https://git-lfs": "a pointer of Git LFS",
    rb"[\t\n\r -~]+\Z": "a text",
    rb"\x89HDF": "an HDF5 file",
    rb"\x1f\x8b": "a gzip archive",
    rb"ktnc": "CNTK's format for models of more than 2 GB",
    rb"B\0C\0N\0\0\0": CNTK,
    rb"(\x08V)?\x12V\x0a[\2-\x7f][A-Za-z][A-Za-z0-9_]++\x12V[\x08\x10]".replace(b"V", _VARINT): CNTK,
    rb"\x08V\x10V[\x18\x2a]".replace(b"V", _VARINT): MEAN_IMAGE,
    rb"\x08V".replace(b"V", _VARINT): ONNX,
    rb".{5}\0\0\0\{": TORCHVISION,
    rb"\x80[\x02-\x05]": TORCHVISION,
    rb"\x0a|\x12|\x1a|\xa2\x06": CAFFE,
}
_ADVICE = {
    "a web page": "download the file itself",
    "a pointer of Git LFS": "run git lfs pull",
    "a text": "the file with the weights is needed; a .prototxt is given as --deploy, with the .caffemodel",
    "an HDF5 file": "save the whole model as .keras; in Caffe set snapshot_format: BINARYPROTO",
    "a gzip archive": "unpack it",
    "CNTK's format for models of more than 2 GB": "AlexNet is smaller",
    _ZIP: "unpack it",
    MEAN_IMAGE: "give it as --mean_file, with the .caffemodel as --input",
}


def detect_format(path: str | os.PathLike) -> str:
    """Gives `KERAS`, `CAFFE`, `CNTK`, `ONNX` or `TORCHVISION`; the suffix counts only where the content is ambiguous.

    Raises:
        UserError: the file cannot be read, is empty, or is known to be something else.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        raise UserError(
            f"{path} is a folder. Expected {_EXPECTED}; a SavedModel cannot be read back: give its .keras file."
        )
    file = open_model_file(path, _EXPECTED)
    found = _signature(file)
    if found == _ZIP:
        return _zip_format(path)
    refuse_other_formats(file)
    found = found or _SUFFIXES.get(os.path.splitext(path)[1].lower())
    if found is None:
        raise UserError(
            f"{path} has an unrecognized model format: it begins with {_start(file, 16)!r}. Expected {_EXPECTED}."
        )
    return found


def refuse_other_formats(file: ModelFile, allowed: str | None = None) -> None:
    """Raises a `UserError` for files that are often given by mistake, unless they are what is `allowed`."""
    found = _signature(file)
    if found in _ADVICE and found != allowed:
        raise UserError(f"{file.path} is {found}: {_ADVICE[found]}. Expected {file.expected}.")


def _signature(file: ModelFile) -> str | None:
    start = _start(file, _HEADER_BYTES)
    matches = (found for pattern, found in _SIGNATURES.items() if re.match(pattern, start, re.DOTALL))
    return next(matches, None)


def _start(file: ModelFile, num_bytes: int) -> bytes:
    return bytes(file.data[:num_bytes])


def _zip_format(path: str) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            unpacked = sum(entry.file_size for entry in archive.infolist())
    # zipfile's own, and what it raises at impossible offsets and at versions of the format that it does not know.
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(
            f"{path} is a damaged zip archive ({error}), as .keras and .pth files are. Download or copy it again."
        ) from None
    if unpacked > _MAX_GROWTH * os.path.getsize(path):
        raise UserError(
            f"{path} is a zip archive that would grow to {unpacked:,} bytes, more than {_MAX_GROWTH} times its size. "
            f"Weights never do. Expected {_EXPECTED}."
        )
    if "config.json" in names and "metadata.json" in names:
        return KERAS
    if any(name.endswith("data.pkl") for name in names):
        return TORCHVISION
    raise UserError(
        f"{path} is a zip archive of {', '.join(map(repr, names[:3])) or 'nothing'}. Expected {_EXPECTED}: unpack it."
    )
