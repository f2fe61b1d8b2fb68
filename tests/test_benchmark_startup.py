import importlib.util
import re
import subprocess
import sys

import pytest
from benchmark_process import check_spread, figures_of, run
from benchmarks import startup

from keras_alexnet.data.map_file import read_map, write_map

SMALL = ("--lines=2000", "--batch_size=8", "--network=tiny", "--repeats=1")


@pytest.mark.slow
def test_it_measures_commands_first_steps_and_first_batches(tmp_path):
    figures, printed = figures_of(tmp_path, "startup", *SMALL)
    commands = ["python -c pass", *(f"{name} --help" for name in startup.COMMANDS)]
    assert list(figures["commands"]) == commands
    for name, figure in figures["commands"].items():
        check_spread(figure["seconds"])
        assert f"\n{name} " in printed

    has_torch = importlib.util.find_spec("torch") is not None
    assert list(figures["first_step"]) == ["fit, tensorflow", *(["PyTorch"] if has_torch else [])]
    for side in figures["first_step"].values():
        median = {part: figure["median"] for part, figure in side.items()}
        parts = median["import_seconds"] + median["build_seconds"] + median["first_step_seconds"]
        assert median["total_seconds"] == pytest.approx(parts)
        of_framework = median["import_seconds"] + median["second_step_seconds"]
        assert median["beyond_seconds"] == pytest.approx(median["total_seconds"] - of_framework)
        # What is between two moments of the same process; a build, beyond another's import, may be below 0 by chance.
        for part in ("total_seconds", "import_seconds", "first_step_seconds", "second_step_seconds"):
            check_spread(side[part])
    # The same network on both sides.
    assert len(set(re.findall(r": ([\d,]+) parameters, batch of 32\n", printed))) == 1
    if has_torch:
        ratio = re.search(r"fit, tensorflow takes (\d+\.\d\d) of the time of PyTorch until the first", printed)
        medians = [side["total_seconds"]["median"] for side in figures["first_step"].values()]
        assert float(ratio[1]) == pytest.approx(medians[0] / medians[1], abs=0.01)

    assert list(figures["first_batch"]) == ["0", "1000000"]
    for figure in figures["first_batch"].values():
        for values in figure.values():
            check_spread(values)
    assert "2,000 lines" in printed
    assert re.search(r"from step 0 +\d[\d.]* \(.*\) s beyond the import of \d", printed)
    assert re.search(r"from step 1,000,000 +\d[\d.]* \(.*\) s beyond the import of \d", printed)


@pytest.mark.parametrize("name", startup.COMMANDS)
def test_help_imports_no_framework(name):
    command = [sys.executable, "-X", "importtime", "-m", f"keras_alexnet.{name}", "--help"]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in process.stderr.splitlines()}
    assert "keras_alexnet.cli" in imported
    assert not imported & {"tensorflow", "keras", "jax", "torch", "onnx", "PIL"}


def test_a_long_map_names_the_drawn_images_again_and_again(tmp_path):
    different = startup.write_long_map(tmp_path / "map.txt", 150, None)
    image_map = read_map(tmp_path / "map.txt")
    assert (len(image_map), len(set(image_map.paths))) == (150, different)
    assert image_map.paths[different] == image_map.paths[0]


def test_a_long_map_of_given_images(tmp_path):
    write_map(tmp_path / "short.txt", [("/a", 1), ("/b", 0)])
    assert startup.write_long_map(tmp_path / "long.txt", 5, read_map(tmp_path / "short.txt")) == 2
    image_map = read_map(tmp_path / "long.txt")
    assert list(image_map.paths) == ["/a", "/b", "/a", "/b", "/a"]
    assert list(image_map.labels) == [1, 0, 1, 0, 1]


@pytest.mark.slow
def test_an_unreadable_image_is_named(tmp_path):
    write_map(tmp_path / "map.txt", [(str(tmp_path / "gone.JPEG"), 0)])
    write_map(tmp_path / "long.txt", [(str(tmp_path / "gone.JPEG"), 0)] * 20)
    with pytest.raises(startup.UserError, match=rf"cannot read the image {tmp_path}/gone.JPEG \(line 1 of "):
        startup.measure_fresh(tmp_path / "long.txt", 1, 8, 0)


@pytest.mark.slow
def test_a_training_that_ends_before_its_steps_is_told():
    with pytest.raises(startup.UserError, match=r"did no second step: .*epochs is 0"):
        startup._start_training([sys.executable, "-m", "keras_alexnet.fit", "--epochs=0"], {})


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--lines=20"], 1, "--lines is 20, expected at least the 256 of a batch"),
        (["--first_steps", "0", "-1"], 1, "--first_steps has -1, expected steps from 0 on"),
        (["--map={}/none.txt"], 1, "cannot read {}/none.txt: No such file"),
        (["--backends", "theano"], 2, "--backends: invalid choice: 'theano'"),
    ],
)
def test_mistakes_are_told_in_a_line(tmp_path, arguments, status, message):
    process = run("startup", *(argument.format(tmp_path) for argument in arguments))
    assert process.returncode == status
    assert "Traceback" not in process.stderr
    assert message.format(tmp_path) in process.stderr.splitlines()[-1]
