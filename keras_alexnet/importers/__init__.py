"""Trained networks of CNTK, Caffe, ONNX and torchvision, as Keras models."""
