"""The network that `fit` and `evaluate` run under TensorFlow."""

import keras
import tensorflow as tf

from keras_alexnet.training.devices.feed import DataWait


class TensorFlowNetwork(keras.Model):
    """A functional model that measures its data wait, and can compile each replica's passes with XLA.

    XLA cannot compile a whole step under a strategy, because the replicas synchronize within it. So it compiles the
    forward and backward pass of each replica, and the gradients are summed and applied outside. This class never gets
    into a file: the portable form is what is saved.

    Args:
        inputs, outputs, name: as for `keras.Model`.
        wait: accumulates the time that training waits for its batches.
        compile_replicas: whether XLA compiles the passes of each replica. Without a strategy, pass `jit_compile` to
            `compile` instead, which compiles the whole step.
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
        # Keras fetches a batch from the iterator inside the graph, where the wait cannot be measured. Given a list, it
        # uses the batch in it.
        self.train_function = lambda iterator: step([self._wait.next(iterator)])

    def train_step(self, data):
        if not self.compile_replicas:
            return super().train_step(data)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        loss, logits, gradients = self._compiled_gradients(x, y)
        # Keras has divided the loss by the number of replicas.
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
        # The loss is among the metrics, where padding has weight 0; Keras's own loss metric would count it.
        return self.compute_metrics(x, y, self._compiled_forward(x), sample_weight=sample_weight)

    def _forward(self, x):
        return self(x, training=False)

    def _gradients(self, x, y):
        with tf.GradientTape() as tape:
            logits = self(x, training=True)
            loss = self.compute_loss(x=x, y=y, y_pred=logits, training=True)
        return loss, logits, tape.gradient(loss, self.trainable_weights)
