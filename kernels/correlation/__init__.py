"""Pearson correlation: between matching rows of two matrices."""

from __future__ import annotations

from torch import Tensor

from kernels.correlation import operators, reference
from kernels.exporting import exporting

__all__ = ["row_correlation"]


def row_correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson correlation between matching rows of two matrices, differentiable once.

    Args:
        x: (rows, n) floating point, n >= 2.
        y: Same shape, dtype and device as `x`.

    Returns:
        (rows,) in the dtype of `x`, in [-1, 1]; 0 where a row is constant, NaN where it holds NaN or infinity.

    Raises:
        ValueError: the shapes, dtypes or devices differ, or a row has fewer than two elements.
        TypeError: the elements are no floating point numbers.
        KernelUnavailable: KERNELS_FORM names a form that does not run here.

    Source: Pearson 1895.
    """
    if x.shape != y.shape or x.ndim != 2 or x.shape[1] < 2:
        raise ValueError(f"x and y must both be (rows, n>=2), got {tuple(x.shape)} and {tuple(y.shape)}")
    if (x.dtype, x.device) != (y.dtype, y.device):
        raise ValueError(f"x is {x.dtype} on {x.device} and y is {y.dtype} on {y.device}: they must be alike")
    if not x.is_floating_point():
        raise TypeError(f"correlations are of floating point numbers, got {x.dtype}")
    return reference.row_correlation(x, y) if exporting() else operators.row_correlation(x, y)
