"""Smaller copies in one tar per split."""

import os
import tarfile

import numpy as np
import pytest
from drawn_images import encode
from image_tree import Tree, call, mapped, start

from keras_alexnet.data import map_file
from keras_alexnet.errors import UserError


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path / "imagenet")


@pytest.fixture
def small(tmp_path):
    return tmp_path / "small"


def into_tar(folder, side=32):
    return [f"--resize_shorter_side={side}", f"--resized_dir={folder}", "--resized_format=tar"]


def contents(path):
    """The bytes of each file in a tar, as another program reads it."""
    with tarfile.open(path) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


def mark(path, name):
    """Changes the last byte before the end of a copy, to distinguish it from one that is made again."""
    with tarfile.open(path) as archive:
        member = next(member for member in archive if member.name == name)
    with open(path, "r+b") as file:
        file.seek(member.offset_data + member.size - 3)
        byte = file.read(1)[0] ^ 1
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte]))


def names_of(tree):
    return [str(path.relative_to(tree.train)) for path in tree.images[:6]]


def test_a_tar_has_the_same_copies_as_files(tree, tmp_path, small):
    long = tree.images[0].with_name(f"{tree.images[0].parent.name}_{'é' * 60}.JPEG")
    tree.images[0].rename(long)
    call(tree, "--resize_shorter_side=32", f"--resized_dir={tmp_path}/files")
    expected = [map_file.read_map(tmp_path / f"data/{part}_map.txt") for part in ("train", "val")]
    call(tree, *into_tar(small))
    found = [map_file.read_map(tmp_path / f"data/{part}_map.txt") for part in ("train", "val")]
    for got, wanted, part in zip(found, expected, ("train", "val"), strict=True):
        rows = range(len(wanted))
        assert got.read_many(rows) == wanted.read_many(rows)
        assert got.labels == wanted.labels
        start_of = {str(tmp_path / "files" / part): f"{small}/{part}.tar@"}
        assert list(got.paths) == [path.replace(*next(iter(start_of.items()))) for path in wanted.paths]
        assert list(contents(small / f"{part}.tar").values()) == got.read_many(rows)
    assert (tmp_path / "data/train_map.index.npz").exists()
    assert sorted(path.name for path in small.iterdir()) == [".lock", "resize.json", "train.tar", "val.tar"]


def test_what_has_changed_is_done_again_and_nothing_else(tree, small):
    names = names_of(tree)
    call(tree, *into_tar(small))
    first = (small / "train.tar").stat()
    call(tree, *into_tar(small))
    assert (small / "train.tar").stat() == first
    mark(small / "train.tar", names[1])
    before = contents(small / "train.tar")
    # One anew, one gone.
    tree.images[0].write_bytes(tree.images[3].read_bytes())
    os.utime(tree.images[0], (1, 1))
    tree.images[5].unlink()
    call(tree, *into_tar(small))
    after = contents(small / "train.tar")
    assert after == {name: before[name] for name in names[1:5]} | {names[0]: before[names[3]]}
    assert map_file.read_map(small.parent / "data/train_map.txt").read(0) == before[names[3]]
    # One gone, and nothing to do.
    tree.images[1].unlink()
    call(tree, *into_tar(small))
    assert contents(small / "train.tar") == {name: data for name, data in after.items() if name != names[1]}


