import zipfile
from pathlib import Path

import h5py
import pytest

from keras_alexnet.errors import UserError
from keras_alexnet.importers.formats import CAFFE, CNTK, KERAS, ONNX, TORCHVISION, detect_format

REFERENCE = Path(__file__).parent / "reference"


def written(folder: Path, content: bytes, name: str = "a.file") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("alexnet_padpool_c7_fc48.model", CNTK),
        ("alexnet_padpool_c7_fc48.v1.dnn", CNTK),
        ("caffe_alexnet_new_c10_fc64.caffemodel", CAFFE),
        ("alexnet_tiny_c10_fc64.onnx", ONNX),
        ("torchvision_c9_fc96.pth", TORCHVISION),
        ("torchvision_c9_fc96.safetensors", TORCHVISION),
    ],
)
def test_content_counts_not_the_suffix(tmp_path, name, expected):
    assert detect_format(written(tmp_path, (REFERENCE / name).read_bytes(), "a.keras")) == expected
    # Only where it is ambiguous.
    assert detect_format(written(tmp_path, b"\xff\xff", name)) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\x12\x05\x1a\x03abc", CAFFE),  # V1 layers without a name in front
        (b"\x12\x1b\x0a\x04type\x12\x13\x10\x06\x42\x0fComposite", CNTK),
        (b"\x08\x02\x12\x81\x01\x0a\x04type\x12\x13\x10\x06\x42\x0fComposite", CNTK),
        # ONNX with a producer's name of 10 bytes, and one that begins like a mean image.
        (b"\x08\x07\x12\x0aten letter\x3a\x05graph", ONNX),
        (b"\x08\x07\x12\x05\x10\x01\x18ab\x3a\x05graph", ONNX),
        (b"\x08\x07\x12\x07pytorch\x1a\x052.0.0", ONNX),
        # V1 layers whose first field looks like the key of a dictionary.
        (b"\x12\x30\x12\x0apool1_drop\x1a\x03abc", CAFFE),
        # V1 layers whose first name, bottom or text of another field is that of a key.
        (b"\x12\x16\x12\x04type\x1a\x04data\x22\x04type\x28\x04\x32\x00", CAFFE),
        (b"\x12\x0c\x0a\x04type\x12\x04data", CAFFE),
        (b"\x80\x02}q\x00", TORCHVISION),
    ],
)
def test_other_beginnings(tmp_path, content, expected):
    assert detect_format(written(tmp_path, content)) == expected


@pytest.mark.parametrize(
    ("content", "expected_text"),
    [
        (b"\n\n<HTML><body>404</body>", "is a web page: download the file itself"),
        (b'name: "AlexNet"\nlayer {\n', "is a text: the file with the weights is needed"),
        (b"\x89HDF\r\n\x1a\n", "is a damaged HDF5 file"),
        (b"\x08\x01\x10\x03\x18\x80\x02\x20\x80\x02\x2a\x80\x80\x30", "is a mean image of Caffe: pass it as --mean_f"),
        (b"\x3a\x03\x0a\x01\x01\x50\x01\x62\x04\0\0\0\0", "is a mean image of Caffe"),
        (b"\x93NUMPY\x01\0", "is a NumPy array: a mean is given as --mean_file"),
        (b"\x08\x05\x12\x10net_a.caffemodel", r"is a solver state of Caffe, without weights: use the \.caffemodel"),
        (b"\x08\x05\x12\x07weights\x1a\x80\x40\x2a\x80\x30", "is a solver state of Caffe"),
        (b"\xff\xd8\xff\xe0", r"has an unrecognized model format: it begins with b'\\xff\\xd8\\xff\\xe0'"),
        (b"PK\x03\x04 cut off", "is a damaged zip archive"),
        (b"", "is empty"),
    ],
)
def test_other_files_are_named(tmp_path, content, expected_text):
    with pytest.raises(UserError, match=f"^{tmp_path}/a.file {expected_text}"):
        detect_format(written(tmp_path, content))


def test_hdf5_is_identified_by_its_groups(tmp_path):
    files = {name: tmp_path / f"{name}.keras" for name in ("data", "history", "model_weights")}
    for name, path in files.items():
        with h5py.File(path, "w") as file:
            file.create_group(name)
    assert detect_format(files["data"]) == CAFFE
    with pytest.raises(UserError, match=r"is a solver state of Caffe, without weights: use .*\.caffemodel"):
        detect_format(files["history"])
    with pytest.raises(UserError, match=r"is an HDF5 file: save the whole model as \.keras"):
        detect_format(files["model_weights"])


def zipped(path: Path, contents: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


def test_zip_archives(tmp_path):
    """Of those that would fill the memory, nothing is unpacked."""
    keras_file = {"metadata.json": "{}", "config.json": "{}"}
    assert detect_format(zipped(tmp_path / "a.onnx", keras_file)) == KERAS
    with pytest.raises(UserError, match=r"is a zip archive that would grow to 50,000,002 bytes"):
        detect_format(zipped(tmp_path / "a.keras", keras_file | {"config.json": " " * 50_000_000}))
    with pytest.raises(UserError, match=r"is a zip archive of 'bvlc\.caffemodel'\. Expected .*: unpack it"):
        detect_format(zipped(tmp_path / "a.zip", {"bvlc.caffemodel": "x"}))


def test_folders_and_missing_files(tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        detect_format(tmp_path)
    with pytest.raises(UserError, match="cannot read"):
        detect_format(tmp_path / "none")
