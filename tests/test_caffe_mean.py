"""Means of Caffe: images and arrays."""

import gzip
import io

import numpy as np
import pytest
from caffe_files import blob, dims, old_blob, small_net
from protobuf_bytes import packed

from keras_alexnet.errors import UserError
from keras_alexnet.importers.caffe.mean import read_mean

PIXELS = np.random.default_rng(3).uniform(90, 130, (3, 4, 5)).astype("<f4")


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_mean_images(tmp_path):
    for content in (
        old_blob(PIXELS, 1, 3, 4, 5),
        blob(PIXELS),
        dims(3, 4, 5) + packed(8, PIXELS, "<f8"),
        npy(PIXELS[np.newaxis]),
        npy(PIXELS.astype(">f8")),
        npy(np.asfortranarray(PIXELS)),
    ):
        (tmp_path / "mean").write_bytes(content)
        np.testing.assert_array_equal(read_mean(tmp_path / "mean"), PIXELS, strict=True)


def test_means_per_channel(tmp_path):
    for shape in [(3,), (1, 3), (1, 3, 1, 1)]:
        np.save(tmp_path / "mean.npy", np.reshape([104, 117, 123], shape))
        np.testing.assert_array_equal(read_mean(tmp_path / "mean.npy").ravel(), [104, 117, 123])


@pytest.mark.parametrize(
    ("content", "expected_text"),
    [
        (old_blob(np.full(60, np.nan), 1, 3, 4, 5), " has NaN or infinite pixels."),
        (small_net(), ": the mean image has 0 numbers"),
        (gzip.compress(b"x", mtime=0), " is a gzip archive: unpack it"),
        (npy(np.ones((4, 5, 3))), "has the shape 4 × 5 × 3. Expected .*, channels first; else give the three numbers"),
        (npy(np.ones(3, complex)), "has 3 values of type complex128"),
        (npy(np.array([{}, 1, 2], object)), "is not a readable NumPy array"),
        (npy(PIXELS).replace(b"(3, 4, 5)", b"(3, 9**9)"), "is not a readable NumPy array"),
    ],
    ids=range(7),
)
def test_wrong_means_are_told(tmp_path, content, expected_text):
    (tmp_path / "mean").write_bytes(content)
    with pytest.raises(UserError, match=expected_text):
        read_mean(tmp_path / "mean")
