"""The ways to cut an image for evaluation, by the names that users give them. No framework is imported."""

from keras_alexnet.errors import UserError

# Caffe and torchvision resize to this side first, and cut squares of the network's side out of that.
RESIZED_SIDE = 256

# Name → what it is, for people.
RESIZES = {
    "square": "227/256 of the shorter side, as in CNTK",
    "warp256": f"the network's side, of the image squeezed to {RESIZED_SIDE}×{RESIZED_SIDE} pixels, as in Caffe",
    "shorter256": f"the network's side, of the image with its shorter side made {RESIZED_SIDE}, as in torchvision",
}
CROPS = (1, 10)


def check_crops(resize: str, crops: int, image_size: int | None = None) -> None:
    """Raises `UserError` for an unknown way to cut images, or one that has no crops of `image_size` pixels."""
    if resize not in RESIZES:
        raise UserError(f"resize is {resize!r}; expected one of {', '.join(RESIZES)}.")
    if crops not in CROPS:
        raise UserError(f"crops is {crops}; expected {' or '.join(map(str, CROPS))}.")
    if resize != "square" and image_size is not None and image_size > RESIZED_SIDE:
        raise UserError(
            f"the model takes images of {image_size}×{image_size} pixels, and resize={resize} has crops of "
            f"{RESIZED_SIDE} at most. Give resize=square."
        )


def check_batch_size(batch_size: int) -> None:
    """Raises `UserError` for a batch without images."""
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; expected at least 1.")
