"""The loss and the metrics of a model, and the error rates that they stand for."""

import keras

from keras_alexnet.training.top_k import TOP


def compile_model(
    model: keras.Model, optimizer: keras.optimizers.Optimizer | None = None, jit_compile: bool | str = "auto"
) -> None:
    """Compiles with cross-entropy of the logits as the loss, and the metrics that `error_rates` reads.

    Args:
        model: gives logits.
        optimizer: for training; evaluation needs none.
        jit_compile: as `keras.Model.compile` has it.
    """
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        # Weighted, so that padding does not count. Keras's own mean of the loss would count it.
        weighted_metrics=[
            keras.metrics.SparseCategoricalAccuracy(name="top1_accuracy"),
            keras.metrics.SparseTopKCategoricalAccuracy(k=min(TOP, model.output_shape[-1]), name="top5_accuracy"),
            keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="cross_entropy"),
        ],
        jit_compile=jit_compile,
    )


def error_rates(results: dict, num_images: int) -> dict[str, float]:
    """`top1_error`, `top1_accuracy`, `top5_error`, `top5_accuracy` (exact fractions of `num_images`) and `loss`.

    Args:
        results: what Keras's `fit` or `evaluate` returned.
        num_images: the images that they count.
    """
    rates = {}
    for name in ("top1", "top5"):
        # The accuracy is a float32; the number of correct images behind it is whole.
        correct = round(float(results[f"{name}_accuracy"]) * num_images)
        rates |= {f"{name}_error": (num_images - correct) / num_images, f"{name}_accuracy": correct / num_images}
    return rates | {"loss": float(results["cross_entropy"])}
