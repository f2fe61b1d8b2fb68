"""The evaluation preprocessings by name, and the sizes of crops. No framework is imported."""

from keras_alexnet.errors import SettingError, UserError

# Caffe and torchvision resize to this side first, and cut squares of the network's side out of that.
RESIZED_SIDE = 256

# Name → description. Each is that of the framework of its name.
PREPROCESSINGS = {
    "cntk": "the center square of 227/256 of the shorter side",
    "caffe": f"squash to {RESIZED_SIDE}×{RESIZED_SIDE} pixels, then center crop",
    "torchvision": f"resize the shorter side to {RESIZED_SIDE}, then center crop",
}
CROPS = (1, 10)

# CNTK's side_ratio 0.88671875 is 227/256: the paper's crop of 227 out of a shorter side of 256.
RATIO_NUMERATOR, RATIO_DENOMINATOR = 227, 256

# Training images whose third random number is below this are flipped horizontally.
FLIPPED_BELOW = 0.5


def ratio_numerator(preprocessing: str, image_size: int) -> int:
    """The side of an evaluation crop in 256ths of the shorter side, for "cntk" and "torchvision"."""
    return {"cntk": RATIO_NUMERATOR, "torchvision": image_size}[preprocessing]


def crop_side(shorter, numerator: int = RATIO_NUMERATOR):
    """The side of a crop from the shorter side of its image: an integer, an array or a tensor. May be 0 for 1 pixel.

    Halves are rounded up, as C++'s `std::round` does (CNTK, ImageTransformers.cpp).
    """
    return (2 * numerator * shorter + RATIO_DENOMINATOR) // (2 * RATIO_DENOMINATOR)


def check_crops(preprocessing: str, crops: int, image_size: int | None = None) -> None:
    """Raises `UserError` for an unknown preprocessing, or one whose crops are smaller than `image_size` pixels."""
    if preprocessing not in PREPROCESSINGS:
        raise SettingError("preprocessing", f"is {preprocessing!r}; expected one of {', '.join(PREPROCESSINGS)}.")
    if crops not in CROPS:
        raise SettingError("crops", f"is {crops}; expected {' or '.join(map(str, CROPS))}.")
    if preprocessing != "cntk" and image_size is not None and image_size > RESIZED_SIDE:
        raise UserError(
            f"the model takes images of {image_size}×{image_size} pixels, but preprocessing={preprocessing} has crops "
            f"of at most {RESIZED_SIDE}. Use preprocessing=cntk."
        )
