"""Kernels beside what else computes the same: `python -m toolkit.bench.kernels`; a file an operator."""
