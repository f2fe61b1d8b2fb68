import dataclasses
import os
from pathlib import Path

import pytest

from keras_alexnet import cli, fit
from keras_alexnet.errors import UserError
from keras_alexnet.training.config import TrainConfig

FLAGFILES = sorted((Path(__file__).parent.parent / "flags").glob("fit_*.flags"))


def parse(*arguments: str) -> TrainConfig:
    return fit.config_from(cli.parse(fit.define_flags, list(arguments))[0])


def test_every_setting_is_a_flag_with_its_default():
    assert parse() == TrainConfig()


def test_flags_reach_the_settings():
    values = {
        "data_dir": "d",
        "output_dir": "o",
        "preset": "tiny",
        "epochs": 3,
        "steps_per_epoch": 7,
        "batch_size": 5,
        "learning_rate": 0.5,
        "lr_drop_epochs": (1, 2),
        "lr_drop_factor": 0.5,
        "momentum": 0.0,
        "weight_decay": 0.25,
        "dropout": 0.0,
        "precision": "mixed_bfloat16",
        "seed": 9,
        "strategy": "none",
        "jit_compile": "off",
        "deterministic": True,
        "initial_model": "m.keras",
        "freeze_through": "conv5",
        "synthetic_data": True,
        "cache": "off",
        "checkpoint_minutes": 0.5,
        "log_every": 20,
        "tensorboard": True,
        "report": True,
        "profile_steps": (10, 20),
    }
    assert set(values) == {field.name for field in dataclasses.fields(TrainConfig)}
    text = {**values, "lr_drop_epochs": "1,2", "profile_steps": "10:20"}
    config = parse(*(f"--{name}={value}" for name, value in text.items()))
    assert dataclasses.asdict(config) == values
    assert parse("--lr_drop_epochs=").lr_drop_epochs == ()


def test_flagfile_of_a_config_reproduces_it(tmp_path):
    config = TrainConfig(
        data_dir="some where",
        steps_per_epoch=3,
        lr_drop_epochs=(),
        learning_rate=1e-5,
        initial_model="m.keras",
        tensorboard=True,
        profile_steps=(10, 20),
    )
    (tmp_path / "flags.txt").write_text(config.flagfile())
    absolute = {name: os.path.abspath(getattr(config, name)) for name in ("data_dir", "output_dir", "initial_model")}
    assert parse(f"--flagfile={tmp_path}/flags.txt") == dataclasses.replace(config, **absolute)


@pytest.mark.parametrize(
    "flag",
    [
        *("preset=vgg", "epochs=0", "steps_per_epoch=0", "batch_size=0", "learning_rate=0", "learning_rate=nan"),
        *("lr_drop_epochs=3,2", "lr_drop_epochs=0", "lr_drop_epochs=two", "lr_drop_factor=2", "momentum=1"),
        *("weight_decay=-1", "dropout=1", "precision=float16", "seed=-1", "strategy=tpu", "jit_compile=maybe"),
        *("freeze_through=fc8", "checkpoint_minutes=0", "log_every=-1", "profile_steps=10", "profile_steps=a:b"),
        *("profile_steps=5:5", "profile_steps="),
    ],
)
def test_flags_out_of_bounds_are_told(flag):
    name = flag.split("=")[0]
    with pytest.raises(UserError, match=f"{name}.*(expected|should be)"):
        parse(f"--{flag}")


def test_library_use_is_checked_too():
    with pytest.raises(UserError, match=r"precision is float16; expected float32 or mixed_bfloat16\."):
        TrainConfig(precision="float16")


def test_a_run_must_not_replace_the_model_that_it_starts_from(tmp_path):
    with pytest.raises(UserError, match=r"initial_model is .*best\.keras, in the output directory"):
        TrainConfig(initial_model=f"{tmp_path}/run/best.keras", output_dir=f"{tmp_path}/other/../run")


@pytest.mark.parametrize("path", FLAGFILES, ids=lambda path: path.name)
def test_flagfiles_parse_and_are_headed(path):
    parse(f"--flagfile={path}")
    head = path.read_text(encoding="utf-8").split("\n--")[0]
    for word in ("Purpose:", "Command: python -m keras_alexnet.", "Hardware:", "Expected result:", "Source of the"):
        assert f"# {word}" in head


def test_imagenet_flagfile_is_cntks_recipe():
    assert "fit_imagenet.flags" in [path.name for path in FLAGFILES]
    assert parse(f"--flagfile={FLAGFILES[0].parent}/fit_imagenet.flags") == TrainConfig()
