"""AlexNet matched in a chain of layers, and its weights as Keras has them."""

import math
from dataclasses import dataclass

import numpy as np

from keras_alexnet.errors import UserError
from keras_alexnet.importers import chain
from keras_alexnet.importers.chain import Chain
from keras_alexnet.presets import (
    LRN_ALPHA,
    LRN_BETA,
    LRN_K,
    LRN_SIZE,
    POOL_PADDINGS,
    POOL_STRIDE,
    POOL_WINDOW,
    WEIGHTED,
    Preset,
    effective_padding,
)

# Of the images, where the file does not tell: by the padding of conv1, what is usual and what else there is.
_IMAGE_SIZES = {0: (227, 224)}
_OTHER_SIZES = (224, 227)
# AlexNets have one group or two; without groups, a kernel takes as many times the memory.
_MAX_GROUPS = 8
_KERNELS = {"conv1": 11, "conv2": 5, "conv3": 3, "conv4": 3, "conv5": 3}
_LRN = {"size": LRN_SIZE, "alpha": LRN_ALPHA, "beta": LRN_BETA, "k": LRN_K}

# What is left out: the model gives logits, and has dropout where this project's networks have it.
_NOTHING = "–"


def _halves(size: int) -> tuple[int, int]:
    total = max((-(-size // POOL_STRIDE) - 1) * POOL_STRIDE + POOL_WINDOW - size, 0)
    return total // 2, total - total // 2


# With ONNX's rules, which this project's networks do not have: they come to others' numbers at some sizes.
_PADDINGS = POOL_PADDINGS | {"same_upper": _halves, "same_lower": lambda size: _halves(size)[::-1]}


@dataclass(frozen=True, eq=False)
class AlexNetMatch:
    """An AlexNet in a file.

    Attributes:
        network: all that was read.
        preset: its sizes; what pixels are scaled by is not in it.
        num_classes: units of fc8.
        size_is_assumed: whether the file does not tell the size of its images.
        dropout: the rate, if the file tells one; else 0.5.
        scalings: what the network does with pixels before conv1, in order.
        mapping: each layer of the file, in its order, and the name of the layer that it becomes.
    """

    network: Chain
    preset: Preset
    size_is_assumed: bool
    num_classes: int
    dropout: float
    scalings: tuple[chain.Scaling, ...]
    mapping: tuple[tuple[chain.Layer, str], ...]

    @property
    def sources(self) -> dict[str, chain.Convolution | chain.Dense]:
        """The layer of the file for each layer with weights, conv1 to fc8."""
        return {name: layer for layer, name in self.mapping if name in WEIGHTED}


def match_alexnet(network: Chain) -> AlexNetMatch:
    """Finds AlexNet's layers in a network, whatever their names.

    Raises:
        UserError: it is no AlexNet, or one that `build_alexnet` cannot build: the message names the layer.
    """
    return _Matcher(network).match()


def layer_weights(found: AlexNetMatch, channel_order: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias of a layer as Keras has them, float32, for RGB pixels and without groups.

    Args:
        found: the network.
        channel_order: of the file: "rgb" or "bgr".
        name: "conv1" to "fc8".
    """
    source = found.sources[name]
    kernel = source.kernel
    if isinstance(source, chain.Convolution):
        kernel = _without_groups(source)
        if name == "conv1" and channel_order == "bgr":
            kernel = kernel[:, :, ::-1]
    elif name == "fc6":
        channels = found.preset.filters[-1]
        side = math.isqrt(len(kernel) // channels)
        kernel = kernel.reshape(channels, side, side, -1).transpose(1, 2, 0, 3).reshape(kernel.shape)
    bias = np.zeros(kernel.shape[-1]) if source.bias is None else source.bias
    # PyTorch takes the arrays themselves, so they must not be views of the file.
    kernel, bias = (np.require(array, np.float32, ["C", "W"]) for array in (kernel, bias))
    return kernel, bias


def _without_groups(layer: chain.Convolution) -> np.ndarray:
    """The kernel (height, width, in, out) of the same convolution in one group: zeros from each group to the others."""
    filters, inputs, height, width = layer.kernel.shape
    each = filters // layer.groups
    kernel = np.zeros((height, width, inputs * layer.groups, filters), np.float32)
    for group in range(layer.groups):
        out = slice(group * each, (group + 1) * each)
        kernel[:, :, group * inputs : (group + 1) * inputs, out] = layer.kernel[out].transpose(2, 3, 1, 0)
    return kernel


def _same_padding(rule: str, size: int, padding: tuple[tuple[int, int], tuple[int, int]]) -> bool:
    """Whether a padding is that of the rule; what no window reaches is none."""
    wanted = effective_padding(size, POOL_PADDINGS[rule](size))
    return all(effective_padding(size, pair) == wanted for pair in padding)


class _Matcher:
    """Goes along the chain, checking each layer."""

    def __init__(self, network: Chain):
        self._network = network
        # It has no part in what a trained network computes, so it may be anywhere.
        self._layers = [layer for layer in network.layers if not isinstance(layer, chain.Dropout)]
        self._at = 0
        self._targets: dict[chain.Layer, str] = {}
        self._sources: dict[str, chain.Convolution | chain.Dense] = {}
        self._normalizations: list[str] = []
        self._pools: list[chain.MaxPool] = []

    def match(self) -> AlexNetMatch:
        scalings = []
        while self._is_next(chain.Scaling):
            scalings.append(self._take(chain.Scaling, "input_mean"))
        self._convolution("conv1")
        self._norm_and_pool("1")
        self._convolution("conv2")
        self._norm_and_pool("2")
        for name in ("conv3", "conv4", "conv5"):
            self._convolution(name)
        self._pool("pool5")
        for name in ("fc6", "fc7"):
            self._dense(name)
            self._take(chain.Relu, name.replace("fc", "relu"))
        self._dense("fc8")
        if self._is_next(chain.Softmax):
            self._take(chain.Softmax, _NOTHING)
        if self._at < len(self._layers):
            raise self._error(self._layers[self._at], "comes after fc8. Expected nothing there but a softmax")
        preset = self._preset()
        num_classes = self._sources["fc8"].kernel.shape[1]
        rates = {layer.rate for layer in self._network.layers if isinstance(layer, chain.Dropout)} - {None}
        dropout = rates.pop() if len(rates) == 1 else 0.5
        self._check_numbers(scalings)
        mapping = tuple((layer, self._targets.get(layer, _NOTHING)) for layer in self._network.layers)
        is_assumed = self._network.image_size is None
        return AlexNetMatch(self._network, preset, is_assumed, num_classes, dropout, tuple(scalings), mapping)

    def _is_next(self, kind: type) -> bool:
        return self._at < len(self._layers) and isinstance(self._layers[self._at], kind)

    def _take(self, kind: type, name: str):
        """The next layer, which has to be of that kind."""
        if self._at == len(self._layers):
            last = f"the last layer is {self._layers[-1].name!r}" if self._layers else "there are no layers"
            raise UserError(
                f"{self._network.path}: {last}, and a {chain.NOUNS[kind]} ({name}) should follow. Expected an AlexNet: "
                "the file is not whole, or of another network. Download or copy it again."
            )
        layer = self._layers[self._at]
        if not isinstance(layer, kind):
            raise self._error(
                layer, f"is a {chain.NOUNS[type(layer)]}. Expected a {chain.NOUNS[kind]} there, AlexNet's {name}"
            )
        self._at += 1
        self._targets[layer] = name
        return layer

    def _convolution(self, name: str) -> None:
        layer = self._take(chain.Convolution, name)
        size, first = _KERNELS[name], name == "conv1"
        found = (layer.kernel.shape[2:], layer.strides)
        stride = 4 if first else 1
        if found != ((size, size), (stride, stride)):
            raise self._error(
                layer,
                f"has a kernel of {_times(found[0])} and strides of {_times(found[1])}. Expected {size} × {size} and "
                f"{stride} × {stride}, as AlexNet's {name} has",
            )
        padding = self._pair(layer, 1)
        if not first and padding != ((size // 2,) * 2,) * 2:
            raise self._error(layer, f"is padded by {padding}. Expected {size // 2} on all sides")
        if len({*padding[0], *padding[1]}) > 1:
            raise self._error(layer, f"is padded by {padding}. Expected as much on all sides")
        inputs = 3 if first else len(list(self._sources.values())[-1].kernel)
        filters, each = layer.kernel.shape[:2]
        if (
            not 0 < layer.groups <= _MAX_GROUPS
            or each * layer.groups != inputs
            or not filters
            or filters % layer.groups
        ):
            raise self._error(
                layer,
                f"has {layer.groups} groups of {each} inputs and {filters} filters in all. Expected {inputs} inputs"
                + (" (red, green and blue)" if first else ", as many as the convolution before it has filters"),
            )
        self._check_bias(layer, filters)
        self._sources[name] = layer
        self._take(chain.Relu, name.replace("conv", "relu"))

    def _norm_and_pool(self, n: str) -> None:
        where = "none"
        if self._is_next(chain.LocalResponseNorm):
            self._norm(f"norm{n}")
            where = "before_pool"
        self._pool(f"pool{n}")
        if where == "none" and self._is_next(chain.LocalResponseNorm):
            self._norm(f"norm{n}")
            where = "after_pool"
        self._normalizations.append(where)

    def _norm(self, name: str) -> None:
        layer = self._take(chain.LocalResponseNorm, name)
        for setting, expected in _LRN.items():
            if not math.isclose(getattr(layer, setting), expected, rel_tol=1e-5):
                raise self._error(layer, f"has {setting} {getattr(layer, setting):g}. Expected {expected:g}")

    def _pool(self, name: str) -> None:
        layer = self._take(chain.MaxPool, name)
        expected = (POOL_WINDOW,) * 2, (POOL_STRIDE,) * 2
        if (layer.window, layer.strides) != expected:
            raise self._error(
                layer,
                f"has windows of {_times(layer.window)} and strides of {_times(layer.strides)}. Expected "
                f"{_times(expected[0])} and {_times(expected[1])}",
            )
        self._pools.append(layer)

    def _dense(self, name: str) -> None:
        layer = self._take(chain.Dense, name)
        inputs, units = layer.kernel.shape
        before = list(self._sources.values())[-1]
        if isinstance(before, chain.Dense) and inputs != before.kernel.shape[1]:
            raise self._error(layer, f"has {inputs:,} inputs. Expected {before.kernel.shape[1]:,}, the units before it")
        if name == "fc7" and units != inputs:
            raise self._error(layer, f"has {units:,} units. Expected {inputs:,}, as many as the layer before it")
        self._check_bias(layer, units)
        self._sources[name] = layer

    def _preset(self) -> Preset:
        if len(set(self._normalizations)) > 1:
            raise UserError(
                f"{self._network.path}: pool1 and pool2 have their normalization at different places "
                f"({' and '.join(self._normalizations)}). Expected the same for both, as in all known AlexNets."
            )
        padding = self._pair(self._sources["conv1"], 1)[0][0]
        if self._network.image_size:
            height, width = self._network.image_size
            if height != width:
                raise UserError(f"{self._network.path} is for images of {height} × {width} pixels. Expected squares.")
            return self._preset_for(height, padding)
        usual, other = _IMAGE_SIZES.get(padding, _OTHER_SIZES)
        try:
            return self._preset_for(usual, padding)
        except UserError as error:
            try:
                return self._preset_for(other, padding)
            except UserError:
                raise error from None

    def _preset_for(self, image_size: int, conv1_padding: int) -> Preset:
        """What the network is for images of that size."""
        sizes = [(image_size + 2 * conv1_padding - _KERNELS["conv1"]) // 4 + 1]
        paddings = []
        for pool in self._pools:
            paddings.append(self._pair(pool, sizes[-1]))
            sizes.append((sizes[-1] + sum(paddings[-1][0]) - POOL_WINDOW) // POOL_STRIDE + 1)
        # The rule that the file names first, as at many sizes several come to the same.
        rules = [pool.padding for pool in self._pools if pool.padding in POOL_PADDINGS] + list(POOL_PADDINGS)
        pools = list(zip(sizes[:3], paddings, strict=True))
        rule = next((rule for rule in rules if all(_same_padding(rule, *pool) for pool in pools)), None)
        if rule is None:
            raise UserError(
                f"{self._network.path}: its max poolings, of {', '.join(map(str, sizes[:3]))} pixels, are padded by "
                f"{', '.join(map(str, paddings))}. Expected padding as in Caffe, CNTK or torchvision."
            )
        fc6 = self._sources["fc6"]
        filters = tuple(len(self._sources[f"conv{n}"].kernel) for n in range(1, 6))
        if sizes[-1] < 1 or len(fc6.kernel) != filters[-1] * sizes[-1] ** 2:
            told = "" if self._network.image_size else ", which the file does not tell"
            raise self._error(
                fc6,
                f"has {len(fc6.kernel):,} inputs. Expected {filters[-1]} × {sizes[-1]} × {sizes[-1]}, for images of "
                f"{image_size} × {image_size} pixels{told}",
            )
        return Preset(
            filters=filters,
            dense_units=fc6.kernel.shape[1],
            image_size=image_size,
            conv1_padding=conv1_padding,
            normalization=self._normalizations[0],
            pool_padding=rule,
        )

    def _pair(self, layer: chain.Convolution | chain.MaxPool, size: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """The layer's padding in numbers, for inputs of that size."""
        if not isinstance(layer.padding, str):
            return layer.padding
        if isinstance(layer, chain.Convolution) and layer.padding != "valid":
            raise self._error(layer, f"is padded by the rule {layer.padding}. Expected padding in numbers")
        return (_PADDINGS[layer.padding](size),) * 2

    def _check_bias(self, layer: chain.Convolution | chain.Dense, size: int) -> None:
        if layer.bias is not None and layer.bias.shape != (size,):
            raise self._error(layer, f"has a bias of {_times(layer.bias.shape)} numbers. Expected {size:,}")

    def _check_numbers(self, scalings: list[chain.Scaling]) -> None:
        for scaling in scalings:
            for values in (scaling.scale, scaling.offset):
                if np.shape(values) not in ((), (1,), (3,)) or not np.isfinite(values).all():
                    raise self._error(
                        scaling, f"scales pixels by {np.shape(values)} numbers. Expected one or three finite ones"
                    )
        for layer in self._sources.values():
            for name, array in (("kernel", layer.kernel), ("bias", layer.bias)):
                # Unlike isfinite(), min() and max() make no array; NaN passes through them.
                if array is not None and not (array.size and np.isfinite(array.min()) and np.isfinite(array.max())):
                    raise self._error(
                        layer,
                        f"has a {name} with no numbers, or with some that are NaN or infinite. Expected finite ones, "
                        "as before training diverged",
                    )

    def _error(self, layer: chain.Layer, problem: str) -> UserError:
        return UserError(
            f"{self._network.path}: layer {layer.name!r} {problem}. Expected an AlexNet as CNTK, Caffe or torchvision "
            "build it, of any width: other networks need another converter; if it is one, download or copy it again."
        )


def _times(sizes: tuple[int, ...]) -> str:
    return " × ".join(map(str, sizes))
