"""Complete files, and one process at a time, in a folder."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from keras_alexnet.errors import UserError
from keras_alexnet.system.atomic import atomic_path, check_folder, check_writable, write_text
from keras_alexnet.system.lock import exclusive


def test_file_takes_its_name_only_when_complete(tmp_path):
    final = tmp_path / "new" / "folder" / "model.keras"
    with atomic_path(final) as partial:
        partial.write_bytes(b"complete")
        assert not final.exists()
        assert partial.parent == final.parent
        assert partial.suffix == ".keras"
    assert final.read_bytes() == b"complete"
    assert os.listdir(final.parent) == ["model.keras"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyboardInterrupt("stop"), "stop"),
        (OSError(28, "No space left on device"), r"cannot write .*file\.txt: No space left"),
    ],
)
def test_failure_leaves_the_older_file_and_no_part(tmp_path, error, message):
    final = tmp_path / "file.txt"
    final.write_text("older")
    with pytest.raises((KeyboardInterrupt, UserError), match=message), atomic_path(final) as partial:
        partial.write_text("half")
        raise error
    assert final.read_text() == "older"
    assert os.listdir(tmp_path) == ["file.txt"]


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
    names = [f".partial-{'0' * 16}-{host}-1-{'0' * 8}.txt" for host in ("0" * 8, "1" * 8)]
    for name, age in zip(names, (0, 2 * 24 * 60 * 60), strict=True):
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    write_text(tmp_path / "x.txt", "complete")
    assert sorted(os.listdir(tmp_path)) == [names[0], "x.txt"]


def test_text_has_unix_line_ends_the_bytes_of_names_and_the_mode_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "x.txt", "é\n" + os.fsdecode(b"\xff\n"))
    finally:
        os.umask(before)
    assert (tmp_path / "x.txt").read_bytes() == "é\n".encode() + b"\xff\n"
    assert (tmp_path / "x.txt").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", ["é" * 124 + ".keras", "a." + "z" * 253])
def test_names_may_be_as_long_as_the_file_system_has_them(tmp_path, name):
    write_text(tmp_path / name, "text")
    assert os.listdir(tmp_path) == [name]


def test_what_cannot_be_written_is_found_before_the_work(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("gone")
    before = os.listdir(tmp_path)
    for path, message in (
        (tmp_path / ("x" * 256), "File name too long"),
        ("/proc/none/file.json", "cannot write to /proc"),
        (tmp_path, "not a regular file"),
        (tmp_path / "pipe", "not a regular file"),
        (tmp_path / "link/file.json", "link is a link to gone, which does not exist"),
        (tmp_path / "file/file.json", "Not a directory"),
    ):
        with pytest.raises(UserError, match=message):
            check_writable(path)
    with pytest.raises(UserError, match="not a regular file"):
        write_text(tmp_path / "pipe", "text")
    assert (tmp_path / "pipe").is_fifo()
    check_writable(tmp_path / "new" / "folder" / "file.json")
    assert check_folder(tmp_path / "new" / "folder") == tmp_path
    assert os.listdir(tmp_path) == before


HOLDER = """
import sys
from keras_alexnet.system.lock import exclusive
with exclusive(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_held_as_long_as_the_process_lives(tmp_path):
    folder = tmp_path / "new" / "run"
    command = [sys.executable, "-c", HOLDER, folder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"another process is writing to {folder}"), exclusive(folder):
            pass
        threading.Timer(0.2, holder.kill).start()
        with exclusive(folder, wait=True):
            assert holder.wait(timeout=10) == -signal.SIGKILL


def test_a_regular_file_that_is_open_for_writing_is_locked(tmp_path, monkeypatch):
    # NFS locks nothing else across hosts.
    locked = []
    monkeypatch.setattr(fcntl, "flock", lambda descriptor, _: locked.append(fcntl.fcntl(descriptor, fcntl.F_GETFL)))
    with exclusive(tmp_path):
        pass
    assert locked[0] & os.O_ACCMODE == os.O_RDWR
    assert (tmp_path / ".lock").is_file()


def test_a_file_system_without_locks_is_reported(tmp_path, monkeypatch, capsys):
    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with exclusive(tmp_path):
        pass
    assert f"{tmp_path} cannot be locked (No locks available): nothing prevents" in capsys.readouterr().err


def test_folders_that_cannot_be_made_are_reported(tmp_path):
    (tmp_path / "link").symlink_to("/mnt/gone")
    (tmp_path / "file").touch()
    for name, reason in (
        ("link/run", "link is a link to /mnt/gone, which does not exist"),
        ("file", "is not a folder"),
    ):
        with pytest.raises(UserError, match=reason), exclusive(tmp_path / name):
            pass


def test_nfs_and_other_users_files(tmp_path, monkeypatch):
    """NFS may answer with EACCES where another process holds the lock; another user's lock file is opened to read."""
    with monkeypatch.context() as patch, pytest.raises(UserError, match="another process is writing to"):
        patch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(PermissionError(errno.EACCES, "denied")))
        with exclusive(tmp_path):
            pass
    open_file, flags = os.open, []

    def open_anothers(path, flag, mode=0o777):
        flags.append(flag)
        if flag & os.O_RDWR:
            raise PermissionError(errno.EACCES, "denied")
        return open_file(path, flag, mode)

    monkeypatch.setattr(os, "open", open_anothers)
    with exclusive(tmp_path):
        assert flags[-1] == os.O_RDONLY
