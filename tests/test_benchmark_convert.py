import importlib.util
import subprocess

import numpy as np
import pytest
from benchmark_process import check_spread, figures_of, run
from benchmarks import convert

from keras_alexnet.errors import UserError
from keras_alexnet.importers import importer
from keras_alexnet.presets import PRESETS

NARROW = {"filters": (4, 6, 8, 8, 6), "dense_units": 9}
LIMIT = "the limit: read and write"


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The files to convert, of a narrow network; and why some were not made."""
    folder = tmp_path_factory.mktemp("sources")
    with pytest.MonkeyPatch.context() as patch:
        preset = PRESETS["tiny"]
        patch.setitem(PRESETS, "narrow", type(preset)(**NARROW))
        return folder, convert.make_sources("narrow", folder)


@pytest.mark.parametrize(
    ("name", "kind", "normalization"),
    [
        ("caffe.caffemodel", "caffe", "before_pool"),
        ("cntk.onnx", "cntk", "before_pool"),
        ("torchvision.pth", "torchvision", "none"),
        ("torchvision.safetensors", "torchvision", "none"),
    ],
)
def test_sources_are_read_as_what_they_stand_for(sources, name, kind, normalization):
    folder, left_out = sources
    if name in left_out:
        pytest.skip(left_out[name])
    found = importer.read_alexnet(folder / name)
    assert found.preset.normalization == normalization
    model = importer.import_model(folder / name).model
    with np.load(folder / f"{kind}.npz") as known:
        np.testing.assert_allclose(
            model(known["images"]), known["logits"], rtol=0, atol=1e-5 * np.abs(known["logits"]).max()
        )
        assert known["logits"].std() > 0.1


def test_the_caffe_model_has_the_groups_of_bvlcs(sources):
    layers = importer.read_caffe_chain(sources[0] / "caffe.caffemodel").layers
    assert {layer.name: layer.groups for layer in layers if hasattr(layer, "groups")} == {
        "conv1": 1,
        "conv2": 2,
        "conv3": 1,
        "conv4": 2,
        "conv5": 2,
    }


@pytest.mark.parametrize(("source", "kind"), [("cntk.pth", "cntk"), ("torchvision.pth", "torchvision")])
def test_the_peer_is_the_same_network(sources, source, kind):
    pytest.importorskip("torch")
    with np.load(sources[0] / f"{kind}.npz") as known:
        logits = convert._logits_of_torch(sources[0] / source, known["images"])
        np.testing.assert_allclose(logits, known["logits"], rtol=0, atol=1e-5 * np.abs(known["logits"]).max())


def test_a_conversion_to_another_network_is_refused(sources, monkeypatch, tmp_path):
    folder, _ = sources
    converter = convert._CONVERTERS[convert.OURS]
    other = convert.Converter(converter.start, converter.convert, lambda target, images: np.zeros((1, 1000)))
    monkeypatch.setitem(convert._CONVERTERS, convert.OURS, other)
    with pytest.raises(UserError, match=r"the logits of .*written\.keras are not those of .*caffe\.caffemodel"):
        convert._convert(convert.OURS, folder / "caffe.caffemodel", tmp_path / "written.keras", folder)


def test_what_cannot_be_converted_for_lack_of_a_package_is_left_out(sources, monkeypatch, tmp_path):
    def start(source, target):
        raise ImportError("No module named 'nothing'")

    converter = convert.Converter(start, convert._copy, lambda target, images: None)
    monkeypatch.setitem(convert._CONVERTERS, "copy", converter)
    answer = convert._convert("copy", sources[0] / "cntk.keras", tmp_path / "copied", sources[0])
    assert answer == {"left_out": "No module named 'nothing'"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_conversions_and_their_peers(tmp_path):
    figures, printed = figures_of(
        tmp_path, "convert", "--quick", "--conversions", "from_torchvision", "to_onnx", f"--folder={tmp_path}/new"
    )
    assert (figures["network"], figures["repeats"]) == ("tiny", 1)
    assert list(figures["conversions"]) == ["from_torchvision", "to_onnx"]
    ours = [".pth → .keras, keras_alexnet", ".safetensors → .keras, keras_alexnet", ".keras → ONNX, keras_alexnet"]
    peers = [".pth → .pth, PyTorch", ".pth → ONNX, torch.onnx.export", ".pth → ONNX, torch.onnx.export(dynamo=False)"]
    found = {name: side for sides in figures["conversions"].values() for name, side in sides.items()}
    assert {*found, *figures["left_out"]} == {*ours, *peers, LIMIT}
    assert not found.keys() & figures["left_out"].keys()
    if importlib.util.find_spec("torch") and importlib.util.find_spec("onnx"):
        assert not figures["left_out"].keys() & {ours[0], ours[2], peers[0]}
    for name, side in found.items():
        check_spread(side["seconds"])
        check_spread(side["import_seconds"])
        # 1,130,424 parameters of 4 bytes: nobody leaves some out.
        assert 4_500_000 < side["bytes"] < 4_800_000
        assert f"  {name} " in printed
        assert side["checked"] == (name != LIMIT) or "ONNX" in name
    for name in ours:
        if name in found:
            assert f"  {name} takes " in printed
    for name in figures["left_out"]:
        assert f"{name} left out: " in printed
    assert list((tmp_path / "new").iterdir()) == []


def test_without_a_place_to_write_to(tmp_path):
    (tmp_path / "file").touch()
    process: subprocess.CompletedProcess = run("convert", f"--folder={tmp_path}/file/folder")
    assert process.returncode == 1
    assert len(process.stderr.splitlines()) == 1
    assert f"cannot write to {tmp_path}/file/folder" in process.stderr
