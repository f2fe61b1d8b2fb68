"""Smaller copies in one tar per split."""

import os
import tarfile

import pytest
from image_tree import Tree, call, flip_a_bit, mapped, start

from keras_alexnet.data import map_file


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


def names_of(tree):
    return [str(path.relative_to(tree.train)) for path in tree.images[:6]]


def test_a_tar_has_the_same_copies_as_files(tree, tmp_path, small):
    long = tree.images[0].with_name(f"{tree.images[0].parent.name}_{'é' * 60}.JPEG")
    tree.images[0].rename(long)
    tree.images[2].write_bytes(b"not an image, so it is left out")
    call(tree, "--skip_bad_images", "--resize_shorter_side=32", f"--resized_dir={tmp_path}/files")
    files = {part: map_file.read_map(tmp_path / f"data/{part}_map.txt") for part in ("train", "val")}
    call(tree, "--skip_bad_images", *into_tar(small))
    for part, expected in files.items():
        found = map_file.read_map(tmp_path / f"data/{part}_map.txt")
        rows = range(len(expected))
        assert found.read_many(rows) == expected.read_many(rows)
        assert found.labels == expected.labels
        start = f"{tmp_path}/files/{part}"
        assert list(found.paths) == [path.replace(start, f"{small}/{part}.tar@") for path in expected.paths]
        assert list(contents(small / f"{part}.tar").values()) == found.read_many(rows)
    assert (tmp_path / "data/train_map.index.npz").exists()
    assert sorted(path.name for path in small.iterdir()) == [".lock", "resize.json", "train.tar", "val.tar"]


def test_what_has_changed_is_done_again_and_nothing_else(tree, small):
    names = names_of(tree)
    call(tree, *into_tar(small))
    first = (small / "train.tar").stat()
    call(tree, *into_tar(small))
    assert (small / "train.tar").stat() == first
    flip_a_bit(small / "train.tar", names[1], -3)  # A copy that is made again would not have it.
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


@pytest.mark.parametrize("damage", ["in a copy", "zeros", "another file"])
def test_it_continues_after_the_last_complete_copy(tree, small, damage):
    names = names_of(tree)
    call(tree, *into_tar(small))
    expected = contents(small / "train.tar")
    partial = small / "train.tar.partial"
    (small / "train.tar").rename(partial)
    flip_a_bit(partial, names[1], -3)
    marked = contents(partial)
    with tarfile.open(partial) as archive:
        third = archive.getmember(names[2])
    os.truncate(partial, third.offset_data + 100)
    if damage == "zeros":  # As a power loss may leave it.
        os.truncate(partial, third.offset_data + 20_000)
    if damage == "another file":  # Its original has been removed: all copies are made again.
        os.truncate(partial, third.offset)
        with open(partial, "ab") as file:
            gone = tarfile.TarInfo("gone.JPEG")
            gone.size = 512
            file.write(gone.tobuf() + bytes(510) + b"\xff\xd9")
        marked = expected
    call(tree, *into_tar(small))
    assert contents(small / "train.tar") == expected | {names[1]: marked[names[1]]}
    assert not partial.exists()


def test_it_goes_on_with_new_copies_beside_a_finished_tar(tree, small):
    """As if the first images had come later, and the run had been killed while it appended the older copies."""
    names = names_of(tree)
    call(tree, *into_tar(small))
    expected = contents(small / "train.tar")
    (small / "train.tar").rename(small / "all.tar")
    for path, chosen in (("train.tar", names[2:]), ("train.tar.partial", names[:2])):
        with tarfile.open(small / "all.tar") as old, tarfile.open(small / path, "w") as new:
            for name in chosen:
                new.addfile(old.getmember(name), old.extractfile(name))
    call(tree, *into_tar(small))
    assert contents(small / "train.tar") == expected
    assert mapped(tree) == [f"{small}/train.tar@/{name}" for name in names]


def test_a_full_disk_costs_no_older_copies(tree, small):
    call(tree, *into_tar(small, 256))
    before = contents(small / "train.tar")
    os.utime(tree.images[0], (1, 1))
    process = start(tree, *into_tar(small, 256), before=["sh", "-c", 'ulimit -f 48; exec "$@"', "sh"])
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err.startswith(f"python -m keras_alexnet.prepare: cannot write {small}/train.tar: File too large")
    assert contents(small / "train.tar") == before
    call(tree, *into_tar(small, 256))
    assert contents(small / "train.tar") == before
