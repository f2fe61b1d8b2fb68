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
from keras_alexnet.__main__ import COMMANDS, command
from keras_alexnet.command_help import help_text
from keras_alexnet.errors import SettingError, UserError

GROUPS = {"Data": "data_dir", "Recipe": "epochs learning_rate drops=N,N,… seed mode", "Output": "output restart report"}


def define_flags(flag_values):
    cli.define_path("data_dir", "data", "Where the maps are.", flag_values)
    flags.DEFINE_integer("seed", 0, "Of the weights.", flag_values=flag_values)
    flags.DEFINE_enum(
        "mode",
        "fast",
        ["fast", "slow"],
        "fast: some images; slow: all.",
        flag_values=flag_values,
    )
    flags.DEFINE_string("output", None, "Where to write.", flag_values=flag_values)
    flags.DEFINE_integer("epochs", 112, "How many passes.", lower_bound=1, flag_values=flag_values)
    flags.DEFINE_float("learning_rate", 0.01, "The first rate.", flag_values=flag_values)
    flags.DEFINE_bool("restart", False, "Forget the checkpoint.", flag_values=flag_values)
    flags.DEFINE_bool("report", True, "Write a report.", flag_values=flag_values)
    flags.DEFINE_list("drops", ["25", "50"], "When the rate drops.", flag_values=flag_values)


def test_defaults_flags_and_positional_arguments_in_any_order():
    values, arguments = cli.parse(define_flags, ["a.jpg", "--epochs=3", "b.jpg", "--restart"])
    assert arguments == ["a.jpg", "b.jpg"]
    assert (values.epochs, values.restart, values.data_dir, values.output) == (3, True, "data", None)


@pytest.mark.parametrize(
    ("argument", "expected_text"),
    [("--epoch_count=3", "epoch_count"), ("--epochs=many", "many"), ("--epochs=0", "epochs"), ("--epochs", "epochs")],
)
def test_bad_flags_are_told(argument, expected_text):
    with pytest.raises(UserError, match=f"(?s){expected_text}.*--help"):
        cli.parse(define_flags, [argument])


def test_flagfile_is_read_and_the_last_flag_wins(tmp_path):
    flagfile = tmp_path / "recipe.flags"
    flagfile.write_text("# A recipe.\n--epochs=5\n--data_dir=/maps\n--noreport\n")
    values, _ = cli.parse(define_flags, [f"--flagfile={flagfile}", "--epochs=7"])
    assert (values.epochs, values.data_dir, values.report) == (7, "/maps", False)
    values, _ = cli.parse(define_flags, ["--epochs=7", f"--flagfile={flagfile}"])
    assert values.epochs == 5


def parse_path(value: str, **options) -> str:
    def define(flag_values):
        cli.define_path("path", None, "A path.", flag_values, **options)

    return cli.parse(define, [f"--path={value}"])[0].path


def test_paths(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert parse_path("~/x") == "/home/me/x"
    assert parse_path("./~x") == "./~x"
    assert parse_path("", may_be_empty=True) == ""
    for value, message in (
        ("", "the path is empty"),
        ('"/a b"', "quotation marks"),
        ("'/a'", "quotation marks"),
        ("~nobody_of_that_name/x", "no such home folder. Write ./~nobody_of_that_name/x"),
    ):
        with pytest.raises(UserError, match=message):
            parse_path(value)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_path_of_every_command_is_checked(name):
    values = command(name).flag_values()
    others = {"preset", "profile_steps", "features", "lr_drop_epochs", "mean", "std", "sha256", "weights_key"}
    for name in values:
        flag = values[name]
        if flag.flag_type() != "string" or name in others:
            continue
        values[name].parse("~/x")
        assert flag.value == os.path.expanduser("~/x"), name


def test_missing_flagfile_and_bad_line_in_it_are_told(tmp_path):
    with pytest.raises(UserError, match=r"none\.flags"):
        cli.parse(define_flags, [f"--flagfile={tmp_path}/none.flags"])
    (tmp_path / "bad.flags").write_text("--epoch_count=5\n")
    with pytest.raises(UserError, match="epoch_count"):
        cli.parse(define_flags, [f"--flagfile={tmp_path}/bad.flags"])


@pytest.mark.parametrize(
    ("backend", "expected_text"), [("theano", "expected one of tensorflow, jax, torch"), ("jax", "jax")]
)
def test_backends_that_cannot_be_had_are_told(monkeypatch, backend, expected_text):
    monkeypatch.setenv("KERAS_BACKEND", backend)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=expected_text), cli.quiet_framework_start():
        pass


def test_reject_positional():
    cli.reject_positional([])
    with pytest.raises(UserError, match=r"stray\.txt.*--name=value"):
        cli.reject_positional(["stray.txt"])


