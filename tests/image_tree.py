"""A command's worth of images to prepare, and ways to run `keras_alexnet.prepare` on them."""

import contextlib
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from drawn_images import draw, encode
from fake_ilsvrc import FakeIlsvrc
from one_process import one_process

from keras_alexnet import cli, prepare
from keras_alexnet.data import map_file

ROOT = Path(__file__).parent.parent


class Tree(FakeIlsvrc):
    """Six training images and three validation images of 60×40."""

    def __init__(self, root):
        super().__init__(root)
        self.images = sorted(self.train.glob("*/*")) + sorted(self.val.iterdir())
        for number, path in enumerate(self.images):
            path.write_bytes(encode(draw(60, 40, number), "JPEG", quality=90))


def arguments(tree, *more):
    return [f"--imagenet_dir={tree.root}", f"--output_dir={tree.root.parent}/data", "--num_processes=1", *more]


def call(tree, *more):
    """Runs the command in this process; returns the lines of bad_images.tsv below its head."""
    with one_process():
        prepare.main(*cli.parse(prepare.define_flags, arguments(tree, *more)))
    return listed(tree)


def start(tree, *more, before=(), **options):
    """Starts the command as a process of its own; `before` is a command that runs it."""
    command = [*before, sys.executable, "-m", "keras_alexnet.prepare", *arguments(tree, *more)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, **pipes, **options)


def listed(tree):
    head, *rows = (tree.root.parent / "data/bad_images.tsv").read_text().splitlines()
    assert head == "path\tseverity\tproblem"
    return [tuple(row.split("\t")) for row in rows]


def mapped(tree, name="train_map.txt"):
    return list(map_file.read_map(tree.root.parent / "data" / name).paths)


def flip_a_bit(tar, name, at):
    """In a file in a tar, whose time stays; `at` may count from its end."""
    with tarfile.open(tar) as archive:
        member = archive.getmember(name)
    mtime_ns = tar.stat().st_mtime_ns
    data = bytearray(tar.read_bytes())
    data[member.offset_data + at % member.size] ^= 4
    tar.write_bytes(data)
    os.utime(tar, ns=(mtime_ns, mtime_ns))


def workers_of(process):
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == process.pid and b"spawn_main" in (folder / "cmdline").read_bytes():
                found[int(folder.name)] = folder
    return found


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