@pytest.mark.parametrize("cut", ["in a header", "in a copy", "behind a copy", "zeros", "another file"])
def test_it_goes_on_behind_the_last_copy_that_is_whole(tree, small, cut):
    names = names_of(tree)
    call(tree, *into_tar(small))
    expected = contents(small / "train.tar")
    partial = small / "train.tar.partial"
    (small / "train.tar").rename(partial)
    with tarfile.open(partial) as archive:
        members = {member.name: member for member in archive}
    mark(partial, names[1])
    marked = contents(partial)[names[1]]
    third = members[names[2]]
    at = {
        "in a header": third.offset + 100,
        "in a copy": third.offset_data + 100,
        "behind a copy": third.offset,
        "zeros": third.offset_data + 100,
        "another file": third.offset,
    }[cut]
    os.truncate(partial, at)
    if cut == "zeros":  # As a power loss may leave it.
        os.truncate(partial, at + 20_000)
    if cut == "another file":  # Its original has been removed.
        with open(partial, "ab") as file:
            gone = tarfile.TarInfo("gone.JPEG")
            gone.size = 512
            file.write(gone.tobuf() + bytes(510) + b"\xff\xd9")
        marked = expected[names[1]]
    call(tree, *into_tar(small))
    assert contents(small / "train.tar") == expected | {names[1]: marked}
    assert not partial.exists()


def test_it_goes_on_with_new_copies_beside_a_finished_tar(tree, small):
    names = names_of(tree)
    call(tree, *into_tar(small))
    expected = contents(small / "train.tar")
    # As if the first images had come later, and the run had been killed while it appended the older copies.
    (small / "train.tar").rename(small / "all.tar")
    for path, chosen in (("train.tar", names[2:]), ("train.tar.partial", names[:2])):
        with tarfile.open(small / "all.tar") as old, tarfile.open(small / path, "w") as new:
            for member in old:
                if member.name in chosen:
                    new.addfile(member, old.extractfile(member))
    call(tree, *into_tar(small))
    assert contents(small / "train.tar") == expected
    assert sorted(mapped(tree)) == sorted(f"{small}/train.tar@/{name}" for name in names)


def test_a_full_disk_is_told_and_writing_goes_on(tree, small):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    tree.images[4].write_bytes(encode(noise, "JPEG", quality=99))
    process = start(tree, *into_tar(small, 64), before=["sh", "-c", 'ulimit -f 16; exec "$@"', "sh"])
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err.startswith(f"python -m keras_alexnet.prepare: cannot write {small}/train.tar: File too large. Make room")
    assert len(err.splitlines()) == 1
    assert not (small / "train.tar").exists()
    assert not (small.parent / "data/train_map.txt").exists()
    mark(small / "train.tar.partial", names_of(tree)[0])
    call(tree, *into_tar(small, 64))
    made = contents(small / "train.tar")
    # Not made again: the mark is still there.
    assert made[names_of(tree)[0]] != made[names_of(tree)[1]]
    assert len(made) == 6


def test_a_full_disk_while_older_copies_are_carried_over_is_told_and_costs_none(tree, small):
    call(tree, *into_tar(small, 256))
    before = contents(small / "train.tar")
    os.utime(tree.images[0], (1, 1))
    process = start(tree, *into_tar(small, 256), before=["sh", "-c", 'ulimit -f 48; exec "$@"', "sh"])
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err.startswith(f"python -m keras_alexnet.prepare: cannot write {small}/train.tar: File too large. Make room")
    assert contents(small / "train.tar") == before
    call(tree, *into_tar(small, 256))
    assert contents(small / "train.tar") == before


def test_unusable_images_are_left_out(tree, small):
    tree.images[2].write_bytes(b"no image")
    with pytest.raises(UserError, match=r"not an image"):
        call(tree, *into_tar(small))
    call(tree, *into_tar(small), "--skip_bad_images")
    names = names_of(tree)
    assert list(contents(small / "train.tar")) == names[:2] + names[3:]
    assert mapped(tree) == [f"{small}/train.tar@/{name}" for name in names[:2] + names[3:]]


def test_other_settings_are_refused(tree, small):
    call(tree, *into_tar(small))
    with pytest.raises(UserError, match=r'other settings: expected .*"shorter_side": 32.*, found .*"format": "tar"'):
        call(tree, "--resize_shorter_side=32", f"--resized_dir={small}")
    with pytest.raises(UserError, match=r"--resized_format is of the copies in --resized_dir"):
        call(tree, "--resized_format=tar")
