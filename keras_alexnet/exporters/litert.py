"""Writes a network as LiteRT (formerly TensorFlow Lite), in float32 or with smaller weights.

Source: https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/post_training_quantization.
"""

from pathlib import Path

import keras
import tensorflow as tf

from keras_alexnet.compute_layers import LocalResponseNorm
from keras_alexnet.exporters.layers import layers_in_order
from keras_alexnet.presets import LRN


def write_litert(model: keras.Model, path: Path, quantize: str = "none") -> None:
    """Writes a model of `build_alexnet`, of any batch size, in operators that every LiteRT runtime has.

    Args:
        model: the network.
        path: the file.
        quantize: "none"; "float16" stores the weights in float16; "int8" stores the kernels in int8,
            with a scale for each filter or unit, and rounds what a layer takes in while it runs. Values between layers
            stay float32 in both.
    """
    chain = layers_in_order(model)

    @tf.function(input_signature=[tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name="image")])
    def serve(image):
        x = image
        for layer in chain:
            is_norm = isinstance(layer, LocalResponseNorm)
            x = _local_response_norm(x, layer.lrn) if is_norm else layer(x, training=False)
        return {"logits": x}

    module = tf.Module()
    module.serve = serve
    module.weights = [weight.value for weight in model.weights]
    converter = tf.lite.TFLiteConverter.from_concrete_functions([serve.get_concrete_function()], module)
    if quantize != "none":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    path.write_bytes(converter.convert())


def _local_response_norm(x: tf.Tensor, lrn: LRN) -> tf.Tensor:
    """LiteRT has an operator for it. The model's own matrix of 2e-5 would lose digits in float16 and all in int8."""
    return tf.nn.local_response_normalization(x, lrn.size // 2, lrn.k, lrn.alpha / lrn.size, lrn.beta)
