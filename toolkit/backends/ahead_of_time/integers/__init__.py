"""Quantized graphs as integer arithmetic: our own C kernels for int8, TVM for what stays in floats."""
