"""The commands as users run them: as processes of their own where that matters."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keras_alexnet import cli, evaluate, fit
from keras_alexnet.errors import UserError

ROOT = Path(__file__).parent.parent
FIT = ("--preset=tiny", "--batch_size=8", "--learning_rate=0.001", "--lr_drop_epochs=")


def call(command, *arguments: str) -> None:
    """Runs a command in this process."""
    command.main(*cli.parse(command.define_flags, list(arguments)))


def start(command: str, *arguments: str) -> subprocess.Popen:
    """Starts a command as a process of its own."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", f"keras_alexnet.{command}", *arguments], **pipes)


def finished_epochs(folder: Path) -> list[list[str]]:
    """What history.csv has of each epoch, except times."""
    with contextlib.suppress(FileNotFoundError):
        return [row.split(",")[:13] for row in (folder / "history.csv").read_text().splitlines()[1:]]
    return []


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory):
    """The output folder of a run of two epochs, and what the command printed."""
    folder = tmp_path_factory.mktemp("trained")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        call(fit, *FIT, "--epochs=2", f"--data_dir={data_dir}", f"--output_dir={folder}")
    return folder, printed.getvalue().splitlines()


def test_fit_prints_a_line_per_epoch_and_little_else(trained):
    lines = trained[1]
    assert lines[0].startswith("24 training and 7 validation images of 3 classes, 874,195 parameters, float32, CPU")
    assert lines[2].startswith("Decoded images stay in memory")
    assert [line.split("  ")[0] for line in lines[3:5]] == ["epoch 1/2", "epoch 2/2"]
    # With three classes, the correct one is always in the top 5.
    validation = r"Validation after epoch 2: loss [\d.]+, top-1 error ([\d.]+)% \(accuracy [\d.]+%\)"
    assert re.fullmatch(validation, lines[5])
    assert "model.keras" in lines[6]
    assert len(lines) == 7


def test_flags_txt_names_the_same_run(trained, capsys):
    call(fit, f"--flagfile={trained[0]}/flags.txt")
    assert capsys.readouterr().out.startswith("Training is complete after 2 epochs. Inc")


def test_restart_and_dry_run_reach_the_training(monkeypatch):
    calls = []
    monkeypatch.setattr("keras_alexnet.report.train.train", lambda config, restart: calls.append(("train", restart)))
    monkeypatch.setattr("keras_alexnet.training.dry_run.dry_run", lambda config, restart: calls.append("dry_run"))
    call(fit)
    call(fit, "--restart")
    call(fit, "--dry_run")
    assert calls == [("train", False), ("train", True), "dry_run"]


def test_a_killed_run_resumes_after_its_last_epoch_and_a_signal_ends_it(trained, data_dir, tmp_path):
    arguments = (*FIT, f"--data_dir={data_dir}", f"--output_dir={tmp_path}", "--epochs=500")
    for number in (signal.SIGKILL, signal.SIGTERM):
        before = len(finished_epochs(tmp_path))
        process = start("fit", *arguments)
        while len(finished_epochs(tmp_path)) == before:
            time.sleep(0.05)
            assert process.poll() is None
        process.send_signal(number)
        stdout, stderr = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in stderr
    assert "resuming after epoch" in stdout
    saved = int(re.search(r"Stopped and saved after step (\d+), in epoch \d+\. Run the same command", stdout)[1])
    assert max((tmp_path / "checkpoint").iterdir()).name == f"step-{saved:09}.npz"
    # Nothing was lost, nothing done twice.
    epochs = finished_epochs(tmp_path)
    assert [int(row[0]) for row in epochs] == list(range(1, len(epochs) + 1))
    assert epochs[:2] == finished_epochs(trained[0])
    assert not list(tmp_path.rglob(".partial-*"))


def test_evaluate(trained, data_dir, tmp_path):
    metrics_file = tmp_path / "metrics.json"
    model = f"--model={trained[0]}/model.keras"
    process = start("evaluate", model, f"--data_dir={data_dir}", f"--metrics_file={metrics_file}")
    stdout, stderr = process.communicate()
    assert (process.returncode, stderr) == (0, "")
    metrics = json.loads(metrics_file.read_text())
    rates = {f"top{k}_{name}" for k in (1, 5) for name in ("error", "accuracy")}
    assert set(metrics) == {"examples", "loss", "preprocessing", "crops", *rates}
    top1_error = 100 * metrics["top1_error"]
    # With three classes, the correct one is always among the best five.
    assert stdout.splitlines()[:3] == [
        f"top-1 error {top1_error:.3f}%  (accuracy {100 - top1_error:.3f}%)",
        f"loss        {metrics['loss']:.4f}",
        "images      7",
    ]


