"""What kind a file is of, by its suffix or by its first bytes. Standard library only."""

import os
import re

# The images that are read, by Pillow's names. The most frequent suffixes come first.
_SUFFIXES_OF = {
    "JPEG": (".jpeg", ".jpg", ".jpe", ".jfif", ".jif", ".mpo"),
    "PNG": (".png", ".apng"),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
}
IMAGE_FORMATS = tuple(_SUFFIXES_OF)
FORMAT_OF_SUFFIX = {suffix: kind for kind, suffixes in _SUFFIXES_OF.items() for suffix in suffixes}
IMAGE_SUFFIXES = tuple(FORMAT_OF_SUFFIX)

# Files that are common among images, or half an image: nothing is gained by opening them.
_OTHER_SUFFIX = re.compile(
    r"\.(txt|xml|jsonl?|[ct]sv|cls|md|html?|ya?ml|toml|ini|db|log|py|ipynb|mat|np[yz]|pkl|hei[cf]|svg|pdf|mp4|mov|avi|"
    r"zip|tar|t?gz|bz2|xz|7z|rar|part|partial|crdownload|tmp)$"
)

# Hidden files and folders, and folders in which macOS and Synology keep what belongs to other files.
_HIDDEN = re.compile(r"(?:^|/)(?:\.(?!\.?/)|(?:__MACOSX|@eaDir)(?:/|$))")

HEADER_BYTES = 64  # of a file, for `detect`
_SIGNATURES = {
    kind: re.compile(pattern, re.DOTALL | re.IGNORECASE if kind in ("HTML", "SVG") else re.DOTALL)
    for kind, pattern in {
        "JPEG": rb"\xff\xd8\xff",
        "PNG": rb"\x89PNG\r\n\x1a\n",
        "BMP": rb"BM.{4}\0{4}",
        "GIF": rb"GIF8[79]a",
        "WEBP": rb"RIFF.{4}WEBP",
        "PPM": rb"P[1-6f]\s",
        "TIFF": rb"II[*+]\0|MM\0[*+]",
        "AVIF": rb".{4}ftyp.{0,40}?avi[fs]",
        "JPEG2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
        "HEIC": rb".{4}ftyp.{0,40}?(?:hei[cmsx]|hev[cmsx]|mif1|msf1)",
        "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
        "SVG": rb"\s*(?:<\?xml.*)?<svg",
        "HTML": rb"\s*<(?:!doctype html|html|head|body)",
        "PDF": rb"%PDF",
        "PSD": rb"8BPS",
        "video": rb".{4}ftyp|\x1a\x45\xdf\xa3|RIFF.{4}AVI ",
        "Git LFS": rb"version https://git-lfs",
        "zip": rb"PK\x03\x04",
        "gzip": rb"\x1f\x8b",
        "bzip2": rb"BZh",
        "xz": rb"\xfd7zXZ",
        "zstd": rb"\x28\xb5\x2f\xfd",
        "7-Zip": rb"7z\xbc\xaf",
        "RAR": rb"Rar!\x1a\x07",
    }.items()
}
COMPRESSIONS = ("gzip", "bzip2", "xz", "zstd", "7-Zip")
_NAMES = {
    "HTML": "an HTML page",
    "Git LFS": "a pointer of Git LFS: fetch the image with git lfs pull",
    "video": "a video",
}
_UNSUPPORTED = ("HEIC", "JPEG XL", "SVG", "PSD")


def detect(head: bytes) -> str | None:
    """The kind of a file that begins with `head`: one of `IMAGE_FORMATS`, `COMPRESSIONS` or some others."""
    return next((kind for kind, pattern in _SIGNATURES.items() if pattern.match(head)), None)


def is_hidden(name: str) -> bool:
    """Whether a file or a folder, or a folder that it is in, is hidden; `name` may be a path inside an archive."""
    return _HIDDEN.search(name) is not None


def is_image_name(name: str) -> bool | None:
    """Whether a file is an image, as its name says; None if the name does not say."""
    name = name.lower()
    if name.endswith(IMAGE_SUFFIXES):
        return True
    return False if _OTHER_SUFFIX.search(name) else None


def is_image_head(head: bytes) -> bool:
    """Whether a file that begins with `head` is an image that can be read."""
    return detect(head) in IMAGE_FORMATS


def is_image_file(path: str) -> bool:
    """Whether a file is an image, as its first bytes say; False if it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            return is_image_head(file.read(HEADER_BYTES))
    except OSError:
        return False


def why_not_an_image(head: bytes) -> str:
    """Describes a file that begins with `head` and is not a readable image."""
    if not head:
        return "empty file"
    kind = detect(head)
    if kind in IMAGE_FORMATS:
        return f"truncated or corrupted: the {kind} header cannot be read"
    if kind is None:
        return f"not an image: begins with {head[:16]!r}"
    if kind in _UNSUPPORTED:
        return f"{kind} image, which is not supported: convert it to JPEG"
    return f"not an image, but {_NAMES.get(kind, kind)}"


def suffix_of(path: str) -> str:
    """The suffix of a file, in lower case, without the query of an address (`.jpg?w=640`)."""
    return os.path.splitext(path)[1].partition("?")[0].lower()
