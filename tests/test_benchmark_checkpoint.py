import subprocess

import numpy as np
import pytest
from benchmark_process import check_spread, figures_of, run
from benchmarks import checkpoint

from keras_alexnet.errors import UserError


@pytest.mark.slow
def test_every_side_writes_the_same_numbers_and_reads_them_back(tmp_path):
    figures, printed = figures_of(
        tmp_path, "checkpoint", "--network=tiny", "--repeats=1", f"--folder={tmp_path}/new/folder"
    )
    sides = figures["checkpoint"]
    assert [side for side in sides if side != "PyTorch"] == ["keras_alexnet", "Keras", "the limit"]
    # 24 · (3 · 11² + 1) + … + 1000 · (256 + 1) parameters.
    parameters = 24 * 364 + 48 * 601 + 96 * 433 + 96 * 865 + 64 * 865 + 256 * 2305 + 256 * 257 + 1000 * 257
    assert figures["weight_bytes"] == figures["momentum_bytes"] == 4 * parameters
    for group, size in ((sides, 8 * parameters), (figures["model_file"], 4 * parameters)):
        assert group["the limit"]["file_bytes"] == size
        for side in group.values():
            assert size <= side["file_bytes"] < size + 250_000
            check_spread(side["write_seconds"])
            check_spread(side["read_seconds"])
    assert list(figures["model_file"]) == ["keras_alexnet", "Keras", "the limit"]
    share = sides["keras_alexnet"]["write_seconds"]["median"] / 600
    assert figures["share_of_training"] == pytest.approx(share)
    assert f"a checkpoint takes {100 * share:.2f} % of the time of a training" in printed
    for name in sides:
        assert f"\n  {name} " in printed
    assert list((tmp_path / "new" / "folder").iterdir()) == []


def write_and_read(folder, arrays: dict, **changes):
    """A turn of a side that keeps `arrays` in a plain file."""
    side = checkpoint._plain_file(arrays)
    side = checkpoint.Side(**{name: changes.get(name, getattr(side, name)) for name in vars(side)})
    turn = checkpoint._turn("this", side, arrays, folder, files := {})
    return next(turn), next(turn), files


ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([-0.0, np.nan], np.float32)}


def test_a_turn_leaves_no_file(tmp_path):
    written, read, files = write_and_read(tmp_path, ARRAYS)
    assert written > 0
    assert read > 0
    assert files == {"this": 32}
    assert list(tmp_path.iterdir()) == []


def test_a_side_that_reads_nothing_back_is_refused(tmp_path):
    with pytest.raises(UserError, match="this reads back something else than it wrote, in a"):
        write_and_read(tmp_path, ARRAYS, read=lambda path: None)


@pytest.mark.parametrize(
    "other",
    [
        {"a": ARRAYS["a"]},
        ARRAYS | {"b": np.array([0.0, np.nan], np.float32)},
        ARRAYS | {"b": ARRAYS["b"].astype(np.float64)},
        ARRAYS | {"b": ARRAYS["b"][None]},
    ],
)
def test_a_side_that_reads_other_bits_back_is_refused(tmp_path, other):
    with pytest.raises(UserError, match="this reads back something else than it wrote, in b"):
        write_and_read(tmp_path, ARRAYS, held=lambda: other)


def test_without_a_place_to_write_to(tmp_path):
    (tmp_path / "file").touch()
    process: subprocess.CompletedProcess = run("checkpoint", "--network=tiny", f"--folder={tmp_path}/file/folder")
    assert process.returncode == 1
    assert len(process.stderr.splitlines()) == 1
    assert f"cannot write to {tmp_path}/file/folder" in process.stderr
