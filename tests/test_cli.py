import errno
import gc
import importlib
import os
import sys

import pytest
from absl import flags

from keras_alexnet import cli
from keras_alexnet.errors import UserError


def define_flags(flag_values):
    flags.DEFINE_string("data_dir", "data", "Where the maps are.", flag_values=flag_values)
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
    ("argument", "told"),
    [("--epoch_count=3", "epoch_count"), ("--epochs=many", "many"), ("--epochs=0", "epochs"), ("--epochs", "epochs")],
)
def test_bad_flags_are_told(argument, told):
    with pytest.raises(UserError, match=f"(?s){told}.*--help"):
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


@pytest.mark.parametrize("command", ["prepare", "fit", "evaluate", "predict", "convert"])
def test_every_path_of_every_command_is_checked(command):
    define = importlib.import_module(f"keras_alexnet.{command}").define_flags
    values = flags.FlagValues()
    define(values)
    others = {"preset", "profile_steps", "features", "lr_drop_epochs", "mean", "std"}
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


@pytest.mark.parametrize(("backend", "told"), [("theano", "expected one of tensorflow, jax, torch"), ("jax", "jax")])
def test_backends_that_cannot_be_had_are_told(monkeypatch, backend, told):
    monkeypatch.setenv("KERAS_BACKEND", backend)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=told), cli.quiet_framework_start():
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
        cli.run(main, define_flags, "Does a thing.")
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
        cli.run(main, define_flags, "Does a thing.")


def test_run_tells_output_that_cannot_be_written_and_no_other_fault(monkeypatch, capsys):
    def full(values, arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    assert run(monkeypatch, full) == 1
    assert "cannot write the output: No space left on device" in capsys.readouterr().err

    def other(values, arguments):
        raise TimeoutError("timed out")

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(TimeoutError):
        cli.run(other, define_flags, "Does a thing.")


def test_run_passes_flags_and_arguments(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "argv", ["command", "a.jpg", "--epochs=2"])
    cli.run(lambda values, arguments: seen.append((values.epochs, arguments)), define_flags, "Does a thing.")
    assert seen == [(2, ["a.jpg"])]


@pytest.mark.parametrize("argument", ["--help", "-h", "-help"])
def test_help_names_every_flag_with_its_default(monkeypatch, capsys, argument):
    assert run(monkeypatch, None, "--epochs=2", argument) == 0
    text = capsys.readouterr().out
    assert text.startswith("Does a thing.\n")
    for expected in ("--epochs (default: 112)\n      How many passes.", "--[no]restart", "--output\n", "--flagfile"):
        assert expected in text
