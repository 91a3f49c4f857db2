"""LiteRT and the Edge TPU: the ONNX graph written as a .tflite, with the same numbers and the same scales."""

from toolkit.backends.litert.backend import LiteRT

__all__ = ["LiteRT"]
