"""The format of a model file, detected from its contents."""

import itertools
import os
import re
import zipfile

from google.protobuf.message import DecodeError

from keras_alexnet.errors import UserError, first_line
from keras_alexnet.importers.files import ModelFile, open_model_file
from keras_alexnet.importers.protobuf import BYTES, VARINT, fields

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
# Fields of a message that are looked at, which are small in number but for layers.
_MAX_FIELDS = 1_000
# Trained weights hardly compress; constant ones do, but nobody needs them.
MAX_GROWTH = 50

MEAN_IMAGE = "a mean image of Caffe"
NPY = "a NumPy array"
SOLVER_STATE = "a solver state of Caffe, without weights"
_ZIP = "a zip archive"
HDF5 = "an HDF5 file"

# What a file may begin with; protobuf messages have no such signature.
_SIGNATURES = {
    rb"PK": _ZIP,
    rb"\s*<(?i:!doctype|html|head|body|\?xml)": "a web page",
    rb"version https://git-lfs": "a pointer of Git LFS",
    rb"[\t\n\r -~]+\Z": "a text",
    rb"\x89HDF\r\n\x1a\n": HDF5,
    rb"\x93NUMPY": NPY,
    rb"\x1f\x8b": "a gzip archive",
    rb"ktnc": "CNTK's format for models of more than 2 GB",
    rb"B\0C\0N\0\0\0": CNTK,
    rb".{5}\0\0\0\{": TORCHVISION,
    rb"\x80[\x02-\x05]": TORCHVISION,
}
ADVICE = {
    "a web page": "download the file itself",
    "a pointer of Git LFS": "run git lfs pull",
    "a text": "the file with the weights is needed; a .prototxt is given as --deploy, with the .caffemodel",
    HDF5: "save the whole model as .keras; weights of Caffe have a group /data",
    "a gzip archive": "unpack it",
    "CNTK's format for models of more than 2 GB": "AlexNet is smaller",
    _ZIP: "unpack it",
    MEAN_IMAGE: "pass it as --mean_file, with the .caffemodel as --input",
    NPY: "a mean is given as --mean_file, with the .caffemodel as --input",
    SOLVER_STATE: "use the .caffemodel (or .caffemodel.h5) of the same snapshot",
}


def detect_format(path: str | os.PathLike) -> str:
    """Gives `KERAS`, `CAFFE`, `CNTK`, `ONNX` or `TORCHVISION`; the suffix counts only where the content is ambiguous.

    Raises:
        UserError: the file cannot be read, is empty, or is known to be something else.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        raise UserError(
            f"{path} is a folder. Expected {_EXPECTED}; a SavedModel cannot be read back: use its .keras file."
        )
    file = open_model_file(path, _EXPECTED)
    found = signature(file)
    if found == _ZIP:
        return _zip_format(path)
    if found == HDF5:
        found = _hdf5_format(file)
    if found in ADVICE:
        raise other_format(file, found)
    found = found or _SUFFIXES.get(os.path.splitext(path)[1].lower())
    if found is None:
        raise UserError(
            f"{path} has an unrecognized model format: it begins with {bytes(file.data[:16])!r}. Expected {_EXPECTED}."
        )
    return found


def other_format(file: ModelFile, found: str) -> UserError:
    """The error that a file is what is often given by mistake, a key of `ADVICE`."""
    return UserError(f"{file.path} is {found}: {ADVICE[found]}. Expected {file.expected}.")


def signature(file: ModelFile) -> str | None:
    """The format, or what else a file is, by its first bytes or fields; None if they are of nothing that is known."""
    start = bytes(file.data[:_HEADER_BYTES])
    matches = (found for pattern, found in _SIGNATURES.items() if re.match(pattern, start, re.DOTALL))
    return next(matches, None) or _message_format(file.data)


def _message_format(data: memoryview) -> str | None:
    """The format of a protobuf message by the numbers and types of its fields, whatever their contents are.

    | | 1 | 2 | 3 | 5 | 7 | 8 | 12 | 100 |
    | --- | --- | --- | --- | --- | --- | --- | --- | --- |
    | Caffe's NetParameter | name | V1 layer | input | number | number | shape | | layer |
    | Caffe's BlobProto (mean image) | number | number | number | data | shape | data | data | |
    | Caffe's SolverState | number | file name | blob | | | | | |
    | CNTK's Dictionary | number | entry | | | | | | |
    | ONNX's ModelProto | number | producer | version | number | graph | opset | | |
    """
    found = _first_fields(data)
    numbers = {number for number, wire_type, _ in found if wire_type == VARINT}
    contents = [(number, content) for number, wire_type, content in found if wire_type == BYTES]
    names, seconds, thirds = ([content for n, content in contents if n == number] for number in (1, 2, 3))
    contained = {number for number, _ in contents}
    if 100 in contained:
        return CAFFE
    if contained & {5, 7, 8, 12} and not contained & {1, 2, 3} and (2 in numbers or 1 not in numbers):
        return MEAN_IMAGE
    if 1 in numbers and 7 in contained:
        return ONNX
    if seconds and _is_entry(seconds[0]):
        return CNTK
    if 1 in numbers:
        # An ONNX model that is cut off before its graph, or a solver state.
        names_weights = any(bytes(data[-14:]).endswith((b".caffemodel", b".caffemodel.h5")) for data in seconds)
        return SOLVER_STATE if names_weights or any(map(_is_blob, thirds)) else ONNX
    return CAFFE if seconds or len(names) == 1 else None


def _first_fields(data: memoryview) -> list[tuple[int, int, memoryview]]:
    """The first fields of a message, as far as they can be read: number, wire type, contents."""
    found = []
    try:
        for number, wire_type, _, contents in itertools.islice(fields(data, whole=False), _MAX_FIELDS):
            found.append((number, wire_type, contents))
    except DecodeError:
        pass
    return found


def _is_entry(data: memoryview) -> bool:
    """Whether a message is an entry of CNTK's dictionaries: a key and a value, which has a version, a type and data."""
    found = [(number, wire_type) for number, wire_type, _ in _first_fields(data)]
    if found != [(1, BYTES), (2, BYTES)]:
        return False
    value = _first_fields(_first_fields(data)[1][2])
    return bool(value) and all(wire_type == VARINT for number, wire_type, _ in value if number < 3)


def _is_blob(data: memoryview) -> bool:
    return any(number in (5, 8, 12) and wire_type == BYTES for number, wire_type, _ in _first_fields(data))


def _hdf5_format(file: ModelFile) -> str:
    import h5py

    try:
        with h5py.File(file.path, "r") as stored:
            names = set(itertools.islice(stored, _MAX_FIELDS))
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise file.error(f"is a damaged HDF5 file ({first_line(error)})") from None
    if "data" in names:
        return CAFFE
    return SOLVER_STATE if names & {"history", "learned_net"} else HDF5


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
    if unpacked > MAX_GROWTH * os.path.getsize(path):
        raise UserError(
            f"{path} is a zip archive that would grow to {unpacked:,} bytes, more than {MAX_GROWTH} times its size. "
            f"Weights never do. Expected {_EXPECTED}."
        )
    if "config.json" in names and "metadata.json" in names:
        return KERAS
    if any(name.endswith("data.pkl") for name in names):
        return TORCHVISION
    raise UserError(
        f"{path} is a zip archive of {', '.join(map(repr, names[:3])) or 'nothing'}. Expected {_EXPECTED}: unpack it."
    )
