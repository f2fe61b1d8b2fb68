"""The commands as processes of their own, as users run them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from absl import flags

from keras_alexnet import cli, evaluate, fit
from keras_alexnet.errors import UserError
from keras_alexnet.presets import PRESETS

STATUSES = {"SIGTERM": 143, "SIGHUP": 129}
ROOT = Path(__file__).parent.parent
FIT = ("fit", "--preset=tiny", "--batch_size=8", "--learning_rate=0.001", "--lr_drop_epochs=")


def run(command: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", f"keras_alexnet.{command}", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def error_of(command, *arguments: str) -> str:
    """The message with which a command refuses its arguments, in this process."""
    with pytest.raises(UserError) as caught:
        command.main(*cli.parse(command.define_flags, list(arguments)))
    return str(caught.value)


def assert_told(result: subprocess.CompletedProcess, *parts: str) -> None:
    """One message on stderr, no traceback, status 1."""
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("python -m keras_alexnet.")
    for part in parts:
        assert part in result.stderr


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory):
    """The output folder of a run of two epochs, and what the command printed."""
    folder = tmp_path_factory.mktemp("trained")
    result = run(*FIT, "--epochs=2", f"--data_dir={data_dir}", f"--output_dir={folder}")
    assert result.returncode == 0, result.stderr
    return folder, result


def test_fit_tells_each_epoch_and_nothing_else(trained):
    _, result = trained
    lines = result.stdout.splitlines()
    assert lines[0].startswith("24 training and 7 validation images of 3 classes, 874,195 parameters, float32, CPU")
    assert lines[2].startswith("Decoded images stay in memory")
    assert [line.split("  ")[0] for line in lines[3:5]] == ["epoch 1/2", "epoch 2/2"]
    assert re.fullmatch(
        # With three classes, the correct one is always in the top 5.
        r"Validation after epoch 2: loss [\d.]+, top-1 error ([\d.]+)% \(accuracy [\d.]+%\)",
        lines[5],
    )
    assert "model.keras" in lines[6]
    assert len(lines) == 7
    assert all(line.startswith("epoch ") for line in result.stderr.splitlines())  # progress, where it takes long


def test_flags_txt_names_the_same_run(trained, capsys):
    fit.main(*cli.parse(fit.define_flags, [f"--flagfile={trained[0]}/flags.txt"]))
    printed = capsys.readouterr()
    assert (printed.out.splitlines()[0][:40], printed.err) == ("Training is complete after 2 epochs. Inc", "")


def test_evaluate(trained, data_dir, tmp_path):
    folder, _ = trained
    metrics_file = tmp_path / "metrics.json"
    result = run(
        "evaluate", f"--model={folder}/model.keras", f"--data_dir={data_dir}", f"--metrics_file={metrics_file}"
    )
    assert (result.returncode, result.stderr) == (0, "")
    metrics = json.loads(metrics_file.read_text())
    rates = {f"top{k}_{name}" for k in (1, 5) for name in ("error", "accuracy")}
    assert set(metrics) == {"examples", "loss", "preprocessing", "crops", *rates}
    assert (metrics["preprocessing"], metrics["crops"]) == ("cntk", 1)
    assert metrics["examples"] == 7
    assert metrics["top1_error"] in [wrong / 7 for wrong in range(8)]
    top1_error = 100 * metrics["top1_error"]
    # With three classes, the correct one is always among the best five.
    assert result.stdout.splitlines()[:3] == [
        f"top-1 error {top1_error:.3f}%  (accuracy {100 - top1_error:.3f}%)",
        f"loss        {metrics['loss']:.4f}",
        "images      7",
    ]


def test_evaluate_takes_other_crops(trained, data_dir, tmp_path, capsys):
    """Each flag changes the loss, and is noted."""
    losses = set()
    for preprocessing, crops in (("cntk", 1), ("cntk", 10), ("caffe", 1), ("torchvision", 1)):
        arguments = [f"--model={trained[0]}/model.keras", f"--data_dir={data_dir}", f"--preprocessing={preprocessing}"]
        arguments += [f"--crops={crops}", f"--metrics_file={tmp_path}/metrics.json"]
        evaluate.main(*cli.parse(evaluate.define_flags, arguments))
        metrics = json.loads((tmp_path / "metrics.json").read_text())
        assert (metrics["preprocessing"], metrics["crops"], metrics["examples"]) == (preprocessing, crops, 7)
        assert "images      7" in capsys.readouterr().out
        losses.add(metrics["loss"])
    # A shorter side of 40: 227/256 of it is what the side of the network is of 256.
    assert len(losses) == 3


@pytest.mark.parametrize(
    ("mappings", "told"),
    [
        ("n01\t0\nn02\t1\nn03\t2\nn04\t3\n", ("model.keras has 3 classes, but ", "classmappings.txt has 4")),
        ("n02\t0\nn01\t1\nn03\t2\n", ("in another order: label 0 is n01 in ", "but n02 in ", "--classmappings")),
        ("n01\t0\nn02\t1\nn05\t2\n", ("other classes than the data: label 2 is n03 in ", "but n05 in ")),
    ],
)
def test_evaluate_compares_the_classes_before_the_work(trained, data_dir, tmp_path, mappings, told):
    (tmp_path / "classmappings.txt").write_text(mappings)
    (tmp_path / "val_map.txt").write_bytes((data_dir / "val_map.txt").read_bytes())
    program = (
        "import runpy, sys, atexit\n"
        f"sys.argv = ['evaluate', '--model={trained[0]}/model.keras', '--data_dir={tmp_path}']\n"
        "atexit.register(lambda: print('LOADED', sorted({'keras', 'tensorflow'} & set(sys.modules))))\n"
        "runpy.run_module('keras_alexnet.evaluate', run_name='__main__', alter_sys=True)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.stdout == "LOADED []\n"
    assert_told(result, *told)


def test_evaluate_without_a_class_file_or_with_a_map_alone(trained, data_dir, tmp_path, capsys):
    (tmp_path / "classmappings.txt").write_text("c\t0\nb\t1\na\t2\n")
    (tmp_path / "val_map.txt").write_bytes((data_dir / "val_map.txt").read_bytes())
    (tmp_path / "converted.keras").write_bytes((trained[0] / "model.keras").read_bytes())
    for arguments, images in (
        ([f"--model={tmp_path}/converted.keras", f"--data_dir={tmp_path}"], 7),
        ([f"--model={trained[0]}/model.keras", f"--map_file={data_dir}/train_map.txt", "--batch_size=5"], 24),
    ):
        evaluate.main(*cli.parse(evaluate.define_flags, arguments))
        assert f"images      {images}" in capsys.readouterr().out


def test_recipes_of_evaluations_have_flags_that_there_are():
    recipes = {path.stem: path for path in sorted((ROOT / "flags").glob("evaluate_*.flags"))}
    assert set(recipes) == {"evaluate_bvlc", "evaluate_imagenet"}
    for name, path in recipes.items():
        values, arguments = cli.parse(evaluate.define_flags, [f"--flagfile={path}"])
        assert (values.preprocessing, values.crops) == ("caffe" if name == "evaluate_bvlc" else "cntk", 1)
        assert arguments == []
        heads = ["# Purpose: ", "# Command: ", "# Hardware: ", "# Expected result: ", "# Source of the numbers: "]
        lines = [line for line in path.read_text().splitlines() if line.startswith("# ") and line[2] != " "]
        assert all(line.startswith(head) for head, line in zip(heads, lines, strict=True))


def test_restart_of_a_finished_run(trained, data_dir, tmp_path, capsys):
    shutil.copytree(trained[0], tmp_path / "run")
    arguments = [f"--data_dir={data_dir}", f"--output_dir={tmp_path}/run", *FIT[1:], "--epochs=1"]
    fit.main(cli.parse(fit.define_flags, [*arguments, "--restart"])[0], [])
    assert "Validation after epoch 1" in capsys.readouterr().out
    fit.main(cli.parse(fit.define_flags, arguments)[0], [])
    assert "Training is complete after 1 epochs" in capsys.readouterr().out


def test_streams_may_be_closed(tmp_path):
    command = f"{sys.executable} -m keras_alexnet.prepare --imagenet_dir={tmp_path}"
    assert subprocess.run(f"{command} >&-", shell=True, capture_output=True, check=False).returncode == 1
    result = subprocess.run(f"{command} >&-", shell=True, stderr=subprocess.PIPE, text=True, check=False)
    assert "Traceback" not in result.stderr
    assert "there is no ILSVRC2012 in" in result.stderr
    assert subprocess.run(f"{command} 2>&-", shell=True, stdout=subprocess.PIPE, check=False).returncode == 1


def test_mistakes_are_one_message(trained):
    assert_told(run("evaluate", f"--model={trained[0]}/model.keras", "stray"), "unexpected argument 'stray'")
    assert_told(run("fit", "--epochs=0"), "epochs is 0; expected at least 1.")


def test_evaluate_explains_mistakes(trained, data_dir, tmp_path):
    model = f"--model={trained[0]}/model.keras"
    (tmp_path / "not.keras").write_text("no zip")
    (tmp_path / "bare.keras").write_bytes((trained[0] / "model.keras").read_bytes())
    (tmp_path / "data").mkdir()
    (tmp_path / "data/classmappings.txt").write_text("a\t0\nb\t1\n")
    (tmp_path / "data/val_map.txt").write_text("a.jpg\t0\n")
    for arguments, parts in (
        ((f"--model={tmp_path}/not.keras", f"--data_dir={data_dir}"), ("not.keras", "Expected")),
        ((model, f"--data_dir={tmp_path}"), ("classmappings.txt", "keras_alexnet.prepare")),
        ((model, "--batch_size=0"), ("batch_size is 0; expected at least 1",)),
        ((model, "--crops=5"), ("crops is 5; expected 1 or 10",)),
        ((model, "--preprocessing=whole"), ("preprocessing", "cntk|caffe|torchvision")),
        ((model, "--metrics_file=/dev/null"), ("/dev/null", "not a regular file")),
        ((model, f"--data_dir={tmp_path}/data"), ("has 3 classes, but", "has 2")),
        ((f"--model={tmp_path}/bare.keras", f"--data_dir={tmp_path}/data"), ("has 3 classes, but", "has 2")),
    ):
        message = error_of(evaluate, *arguments)
        assert all(part in message for part in parts), message


def test_fit_explains_mistakes(data_dir, tmp_path):
    for arguments, parts in (
        ([f"--data_dir={tmp_path}"], ("cannot read", "keras_alexnet.prepare")),
        ([*FIT[1:], f"--data_dir={data_dir}", "--output_dir=/proc/no"], ("cannot write to /proc/no",)),
        (["--epoch=1"], ("epoch", "--help")),
    ):
        message = error_of(fit, *arguments)
        assert all(part in message for part in parts), message


@pytest.mark.parametrize("command", ["prepare", "fit", "evaluate"])
def test_help_loads_no_framework(command):
    program = (
        "import runpy, sys, atexit\n"
        f"sys.argv = ['{command}', '--help']\n"
        "frameworks = {'keras', 'tensorflow', 'jax', 'torch'}\n"
        "atexit.register(lambda: print('LOADED', sorted(frameworks & set(sys.modules))))\n"
        f"runpy.run_module('keras_alexnet.{command}', run_name='__main__', alter_sys=True)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith("LOADED []\n")
    assert "--data_dir" in result.stdout or "--imagenet_dir" in result.stdout


def test_help_of_fit_names_every_preset():
    values = flags.FlagValues()
    fit.define_flags(values)
    assert all(re.search(rf"\b{name}\b", values["preset"].help) for name in PRESETS)


def test_a_killed_run_resumes_after_its_last_epoch(trained, data_dir, tmp_path):
    command = [*FIT, f"--data_dir={data_dir}", f"--output_dir={tmp_path}", "--epochs=500"]
    process = subprocess.Popen([sys.executable, "-m", f"keras_alexnet.{command[0]}", *command[1:]])
    while not (tmp_path / "history.csv").exists():
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = len((tmp_path / "history.csv").read_text().splitlines()) - 1
    result = run(*command[:-1], f"--epochs={finished + 1}")
    assert result.returncode == 0, result.stderr
    assert "resuming after epoch" in result.stdout
    # The rows of the two runs' common epochs are the same: nothing was lost, nothing done twice.
    rows = [
        [row.split(",")[:13] for row in (folder / "history.csv").read_text().splitlines()]
        for folder in (tmp_path, trained[0])
    ]
    assert len(rows[0]) == finished + 2
    assert rows[0][:3] == rows[1][:3]
    assert not list(tmp_path.rglob(".partial-*"))


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), *(pytest.param(getattr(signal, n), s, marks=pytest.mark.slow) for n, s in STATUSES.items())],
)
def test_a_signal_saves_and_ends_with_its_status(data_dir, tmp_path, number, status):
    command = [*FIT, f"--data_dir={data_dir}", f"--output_dir={tmp_path}", "--epochs=500", "--steps_per_epoch=100"]
    process = subprocess.Popen(
        [sys.executable, "-m", f"keras_alexnet.{command[0]}", *command[1:], "--checkpoint_minutes=0.0001"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list((tmp_path / "checkpoint").glob("step-*.npz")):
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(number)
    stdout, stderr = process.communicate()
    assert process.returncode == status
    saved = int(re.search(r"Stopped and saved after step (\d+), in epoch 1\. Run the same command", stdout)[1])
    assert max((tmp_path / "checkpoint").iterdir()).name == f"step-{saved:09}.npz"
    assert "Traceback" not in stderr
    assert ("interrupted" in stderr) == (number == signal.SIGINT)


def test_a_deleted_working_directory_is_told(tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    command = f"rmdir {folder}; exec {sys.executable} -m keras_alexnet.prepare --train_dir=x"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    result = subprocess.run(
        command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert_told(result, "the working directory has been deleted. Change to another one")


def test_help_without_docstrings():
    command = [sys.executable, "-OO", "-m", "keras_alexnet.fit", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert "--output_dir" in result.stdout
