import io
import os
import tarfile

import archives
import pytest

from keras_alexnet.data.find import find_images


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name in (
        "b.JPG",
        "a.png",
        "sub/deep/c.webp",
        "sub/notes.txt",
        ".hidden.jpg",
        ".git/d.jpg",
        "empty/readme",
        "[1].jpg",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_folders_give_their_images_in_the_order_of_names_and_nothing_else(tree):
    assert find_images(["sub"]) == (["sub/deep/c.webp"], [])
    paths, problems = find_images([str(tree)])
    assert paths == [str(tree / name) for name in ("[1].jpg", "a.png", "b.JPG", "sub/deep/c.webp")]
    assert problems == []


def test_files_are_taken_whatever_they_are_called_and_once(tree):
    assert find_images(["sub/notes.txt", tree / "a.png", ".hidden.jpg", "sub/notes.txt"]) == (
        ["sub/notes.txt", str(tree / "a.png"), ".hidden.jpg"],
        [],
    )


def test_patterns(tree):
    assert find_images(["*.png"])[0] == ["a.png"]
    assert find_images(["*[g]"])[0] == ["[1].jpg", "a.png"]
    assert find_images(["**/*.web?"])[0] == ["sub/deep/c.webp"]
    assert find_images(["s*"])[0] == ["sub/deep/c.webp"]
    # What is there by this name is no pattern.
    assert find_images(["[1].jpg"])[0] == ["[1].jpg"]


@pytest.mark.parametrize(("separator", "end"), [(b"\n", b"\n"), (b"\n", b""), (b"\r\n", b"\r\n"), (b"\0", b"\0")])
def test_lists(tree, separator, end):
    odd = b"caf\xe9.jpg"
    open(odd, "w").close()
    open(b"x\ry.jpg", "w").close()
    names = [b"a.png", b"[1].jpg", odd, b"sub", b"*.png", b"x\ry.jpg"]
    paths, problems = find_images(["b.JPG", "-"], io.BytesIO(separator.join(names) + end))
    assert paths == ["b.JPG", "a.png", "[1].jpg", os.fsdecode(odd), "sub/deep/c.webp", "x\ry.jpg"]
    assert problems == [("*.png", "there is no such file or folder")]


def test_subfolders_come_in_the_order_of_their_names(tree):
    for name in ("d/z.jpg", "b/y.jpg", "c/x.jpg", "b/a/w.jpg"):
        (tree / "many" / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / "many" / name).touch()
    assert find_images("many")[0] == ["many/b/y.jpg", "many/b/a/w.jpg", "many/c/x.jpg", "many/d/z.jpg"]


def test_links_are_followed_once(tree):
    (tree / "sub" / "loop").symlink_to(tree / "sub")
    (tree / "links").mkdir()
    (tree / "links" / "there").symlink_to(tree / "sub")
    assert find_images([tree / "sub"])[0] == [f"{tree}/sub/deep/c.webp"]
    assert find_images(["links"])[0] == ["links/there/deep/c.webp"]
    assert find_images(["sub/**/*.webp"])[0] == ["sub/deep/c.webp"]
    assert find_images(["sub", "./sub", f"{tree}/sub//deep/c.webp"])[0] == ["sub/deep/c.webp"]


def test_what_is_no_regular_file_is_told_and_not_read(tree):
    os.mkfifo("pipe.jpg")
    os.symlink("gone", "link.jpg")
    problems = [("pipe.jpg", "it is not a regular file"), ("link.jpg", "it leads to no file")]
    assert find_images(["pipe.jpg", "link.jpg"]) == ([], problems)
    paths, found = find_images(".")
    assert sorted(found) == sorted((f"./{name}", problem) for name, problem in problems)
    assert len(paths) == 4


def test_what_stands_for_no_image_is_told(tree):
    paths, problems = find_images(["empty", "gone.jpg", "a.png", "*.gif"])
    assert paths == ["a.png"]
    assert problems == [
        ("empty", "the folder has no images"),
        ("gone.jpg", "there is no such file or folder"),
        ("*.gif", "no image has a name like that"),
    ]


def test_the_home_folder_in_patterns(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.jpg").touch()
    assert find_images(["~/*.jpg"]) == ([str(tmp_path / "a.jpg")], [])


def test_images_inside_archives(tree):
    archives.write_zip(tree / "a.zip", dict.fromkeys(["x/2.jpg", "x/1.png", "x/notes", "y/3.jpg"], b""))
    assert find_images(["a.zip@/x"])[0] == [f"{tree}/a.zip@/x/1.png", f"{tree}/a.zip@/x/2.jpg"]
    assert len(find_images(["a.zip@/"])[0]) == 3
    # A file is taken whatever it is called.
    assert find_images(["a.zip@/x/notes", "a.zip@/y/3.jpg", "a.zip@/y"])[0] == [
        f"{tree}/a.zip@/x/notes",
        f"{tree}/a.zip@/y/3.jpg",
    ]
    assert find_images(["a.zip@/z"]) == ([], [("a.zip@/z", "the archive has no such image or folder of images")])


def test_entries_that_cannot_be_read_do_not_stop_the_others(tree):
    with tarfile.open(tree / "a.tar", "w") as archive:
        archives.add(archive, "1.jpg")
        archives.add(archive, "2.jpg", type=tarfile.SYMTYPE, linkname="1.jpg")
    paths, problems = find_images(["a.tar@/"])
    assert paths == [f"{tree}/a.tar@/1.jpg"]
    assert problems == [(f"{tree}/a.tar@/2.jpg", "it is a link to 1.jpg; write the archive with tar --dereference")]
