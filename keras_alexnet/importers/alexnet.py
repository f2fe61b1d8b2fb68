"""AlexNet matched in a chain of layers, whatever their names."""

from dataclasses import dataclass

import numpy as np

from keras_alexnet.errors import UserError
from keras_alexnet.importers import chain
from keras_alexnet.importers.arrays import as_written, shape_text
from keras_alexnet.importers.chain import Chain
from keras_alexnet.importers.geometry import find_image_size_and_pool_padding
from keras_alexnet.presets import LRN, POOL_STRIDE, POOL_WINDOW, WEIGHTED, Preset

# AlexNets have one group or two; without groups, a kernel takes as many times the memory.
_MAX_GROUPS = 8
# Kernel size and stride.
_CONVOLUTIONS = {"conv1": (11, 4), "conv2": (5, 1), "conv3": (3, 1), "conv4": (3, 1), "conv5": (3, 1)}
_DEFAULT_DROPOUT = 0.5
# Layers that are left out: the model returns logits, and has dropout after fc6 and fc7 only.
_NOTHING = "–"


@dataclass(frozen=True, eq=False)
class AlexNetMatch:
    """An AlexNet in a file.

    Attributes:
        network: all that was read.
        preset: its architecture, without the scaling of pixels.
        size_is_assumed: whether the file does not have the size of its images.
        num_classes: units of fc8.
        dropout: rates after fc6 and fc7: the last two of the file, or its only one for both; 0.5 if it has none.
        scalings: what the network does with pixels before conv1, in order.
        mapping: each layer of the file, in its order, and the name of the layer that it becomes.
    """

    network: Chain
    preset: Preset
    size_is_assumed: bool
    num_classes: int
    dropout: tuple[float, float]
    scalings: tuple[chain.Scaling, ...]
    mapping: tuple[tuple[chain.Layer, str], ...]

    @property
    def sources(self) -> dict[str, chain.Convolution | chain.Dense]:
        """The layer of the file for each layer with weights, conv1 to fc8."""
        return {name: layer for layer, name in self.mapping if name in WEIGHTED}


def match_alexnet(network: Chain) -> AlexNetMatch:
    """Finds AlexNet's layers in a network, whatever their names.

    Raises:
        UserError: it is not an AlexNet, or one that `build_alexnet` cannot build: the message names the layer.
    """
    return _Matcher(network).match()


