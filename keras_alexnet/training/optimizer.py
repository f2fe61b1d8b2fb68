"""SGD with momentum and L2 regularization as CNTK computes them."""

import keras
from keras import ops


class SGDWithL2(keras.optimizers.SGD):
    """v ← momentum·v - rate·(g + l2·w); w ← w + v, for every parameter, biases too.

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
        if self.momentum and keras.backend.backend() == "tensorflow":
            self._fused_update(gradient, variable, learning_rate)
        else:
            super().update_step(gradient, variable, learning_rate)

    def _all_reduce_sum_gradients(self, grads_and_vars):
        """Called under TensorFlow only."""
        import tensorflow as tf

        # On one replica Keras's version adds an identity with a custom gradient. TensorFlow registers these until the
        # process ends, and with each the network and all its variables.
        if tf.distribute.get_strategy().num_replicas_in_sync == 1:
            return grads_and_vars
        return super()._all_reduce_sum_gradients(grads_and_vars)

    def _fused_update(self, gradient, variable, learning_rate) -> None:
        """What Keras does, in TensorFlow's one kernel instead of several passes over the weights."""
        import tensorflow as tf

        velocity = self.momentums[self._get_variable_index(variable)]
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=velocity.value.handle,
            lr=tf.cast(learning_rate, gradient.dtype),
            grad=gradient,
            momentum=tf.constant(self.momentum, gradient.dtype),
        )

    def get_config(self) -> dict:
        return super().get_config() | {"l2": self.l2}
