"""Flags, help and error messages, which all commands share."""

import errno
import os
import pickle
import re
import subprocess
import sys

import pytest

import keras_alexnet
from keras_alexnet import cli, fit
from keras_alexnet.__main__ import COMMANDS, command, main
from keras_alexnet.command_help import help_text
from keras_alexnet.errors import SettingError, UserError


def test_flags_of_files_and_of_the_command_line_in_any_order(tmp_path):
    """The last one wins."""
    recipe = tmp_path / "recipe.flags"
    recipe.write_text("# A recipe.\n--epochs=5\n--data_dir=/maps\n--noreport\n")
    arguments = ["a.jpg", f"--flagfile={recipe}", "--epochs=7", "b.jpg", "--restart"]
    values, positional = cli.parse(fit.define_flags, arguments)
    assert positional == ["a.jpg", "b.jpg"]
    assert (values.epochs, values.data_dir, values.report, values.restart) == (7, "/maps", False, True)
    assert cli.parse(fit.define_flags, ["--epochs=7", f"--flagfile={recipe}"])[0].epochs == 5


@pytest.mark.parametrize("argument", ["--epoch_count=3", "--epochs=many"])
def test_bad_flags_are_refused(argument):
    with pytest.raises(UserError, match=rf"(?s){argument.strip('-').partition('=')[0]}.*--help"):
        cli.parse(fit.define_flags, [argument])


def test_paths(monkeypatch):
    def parse_path(value: str, **options) -> str:
        values, _ = cli.parse(lambda values: cli.define_path("path", None, "", values, **options), [f"--path={value}"])
        return values.path

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


def test_every_flag_is_in_one_group_of_the_help():
    for name in COMMANDS:
        names = [entry.partition("=")[0] for group in command(name).groups.values() for entry in group.split()]
        assert sorted(names) == sorted(command(name).flag_values())


def test_help_fits_the_terminal():
    help_ = help_text(fit.COMMAND, "fit", 70)
    headings = re.findall(r"^(\w+):$", help_, re.MULTILINE)
    assert headings == ["Data", "Network", "Recipe", "Devices", "Output", "General"]
    for expected in (
        "\n    python -m keras_alexnet.fit --flagfile=flags/fit_imagenet.flags \\\n        --data_dir=data",
        "\nUsage: fit [--FLAG=VALUE …]\n",
        "\n  --data_dir=PATH  (default: data)\n      Folder with train_map.txt, val_map.txt and classmappings.txt.\n",
        "\n  --epochs=N  (default: 112)\n",
        "\n  --learning_rate=NUMBER  (default: 0.01)\n",
        "\n  --lr_drop_epochs=N,N,…  (default: 25,50,75,100)\n",
        "\n  --cache=auto|off  (default: auto)\n      auto: if all ",
        "\n  --[no]restart\n",
        "\n  --flagfile=PATH\n",
    ):
        assert expected in help_
    assert max(map(len, help_.splitlines())) <= 70
    row_of_a_table = r"\n  train_map\.txt {6}<absolute path> TAB .*\n {21}\S"
    assert re.search(row_of_a_table, help_text(command("prepare"), "prepare", 70))


def test_frameworks_start_without_chatter_unless_they_fail(capfd):
    with cli.quiet_framework_start():
        os.write(2, b"chatter\n")
    with pytest.raises(ImportError), cli.quiet_framework_start():
        os.write(2, b"libcudart is missing\n")
        raise ImportError
    assert capfd.readouterr().err == "libcudart is missing\n"


def run(monkeypatch, error):
    """Runs a command that raises an error."""

    def main(values, arguments):
        raise error

    monkeypatch.setattr(sys, "argv", ["command"])
    cli.run(cli.Command(main, fit.define_flags, ""), "command")


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
    with pytest.raises(SystemExit, match=str(status)):
        run(monkeypatch, pickle.loads(pickle.dumps(error)))  # As another process hands it over.
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"command: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("fault", [ZeroDivisionError(), TimeoutError("timed out")])
def test_a_fault_of_the_program_is_not_hidden(monkeypatch, fault):
    with pytest.raises(type(fault)):
        run(monkeypatch, fault)


def call(monkeypatch, *arguments):
    """Calls the command of all commands in this process."""
    monkeypatch.setattr(sys, "argv", ["keras-alexnet", *arguments])
    main()


def test_one_command_for_all(monkeypatch, capsys):
    arguments = [sys.executable, "-m", "keras_alexnet", "fit", "--batch_size=0"]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "python -m keras_alexnet fit: --batch_size is 0; expected at least 1.\n"
    call(monkeypatch, "--version")
    with pytest.raises(SystemExit):
        call(monkeypatch, "predict", "--version")
    assert capsys.readouterr().out == f"keras_alexnet {keras_alexnet.__version__}\n" * 2


def test_the_commands_are_listed(monkeypatch, capsys):
    call(monkeypatch, "--help")
    assert re.findall(r"^  (\w+)  ", capsys.readouterr().out, re.MULTILINE) == list(COMMANDS)
    for arguments, problem in ([], "a command is missing"), (["fitt", "--epochs=2"], "there is no command 'fitt'"):
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
