"""The command of the benchmarks; what each measures has a file of its own."""

import json
import re

import pytest
from benchmark_process import run

from keras_alexnet.data.map_file import write_map


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["input", "--map={}/none.txt"], 1, "cannot read {}/none.txt: No such file"),
        (["input", "--map={}/map.txt", "--images=8"], 1, "--images is 8, expected at least the 64 of a batch"),
        (["input", "--map={}/map.txt", "--json={}"], 1, "cannot write {}: it is no regular file"),
        (["input", "--map={}/map.txt", "--repeats=0"], 2, "--repeats: expected an integer of at least 1, got '0'"),
        (["step", "--network=vgg"], 2, "--network: invalid choice: 'vgg'"),
        (["step", "--backends", "theano"], 2, "--backends: invalid choice: 'theano'"),
        ([], 2, "required: BENCHMARK"),
    ],
)
def test_mistakes_are_told_in_a_line(tmp_path, arguments, status, message):
    if "--images=8" in arguments:
        pytest.importorskip("simplejpeg")
    write_map(tmp_path / "map.txt", [(str(tmp_path / "gone.JPEG"), 0)])
    process = run(*(argument.format(tmp_path) for argument in arguments))
    assert process.returncode == status
    assert "Traceback" not in process.stderr
    assert message.format(tmp_path, tmp_path) in process.stderr.splitlines()[-1]


def test_help_tells_what_each_measures():
    process = run("--help")
    assert (process.returncode, process.stderr) == (0, "")
    for name in ("step", "layers", "input", "fit", "scaling", "prepare", "checkpoint", "startup", "convert", "all"):
        assert re.search(rf"^    {name}\b", process.stdout, re.MULTILINE)


@pytest.mark.slow
def test_all_goes_on_after_a_failure_and_names_it(tmp_path):
    # A folder stands where the figures of one are to be written.
    (tmp_path / "figures" / "checkpoint.json").mkdir(parents=True)
    process = run("all", "--quick", f"--json={tmp_path}/figures", "--only", "prepare", "checkpoint", "convert")
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1].endswith("1 of 3 benchmarks failed, with a message above: checkpoint")
    for name in ("prepare", "convert"):
        figures = json.loads((tmp_path / "figures" / f"{name}.json").read_text())
        assert {"machine", "versions", "date", "command"} <= figures.keys()
        assert f"benchmark.py {name} --quick" in figures["command"]
