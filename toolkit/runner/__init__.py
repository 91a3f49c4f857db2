"""A bundle without the toolkit around it: what is frozen into one file for machines that have no Python.

Its modules import neither torch nor onnx, nor what the command line stands on.
"""
