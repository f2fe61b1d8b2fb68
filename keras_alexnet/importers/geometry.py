"""The size of an imported network's images and the padding of its pools, as far as its file shows them."""

from keras_alexnet.errors import UserError
from keras_alexnet.importers import chain
from keras_alexnet.importers.chain import Chain
from keras_alexnet.presets import POOL_PADDINGS, POOL_STRIDE, POOL_WINDOW, effective_padding

_CONV1_KERNEL, _CONV1_STRIDE = 11, 4

Pair = tuple[int, int]


def _halves(size: int) -> Pair:
    total = max((-(-size // POOL_STRIDE) - 1) * POOL_STRIDE + POOL_WINDOW - size, 0)
    return total // 2, total - total // 2


# With ONNX's rules, which this project's networks do not have: they come to others' numbers at some sizes.
_PADDINGS = POOL_PADDINGS | {"same_upper": _halves, "same_lower": lambda size: _halves(size)[::-1]}


def find_image_size_and_pool_padding(
    network: Chain, conv1_padding: int, pools: list[chain.MaxPool], fc6: chain.Dense, channels: int
) -> tuple[int, str]:
    """The side of the images, and the rule of `POOL_PADDINGS` for the pools.

    Args:
        network: the network; where it has no image size, the one is taken that its fc6 fits.
        conv1_padding: zeros around the image.
        pools: the three max pools.
        fc6: the first dense layer.
        channels: filters of conv5.

    Raises:
        UserError: images that are not square, pools that no rule fits, or fc6 of another number of inputs.
    """
    # Where the file has no size, the one that is usual with such padding, and another one.
    sizes = (224, 227) if conv1_padding else (227, 224)
    if network.image_size:
        height, width = network.image_size
        if height != width:
            raise UserError(f"{network.path} is for images of {height} × {width} pixels. Expected squares.")
        sizes = (height,)
    errors = []
    for size in sizes:
        try:
            return size, _pool_padding(network, size, conv1_padding, pools, fc6, channels)
        except UserError as error:
            errors.append(error)
    raise errors[0]


def _pool_padding(
    network: Chain, image_size: int, conv1_padding: int, pools: list[chain.MaxPool], fc6: chain.Dense, channels: int
) -> str:
    """The rule of the pools for images of that size."""
    sizes = [(image_size + 2 * conv1_padding - _CONV1_KERNEL) // _CONV1_STRIDE + 1]
    paddings = []
    for pool in pools:
        is_rule = isinstance(pool.padding, str)
        paddings.append((_PADDINGS[pool.padding](sizes[-1]),) * 2 if is_rule else pool.padding)
        sizes.append((sizes[-1] + sum(paddings[-1][0]) - POOL_WINDOW) // POOL_STRIDE + 1)
    # The rule that the file names first, as at many sizes several come to the same.
    rules = [pool.padding for pool in pools if pool.padding in POOL_PADDINGS] + list(POOL_PADDINGS)
    inputs = list(zip(sizes[:3], paddings, strict=True))
    rule = next((rule for rule in rules if all(_same_padding(rule, *pool) for pool in inputs)), None)
    if rule is None:
        raise UserError(
            f"{network.path}: its max pools, of {', '.join(map(str, sizes[:3]))} pixels, are padded by "
            f"{', '.join(map(str, paddings))}. Expected padding as in Caffe, CNTK or torchvision."
        )
    side = sizes[-1]
    if side < 1 or len(fc6.kernel) != channels * side**2:
        note = "" if network.image_size else ", a size that is assumed"
        raise UserError(
            f"{network.path}: layer {fc6.name!r} has {len(fc6.kernel):,} inputs. Expected {channels} × {side} × {side} "
            f"for images of {image_size} × {image_size} pixels{note}."
        )
    return rule


def _same_padding(rule: str, size: int, padding: tuple[Pair, Pair]) -> bool:
    """Whether a padding is that of the rule; what no window reaches does not count."""
    expected = effective_padding(size, POOL_PADDINGS[rule](size))
    return all(effective_padding(size, pair) == expected for pair in padding)