def test_evaluate_takes_other_crops_and_needs_no_class_file(trained, data_dir, tmp_path, capsys):
    (tmp_path / "classmappings.txt").write_text("c\t0\nb\t1\na\t2\n")
    (tmp_path / "val_map.txt").write_bytes((data_dir / "val_map.txt").read_bytes())
    (tmp_path / "converted.keras").write_bytes((trained[0] / "model.keras").read_bytes())
    alone = (f"--model={tmp_path}/converted.keras", f"--data_dir={tmp_path}")
    of_a_map = (f"--model={trained[0]}/model.keras", f"--map_file={data_dir}/val_map.txt", "--batch_size=5")
    losses = set()
    for source, preprocessing, crops in ((alone, "cntk", 1), (of_a_map, "cntk", 10), (of_a_map, "caffe", 1)):
        settings = (f"--preprocessing={preprocessing}", f"--crops={crops}")
        call(evaluate, *source, *settings, f"--metrics_file={tmp_path}/metrics.json")
        metrics = json.loads((tmp_path / "metrics.json").read_text())
        assert (metrics["preprocessing"], metrics["crops"], metrics["examples"]) == (preprocessing, crops, 7)
        assert "images      7" in capsys.readouterr().out
        losses.add(metrics["loss"])
    assert len(losses) == 3


def test_evaluate_compares_the_classes_before_a_framework_starts(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "quiet_framework_start", None)
    (tmp_path / "classmappings.txt").write_text("n02\t0\nn01\t1\nn03\t2\n")
    with pytest.raises(UserError, match=r"in another order: label 0 is n01 in .*, but n02 in .*--classmappings"):
        call(evaluate, f"--model={trained[0]}/model.keras", f"--data_dir={tmp_path}")


def test_mistakes_in_evaluations_are_refused(trained, tmp_path):
    model = f"--model={trained[0]}/model.keras"
    (tmp_path / "bare.keras").write_bytes((trained[0] / "model.keras").read_bytes())
    (tmp_path / "classmappings.txt").write_text("a\t0\nb\t1\n")
    (tmp_path / "val_map.txt").write_text("a.jpg\t0\n")
    for arguments, expected_text in (
        ((model, f"--data_dir={tmp_path}"), "has 3 classes, but .* has 2"),
        ((f"--model={tmp_path}/bare.keras", f"--data_dir={tmp_path}"), "has 3 classes, but .* has 2"),
        ((model, "--batch_size=0"), "batch_size is 0; expected at least 1"),
        ((model, "--metrics_file=/dev/null"), "/dev/null.*not a regular file"),
        ((model, "stray"), "unexpected argument 'stray'.*--name=value"),
    ):
        with pytest.raises(UserError, match=f"(?s){expected_text}"):
            call(evaluate, *arguments)


@pytest.mark.parametrize("name", ["evaluate_bvlc", "evaluate_imagenet"])
def test_recipes_of_evaluations_have_flags_that_there_are(name):
    values, arguments = cli.parse(evaluate.define_flags, [f"--flagfile={name}"])
    assert (values.preprocessing, values.crops) == ("caffe" if name == "evaluate_bvlc" else "cntk", 1)
    assert arguments == []
    text = (ROOT / f"flags/{name}.flags").read_text()
    for head in ("Purpose", "Command", "Hardware", "Expected result", "Source of the numbers"):
        assert f"# {head}: " in text


def test_streams_may_be_closed_and_the_working_directory_deleted(tmp_path):
    (tmp_path / "gone").mkdir()
    prepare = f"{sys.executable} -m keras_alexnet.prepare --imagenet_dir={tmp_path}"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for command, expected_text in (
        (f"{prepare} >&-", "python -m keras_alexnet.prepare: there is no ILSVRC2012 in "),
        (f"{prepare} 2>&-", ""),
        (f"cd gone; rmdir ../gone; {prepare}", "python -m keras_alexnet.prepare: the working directory has been dele"),
    ):
        result = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert result.returncode == 1
        assert result.stderr.startswith(expected_text)
        assert "Traceback" not in result.stderr
