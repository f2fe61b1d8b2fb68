"""ONNX models (`.onnx`) as chains of layers: those of the ONNX model zoo, of PyTorch's and of CNTK's exporters.

What the operators mean, and what changed from opset to opset:
https://github.com/onnx/onnx/blob/main/docs/Operators.md and Changelog.md.
"""
