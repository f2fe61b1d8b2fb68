"""Flags, help and error messages, which all commands share."""

import errno
import gc
import os
import re
import subprocess
import sys

import pytest
from absl import flags

import keras_alexnet
from keras_alexnet import cli
from keras_alexnet.__main__ import COMMANDS, command, main
from keras_alexnet.command_help import help_text
from keras_alexnet.errors import SettingError, UserError

GROUPS = {"Data": "data_dir", "Recipe": "epochs learning_rate drops=N,N,… seed mode", "Output": "output restart report"}


def define_flags(flag_values):
    cli.define_path("data_dir", "data", "Where the maps are.", flag_values)
    flags.DEFINE_integer("seed", 0, "Of the weights.", flag_values=flag_values)
    modes = ["fast", "slow"]
    flags.DEFINE_enum("mode", "fast", modes, "fast: some images; slow: all.", flag_values=flag_values)
    flags.DEFINE_string("output", None, "Where to write.", flag_values=flag_values)
    flags.DEFINE_integer("epochs", 112, "How many passes.", lower_bound=1, flag_values=flag_values)
    flags.DEFINE_float("learning_rate", 0.01, "The first rate.", flag_values=flag_values)
    flags.DEFINE_bool("restart", False, "Forget the checkpoint.", flag_values=flag_values)
    flags.DEFINE_bool("report", True, "Write a report.", flag_values=flag_values)
    flags.DEFINE_list("drops", ["25", "50"], "When the rate drops.", flag_values=flag_values)


def test_flags_of_files_and_of_the_command_line_in_any_order(tmp_path):
    """The last one wins."""
    recipe = tmp_path / "recipe.flags"
    recipe.write_text("# A recipe.\n--epochs=5\n--data_dir=/maps\n--noreport\n")
    values, arguments = cli.parse(define_flags, ["a.jpg", f"--flagfile={recipe}", "--epochs=7", "b.jpg", "--restart"])
    assert arguments == ["a.jpg", "b.jpg"]
    assert (values.epochs, values.data_dir, values.report, values.restart) == (7, "/maps", False, True)
    assert cli.parse(define_flags, ["--epochs=7", f"--flagfile={recipe}"])[0].epochs == 5


@pytest.mark.parametrize("argument", ["--epoch_count=3", "--epochs=many"])
def test_bad_flags_are_refused(argument):
    with pytest.raises(UserError, match=rf"(?s){argument.strip('-').partition('=')[0]}.*--help"):
        cli.parse(define_flags, [argument])


def test_paths(monkeypatch):
    def parse_path(value: str, **options) -> str:
        return cli.parse(lambda values: cli.define_path("path", None, "", values, **options), [f"--path={value}"])[
            0
        ].path

    monkeypatch.setenv("HOME", "/home/me")
    assert parse_path("~/x") == "/home/me/x"
    assert parse_path("./~x") == "./~x"
    assert parse_path("", may_be_empty=True) == ""
    for value, message in (
        ("", "the path is empty"),
        ("'/a'", "quotation marks"),
        ("~nobody_of_that_name/x", "no such home folder. Write ./~nobody_of_that_name/x"),
    ):
        with pytest.raises(UserError, match=message):
            parse_path(value)


def test_every_path_of_every_command_is_checked():
    others = {"preset", "profile_steps", "features", "lr_drop_epochs", "mean", "std", "sha256", "weights_key"}
    for values in (command(name).flag_values() for name in COMMANDS):
        for name in set(values) - others:
            if values[name].flag_type() == "string":
                values[name].parse("~/x")
                assert values[name].value == os.path.expanduser("~/x"), name


@pytest.mark.parametrize(("backend", "message"), [("theano", "expected one of tensorflow, jax, torch"), ("jax", "jax")])
def test_backends_that_cannot_be_had_are_refused(monkeypatch, backend, message):
    monkeypatch.setenv("KERAS_BACKEND", backend)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=message), cli.quiet_framework_start():
        pass


def test_frameworks_start_without_chatter_and_without_collections(capfd, monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    gc.unfreeze()
    with cli.quiet_framework_start():
        os.write(2, b"chatter\n")
        assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0"  # the user's own choice stays
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 1000
    with pytest.raises(ImportError), cli.quiet_framework_start():
        os.write(2, b"libcudart is missing\n")
        raise ImportError
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "libcudart is missing\nafter\n"


def run(monkeypatch, main, *arguments):
    """Runs a command that exits; returns its status."""
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.run(cli.Command(main, define_flags, "Does a thing.", GROUPS), "command")
    return exit_.value.code


def raising(error):
    def main(values, arguments):
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UserError("no images in /data"), 1, "no images in /data"),
        (SettingError("batch_size", "is 0; expected at least 1."), 1, "--batch_size is 0; expected at least 1."),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.ENOSPC, "No space left"), 1, "cannot write the output: No space left"),
    ],
)
def test_a_mistake_is_one_message(monkeypatch, capsys, error, status, message):
    assert run(monkeypatch, raising(error)) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"command: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("fault", [ZeroDivisionError(), TimeoutError("timed out")])
