"""Caffe's networks."""