@pytest.fixture
def quiet_start_environment(monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    monkeypatch.delenv("GRPC_VERBOSITY", raising=False)
    yield
    os.environ.pop("GRPC_VERBOSITY", None)


def test_quiet_framework_start_hides_chatter_only_inside(capfd, quiet_start_environment):
    os.write(2, b"before\n")
    with cli.quiet_framework_start():
        os.write(2, b"chatter\n")
        assert os.environ["GRPC_VERBOSITY"] == "ERROR"
        assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0"  # the user's own choice stays
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "before\nafter\n"


def test_quiet_framework_start_shows_all_of_a_failed_import(capfd, quiet_start_environment):
    with pytest.raises(ImportError), cli.quiet_framework_start():
        os.write(2, b"libcudart is missing\n")
        raise ImportError
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "libcudart is missing\nafter\n"


def test_quiet_framework_start_spares_later_collections_what_it_imported(quiet_start_environment):
    gc.unfreeze()
    with cli.quiet_framework_start():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 1000


def run(monkeypatch, main, *arguments):
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.run(cli.Command(main, define_flags, "Does a thing.", GROUPS))
    return exit_.value.code


def test_run_tells_a_mistake_in_one_message(monkeypatch, capsys):
    def main(values, arguments):
        raise UserError("no images in /data")

    assert run(monkeypatch, main) == 1
    captured = capsys.readouterr()
    assert captured.err.endswith(": no images in /data\n")
    assert captured.out == ""


def test_run_ends_on_ctrl_c(monkeypatch, capsys):
    def main(values, arguments):
        raise KeyboardInterrupt

    assert run(monkeypatch, main) == 130
    assert capsys.readouterr().err.endswith(": interrupted\n")


def test_run_does_not_hide_a_fault_of_the_program(monkeypatch):
    def main(values, arguments):
        raise ZeroDivisionError

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(ZeroDivisionError):
        cli.run(cli.Command(main, define_flags, "Does a thing.", GROUPS))


def test_run_tells_output_that_cannot_be_written_and_no_other_fault(monkeypatch, capsys):
    def full(values, arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    assert run(monkeypatch, full) == 1
    assert "cannot write the output: No space left on device" in capsys.readouterr().err

    def other(values, arguments):
        raise TimeoutError("timed out")

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(TimeoutError):
        cli.run(cli.Command(other, define_flags, "Does a thing."))


def test_run_passes_flags_and_arguments(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "argv", ["command", "a.jpg", "--epochs=2"])
    cli.run(cli.Command(lambda values, arguments: seen.append((values.epochs, arguments)), define_flags, ""))
    assert seen == [(2, ["a.jpg"])]


@pytest.mark.parametrize("argument", ["--help", "-h", "-help"])
def test_help_lists_the_flags_by_group(monkeypatch, capsys, argument):
    monkeypatch.setenv("COLUMNS", "60")
    assert run(monkeypatch, None, "--epochs=2", argument) == 0
    help_ = capsys.readouterr().out
    assert help_.startswith("Does a thing.\n\nUsage: ")
    assert re.findall(r"^(\w+):$", help_, re.MULTILINE) == ["Data", "Recipe", "Output", "General"]
    for expected in (
        "  --data_dir=PATH  (default: data)\n      Where the maps are.\n",
        "  --epochs=N  (default: 112)\n",
        "  --seed=N  (default: 0)\n",
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
    description = """First line.

    A paragraph that is
    reflowed.

      python -m keras_alexnet.fit --data_dir=data --output_dir=models/x

      name      the first part of a long description of it
      other     short
    """
    description = "\n".join(line.removeprefix("    ") for line in description.splitlines())
    text = help_text(cli.Command(None, lambda values: None, description), "command", 50)
    assert text.startswith(
        "First line.\n\n"
        "A paragraph that is reflowed.\n\n"
        "  python -m keras_alexnet.fit --data_dir=data \\\n"
        "      --output_dir=models/x\n\n"
        "  name      the first part of a long description\n"
        "            of it\n"
        "  other     short\n\n"
        "Usage: command [--FLAG=VALUE …]\n"
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_is_in_one_group_of_the_help(name):
    names = [entry.partition("=")[0] for group in command(name).groups.values() for entry in group.split()]
    assert sorted(names) == sorted(command(name).flag_values())


def test_settings_are_flags_in_messages(monkeypatch, capsys):
    def main(values, arguments):
        raise SettingError("batch_size", "is 0; expected at least 1.")

    assert run(monkeypatch, main) == 1
    assert capsys.readouterr().err.endswith(": --batch_size is 0; expected at least 1.\n")
    with pytest.raises(UserError, match=r"^batch_size is 0"):
        main(None, [])


def test_version(monkeypatch, capsys):
    assert run(monkeypatch, None, "--epochs=2", "--version") == 0
    assert capsys.readouterr().out == f"keras_alexnet {keras_alexnet.__version__}\n"


def keras_alexnet_command(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "keras_alexnet", *arguments], capture_output=True, text=True, check=False, **options
    )


def test_one_command_for_all():
    result = keras_alexnet_command("fit", "--batch_size=0")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "python -m keras_alexnet fit: --batch_size is 0; expected at least 1.\n"
    assert keras_alexnet_command("--version").stdout == keras_alexnet_command("predict", "--version").stdout
    result = keras_alexnet_command("--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert re.findall(r"^  (\w+)  ", result.stdout, re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "problem"), [((), "a command is missing"), (("fitt", "--epochs=2"), "there is no command 'fitt'")]
)
def test_no_or_an_unknown_command_lists_the_commands(arguments, problem):
    result = keras_alexnet_command(*arguments)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"python -m keras_alexnet: {problem}. The commands are:\n  prepare ")
    assert len(result.stderr.splitlines()) == len(COMMANDS) + 2


def test_help_loads_no_framework():
    program = (
        "import atexit, sys; from keras_alexnet.__main__ import main; sys.argv = ['x', 'convert', '--help']; "
        "atexit.register(lambda: print({'keras', 'tensorflow'} & set(sys.modules), file=sys.stderr)); main()"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "set()\n")
