"""Layers that compute what stock layers of AlexNet do, in forms that are faster on some platforms."""

import keras
from keras import layers, ops

from keras_alexnet.model import DATA_FORMAT
from keras_alexnet.normalization import inverse_power, lrn_band
from keras_alexnet.presets import LRN, POOL_STRIDE, POOL_WINDOW

# conv1's kernel and stride. Padded to 12×12, the kernel covers 3×3 blocks of 4×4 pixels.
_KERNEL, _BLOCK = 11, 4
_BLOCKS = -(-_KERNEL // _BLOCK)


class BlockConv2D(layers.Layer):
    """conv1 as a 3×3 convolution with stride 1 over blocks of 4×4 pixels: 48 input channels instead of 3.

    The 11×11 kernel is zero-padded to 12×12. With 3 channels, GPUs pad to 8 and leave tensor cores mostly idle.
    """

    def __init__(self, conv: layers.Conv2D):
        super().__init__(dtype=conv.dtype_policy, name=conv.name)
        self.conv = conv
        self.built = True

    @staticmethod
    def fits(layer: keras.Layer) -> bool:
        """Whether this layer can replace `layer`."""
        return (
            isinstance(layer, layers.Conv2D)
            and (layer.kernel_size, layer.strides, layer.padding) == ((_KERNEL,) * 2, (_BLOCK,) * 2, "valid")
            and (layer.data_format, layer.groups, layer.dilation_rate) == (DATA_FORMAT, 1, (1, 1))
            and layer.use_bias
            and layer.activation is keras.activations.linear
        )

    def call(self, images):
        _, height, width, channels = images.shape
        rows, columns = ((size - _KERNEL) // _BLOCK + _BLOCKS for size in (height, width))
        # The kernel does not reach up to two trailing rows; a missing row meets only the kernel's own zeros.
        images = images[:, : rows * _BLOCK, : columns * _BLOCK]
        images = ops.pad(
            images, [[0, 0], [0, rows * _BLOCK - images.shape[1]], [0, columns * _BLOCK - images.shape[2]], [0, 0]]
        )
        blocks = ops.reshape(images, (-1, rows, _BLOCK, columns, _BLOCK, channels))
        blocks = ops.reshape(ops.transpose(blocks, (0, 1, 3, 2, 4, 5)), (-1, rows, columns, _BLOCK**2 * channels))
        missing = _BLOCKS * _BLOCK - _KERNEL
        kernel = ops.pad(self.conv.kernel, [[0, missing], [0, missing], [0, 0], [0, 0]])
        kernel = ops.reshape(kernel, (_BLOCKS, _BLOCK, _BLOCKS, _BLOCK, channels, -1))
        kernel = ops.transpose(kernel, (0, 2, 1, 3, 4, 5))
        kernel = ops.reshape(kernel, (_BLOCKS, _BLOCKS, _BLOCK**2 * channels, -1))
        return ops.conv(blocks, kernel, 1, "valid", data_format=DATA_FORMAT) + self.conv.bias

    def compute_output_shape(self, input_shape):
        return self.conv.compute_output_shape(input_shape)


class LocalResponseNorm(layers.Layer):
    """Local response normalization with a hand-written gradient, computed in float32 for inputs of any precision.

    With d = k + alpha/n · Σ x², the sum over n neighboring channels, y = x · d^-beta, and for an upstream gradient g
    dx = g · d^-beta - 2·beta·alpha/n · x · Σ (g · x · d^(-beta-1)).

    Args:
        lrn: the constants.
        form: how to compute the sums: "band" (product with a banded matrix) or "slices" (adding shifted slices).
    """

    def __init__(self, lrn: LRN, form: str, *, name: str):
        super().__init__(autocast=False, name=name)
        self.lrn = lrn
        self._sum = {"band": _band_sum, "slices": _sliced_sum}[form]
        self.built = True

    def call(self, x):
        @ops.custom_gradient
        def normalize(x):
            values = ops.cast(x, "float32")
            denominator = self.lrn.k + self._sum(ops.square(values), self.lrn)
            power = inverse_power(denominator, self.lrn.beta)

            def gradient(*arguments, upstream=None):
                upstream = ops.cast(arguments[0] if upstream is None else upstream, "float32")
                scaled = upstream * power
                sums = self._sum(scaled * values / denominator, self.lrn)
                return ops.cast(scaled - 2 * self.lrn.beta * values * sums, x.dtype)

            return ops.cast(values * power, x.dtype), gradient

        return normalize(x)

    def compute_output_shape(self, input_shape):
        return input_shape


def _band_sum(values, lrn: LRN):
    """alpha/n times the sum over n neighboring channels."""
    return ops.matmul(values, lrn_band(values.shape[-1], lrn))


def _sliced_sum(values, lrn: LRN):
    """`_band_sum` of shifted slices."""
    channels, reach = values.shape[-1], lrn.size // 2
    padded = ops.pad(values, [[0, 0]] * 3 + [[reach, reach]])
    total = padded[..., :channels]
    for shift in range(1, lrn.size):
        total = total + padded[..., shift : shift + channels]
    return lrn.alpha / lrn.size * total


class SlicedMaxPool(layers.Layer):
    """Max pooling over 3×3 windows with stride 2, as a maximum over nine shifted slices.

    Like the backends' own pooling, it routes the gradient to the first maximum of each window in memory order. It keeps
    the position of that maximum, so the gradient is also a sum of shifted slices instead of a scatter.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.built = True

    @staticmethod
    def fits(layer: keras.Layer) -> bool:
        """Whether this layer can replace `layer`."""
        settings = ((POOL_WINDOW,) * 2, (POOL_STRIDE,) * 2, "valid", DATA_FORMAT)
        return (
            isinstance(layer, layers.MaxPooling2D)
            and (tuple(layer.pool_size), tuple(layer.strides), layer.padding, layer.data_format) == settings
        )

    def call(self, x):
        _, height, width, channels = x.shape
        rows, columns = ((size - POOL_WINDOW) // POOL_STRIDE + 1 for size in (height, width))

        @ops.custom_gradient
        def pool(x):
            def cells(row, column):
                return x[:, row : row + 2 * rows - 1 : 2, column : column + 2 * columns - 1 : 2]

            maximum = cells(0, 0)
            position = ops.zeros_like(maximum, dtype="uint8")
            for number in range(1, POOL_WINDOW**2):
                other = cells(*divmod(number, POOL_WINDOW))
                position = ops.where(other > maximum, ops.cast(number, "uint8"), position)
                maximum = ops.maximum(maximum, other)

            def gradient(*arguments, upstream=None):
                upstream = ops.cast(arguments[0] if upstream is None else upstream, "float32")

                def shares(row, column):
                    """The gradient of the inputs in even (0) or odd (1) rows and columns."""
                    total = 0.0
                    for i in range(row, POOL_WINDOW, 2):
                        for j in range(column, POOL_WINDOW, 2):
                            is_maximum = position == ops.cast(POOL_WINDOW * i + j, "uint8")
                            share = ops.where(is_maximum, upstream, 0.0)
                            total += ops.pad(share, [[0, 0], [i // 2, 1 - i // 2], [j // 2, 1 - j // 2], [0, 0]])
                    return total

                both = [
                    ops.reshape(
                        ops.stack([shares(row, 0), shares(row, 1)], axis=3), (-1, rows + 1, 2 * columns + 2, channels)
                    )
                    for row in (0, 1)
                ]
                result = ops.reshape(ops.stack(both, axis=2), (-1, 2 * rows + 2, 2 * columns + 2, channels))
                return ops.cast(result[:, :height, :width], x.dtype)

            return maximum, gradient

        return pool(x)

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        return batch, (height - POOL_WINDOW) // POOL_STRIDE + 1, (width - POOL_WINDOW) // POOL_STRIDE + 1, channels