def test_a_fault_of_the_program_is_not_hidden(monkeypatch, fault):
    with pytest.raises(type(fault)):
        run(monkeypatch, raising(fault))


def test_help_lists_the_flags_by_group(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    assert run(monkeypatch, None, "--epochs=2", "--help") == 0
    help_ = capsys.readouterr().out
    assert help_.startswith("Does a thing.\n\nUsage: ")
    assert re.findall(r"^(\w+):$", help_, re.MULTILINE) == ["Data", "Recipe", "Output", "General"]
    for expected in (
        "  --data_dir=PATH  (default: data)\n      Where the maps are.\n",
        "  --epochs=N  (default: 112)\n",
        "  --learning_rate=NUMBER  (default: 0.01)\n",
        "  --drops=N,N,…  (default: 25,50)\n",
        "  --mode=fast|slow  (default: fast)\n      fast: some images; slow: all.\n",
        "  --[no]restart\n",
        "  --[no]report  (default: true)\n",
        "  --output=TEXT\n",
        "  --flagfile=PATH\n",
    ):
        assert expected in help_
    assert max(map(len, help_.splitlines())) <= 60


def test_help_keeps_examples_and_tables_usable():
    description = (
        "First line.\n\nA paragraph that is\nreflowed.\n\n"
        "  python -m keras_alexnet.fit --data_dir=data --output_dir=models/x\n\n"
        "  name      the first part of a long description of it\n"
        "  other     short\n"
    )
    text = help_text(cli.Command(None, lambda values: None, description), "command", 50)
    assert text.startswith(
        "First line.\n\nA paragraph that is reflowed.\n\n"
        "  python -m keras_alexnet.fit --data_dir=data \\\n"
        "      --output_dir=models/x\n\n"
        "  name      the first part of a long description\n"
        "            of it\n"
        "  other     short\n\n"
        "Usage: command [--FLAG=VALUE …]\n"
    )


def test_every_flag_is_in_one_group_of_the_help():
    for name in COMMANDS:
        names = [entry.partition("=")[0] for group in command(name).groups.values() for entry in group.split()]
        assert sorted(names) == sorted(command(name).flag_values())


def call(monkeypatch, *arguments):
    """Calls the command of all commands in this process."""
    monkeypatch.setattr(sys, "argv", ["keras-alexnet", *arguments])
    main()


def test_one_command_for_all(monkeypatch, capsys):
    arguments = [sys.executable, "-m", "keras_alexnet", "fit", "--batch_size=0"]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "python -m keras_alexnet fit: --batch_size is 0; expected at least 1.\n"
    call(monkeypatch, "--help")
    assert re.findall(r"^  (\w+)  ", capsys.readouterr().out, re.MULTILINE) == list(COMMANDS)
    call(monkeypatch, "--version")
    with pytest.raises(SystemExit):
        call(monkeypatch, "predict", "--version")
    assert capsys.readouterr().out == f"keras_alexnet {keras_alexnet.__version__}\n" * 2


@pytest.mark.parametrize(
    ("arguments", "problem"), [((), "a command is missing"), (("fitt", "--epochs=2"), "there is no command 'fitt'")]
)
def test_no_or_an_unknown_command_lists_the_commands(monkeypatch, capsys, arguments, problem):
    with pytest.raises(SystemExit, match="1"):
        call(monkeypatch, *arguments)
    assert capsys.readouterr().err.startswith(f"keras-alexnet: {problem}. The commands are:\n  prepare ")


def test_help_loads_no_framework_and_needs_no_docstrings():
    program = """
import sys
from keras_alexnet.__main__ import COMMANDS, main
for name in COMMANDS:
    sys.argv = ["x", name, "--help"]
    try:
        main()
    except SystemExit:
        print("exit of", name)
print({"keras", "tensorflow", "jax", "torch"} & set(sys.modules))
"""
    result = subprocess.run([sys.executable, "-OO", "-c", program], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert re.findall(r"^exit of (\w+)$", result.stdout, re.MULTILINE) == list(COMMANDS)
    assert "--output_dir" in result.stdout
    assert result.stdout.endswith("set()\n")