class _Matcher:
    """Walks along the chain, checking each layer."""

    def __init__(self, network: Chain):
        self._network = network
        # Dropout has no part in what a trained network computes, so it may be anywhere.
        self._layers = [layer for layer in network.layers if not isinstance(layer, chain.Dropout)]
        self._at = 0
        self._targets: dict[chain.Layer, str] = {}
        self._sources: dict[str, chain.Convolution | chain.Dense] = {}
        self._places: list[str] = []  # of the normalizations
        self._lrns: list[LRN] = []
        self._pools: list[chain.MaxPool] = []

    def match(self) -> AlexNetMatch:
        scalings = []
        while self._is_next(chain.Scaling):
            scalings.append(self._scaling())
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
        return AlexNetMatch(
            self._network,
            self._preset(),
            self._network.image_size is None,
            self._sources["fc8"].kernel.shape[1],
            self._dropout(),
            tuple(scalings),
            tuple((layer, self._targets.get(layer, _NOTHING)) for layer in self._network.layers),
        )

    def _is_next(self, kind: type) -> bool:
        return self._at < len(self._layers) and isinstance(self._layers[self._at], kind)

    def _take(self, kind: type, name: str):
        """The next layer, which has to be of that kind."""
        if self._at == len(self._layers):
            last = f"the last layer is {self._layers[-1].name!r}" if self._layers else "there are no layers"
            raise UserError(
                f"{self._network.path}: {last}. Expected an AlexNet, with a {chain.NOUNS[kind]} ({name}) there."
            )
        layer = self._layers[self._at]
        if not isinstance(layer, kind):
            raise self._error(
                layer, f"is a {chain.NOUNS[type(layer)]}. Expected a {chain.NOUNS[kind]} there, AlexNet's {name}"
            )
        self._at += 1
        self._targets[layer] = name
        return layer

    def _scaling(self) -> chain.Scaling:
        layer = self._take(chain.Scaling, "input_mean")
        for values in (layer.scale, layer.offset):
            if np.shape(values) not in ((), (1,), (3,)) or not np.isfinite(values).all():
                problem = f"scales pixels by {np.shape(values)} numbers. Expected one or three finite ones"
                raise self._error(layer, problem)
        return layer

    def _convolution(self, name: str) -> None:
        layer = self._take(chain.Convolution, name)
        size, stride = _CONVOLUTIONS[name]
        self._check_window(layer, size, stride, "a kernel")
        is_first = name == "conv1"
        padding = ((0, 0), (0, 0)) if layer.padding == "valid" else layer.padding
        if isinstance(padding, str):
            raise self._error(layer, f"is padded by the rule {padding}. Expected padding in numbers")
        sides = {*padding[0], *padding[1]}
        if len(sides) > 1 or not (is_first or sides == {size // 2}):
            expected = "as much" if is_first else size // 2
            raise self._error(layer, f"is padded by {padding}. Expected {expected} on all sides")
        inputs = 3 if is_first else len(self._last_source().kernel)
        filters, each, groups = *layer.kernel.shape[:2], layer.groups
        if not 0 < groups <= _MAX_GROUPS or each * groups != inputs or not filters or filters % groups:
            reason = " (red, green and blue)" if is_first else ", as many as the convolution before it has filters"
            raise self._error(
                layer,
                f"has {groups} groups of {each} inputs and {filters} filters in all. Expected {inputs} inputs{reason}",
            )
        self._add_source(name, layer, filters)
        self._take(chain.Relu, name.replace("conv", "relu"))

    def _norm_and_pool(self, n: str) -> None:
        place = "none"
        if self._is_next(chain.LocalResponseNorm):
            self._norm(f"norm{n}")
            place = "before_pool"
        self._pool(f"pool{n}")
        if place == "none" and self._is_next(chain.LocalResponseNorm):
            self._norm(f"norm{n}")
            place = "after_pool"
        self._places.append(place)

    def _norm(self, name: str) -> None:
        layer = self._take(chain.LocalResponseNorm, name)
        # As people write them: files have them in float32.
        alpha, beta, k = (as_written(value) for value in (layer.alpha, layer.beta, layer.k))
        try:
            self._lrns.append(LRN(layer.size, alpha, beta, k))
        except ValueError as error:
            raise self._error(layer, f"has {error}") from None
        if self._lrns[-1] != self._lrns[0]:
            raise self._error(layer, f"has {self._lrns[-1]}. Expected those of the first one, {self._lrns[0]}")

    def _pool(self, name: str) -> None:
        layer = self._take(chain.MaxPool, name)
        self._check_window(layer, POOL_WINDOW, POOL_STRIDE, "a window")
        self._pools.append(layer)

    def _dense(self, name: str) -> None:
        layer = self._take(chain.Dense, name)
        inputs, units = layer.kernel.shape
        before = self._last_source()
        if isinstance(before, chain.Dense) and inputs != before.kernel.shape[1]:
            raise self._error(layer, f"has {inputs:,} inputs. Expected {before.kernel.shape[1]:,}, the units before it")
        self._add_source(name, layer, units)

    def _preset(self) -> Preset:
        if len(set(self._places)) > 1:
            raise UserError(
                f"{self._network.path}: pool1 and pool2 have their normalization at different places "
                f"({' and '.join(self._places)}). Expected the same for both, as in all known AlexNets."
            )
        filters = tuple(len(self._sources[f"conv{n}"].kernel) for n in range(1, 6))
        conv1, fc6 = self._sources["conv1"], self._sources["fc6"]
        conv1_padding = 0 if conv1.padding == "valid" else conv1.padding[0][0]
        image_size, pool_padding = find_image_size_and_pool_padding(
            self._network, conv1_padding, self._pools, fc6, filters[-1]
        )
        return Preset(
            filters=filters,
            dense_units=tuple(self._sources[name].kernel.shape[1] for name in ("fc6", "fc7")),
            image_size=image_size,
            conv1_padding=conv1_padding,
            normalization=self._places[0],
            lrn=self._lrns[0] if self._lrns else LRN(),
            pool_padding=pool_padding,
        )

    def _dropout(self) -> tuple[float, float]:
        layers = [layer for layer in self._network.layers if isinstance(layer, chain.Dropout)]
        match [layer for layer in layers if layer.rate is not None][-2:]:
            case []:
                return _DEFAULT_DROPOUT, _DEFAULT_DROPOUT
            case [only] if len(layers) > 1:
                self._targets[only] = "drop6, drop7"
                return only.rate, only.rate
            case [only]:
                after_fc7 = self._network.layers.index(only) > self._network.layers.index(self._sources["fc7"])
                self._targets[only] = "drop7" if after_fc7 else "drop6"
                return (0.0, only.rate) if after_fc7 else (only.rate, 0.0)
            case [first, second]:
                self._targets |= {first: "drop6", second: "drop7"}
                return first.rate, second.rate

    def _last_source(self) -> chain.Convolution | chain.Dense:
        return next(reversed(self._sources.values()))

    def _add_source(self, name: str, layer: chain.Convolution | chain.Dense, units: int) -> None:
        """Adds a layer with weights, which it checks."""
        if layer.bias is not None and layer.bias.shape != (units,):
            raise self._error(layer, f"has a bias of {shape_text(layer.bias.shape)} numbers. Expected {units:,}")
        for part, array in (("kernel", layer.kernel), ("bias", layer.bias)):
            # Unlike isfinite(), min() and max() make no array; NaN passes through them.
            if array is not None and not (array.size and np.isfinite(array.min()) and np.isfinite(array.max())):
                raise self._error(
                    layer,
                    f"has a {part} with no numbers, or with some that are NaN or infinite. Expected finite ones, as "
                    "before training diverged",
                )
        self._sources[name] = layer

    def _check_window(self, layer: chain.Convolution | chain.MaxPool, size: int, stride: int, noun: str) -> None:
        if (layer.window, layer.strides) != ((size,) * 2, (stride,) * 2):
            raise self._error(
                layer,
                f"has {noun} of {shape_text(layer.window)} and strides of {shape_text(layer.strides)}. Expected "
                f"{size} × {size} and {stride} × {stride}, as in AlexNet's {self._targets[layer]}",
            )

    def _error(self, layer: chain.Layer, problem: str) -> UserError:
        return UserError(
            f"{self._network.path}: layer {layer.name!r} {problem}. Networks other than AlexNet, in the form and the "
            "order of layers of CNTK, Caffe or torchvision, need another converter."
        )
