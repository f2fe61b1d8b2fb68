"""SGD with momentum and L2 regularization as CNTK computes them."""

import keras
from keras import ops


class SGDWithL2(keras.optimizers.SGD):
    """v ← momentum·v − rate·(g + l2·w); w ← w + v, for every parameter, biases too.

    CNTK adds the decay to the gradient (Source/CNTKv2LibraryDll/Learner.cpp, `L2RegularizationWeight`). Keras's own
    `weight_decay` is another method: it scales the weights apart from the momentum. The loss that is reported stays
    plain cross-entropy.
    """

    def __init__(self, learning_rate, momentum: float = 0.9, l2: float = 0.0005, **kwargs):
        # Keras refuses a momentum that is the integer 0.
        super().__init__(learning_rate, momentum=float(momentum), **kwargs)
        self.l2 = l2

    def update_step(self, gradient, variable, learning_rate):
        if self.l2:
            gradient = ops.add(gradient, ops.multiply(ops.cast(self.l2, variable.dtype), variable))
        super().update_step(gradient, variable, learning_rate)

    def get_config(self) -> dict:
        return super().get_config() | {"l2": self.l2}
