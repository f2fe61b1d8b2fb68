"""Keras models as ONNX, SavedModel and LiteRT."""
