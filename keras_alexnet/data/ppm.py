"""Decoded images as PPM files, which most programs for images read, with a checksum in a comment of the header.

P6 LF # crc32 <8 hex digits> LF <width> <height> LF 255 LF <RGB pixels, uint8, row by row>
"""

import re
import zlib
from typing import NamedTuple

from PIL import Image

SUFFIX = ".ppm"
HEADER_SIZE = 48  # or less

_START = b"P6\n# crc32 "
_HEADER = re.compile(rb"P6\n# crc32 ([0-9a-f]{8})\n([1-9][0-9]{0,5}) ([1-9][0-9]{0,5})\n255\n")


class Header(NamedTuple):
    """What stands before the pixels: its own size in bytes, the sides of the image, and the checksum of the pixels."""

    size: int
    height: int
    width: int
    crc32: int

    @property
    def file_size(self) -> int:
        """Bytes of the file."""
        return self.size + 3 * self.height * self.width


def encode(image: Image.Image) -> bytes:
    """Returns the file of an RGB image."""
    pixels = image.tobytes()
    return b"P6\n# crc32 %08x\n%d %d\n255\n" % (zlib.crc32(pixels), *image.size) + pixels


def read_header(data: bytes) -> Header | None:
    """Reads the header from `HEADER_SIZE` bytes or more; None for another file, such as a PPM without a checksum."""
    found = _HEADER.match(data)
    if not found:
        return None
    crc32, width, height = found.groups()
    return Header(found.end(), int(height), int(width), int(crc32, 16))


def is_damaged(data: bytes) -> bool:
    """Whether a file that has a checksum is not what `encode` returned."""
    if not data.startswith(_START):
        return False
    header = read_header(data[:HEADER_SIZE])
    if header is None or header.file_size != len(data):
        return True
    return zlib.crc32(memoryview(data)[header.size :]) != header.crc32
