import os

import archives
import pytest
from drawn_images import draw, encode

from keras_alexnet.data import file_kinds, find, image_search
from keras_alexnet.data.image_search import LeftOut
from keras_alexnet.data.scanning import data_set
from keras_alexnet.errors import UserError

JPEG = encode(draw(40, 40), "JPEG")
IMAGES = {
    f"{class_id}/{name}": data
    for class_id in ("cat", "dog")
    for name, data in {
        "a.JFIF": JPEG,
        "b.jpe": JPEG,
        "c.tiff": encode(draw(40, 40), "TIFF"),
        "d.avif": encode(draw(40, 40), "AVIF"),
        "e.mpo": JPEG,
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
    "dog/IMG_2.HEIC": b"\0\0\0\x18ftypheic\0\0\0\0",
    "dog/.hidden": JPEG,
    "dog/.thumbs/a.jpg": JPEG,
    "dog/@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg": JPEG,
    "__MACOSX/dog/a.jpg": JPEG,
}


def write_folder(path, files):
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)


WRITERS = {
    "folder": write_folder,
    "tar": archives.write_tar,
    "zip": archives.write_zip,
    "deflated zip": archives.write_deflated_zip,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_images_are_known_by_content_where_the_suffix_says_nothing(tmp_path, kind):
    path = tmp_path / "images"
    WRITERS[kind](path, IMAGES | OTHERS)
    start = f"{path}/" if kind == "folder" else f"{path}@/"
    found = data_set.scan_image_folders(path, None, None, val_fraction=0.5)
    assert found.classes == ["cat", "dog"]
    assert sorted([*found.train.paths, *found.val.paths]) == sorted(start + name for name in IMAGES)
    assert found.notes == [
        f"2 images come from subfolders, such as {start}cat/sub",
        f"Left out of {path}: 2 .heic files (such as {start}dog/IMG.HEIC; not supported: convert to JPEG), "
        f"2 files without a suffix (such as {start}dog/README), 1 .part file (such as {start}cat/x.jpg.part), "
        f"1 .txt file (such as {start}cat/notes.txt)",
    ]
    left_out = LeftOut()
    paths, problems = find.find_images([start.removesuffix("/") if kind == "folder" else start], left_out=left_out)
    assert (sorted(paths), problems) == (sorted(start + name for name in IMAGES), [])
    assert f"Left out of {path}: {left_out.describe()}" == found.notes[1]


def test_no_file_is_opened_whose_suffix_says_what_it_is(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(image_search, "is_image_file", lambda path: opened.append(os.path.basename(path)))
    write_folder(tmp_path, dict.fromkeys(("a.JPEG", "b.png", "c.xml", "d.txt", "e.tif", "f.dat", "g"), b""))
    assert len(find.find_images([tmp_path])[0]) == 3
    assert sorted(opened) == ["f.dat", "g"]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_level_too_high_is_refused(tmp_path, kind):
    path = tmp_path / "images"
    WRITERS[kind](path, {f"{part}/{name}": data for part in ("train", "val") for name, data in IMAGES.items()})
    with pytest.raises(UserError, match=r"train has no images itself, but 4 folders below it have, such as .*/cat"):
        data_set.scan_image_folders(path, None, None, val_fraction=0.5)


@pytest.mark.parametrize("kind", WRITERS)
def test_images_outside_the_class_folders_are_reported(tmp_path, kind):
    path = tmp_path / "images"
    files = {f"{name}/{number}.jpg": JPEG for name in "ab" for number in (1, 2)}
    WRITERS[kind](path, files | {"loose.jpg": JPEG})
    found = data_set.scan_image_folders(path, None, None, val_fraction=0.5)
    assert len(found.train) + len(found.val) == 4
    loose = f"{path}/loose.jpg" if kind == "folder" else f"{path}@/loose.jpg"
    assert found.notes == [f"Left out of {path}: 1 image outside the class folders (such as {loose})"]


@pytest.mark.parametrize(
    ("names", "note"),
    [
        (range(12), ["Note: class names are sorted as text, so label 2 is class 10, not 2"]),
        (["class 2", "class 10"], ["Note: class names are sorted as text, so label 0 is class 10, not class 2"]),
        (range(10), []),
        (["01", "02", "10"], []),
        (["a", "B"], []),
    ],
)
def test_numbers_that_are_sorted_as_text_are_noted(tmp_path, names, note):
    write_folder(tmp_path, {f"{name}/{number}.jpg": JPEG for name in names for number in (1, 2)})
    found = data_set.scan_image_folders(tmp_path, None, None, val_fraction=0.5)
    assert [text.replace("class class", "class") for text in found.notes] == note


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (JPEG[:64], "JPEG"),
        (encode(draw(8, 8), "BMP")[:64], "BMP"),
        (encode(draw(8, 8), "GIF")[:64], "GIF"),
        (encode(draw(8, 8), "PPM")[:64], "PPM"),
        (encode(draw(8, 8), "JPEG2000")[:64], "JPEG2000"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "AVIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x1cftypisom\0\0\0\0isom", "video"),
        (b"BMW is a car maker", None),
        (b"", None),
    ],
)
def test_kinds_of_files(head, kind):
    assert file_kinds.detect(head) == kind
