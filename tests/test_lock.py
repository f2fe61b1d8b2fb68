import errno
import fcntl
import os
import subprocess
import sys

import pytest

from keras_alexnet.errors import UserError
from keras_alexnet.system.lock import exclusive

HOLDER = """
import sys
from keras_alexnet.system.lock import exclusive
with exclusive(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_held_as_long_as_the_process_lives(tmp_path):
    folder = tmp_path / "new" / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"another process is writing to {folder}"), exclusive(folder):
        pass
    holder.kill()
    holder.communicate()
    with exclusive(folder):
        pass


def test_waiting_for_another_process(tmp_path):
    program = HOLDER.replace("sys.stdin.read()", "import time; time.sleep(0.2)")
    holder = subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with exclusive(tmp_path, wait=True):
        assert holder.wait(timeout=10) == 0
    holder.stdout.close()


def test_a_regular_file_that_is_open_for_writing_is_locked(tmp_path, monkeypatch):
    # NFS locks nothing else across hosts.
    locked = []
    monkeypatch.setattr(fcntl, "flock", lambda descriptor, _: locked.append(fcntl.fcntl(descriptor, fcntl.F_GETFL)))
    with exclusive(tmp_path):
        pass
    assert locked[0] & os.O_ACCMODE == os.O_RDWR
    assert (tmp_path / ".lock").is_file()


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, capsys):
    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with exclusive(tmp_path):
        pass
    assert f"{tmp_path} cannot be locked (No locks available): nothing prevents" in capsys.readouterr().err


def test_folders_that_cannot_be_made_are_told(tmp_path):
    (tmp_path / "link").symlink_to("/mnt/gone")
    (tmp_path / "file").touch()
    for folder, reason in (
        (tmp_path / "link", f"{tmp_path}/link is a link to /mnt/gone, which does not exist"),
        (tmp_path / "link" / "run", f"{tmp_path}/link is a link to /mnt/gone, which does not exist"),
        (tmp_path / "file", f"{tmp_path}/file is not a folder"),
    ):
        with pytest.raises(UserError, match=f"cannot write to {folder}: {reason}"), exclusive(folder):
            pass
