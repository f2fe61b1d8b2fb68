"""What XLA compiles is kept, and never stops a run."""

import json
import os
import subprocess
import sys

import pytest

from keras_alexnet import cli, fit
from keras_alexnet.system import compilation_cache


@pytest.fixture
def gpu_machine(monkeypatch):
    """A machine with a GPU, as far as the cache looks, on which nothing is set."""
    monkeypatch.setattr(compilation_cache, "count_gpus", lambda: 1)
    monkeypatch.setattr(compilation_cache.atexit, "register", lambda function: None)
    monkeypatch.setattr(compilation_cache, "_folder", None)
    monkeypatch.setattr(compilation_cache, "_recorded", {})
    for name in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        # Set and then deleted, so that what is set meanwhile is undone.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_a_filled_folder_is_used_without_a_word(gpu_machine, tmp_path):
    folder = tmp_path / "tensorflow"
    assert compilation_cache.start(str(tmp_path), "tensorflow").startswith("Compiling for this GPU")
    assert os.environ["XLA_FLAGS"] == f"--xla_gpu_per_fusion_autotune_cache_dir={folder}"
    (folder / "found").write_text("an algorithm")
    compilation_cache.record()
    assert compilation_cache.start(str(tmp_path), "tensorflow") is None
    assert (folder / "found").exists()


def test_damaged_and_unknown_files_are_removed(gpu_machine, tmp_path, monkeypatch):
    folder = tmp_path / "jax"
    compilation_cache.start(str(tmp_path), "jax")
    for name in ("whole", "cut"):
        (folder / "sub").mkdir(exist_ok=True)
        (folder / "sub" / name).write_text("a program")
    compilation_cache.record()
    (folder / "sub" / "cut").write_text("a pro")
    for name in ("of another process", "of a killed process"):
        (folder / name).write_text("a pro")
    os.utime(folder / "of a killed process", (0, 0))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    assert compilation_cache.start(str(tmp_path), "jax") is None
    assert [path.name for path in sorted(folder.rglob("*")) if path.is_file()] == [
        "checksums.json",
        "of another process",
        "whole",
    ]
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(folder)
    for text in ("{", "[]"):
        (folder / "checksums.json").write_text(text)
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
        assert compilation_cache.start(str(tmp_path), "jax").startswith("Compiling")


def test_a_folder_that_cannot_be_used_is_reported_and_not_used(gpu_machine, tmp_path):
    message = compilation_cache.start(str(tmp_path / "my programs"), "tensorflow")
    assert "a folder with a space in its name" in message  # XLA would cut it.
    (tmp_path / "file").write_text("")
    message = compilation_cache.start(str(tmp_path / "file"), "jax")
    assert message.startswith("The compilation cache is off: cannot write to")
    assert not {"XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR"} & os.environ.keys()
    compilation_cache.record()


def test_it_is_off_where_it_is_of_no_use(gpu_machine, monkeypatch, tmp_path):
    assert compilation_cache.start("off", "jax") is None
    assert compilation_cache.start(str(tmp_path), "torch") is None
    monkeypatch.setattr(compilation_cache, "count_gpus", lambda: 0)
    assert compilation_cache.start(str(tmp_path), "jax") is None
    assert not os.listdir(tmp_path)


def test_the_users_own_settings_stay(gpu_machine, monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "mine")
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=there")
    for backend in ("jax", "tensorflow"):
        compilation_cache.start(str(tmp_path), backend)
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "mine"
    assert os.environ["XLA_FLAGS"].startswith("--xla_dump_to=there --xla_gpu_per_fusion")


# `fit` on a machine that seems to have a GPU; at its end it prints the XLA_FLAGS that it has set.
FIT = """
import atexit, os
from keras_alexnet import cli, fit
from keras_alexnet.system import compilation_cache
compilation_cache.count_gpus = lambda: 1
atexit.register(lambda: print(os.environ.get("XLA_FLAGS", "")))
cli.run(fit.COMMAND)
"""


def test_a_command_starts_with_it_and_its_first_line_says_so(tmp_path):
    """TensorFlow ends a process at a flag of XLA that it does not know: it knows these."""
    arguments = (
        *("--synthetic_data", "--preset=tiny", "--epochs=1", "--steps_per_epoch=1", "--batch_size=2"),
        *(f"--output_dir={tmp_path}/run", f"--compilation_cache={tmp_path}/cache", "--deterministic"),
    )
    result = subprocess.run([sys.executable, "-c", FIT, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "cache" / "tensorflow"
    first, *_, xla_flags = result.stdout.splitlines()
    assert first.endswith(f"the result is cached in {folder}")
    assert xla_flags.split() == [
        "--xla_gpu_deterministic_ops=true",
        f"--xla_gpu_per_fusion_autotune_cache_dir={folder}",
    ]
    assert json.loads((folder / "checksums.json").read_text()) == {}


def test_a_trace_is_not_of_cached_programs(monkeypatch):
    settings = []

    def start(cache, **_):
        settings.append(cache)
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "quiet_framework_start", start)
    for arguments in (["--compilation_cache=a"], ["--compilation_cache=a", "--profile_steps=0:1"]):
        with pytest.raises(KeyboardInterrupt):
            fit.main(*cli.parse(fit.define_flags, arguments))
    assert [os.path.basename(setting) for setting in settings] == ["a", "off"]
