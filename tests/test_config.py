import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from keras_alexnet import cli, fit
from keras_alexnet.errors import UserError
from keras_alexnet.prepare import SMALL_BATCH_SIZE
from keras_alexnet.training.config import TrainConfig

FLAGFILES = sorted((Path(__file__).parent.parent / "flags").glob("fit_*.flags"))


def parse(*arguments: str) -> TrainConfig:
    return fit.config_from(cli.parse(fit.define_flags, list(arguments))[0])


def test_every_setting_is_a_flag_with_its_default():
    assert parse() == TrainConfig()


def test_the_flagfile_of_a_config_reproduces_every_setting(tmp_path):
    config = TrainConfig(
        data_dir="/some where",
        output_dir="/o",
        preset="tiny",
        epochs=3,
        steps_per_epoch=7,
        batch_size=5,
        learning_rate=1e-5,
        lr_drop_epochs=(1, 2),
        lr_drop_factor=0.5,
        momentum=0.0,
        weight_decay=0.25,
        dropout=0.0,
        precision="mixed_bfloat16",
        seed=9,
        strategy="none",
        jit_compile="off",
        deterministic=True,
        initial_model="/m.keras",
        freeze_through="conv5",
        synthetic_data=True,
        cache="off",
        checkpoint_minutes=0.5,
        log_every=20,
        tensorboard=True,
        report=True,
        profile_steps=(10, 20),
    )
    defaults = dataclasses.asdict(TrainConfig())
    assert not {name for name, value in dataclasses.asdict(config).items() if value == defaults[name]}
    (tmp_path / "flags.txt").write_text(config.flagfile())
    assert parse(f"--flagfile={tmp_path}/flags.txt") == config
    # Paths mean the same in any working directory.
    relative = dataclasses.replace(config, data_dir="data", lr_drop_epochs=())
    (tmp_path / "flags.txt").write_text(relative.flagfile())
    expected = dataclasses.replace(relative, data_dir=os.path.abspath("data"))
    assert parse(f"--flagfile={tmp_path}/flags.txt") == expected


@pytest.mark.parametrize(
    "flag",
    [
        *("preset=vgg", "epochs=0", "learning_rate=nan", "lr_drop_epochs=3,2", "lr_drop_epochs=two"),
        *("momentum=1", "precision=float16", "profile_steps=a:b", "profile_steps=5:5", "profile_steps="),
    ],
)
def test_flags_out_of_bounds_are_reported(flag):
    name = flag.split("=")[0]
    with pytest.raises(UserError, match=f"{name}.*(expected|should be)"):
        parse(f"--{flag}")


@pytest.mark.parametrize(
    "settings",
    [
        *({"steps_per_epoch": 0}, {"batch_size": 0}, {"lr_drop_factor": 2}, {"weight_decay": -1}, {"dropout": 1}),
        *({"seed": 2**32}, {"strategy": "tpu"}, {"jit_compile": "maybe"}, {"freeze_through": "fc8"}, {"cache": "on"}),
        *({"checkpoint_minutes": 0}, {"log_every": -1}, {"data_dir": ""}, {"output_dir": None}, {"epochs": 2.0}),
        *({"seed": "1"}, {"learning_rate": "0.1"}, {"lr_drop_epochs": None}, {"lr_drop_epochs": (1.5,)}),
    ],
)
def test_library_use_is_checked_too(settings):
    with pytest.raises(UserError, match=f"{next(iter(settings))} is .*; expected"):
        TrainConfig(**settings)


def test_numbers_of_numpy_and_paths_are_taken_as_plain_values():
    config = TrainConfig(Path("data"), batch_size=np.int32(8), dropout=np.float64(0.5), lr_drop_epochs=[np.int64(3)])
    assert config == TrainConfig("data", batch_size=8, dropout=0.5, lr_drop_epochs=(3,))
    assert {type(value) for value in (config.data_dir, config.batch_size, config.dropout)} == {str, int, float}


def test_frozen_layers_need_a_model_to_start_from():
    with pytest.raises(UserError, match="freeze_through is conv5, but without --initial_model"):
        TrainConfig(freeze_through="conv5")


def test_a_run_must_not_replace_the_model_that_it_starts_from(tmp_path):
    with pytest.raises(UserError, match=r"initial_model is .*best\.keras, in the output directory"):
        TrainConfig(initial_model=f"{tmp_path}/run/best.keras", output_dir=f"{tmp_path}/other/../run")


@pytest.mark.parametrize("path", FLAGFILES, ids=lambda path: path.name)
def test_flagfiles_parse_and_are_headed(path):
    model = ["--initial_model=model.keras"] if path.name == "fit_finetune.flags" else []
    parse(f"--flagfile={path}", *model)
    head = path.read_text(encoding="utf-8").split("\n--")[0]
    for word in ("Purpose:", "Command: python -m keras_alexnet.", "Hardware:", "Expected result:", "Source of the"):
        assert f"# {word}" in head


def test_prepare_knows_the_batch_size_of_the_small_recipe():
    (path,) = (path for path in FLAGFILES if path.name == "fit_small.flags")
    assert parse(f"--flagfile={path}").batch_size == SMALL_BATCH_SIZE


def test_imagenet_flagfile_is_cntks_recipe():
    assert "fit_imagenet.flags" in [path.name for path in FLAGFILES]
    assert parse(f"--flagfile={FLAGFILES[0].parent}/fit_imagenet.flags") == TrainConfig()
