"""Passes on an ONNX graph, after export."""
