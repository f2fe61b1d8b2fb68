import os
import subprocess
import sys
import time

import pytest

from keras_alexnet.errors import UserError
from keras_alexnet.system.atomic import atomic_path, check_folder, check_writable, write_text


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
        with pytest.raises(UserError, match="not a regular file"):
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


def test_writers_of_one_target_have_files_of_their_own_and_the_last_one_wins(tmp_path):
    final = tmp_path / "x.txt"
    with atomic_path(final) as first:
        with atomic_path(final) as second:
            first.write_text("first")
            second.write_text("second")
        assert final.read_text() == "second"
    assert final.read_text() == "first"
    assert os.listdir(tmp_path) == ["x.txt"]


KILLED = """
import os, sys
from keras_alexnet.system.atomic import atomic_path
with atomic_path(sys.argv[1]) as partial:
    partial.write_text("half")
    os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_left_is_removed_by_the_next_write_to_the_folder(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, tmp_path / "step-1.npz"], check=False)
    (left,) = os.listdir(tmp_path)
    assert left.startswith(".partial-")
    write_text(tmp_path / "step-2.npz", "complete")
    assert os.listdir(tmp_path) == ["step-2.npz"]


def test_leftovers_of_other_machines_are_removed_after_a_day(tmp_path):
    for host, age in (("0" * 8, 0), ("1" * 8, 2 * 24 * 60 * 60)):
        path = tmp_path / f".partial-{'0' * 16}-{host}-1-{'0' * 8}.txt"
        path.write_text("half")
        os.utime(path, (time.time() - age,) * 2)
    write_text(tmp_path / "x.txt", "complete")
    assert sorted(os.listdir(tmp_path)) == [f".partial-{'0' * 16}-{'0' * 8}-1-{'0' * 8}.txt", "x.txt"]


def test_files_have_the_mode_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "x.txt", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "x.txt").stat().st_mode & 0o777 == 0o640


def test_text_has_unix_line_ends_and_keeps_bytes_of_names(tmp_path):
    write_text(tmp_path / "x.txt", "é\n" + os.fsdecode(b"\xff\n"))
    assert (tmp_path / "x.txt").read_bytes() == "é\n".encode() + b"\xff\n"


@pytest.mark.parametrize("name", ["x" * 255, "é" * 124 + ".keras", "." + "y" * 254, "a." + "z" * 253])
def test_names_may_be_as_long_as_the_file_system_has_them(tmp_path, name):
    write_text(tmp_path / name, "text")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_cannot_be_written_is_found_before_the_work(tmp_path):
    for path, message in (
        (tmp_path / ("x" * 256), "File name too long"),
        ("/proc/none/file.json", "cannot write to /proc"),
        (tmp_path, "not a regular file"),
    ):
        with pytest.raises(UserError, match=message):
            check_writable(path)
    check_writable(tmp_path / "new" / "folder" / "file.json")
    assert not list(tmp_path.iterdir())
    (tmp_path / "link").symlink_to("gone")
    with pytest.raises(UserError, match="link is a link to gone, which does not exist"):
        check_folder(tmp_path / "link")
