"""Pearson correlation: between matching rows of two matrices, between the columns of one, and of data in pieces."""

from __future__ import annotations

from torch import Tensor

from kernels.correlation.columns import operators as columns
from kernels.correlation.columns import reference as columns_reference
from kernels.correlation.rows import operators as rows
from kernels.correlation.rows import reference as rows_reference
from kernels.correlation.state import CorrelationState
from kernels.exporting import exporting

__all__ = ["CorrelationState", "correlation", "correlation_workspace_bytes", "row_correlation"]


def row_correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson correlation between matching rows of two matrices, differentiable once.

    Sums are kept in float32 (float64 for float64), where squares of deviations must be finite and normal.

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
    return rows_reference.row_correlation(x, y) if exporting() else rows.row_correlation(x, y)


def correlation(x: Tensor) -> Tensor:
    """Pearson correlation between the columns of a matrix, in one pass over its rows, differentiable once.

    Sums are kept in float32 (float64 for float64) of columns that are shifted near their means first, so a mean of 1e4
    deviations costs no digits, and neither does one that drifts; README.md bounds the error. Squares of deviations must
    be finite and normal in that precision.

    Args:
        x: (T, D) floating point, T >= 2; any strides.

    Returns:
        (D, D) in the dtype of `x`, in [-1, 1], symmetric to the bit, with ones on the diagonal; 0 off it for a constant
        column; NaN, on the diagonal as well, for a column that holds NaN or infinity.

    Raises:
        ValueError: `x` is no matrix, or has fewer than two rows.
        TypeError: the elements are no floating point numbers.
        MemoryError: `correlation_workspace_bytes` are not to be had; raised before anything is computed.
        KernelUnavailable: KERNELS_FORM names a form that does not run here.

    Source: Pearson 1895; sums by Chan, Golub, LeVeque 1983, "Algorithms for computing the sample variance".
    """
    if x.ndim != 2 or x.shape[0] < 2:
        raise ValueError(f"x must be (T>=2, D), got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"correlations are of floating point numbers, got {x.dtype}")
    return columns_reference.correlation(x) if exporting() else columns.correlation(x)[0]


def correlation_workspace_bytes(x: Tensor) -> int:
    """The memory that `correlation(x)` takes at most, beside x (T, D) and a copy of it if it is not contiguous."""
    return columns.workspace_bytes(x)
