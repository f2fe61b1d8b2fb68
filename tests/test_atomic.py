import os
import subprocess
import sys
import time

import pytest

from keras_alexnet.errors import UserError
from keras_alexnet.system.atomic import atomic_path, check_folder, check_writable, partial_name, write_text


def test_file_takes_its_name_only_when_whole(tmp_path):
    final = tmp_path / "new" / "folder" / "model.keras"
    with atomic_path(final) as partial:
        partial.write_bytes(b"whole")
        assert not final.exists()
        assert partial.parent == final.parent
        assert partial.suffix == ".keras"
    assert final.read_bytes() == b"whole"
    assert os.listdir(final.parent) == ["model.keras"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), UserError("no")])
def test_failure_leaves_the_older_file_and_no_part(tmp_path, error):
    final = tmp_path / "file.txt"
    final.write_text("older")
    with pytest.raises(type(error)) as raised, atomic_path(final) as partial:
        partial.write_text("half")
        raise error
    assert raised.value is error
    assert final.read_text() == "older"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_only_files_are_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for target in (tmp_path / "folder", tmp_path / "pipe", "."):
        with pytest.raises(UserError, match="no regular file"):
            write_text(target, "text")
    assert (tmp_path / "pipe").is_fifo()


def test_full_disk_is_told(tmp_path):
    final = tmp_path / "file.txt"
    with (
        pytest.raises(UserError, match=r"cannot write .*file\.txt: No .*choose another"),
        atomic_path(final) as partial,
    ):
        partial.write_text("half")
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []


def test_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write to .*Choose another folder"):
        write_text(tmp_path / "file" / "below" / "x.txt", "text")


def test_name_taken_by_a_folder_is_told(tmp_path):
    (tmp_path / "x.txt").mkdir()
    with pytest.raises(UserError, match="cannot write"):
        write_text(tmp_path / "x.txt", "text")
    assert os.listdir(tmp_path) == ["x.txt"]


def test_what_a_killed_process_left_is_removed(tmp_path):
    kill = (
        "import os; from keras_alexnet.system.atomic import atomic_path\n"
        "with atomic_path('x.txt') as partial: partial.write_text('half'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", kill], cwd=tmp_path, check=False)
    assert len(os.listdir(tmp_path)) == 1
    elsewhere = tmp_path / f"{partial_name('x.txt')[:-4]}-other-1-x.txt"
    for age, left in [(0, [elsewhere.name]), (2 * 3600, [])]:
        elsewhere.write_text("of another machine, which may be at it")
        os.utime(elsewhere, (time.time() - age,) * 2)
        write_text(tmp_path / "x.txt", "second")
        assert (tmp_path / "x.txt").read_text() == "second"
        assert sorted(os.listdir(tmp_path)) == [*left, "x.txt"]


def test_writers_of_one_name_do_not_share_a_file(tmp_path):
    final = tmp_path / "x.txt"
    with atomic_path(final) as first:
        first.write_text("first")
        write_text(final, "second")
        assert final.read_text() == "second"
    assert final.read_text() == "first"
    assert os.listdir(tmp_path) == ["x.txt"]


def test_text_has_unix_line_ends_and_keeps_bytes_of_names(tmp_path):
    write_text(tmp_path / "x.txt", "é\n" + os.fsdecode(b"\xff\n"))
    assert (tmp_path / "x.txt").read_bytes() == "é\n".encode() + b"\xff\n"


@pytest.mark.parametrize("name", ["x" * 255, "é" * 124 + ".keras", "." + "y" * 254, "a." + "z" * 253])
def test_names_may_be_as_long_as_the_file_system_has_them(tmp_path, name):
    write_text(tmp_path / name, "text")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_partial_file_keeps_its_suffix(tmp_path):
    with atomic_path(tmp_path / "model.keras") as partial:
        assert partial.suffix == ".keras"
        partial.touch()


def test_what_cannot_be_written_is_found_before_the_work(tmp_path):
    for path, message in (
        (tmp_path / ("x" * 256), "File name too long"),
        ("/proc/none/file.json", "cannot write to /proc"),
        (tmp_path, "no regular file"),
    ):
        with pytest.raises(UserError, match=message):
            check_writable(path)
    check_writable(tmp_path / "new" / "folder" / "file.json")
    assert not list(tmp_path.iterdir())
    (tmp_path / "link").symlink_to("gone")
    with pytest.raises(UserError, match="link is a link to gone, which does not exist"):
        check_folder(tmp_path / "link")
