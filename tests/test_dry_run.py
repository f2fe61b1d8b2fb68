import dataclasses
import shutil
from pathlib import Path

import pytest
from training_process import small_preset

from keras_alexnet.errors import UserError
from keras_alexnet.model import build_alexnet
from keras_alexnet.training import dry_run as dry_run_module
from keras_alexnet.training import loop
from keras_alexnet.training.config import TrainConfig
from keras_alexnet.training.dry_run import dry_run


@pytest.fixture
def config(data_dir, tmp_path):
    with small_preset():
        yield TrainConfig(
            data_dir=str(data_dir),
            output_dir=str(tmp_path / "out/run"),
            preset="small",
            epochs=3,
            batch_size=8,
            learning_rate=0.001,
            lr_drop_epochs=(),
        )


@pytest.fixture
def no_steps(monkeypatch):
    """No step is tried; a step of training takes a minute, and one of validation none."""
    monkeypatch.setattr(dry_run_module, "_try_steps", lambda *_: (60.0, 0.0))


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_tells_what_a_run_costs_and_writes_nothing(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(dry_run_module, "_MAX_SECONDS", 0.0)
    dry_run(config)
    printed = capsys.readouterr().out
    assert "24 to train on, 7 to validate on, 3 classes" in printed
    assert "parameters, float32" in printed
    assert "9 of 8 images (3 epochs of 3), and 3 validations" in printed
    for line in ("Devices     CPU", "Throughput ", "Time        about 0:", "Memory ", "Disk        0.0 GB in "):
        assert line in printed
    assert printed.endswith("Nothing was written. The run can start.\n")
    assert list(tmp_path.iterdir()) == []


def test_it_tries_a_network_of_other_images_on_synthetic_ones(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(dry_run_module, "_MAX_SECONDS", 0.0)
    initial = tmp_path / "initial.keras"
    build_alexnet(3, preset="small", image_size=80).save(initial)
    dry_run(dataclasses.replace(config, initial_model=str(initial), synthetic_data=True))
    assert capsys.readouterr().out.endswith("Nothing was written. The run can start.\n")
    assert list(tmp_path.iterdir()) == [initial]


def test_it_counts_what_is_left_of_a_run(config, no_steps, capsys):
    loop.train(dataclasses.replace(config, epochs=1))
    before = files(Path(config.output_dir))
    capsys.readouterr()
    dry_run(config)
    printed = capsys.readouterr().out
    assert "resumes after step 3" in printed
    assert "6 of 8 images (3 epochs of 3), and 2 validations" in printed
    assert "Time        about 6:00," in printed
    dry_run(config, restart=True)
    assert "9 of 8 images" in capsys.readouterr().out
    dry_run(dataclasses.replace(config, epochs=1))
    assert capsys.readouterr().out.startswith("Training is complete after 1 epochs.")
    with pytest.raises(UserError, match="holds another run"):
        dry_run(dataclasses.replace(config, momentum=0.5))
    assert files(Path(config.output_dir)) == before


@pytest.mark.parametrize(("split", "number"), [("train", 23), ("val", 0)])
def test_first_and_last_images_are_read_before_any_step(config, own_data_dir, monkeypatch, split, number):
    monkeypatch.setattr(dry_run_module, "_try_steps", lambda *_: pytest.fail("a step was tried"))
    (own_data_dir / split / f"{number}.JPEG").write_bytes(b"no image")
    config = dataclasses.replace(config, data_dir=str(own_data_dir))
    with pytest.raises(UserError, match=rf"{split}/{number}\.JPEG \(line {number + 1} of .*it is not an image"):
        dry_run(config)
    # But workers have to meet before TensorFlow reads anything.
    monkeypatch.setattr(dry_run_module, "choose_devices", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        dry_run(config)


def test_a_folder_that_cannot_be_written_and_a_disk_that_is_too_small_are_reported(config, no_steps, monkeypatch):
    with pytest.raises(UserError, match=r"cannot write to /proc/run: .*Choose another folder"):
        dry_run(dataclasses.replace(config, output_dir="/proc/run"))
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"needs 0\.0 GB, and only 0\.0 GB are free"):
        dry_run(config)
