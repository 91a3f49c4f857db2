"""What a public function asks of its input before it computes: finite, square, positive definite, stochastic, prime."""

from __future__ import annotations

import cmath
import math

import torch
from torch import Tensor

from toolkit.errors import GeometryError

__all__ = [
    "all_finite",
    "is_prime",
    "require_finite",
    "require_nondegenerate",
    "require_positive_definite",
    "require_prime",
    "require_square",
    "require_stochastic",
]


def all_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite. A finite sum says so in one pass; where it is not, finite values may have
    overflowed in it, and each is looked at."""
    held = values.detach()
    return cmath.isfinite(held.sum().item()) or bool(held.isfinite().all())


def require_finite(values: Tensor, what: str) -> Tensor:
    """`values` as they are.

    Raises:
        GeometryError: one of them is NaN or infinite; the message names `what`, the entry and the value.
    """
    if all_finite(values):
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


def require_stochastic(attention: Tensor) -> Tensor:
    """`attention` [*B, N, N] as it is: not negative, rows summing to one.

    Raises:
        GeometryError: with the offending entry or row sum.
    """
    require_square(attention, "the attention")
    held = attention.detach()
    if float(held.min()) < 0:
        raise GeometryError(f"an attention weight is {float(held.min()):.3g}", hint="weights are probabilities")
    sums = held.sum(-1)
    worst = sums.flatten()[(sums - 1).abs().argmax()]
    if abs(float(worst) - 1) > 4 * held.shape[-1] * torch.finfo(held.dtype).eps:
        raise GeometryError(f"a row of the attention sums to {float(worst):.9g}", hint="pass weights after softmax")
    return attention


def is_prime(n: int) -> bool:
    """By trial division: for numbers up to about 2**31."""
    return n >= 2 and all(n % d for d in range(2, math.isqrt(n) + 1))


def require_prime(p: int) -> int:
    """`p` as it is, the modulus of a field, below 2**31 so that products of residues fit into int64.

    Raises:
        GeometryError: it is no such prime.
    """
    if not p < 2**31 or not is_prime(p):
        raise GeometryError(f"coefficients modulo {p}", hint="give a prime below 2**31")
    return p


def _eigenvalues(metric: Tensor, what: str) -> Tensor:
    require_square(metric, what)
    rounding = metric.shape[-1] * torch.finfo(metric.dtype).eps
    metric = metric.detach()
    if not torch.equal(metric, metric.mT):
        asymmetry, size = float((metric - metric.mT).abs().max()), float(metric.abs().max())
        if asymmetry > 16 * rounding * size:  # sums of a few products round this much
            raise GeometryError(f"{what} differs from its transpose by {asymmetry:.3g}", hint="symmetrise it first")
    values: Tensor = torch.linalg.eigvalsh(metric)
    smallest, largest = values.abs().aminmax(dim=-1)
    if not bool((smallest > rounding * largest).all()):
        worst = float(smallest.flatten()[(smallest - rounding * largest).argmin()])
        raise GeometryError(
            f"{what} is singular: its eigenvalue nearest to zero is {worst:.3g}",
            hint="keep away from the edge of the chart, or change coordinates",
        )
    return values
