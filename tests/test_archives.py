import gzip
import os
import pickle
import tarfile
import threading
import zipfile

import archives
import numpy as np
import pytest
from conftest import CLASSES, write_images
from map_files import write_map

from keras_alexnet.data import map_file
from keras_alexnet.data.archives import index
from keras_alexnet.data.archives.directory import read_archive
from keras_alexnet.data.archives.locations import Reader
from keras_alexnet.data.archives.state import ArchiveState
from keras_alexnet.data.pipeline import evaluation_dataset, readable_images, training_dataset
from keras_alexnet.data.unreadable import find_unreadable
from keras_alexnet.errors import UserError
from keras_alexnet.report.thumbnails import thumbnail

SIZE = 32


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A map of files."""
    folder = tmp_path_factory.mktemp("tree")
    write_map(folder / "map.txt", write_images(folder / "images", 24, seed=3))
    return map_file.read_map(folder / "map.txt")


def files_of(tree):
    """The bytes of the images by `<class>/<name>`."""
    names = [f"{CLASSES[label]}/{os.path.basename(path)}" for path, label in zip(tree.paths, tree.labels, strict=True)]
    return dict(zip(names, tree.read_many(range(len(tree))), strict=True))


def pack(tree, folder, write):
    """The same images in an archive, with an index."""
    files = files_of(tree)
    names = write(folder / "images.bin", files)
    rows = [(f"images.bin@/{names[name]}", label) for name, label in zip(files, tree.labels, strict=True)]
    write_map(folder / "map.txt", rows)
    packed = map_file.read_map(folder / "map.txt")
    index.write_index(map_file.index_file(folder / "map.txt"), packed.fingerprint, packed.locations)
    return packed


def a_map(folder, *lines):
    (folder / "map.txt").write_text("".join(f"{line}\t0\n" for line in lines))
    return map_file.read_map(folder / "map.txt")


def assert_same(found, expected):
    for values, others in zip(found, expected, strict=True):
        for value, other in zip(values, others, strict=True):
            np.testing.assert_array_equal(value, other)


@pytest.mark.parametrize("layout", archives.LAYOUTS)
def test_images_are_those_of_files(tree, tmp_path, monkeypatch, layout):
    packed = pack(tree, tmp_path, archives.LAYOUTS[layout])
    rows = range(len(tree))
    expected = [tree.read(row) for row in rows]
    assert [packed.read(row) for row in rows] == packed.read_many(rows) == expected
    assert list(packed.labels) == list(tree.labels)
    # An index stands for the archives, which are not looked into. The time of a copy is another one.
    monkeypatch.setattr(index, "read_archive", None)
    os.utime(tmp_path / "images.bin", (1, 1))
    packed = map_file.read_map(tmp_path / "map.txt")
    assert packed.read_many(rows) == expected
    assert pickle.loads(pickle.dumps(packed)).read_many(rows) == expected
    with open(tmp_path / "images.bin", "ab") as file:
        file.write(b"more")
    error = str(find_unreadable(packed, [3]))
    assert f"images.bin@/{packed.paths[3].rpartition('@/')[2]} (line 4 of " in error
    assert "images.bin has changed since its entries were found" in error


def test_batches_are_those_of_files(tree, tmp_path):
    packed = pack(tree, tmp_path, archives.write_deflated_zip)
    # In the middle of the second pass, for the second of two workers.
    place = {"seed": 3, "first_step": 4, "worker": 1, "num_workers": 2, "image_size": SIZE}
    assert_same(training_dataset(packed, 8, **place).take(4), training_dataset(tree, 8, **place).take(4))
    assert_same(evaluation_dataset(packed, 7, image_size=SIZE), evaluation_dataset(tree, 7, image_size=SIZE))
    found, expected = (readable_images(images, 5, image_size=SIZE) for images in (packed, tree))
    assert_same(found, expected)
    assert thumbnail(packed.image(4)) == thumbnail(tree.image(4))


def test_an_index_that_cannot_be_used_is_passed_over(tree, tmp_path):
    packed = pack(tree, tmp_path, archives.write_tar)
    file = map_file.index_file(tmp_path / "map.txt")
    index.write_index(file, "0" * 64, packed.locations.take(range(len(packed))[::-1]))  # Of another map.
    assert map_file.read_map(tmp_path / "map.txt").read(0) == tree.read(0)
    os.truncate(file, 500)
    assert map_file.read_map(tmp_path / "map.txt").read(0) == tree.read(0)
    np.savez(file, a=np.zeros(3))
    assert map_file.read_map(tmp_path / "map.txt").read(0) == tree.read(0)


def test_an_archive_that_is_not_the_indexed_one_is_found_out(tree, tmp_path):
    pack(tree, tmp_path, archives.write_tar)
    data = (tmp_path / "images.bin").read_bytes()
    for other in (b"other" + data[5:], data + bytes(512)):
        (tmp_path / "images.bin").write_bytes(other)
        os.utime(tmp_path / "images.bin", (1, 1))
        with pytest.raises(UserError, match=r"images.bin is not the one that .*map.index.npz was written for: .* ag"):
            map_file.read_map(tmp_path / "map.txt")
    (tmp_path / "images.bin").unlink()
    with pytest.raises(UserError, match=r"the archive .*images.bin does not exist. Is its disk mounted\?"):
        map_file.read_map(tmp_path / "map.txt")


def write_one_record(path, files):
    archives.write_tfrecord(path, [{"image": data, "file_name": name.encode()} for name, data in files.items()])


@pytest.mark.parametrize("write", [archives.write_tar, archives.write_zip, write_one_record])
def test_an_archive_that_is_replaced_while_it_is_searched(tmp_path, monkeypatch, write):
    path, other = tmp_path / "a", tmp_path / "other"
    write(path, {"a.jpg": b"1"})
    write(other, {"a.jpg": b"2"})
    os.utime(other, (1, 1))
    state_of = ArchiveState.of

    def replaced(*arguments):
        if other.exists():
            os.replace(other, path)
        return state_of(*arguments)

    monkeypatch.setattr(ArchiveState, "of", replaced)
    image_map = a_map(tmp_path, "a@/a.jpg")
    with pytest.raises(OSError, match="has changed since its entries were found"):
        image_map.read(0)


# CNTK: Source/Readers/ImageReader/ImageDataDeserializer.cpp.
def test_paths_are_read_as_cntk_reads_them(tree, tmp_path):
    archives.write_zip(tmp_path / "images.bin", {"n01/a.jpg": b"1", "n01/b@/c.jpg": b"2"})
    (tmp_path / "file.jpg").write_bytes(b"3")
    (tmp_path / "b@").mkdir()
    (tmp_path / "b@" / "file.jpg").write_bytes(b"4")
    lines = {
        ".../images.bin@/n01/a.jpg": b"1",
        "images.bin@\\n01\\a.jpg": b"1",
        f"{tmp_path}/images.bin@/n01/b@/c.jpg": b"2",
        "./images.bin@/n01/a.jpg": b"1",
        "file.jpg": b"3",
        "b@/file.jpg": b"4",
    }
    image_map = a_map(tmp_path, *lines)
    assert [image_map.read(row) for row in range(len(lines))] == list(lines.values())


def test_maps_of_swin_transformer(tmp_path):
    archives.write_zip(tmp_path / "val.zip", {"ILSVRC2012_val_00000001.JPEG": b"1", "n02/a.JPEG": b"2"})
    (tmp_path / "val_map.txt").write_text("n02/a.JPEG\t1\nILSVRC2012_val_00000001.JPEG\t65\n")
    image_map = map_file.read_map(tmp_path / "val_map.txt")
    assert image_map.read_many([0, 1]) == [b"2", b"1"]
    assert image_map.paths[1] == f"{tmp_path}/val.zip@/ILSVRC2012_val_00000001.JPEG"


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_long_and_foreign_names_in_tars(tmp_path, tar_format):
    # ustar divides a name at a slash, and has room for no more than 255 bytes.
    long = "/".join(["x" * 90] * 2) if tar_format == tarfile.USTAR_FORMAT else "x" * 300
    files = {f"{long}/a.jpg": b"1", "é/b.jpg": b"22", "../../c.jpg": b"333", "./d.jpg": b"4444", "e.jpg": b"5" * 5000}
    archives.write_tar(tmp_path / "a.tar", files, tar_format)
    image_map = a_map(tmp_path, *(f"a.tar@/{name.removeprefix('./')}" for name in files))
    assert image_map.read_many(range(5)) == list(files.values())


def test_a_size_in_a_pax_header_counts(tmp_path):
    """As it is for files of more than 8 GiB."""
    member = tarfile.TarInfo("a.jpg")  # Its own size is 0.
    member.pax_headers = {"size": "7"}
    parts = (member.tobuf(tarfile.PAX_FORMAT), b"1234567".ljust(512, b"\0"), tarfile.TarInfo("b.jpg").tobuf())
    (tmp_path / "a.tar").write_bytes(b"".join(parts) + bytes(1024))
    assert a_map(tmp_path, "a.tar@/a.jpg", "a.tar@/b.jpg").read_many([0, 1]) == [b"1234567", b""]


def test_tars_with_links_sparse_files_folders_and_devices(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archives.add(archive, "folder", type=tarfile.DIRTYPE)
        archives.add(archive, "device", type=tarfile.CHRTYPE)
        archives.add(archive, "a.jpg", b"1")
        archives.add(archive, "hard.jpg", type=tarfile.LNKTYPE, linkname="a.jpg")
        archives.add(archive, "soft.jpg", type=tarfile.SYMTYPE, linkname="a.jpg")
        archives.add(archive, "sparse.jpg", pax_headers={"GNU.sparse.major": "1"})
    entries = read_archive(str(tmp_path / "a.tar"))
    assert entries.names == [b"a.jpg", b"hard.jpg", b"soft.jpg", b"sparse.jpg"]
    assert a_map(tmp_path, "a.tar@/hard.jpg").read(0) == b"1"
    for name, reason in (("soft", "is a link to a.jpg; .* --dereference"), ("sparse", "is a sparse file")):
        with pytest.raises(UserError, match=rf"line 2: '{name}.jpg' in .*a.tar: it {reason}"):
            a_map(tmp_path, "a.tar@/a.jpg", f"a.tar@/{name}.jpg")


def test_zips_with_encrypted_and_oddly_compressed_entries(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.mkdir("folder")
        archive.writestr("a.jpg", b"1")
        archive.writestr("folder\\b.jpg", b"2")
        archive.writestr("locked.jpg", b"3")
        archive.writestr("packed.jpg", b"4", zipfile.ZIP_BZIP2)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[data.rindex(b"PK\1\2", 0, data.rindex(b"locked.jpg")) + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    assert a_map(tmp_path, "a.zip@/a.jpg", "a.zip@/folder/b.jpg").read_many([0, 1]) == [b"1", b"2"]
    for name, reason in {
        "locked.jpg": "it is encrypted; write the archive without a password",
        "packed.jpg": "it is compressed by method 12, and only deflate is read",
        "folder": "it has no such entry",
        "../a.jpg": "it has no such entry",
    }.items():
        with pytest.raises(UserError, match=rf"\(1 problem\):\n  line 1: '{name}' in .*a.zip: {reason}"):
            a_map(tmp_path, f"a.zip@/{name}")


def test_two_entries_of_one_name_are_refused_where_they_are_wanted(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("a.jpg", "b.jpg", "a.jpg"):
            archives.add(archive, name, name.encode())
    assert a_map(tmp_path, "a.tar@/b.jpg").read(0) == b"b.jpg"
    with pytest.raises(UserError, match=r"'a.jpg' in .*: the archive has several entries of this name"):
        a_map(tmp_path, "a.tar@/a.jpg")


def test_truncated_archives_are_named(tree, tmp_path):
    for write in archives.LAYOUTS.values():
        names = write(tmp_path / "a", files_of(tree))
        size = os.path.getsize(tmp_path / "a")
        for length in (size * 3 // 4, size // 2, 1024, 700, 1):
            os.truncate(tmp_path / "a", length)
            with pytest.raises(UserError, match=r"the archive .*/a is (truncated|damaged)"):
                a_map(tmp_path, f"a@/{next(iter(names.values()))}")


@pytest.mark.parametrize(
    ("data", "expected_text"),
    [
        (gzip.compress(b"text", mtime=0), r"/a is compressed \(gzip\), .* gzip -d"),
        (b"", "/a is empty"),
        (b"text" * 1000, "/a is a text file. Expected a folder, a zip"),
    ],
)
def test_other_files_are_no_archives(tmp_path, data, expected_text):
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(UserError, match=expected_text):
        a_map(tmp_path, "a@/a.jpg")


def test_slow_reads_go_out_together_and_fast_ones_in_turn():
    elapsed = threading.local()  # A clock per thread, which waits for no other.
    reader = Reader(clock=lambda: getattr(elapsed, "seconds", 0.0))

    def read_64(seconds):
        """Reads 64 rows that take so long; returns how many were read by other threads."""
        threads = []

        def read(row):
            elapsed.seconds = getattr(elapsed, "seconds", 0.0) + seconds
            threads.append(threading.get_ident())
            return b"%d" % row

        assert reader(read, range(64)) == [b"%d" % row for row in range(64)]
        return 64 - threads.count(threading.get_ident())

    assert read_64(0) == 0
    assert read_64(0.005) == 63  # The first one shows that reading is slow.
    assert read_64(0.005) == 64
    assert read_64(0) == 64  # From the page cache again, which the next chunk makes use of.
    assert read_64(0) == 0
