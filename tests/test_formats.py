import os
import zipfile
from pathlib import Path

import h5py
import pytest
from cntk_reference import build_reference_network

from keras_alexnet.errors import UserError
from keras_alexnet.importers.formats import CAFFE, CNTK, KERAS, ONNX, TORCHVISION, detect_format

REFERENCE = Path(__file__).parent / "reference"


def written(folder: Path, content: bytes, name: str = "a.file") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("alexnet_tiny_c10_fc64.model", CNTK),
        ("alexnet_padpool_c7_fc48.v1.dnn", CNTK),
        ("alexnet_padpool_c7_fc48.checkpoint.model", CNTK),
        ("caffe_alexnet_new_c10_fc64.caffemodel", CAFFE),
        ("caffe_alexnet_v1_c10_fc64.caffemodel", CAFFE),
        ("onnx_bvlc_c10_fc64.onnx", ONNX),
        ("alexnet_tiny_c10_fc64.onnx", ONNX),
        ("torchvision_c9_fc96.pth", TORCHVISION),
        ("torchvision_c9_fc96.safetensors", TORCHVISION),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".keras", ".onnx"])
def test_content_counts_not_the_suffix(tmp_path, name, kind, suffix):
    assert detect_format(written(tmp_path, (REFERENCE / name).read_bytes(), f"a{suffix}")) == kind


def test_a_keras_file(tmp_path):
    build_reference_network().save(tmp_path / "model.keras")
    os.rename(tmp_path / "model.keras", tmp_path / "model.onnx")
    assert detect_format(tmp_path / "model.onnx") == KERAS


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\x12\x05\x1a\x03abc", CAFFE),  # V1 layers without a name in front
        (b"\xa2\x06\x05\x0a\x03abc", CAFFE),
        (b"\x12\x1b\x0a\x04type\x12\x13\x10\x06\x42\x0fComposite", CNTK),
        (b"\x08\x02\x12\x81\x01\x0a\x04type\x12\x13\x10\x06\x42\x0fComposite", CNTK),
        # ONNX with a producer's name of 16 bytes, of 10 bytes, and one that begins like a mean image.
        (b"\x08\x07\x12\x10sixteen letters!\x3a\x05graph", ONNX),
        (b"\x08\x07\x12\x0aten letter\x3a\x05graph", ONNX),
        (b"\x08\x07\x12\x05\x10\x01\x18ab\x3a\x05graph", ONNX),
        # V1 layers whose first field looks like the key of a dictionary.
        (b"\x12\x30\x12\x0apool1_drop\x1a\x03abc", CAFFE),
        (b"\x12\x30\x22\x0apool1_drop\x28\x04", CAFFE),
        (b"\x12\x30\x0a\x20\x0a\x04conv\x12\x04conv", CAFFE),
        (b"\x08\x03\x12\x06backend", ONNX),
        (b"\x08\x07\x12\x07pytorch\x1a\x052.0.0", ONNX),
        # V1 layers whose first name, bottom or text of another field is that of a key.
        (b"\x12\x16\x12\x04type\x1a\x04data\x22\x04type\x28\x04\x32\x00", CAFFE),
        (b"\x12\x0c\x0a\x04type\x12\x04data", CAFFE),
        (b"\x80\x02}q\x00", TORCHVISION),
        (b"\x0a\x20" + b"name of a network 32 characters_" + b"\xa2\x06\x01", CAFFE),
    ],
)
def test_other_beginnings(tmp_path, content, kind):
    assert detect_format(written(tmp_path, content)) == kind


@pytest.mark.parametrize(
    ("content", "expected_text"),
    [
        (b"<!DOCTYPE html><html>not found</html>", "is a web page: download the file itself"),
        (b"\n\n<HTML><body>404</body>", "is a web page"),
        (b'name: "AlexNet"\nlayer {\n', "is a text: the file with the weights is needed"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "is a pointer of Git LFS"),
        (b"\x1f\x8b\x08\x00", "is a gzip archive: unpack it"),
        (b"\x89HDF\r\n\x1a\n", "is a damaged HDF5 file"),
        (b"ktnc\0\0", "is CNTK's format for models of more than 2 GB"),
        (
            b"\x08\x01\x10\x03\x18\x80\x02\x20\x80\x02\x2a\x80\x80\x30",
            "is a mean image of Caffe: give it as --mean_file",
        ),
        (b"\x2a\x04\0\0\0\0\x3a\x03\x0a\x01\x01", "is a mean image of Caffe"),
        (b"\x3a\x03\x0a\x01\x01\x50\x01\x62\x04\0\0\0\0", "is a mean image of Caffe"),
        (b"\x93NUMPY\x01\0", "is a NumPy array: a mean is given as --mean_file"),
        (b"\x08\x05\x12\x10net_a.caffemodel", r"is a solver state of Caffe, without weights: give the \.caffemodel"),
        (b"\x08\x05\x12\x07weights\x1a\x80\x40\x2a\x80\x30", "is a solver state of Caffe"),
        (b"\x0a\x04node\x0a\x04node", "has an unrecognized model format"),
        (b"\xff\xd8\xff\xe0", r"has an unrecognized model format: it begins with b'\\xff\\xd8\\xff\\xe0'"),
        (b"PK\x03\x04 cut off", "is a damaged zip archive"),
        (b"", "is empty"),
    ],
)
def test_other_files_are_told(tmp_path, content, expected_text):
    with pytest.raises(UserError, match=expected_text) as raised:
        detect_format(written(tmp_path, content))
    assert str(raised.value).startswith(str(tmp_path))
    assert "Expected a model of Caffe (.caffemodel), CNTK" in str(raised.value) or b"PK" in content


def test_the_suffix_counts_where_the_content_does_not_tell(tmp_path):
    assert detect_format(written(tmp_path, b"\xff\xff", "a.onnx")) == ONNX


@pytest.mark.parametrize(
    ("name", "expected_text"),
    [
        ("history", r"is a solver state of Caffe, without weights: give .* \(or \.caffemodel\.h5\)"),
        ("model_weights", r"is an HDF5 file: save the whole model as \.keras"),
    ],
)
def test_hdf5_is_told_by_its_groups(tmp_path, name, expected_text):
    with h5py.File(tmp_path / "a.caffemodel", "w") as file:
        file.create_group(name)
    with pytest.raises(UserError, match=expected_text):
        detect_format(tmp_path / "a.caffemodel")
    with h5py.File(tmp_path / "a.keras", "w") as file:
        file.create_group("data")
    assert detect_format(tmp_path / "a.keras") == CAFFE


def test_a_zip_bomb_is_refused_unopened(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", b" " * 50_000_000)
    assert (tmp_path / "a.keras").stat().st_size < 100_000
    with pytest.raises(UserError, match=r"is a zip archive that would grow to 50,000,002 bytes"):
        detect_format(tmp_path / "a.keras")


def test_other_archives_and_folders_are_told(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("bvlc.caffemodel", b"x")
    with pytest.raises(UserError, match=r"is a zip archive of 'bvlc\.caffemodel'\. Expected .*: unpack it"):
        detect_format(tmp_path / "a.zip")
    with pytest.raises(UserError, match="is a folder"):
        detect_format(tmp_path)
    with pytest.raises(UserError, match="cannot read"):
        detect_format(tmp_path / "none")
