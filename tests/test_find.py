"""Which files are images, and which of them are found in folders and archives."""

import io
import os
import tarfile

import archives
import pytest
from drawn_images import draw, encode

from keras_alexnet.data import file_kinds
from keras_alexnet.data.find import find_images
from keras_alexnet.data.image_search import LeftOut
from keras_alexnet.data.scanning import data_set
from keras_alexnet.errors import UserError

JPEG = encode(draw(40, 40), "JPEG")
IMAGES = {
    f"{class_id}/{name}": data
    for class_id in ("cat", "dog")
    for name, data in {
        "a.JFIF": JPEG,
        "image.jpg?w=640": JPEG,
        "photo.jpg_large": encode(draw(40, 40), "PNG"),
        "scraped": encode(draw(40, 40), "WEBP"),
        "sub/f.jpg": JPEG,
    }.items()
}
OTHERS = {
    "cat/notes.txt": JPEG,  # The suffix says what it is.
    "cat/x.jpg.part": JPEG[:99],
    "dog/README": b"dogs",
    "dog/empty": b"",
    "dog/IMG.HEIC": b"\0\0\0\x18ftypheic\0\0\0\0",
    "dog/.hidden": JPEG,
    "dog/@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg": JPEG,
    "__MACOSX/dog/a.jpg": JPEG,
}


def write_folder(path, files):
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)


# The start of the paths of what is written, and how it is written.
WRITERS = [
    ("images/", write_folder),
    ("images@/", archives.write_tar),
    ("images@/", archives.write_deflated_zip),
]


@pytest.mark.parametrize(("start", "write"), WRITERS)
def test_images_are_known_by_content_where_the_suffix_says_nothing(tmp_path, start, write):
    path, start = tmp_path / "images", f"{tmp_path}/{start}"
    write(path, IMAGES | OTHERS | {"loose.jpg": JPEG})
    found = data_set.scan_image_folders(path, None, None, val_fraction=0.5)
    assert found.classes == ["cat", "dog"]
    assert sorted([*found.train.paths, *found.val.paths]) == sorted(start + name for name in IMAGES)
    assert found.notes == [
        f"2 images come from subfolders, such as {start}cat/sub",
        f"Left out of {path}: 2 files without a suffix (such as {start}dog/README), "
        f"1 .heic file (such as {start}dog/IMG.HEIC; not supported: convert to JPEG), "
        f"1 .part file (such as {start}cat/x.jpg.part), 1 .txt file (such as {start}cat/notes.txt), "
        f"1 image outside the class folders (such as {start}loose.jpg)",
    ]
    left_out = LeftOut()
    paths, problems = find_images([start], left_out=left_out)
    assert "1 .heic file" in left_out.describe()
    assert (sorted(paths), problems) == (sorted(start + name for name in [*IMAGES, "loose.jpg"]), [])


@pytest.mark.parametrize(("start", "write"), WRITERS[:2])
def test_a_level_too_high_is_refused(tmp_path, start, write):
    path = tmp_path / "images"
    write(path, {f"{part}/{name}": data for part in ("train", "val") for name, data in IMAGES.items()})
    with pytest.raises(UserError, match=rf"{start}train has no images itself, but 4 folders below it have, such as "):
        data_set.scan_image_folders(path, None, None, val_fraction=0.5)


def test_numbers_that_are_sorted_as_text_are_noted(tmp_path):
    write_folder(tmp_path, {f"class {name}/{number}.jpg": JPEG for name in range(12) for number in (1, 2)})
    found = data_set.scan_image_folders(tmp_path, None, None, val_fraction=0.5)
    assert found.notes == ["Note: class names are sorted as text, so label 2 is class class 10, not class 2"]


