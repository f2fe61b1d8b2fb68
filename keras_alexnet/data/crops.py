"""The ways to cut an image for evaluation, by the names that users give them. No framework is imported."""

from keras_alexnet.errors import SettingError, UserError

# Caffe and torchvision resize to this side first, and cut squares of the network's side out of that.
RESIZED_SIDE = 256

# Name → what it is, for people.
RESIZES = {
    "square": "227/256 of the shorter side, as in CNTK",
    "warp256": f"the network's side, of the image squeezed to {RESIZED_SIDE}×{RESIZED_SIDE} pixels, as in Caffe",
    "shorter256": f"the network's side, of the image with its shorter side made {RESIZED_SIDE}, as in torchvision",
}
CROPS = (1, 10)

# CNTK's side_ratio 0.88671875 is 227/256: the paper's crop of 227 out of a shorter side of 256.
RATIO_NUMERATOR, RATIO_DENOMINATOR = 227, 256

# Training images whose third random number is below this are flipped horizontally.
FLIPPED_BELOW = 0.5


def ratio_numerator(resize: str, image_size: int) -> int:
    """The side of an evaluation crop in 256ths of the shorter side, for "square" and "shorter256"."""
    return {"square": RATIO_NUMERATOR, "shorter256": image_size}[resize]


def crop_side(shorter, numerator: int = RATIO_NUMERATOR):
    """The side of a crop from the shorter side of its image: an integer, an array or a tensor. May be 0 for 1 pixel.

    Halves are rounded up, as C++'s `std::round` does (CNTK, ImageTransformers.cpp).
    """
    return (2 * numerator * shorter + RATIO_DENOMINATOR) // (2 * RATIO_DENOMINATOR)


def check_crops(resize: str, crops: int, image_size: int | None = None) -> None:
    """Raises `UserError` for an unknown way to cut images, or one that has no crops of `image_size` pixels."""
    if resize not in RESIZES:
        raise UserError(f"resize is {resize!r}; expected one of {', '.join(RESIZES)}.")
    if crops not in CROPS:
        raise SettingError("crops", f"is {crops}; expected {' or '.join(map(str, CROPS))}.")
    if resize != "square" and image_size is not None and image_size > RESIZED_SIDE:
        raise UserError(
            f"the model takes images of {image_size}×{image_size} pixels, and resize={resize} has crops of "
            f"{RESIZED_SIDE} at most. Give resize=square."
        )


def check_batch_size(batch_size: int) -> None:
    """Raises `UserError` for a batch without images."""
    if batch_size < 1:
        raise SettingError("batch_size", f"is {batch_size}; expected at least 1.")
