import os
import sys

import pytest
from benchmark_process import check_spread, figures_of, run
from benchmarks import fit

from keras_alexnet.data.class_mappings import read_class_mappings
from keras_alexnet.data.map_file import read_map
from keras_alexnet.errors import UserError

SIDES = ["fit --synthetic_data", "fit", "training_dataset"]
SMALL = ("--network=tiny", "--batch_size=4", "--steps=2", "--repeats=1")


@pytest.mark.slow
def test_it_measures_a_training_beside_its_limits(data_dir, tmp_path):
    figures, printed = figures_of(tmp_path, "fit", f"--data_dir={data_dir}", *SMALL)
    assert list(figures["sides"]) == SIDES
    medians = {}
    for name, side in figures["sides"].items():
        check_spread(side["images_per_second"])
        medians[name] = side["images_per_second"]["median"]
        assert f"\n{name} " in printed
    limit = min(medians["fit --synthetic_data"], medians["training_dataset"])
    assert medians[figures["of"]] == limit
    assert figures["ratio"] == pytest.approx(medians["fit"] / limit)
    assert f"fit does {figures['ratio']:.3f} of the slower one of the others, {figures['of']}" in printed
    assert figures["images"] == str(data_dir)
    assert [figures[name] for name in ("network", "batch_size", "steps", "repeats")] == ["tiny", 4, 2, 1]


def test_drawn_images_are_enough_for_a_batch(tmp_path):
    folder = fit.write_data(tmp_path, batch_size=100)
    train_map, val_map = read_map(folder / "train_map.txt"), read_map(folder / "val_map.txt")
    assert len(train_map) == 100
    assert len(set(train_map.paths)) == 64
    assert train_map.labels[64] == train_map.labels[0]
    assert set(val_map.paths) <= set(train_map.paths)
    assert len(read_class_mappings(folder / "classmappings.txt")) == 64
    assert all(os.path.getsize(path) > 50_000 for path in val_map.paths)


@pytest.mark.slow
def test_a_training_tells_what_it_did(data_dir):
    command = [sys.executable, "-m", "keras_alexnet.fit", "--preset=tiny", "--epochs=2", "--steps_per_epoch=3"]
    training = fit.train([*command, "--batch_size=4", f"--data_dir={data_dir}"])
    assert [row["steps"] for row in training.history] == [3, 6]
    assert training.images == 12
    assert training.parameters > 300_000
    assert training.devices == "CPU"
    assert training.peak_mb > 200


def test_a_training_that_fails_is_told_with_what_it_said(capfd):
    with pytest.raises(UserError, match=r"a training failed; its message is above\."):
        fit.train([sys.executable, "-m", "keras_alexnet.fit", "--epochs=0"])
    assert "epochs is 0; expected at least 1." in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--data_dir={}", *SMALL], 1, "a training failed; its message is above."),
        (["--steps=0"], 2, "--steps: expected an integer of at least 1, got '0'"),
        (["--network=vgg"], 2, "--network: invalid choice: 'vgg'"),
    ],
)
def test_mistakes_are_told(tmp_path, arguments, status, message):
    process = run("fit", *(argument.format(tmp_path) for argument in arguments))
    assert process.returncode == status
    assert message in process.stderr.splitlines()[-1]
    assert "Traceback" not in process.stderr
