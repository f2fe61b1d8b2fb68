"""The network that `fit` and `evaluate` run under TensorFlow."""

import keras
import tensorflow as tf

from keras_alexnet.training.feed import DataWait


class TensorFlowNetwork(keras.Model):
    """A functional model that times its input, and may have XLA compile what each replica of a strategy computes.

    XLA cannot compile a whole step under a strategy, since replicas meet in it. Forward and backward pass of a replica
    are all that is worth it: gradients are added up over the replicas, and applied, outside. It is never saved, as the
    files hold the portable form of its network.

    Args:
        inputs, outputs: as `keras.Model` has them.
        wait: takes the time that the training waits for its batches.
        compile_replicas: whether XLA compiles the passes of each replica. Where there is no strategy, `compile` takes
            `jit_compile` for the whole step.
        name: as `keras.Model` has it.
    """

    def __init__(self, inputs, outputs, *, wait: DataWait, compile_replicas: bool = False, name: str | None = None):
        super().__init__(inputs, outputs, name=name)
        self._wait = wait
        self.compile_replicas = compile_replicas
        self._compiled_forward = tf.function(self._forward, jit_compile=True, autograph=False)
        self._compiled_gradients = tf.function(self._gradients, jit_compile=True, autograph=False)

    def make_train_function(self, force: bool = False) -> None:
        if self.train_function is not None and not force:
            return
        super().make_train_function(force)
        step = self.train_function
        # Keras takes a batch out of the iterator within the graph, where nobody sees how long it waits. Given a list of
        # batches, it takes that.
        self.train_function = lambda iterator: step([self._wait.next(iterator)])

    def train_step(self, data):
        if not self.compile_replicas:
            return super().train_step(data)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        loss, logits, gradients = self._compiled_gradients(x, y)
        # Keras has divided it by the number of replicas.
        loss_metric = next(metric for metric in self.metrics if metric.name == "loss")
        loss_metric.update_state(
            loss * tf.cast(self.distribute_strategy.num_replicas_in_sync, loss.dtype), sample_weight=tf.shape(x)[0]
        )
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        return self.compute_metrics(x, y, logits, sample_weight=sample_weight)

    def test_step(self, data):
        if not self.compile_replicas:
            return super().test_step(data)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        # The metrics have the loss as well: Keras's own would count the padding.
        return self.compute_metrics(x, y, self._compiled_forward(x), sample_weight=sample_weight)

    def _forward(self, x):
        return self(x, training=False)

    def _gradients(self, x, y):
        with tf.GradientTape() as tape:
            logits = self(x, training=True)
            loss = self.compute_loss(x=x, y=y, y_pred=logits, training=True)
        return loss, logits, tape.gradient(loss, self.trainable_weights)