def test_kinds_of_files():
    for kind in ("JPEG", "BMP", "GIF", "PPM", "JPEG2000"):
        assert file_kinds.detect(encode(draw(8, 8), kind)[:64]) == kind
    assert file_kinds.detect(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf") == "AVIF"
    assert file_kinds.detect(b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic") == "HEIC"
    assert file_kinds.detect(b"BMW is a car maker") is None


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """The working directory, with some files."""
    names = ("b.JPG", "a.png", "sub/deep/c.webp", "sub/notes.txt", ".hidden.jpg", "empty/readme", "[1].jpg")
    write_folder(tmp_path, dict.fromkeys(names, b""))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_files_are_taken_whatever_they_are_called_and_once(tree):
    paths = ["sub/notes.txt", tree / "a.png", ".hidden.jpg", "sub/notes.txt"]
    assert find_images(paths) == (["sub/notes.txt", str(tree / "a.png"), ".hidden.jpg"], [])


def test_patterns(tree, monkeypatch):
    assert find_images(["*[g]"])[0] == ["[1].jpg", "a.png"]
    assert find_images(["**/*.web?"])[0] == ["sub/deep/c.webp"]
    assert find_images(["s*"])[0] == ["sub/deep/c.webp"]
    # What is there by this name is no pattern.
    assert find_images(["[1].jpg"])[0] == ["[1].jpg"]
    monkeypatch.setenv("HOME", str(tree))
    assert find_images(["~/*.png"]) == ([str(tree / "a.png")], [])


@pytest.mark.parametrize(("separator", "end"), [(b"\n", b""), (b"\r\n", b"\r\n"), (b"\0", b"\0")])
def test_lists(tree, separator, end):
    odd = b"caf\xe9.jpg"
    open(odd, "w").close()
    open(b"x\ry.jpg", "w").close()
    names = [b"a.png", b"[1].jpg", odd, b"sub", b"*.png", b"x\ry.jpg"]
    paths, problems = find_images(["b.JPG", "-"], io.BytesIO(separator.join(names) + end))
    assert paths == ["b.JPG", "a.png", "[1].jpg", os.fsdecode(odd), "sub/deep/c.webp", "x\ry.jpg"]
    assert problems == [("*.png", "there is no such file or folder")]


def test_files_of_a_list_come_as_often_as_they_are_listed(tree):
    paths, _ = find_images(["a.png", "-", "a.png"], io.BytesIO(b"b.JPG\na.png\nb.JPG\nsub\nsub"))
    assert paths == ["a.png", "b.JPG", "a.png", "b.JPG", "sub/deep/c.webp"]


def test_subfolders_come_in_the_order_of_their_names(tree):
    write_folder(tree / "many", dict.fromkeys(("d/z.jpg", "b/y.jpg", "c/x.jpg", "b/a/w.jpg"), b""))
    assert find_images("many")[0] == ["many/b/y.jpg", "many/b/a/w.jpg", "many/c/x.jpg", "many/d/z.jpg"]


def test_links_are_followed_once(tree):
    (tree / "sub" / "loop").symlink_to(tree / "sub")
    (tree / "links").mkdir()
    (tree / "links" / "there").symlink_to(tree / "sub")
    assert find_images(["links"])[0] == ["links/there/deep/c.webp"]
    assert find_images(["sub/**/*.webp"])[0] == ["sub/deep/c.webp"]
    assert find_images(["sub", "./sub", f"{tree}/sub//deep/c.webp"])[0] == ["sub/deep/c.webp"]


def test_what_stands_for_no_image_is_reported_and_not_read(tree):
    os.mkfifo("pipe.jpg")
    os.symlink("gone", "link.jpg")
    files = [("pipe.jpg", "it is not a regular file"), ("link.jpg", "it leads to no file")]
    others = [
        ("empty", "the folder has no images"),
        ("gone.jpg", "there is no such file or folder"),
        ("*.gif", "no image has a name like that"),
    ]
    assert find_images(["pipe.jpg", "link.jpg", "empty", "gone.jpg", "a.png", "*.gif"]) == (["a.png"], files + others)
    paths, problems = find_images(".")
    assert sorted(problems) == sorted((f"./{name}", problem) for name, problem in files)
    assert len(paths) == 4


def test_images_inside_archives(tree):
    archives.write_zip(tree / "a.zip", dict.fromkeys(["x/2.jpg", "x/1.png", "x/notes", "y/3.jpg"], b""))
    assert find_images(["a.zip@/x"])[0] == [f"{tree}/a.zip@/x/1.png", f"{tree}/a.zip@/x/2.jpg"]
    # A file is taken whatever it is called.
    paths = [f"{tree}/a.zip@/x/notes", f"{tree}/a.zip@/y/3.jpg"]
    assert find_images(["a.zip@/x/notes", "a.zip@/y/3.jpg", "a.zip@/y"])[0] == paths
    listed = b"a.zip@/x\na.zip@/x\na.zip@/y/3.jpg\na.zip@/y/3.jpg"
    images = [f"{tree}/a.zip@/x/1.png", f"{tree}/a.zip@/x/2.jpg", *paths[1:] * 2]
    assert find_images("-", io.BytesIO(listed))[0] == images
    assert find_images(["a.zip@/z"]) == ([], [("a.zip@/z", "the archive has no such image or folder of images")])
    # An entry that cannot be read does not stop the others.
    with tarfile.open(tree / "a.tar", "w") as archive:
        archives.add(archive, "1.jpg")
        archives.add(archive, "2.jpg", type=tarfile.SYMTYPE, linkname="1.jpg")
    paths, problems = find_images(["a.tar@/"])
    assert paths == [f"{tree}/a.tar@/1.jpg"]
    assert problems == [(f"{tree}/a.tar@/2.jpg", "it is a link to 1.jpg; write the archive with tar --dereference")]
