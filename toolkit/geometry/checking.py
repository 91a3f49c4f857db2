"""What a public function asks of its input before it computes: finite, square, symmetric, positive definite."""

from __future__ import annotations

import torch
from torch import Tensor

from toolkit.errors import GeometryError

__all__ = ["require_finite", "require_nondegenerate", "require_positive_definite", "require_square"]


def require_finite(values: Tensor, what: str) -> Tensor:
    """`values` as they are.

    Raises:
        GeometryError: one of them is NaN or infinite; the message names `what`, the entry and the value.
    """
    if values.isfinite().all():
        return values
    at = (~values.isfinite()).nonzero()[0].tolist()
    raise GeometryError(f"{what} is {values[tuple(at)]} at index {at}", hint="look where it stops being finite")


def require_square(values: Tensor, what: str) -> Tensor:
    """`values` as they are: finite, and [*B, n, n] with n >= 1.

    Raises:
        GeometryError: another shape, or a value that is not finite.
    """
    if values.ndim < 2 or values.shape[-1] != values.shape[-2] or not values.shape[-1]:
        raise GeometryError(f"{what} comes as {tuple(values.shape)}", hint="it must be square, [*B, n, n]")
    return require_finite(values, what)


def require_nondegenerate(metric: Tensor, what: str = "the metric") -> Tensor:
    """`metric` [*B, n, n] as it is: finite, symmetric to rounding, no eigenvalue 0 to rounding; signs may differ.

    Raises:
        GeometryError: with the asymmetry, or with the eigenvalue nearest to 0.
    """
    _eigenvalues(metric, what)
    return metric


def require_positive_definite(metric: Tensor, what: str = "the metric") -> Tensor:
    """`metric` [*B, n, n] as it is: finite, symmetric to rounding, smallest eigenvalue above rounding.

    Raises:
        GeometryError: with the asymmetry or the smallest eigenvalue.
    """
    smallest = float(_eigenvalues(metric, what).min())
    if smallest < 0:
        raise GeometryError(
            f"{what} is indefinite: its smallest eigenvalue is {smallest:.3g}", hint="lengths need a positive metric"
        )
    return metric


def _eigenvalues(metric: Tensor, what: str) -> Tensor:
    require_square(metric, what)
    rounding = metric.shape[-1] * torch.finfo(metric.dtype).eps
    metric = metric.detach()
    asymmetry, size = float((metric - metric.mT).abs().max()), float(metric.abs().max())
    if asymmetry > 16 * rounding * size:  # sums of a few products round this much
        raise GeometryError(f"{what} differs from its transpose by {asymmetry:.3g}", hint="symmetrise it first")
    values: Tensor = torch.linalg.eigvalsh(metric)
    smallest, largest = values.abs().amin(-1), values.abs().amax(-1)
    if not bool((smallest > rounding * largest).all()):
        worst = float(smallest.flatten()[(smallest - rounding * largest).argmin()])
        raise GeometryError(
            f"{what} is singular: its eigenvalue nearest to zero is {worst:.3g}",
            hint="keep away from the edge of the chart, or change coordinates",
        )
    return values
