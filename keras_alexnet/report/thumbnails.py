"""Small copies of images, to be put into a page itself."""

import base64
import io

from PIL import Image

from keras_alexnet.data import checking, image_file
from keras_alexnet.data.archives.locations import ArchivedImage

_QUALITY = 80
# Before it is resized well, a picture may be reduced roughly to this many times its size.
_REDUCED_TO = 2


def thumbnail(source: str | ArchivedImage, side: int = 320) -> str | None:
    """The whole of an image, upright and small, as a data URI of a JPEG without metadata.

    It is seen as `keras_alexnet.data.image_file.decode` gives it, which the network sees.

    Args:
        source: an image of any kind that is read: the path of a file, or where it is in an archive.
        side: the longer side is at most this many pixels; smaller images keep their size.

    Returns:
        the URI; None if the file cannot be read or decoded.
    """

    def decode(opened: checking.OpenImage) -> Image.Image:
        image = opened.image
        longest = max(image.size)
        if image.format in ("JPEG", "MPO"):
            # A reader of JPEGs can reduce them as it decodes; it keeps to sizes that are no smaller than this.
            image.draft(None, tuple(max(1, _REDUCED_TO * side * length // longest) for length in image.size))
        return image_file.upright_rgb(opened.load(), opened.orientation())

    _, picture = checking.examine(source, decode)
    if picture is None:
        return None
    picture.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=_REDUCED_TO)
    # Pillow would write the comment of the original.
    picture.info = {}
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
