"""Numbers that describe a matrix, a field or a sample."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite

__all__ = [
    "Interval",
    "bootstrap_interval",
    "effective_rank",
    "participation_ratio",
    "sinkhorn_distance",
    "total_variation",
]


class Interval(NamedTuple):
    """An estimate between two bounds."""

    value: float
    low: float
    high: float


def effective_rank(matrix: Tensor) -> Tensor:
    """exp of the entropy of the normalised singular values, [*B, m, n] -> [*B]; 0 for a matrix of zeros.

    Raises:
        GeometryError: values that are not finite, or fewer than two axes.

    Source: Roy and Vetterli 2007.
    """
    from kernels.effective_rank import effective_rank as rank

    return rank(_matrix(matrix), kind="entropy")


def participation_ratio(matrix: Tensor) -> Tensor:
    """(sum s^2)^2 / sum s^4 over singular values s, [*B, m, n] -> [*B]: the dimension of a cloud of points.

    Raises:
        GeometryError: values that are not finite, or fewer than two axes.
    """
    from kernels.effective_rank import effective_rank as rank

    return rank(_matrix(matrix), kind="participation")


def total_variation(field: Tensor, *, axes: tuple[int, ...] = (-1,)) -> Tensor:
    """The sum of absolute differences of neighbours along `axes`, [*B, *S] -> [*B]; differentiable almost everywhere.

    Raises:
        GeometryError: values that are not finite.
    """
    require_finite(field, "the field")
    return torch.stack([field.diff(dim=axis).abs().sum(axes) for axis in axes]).sum(0)


def sinkhorn_distance(p: Tensor, q: Tensor, cost: Tensor, *, epsilon: float = 0.05, iterations: int = 2000) -> Tensor:
    """The cost of moving p to q by the entropic transport plan, [*B]; differentiable, and at least the exact cost.

    Iterated in logarithms until both marginals are right to 1e-9.

    Args:
        p: [*B, m], non-negative with sum 1.
        q: [*B, n], likewise.
        cost: [m, n].
        epsilon: The weight of the entropy, in units of the largest cost: the excess falls with it.
        iterations: At most.

    Raises:
        GeometryError: p or q is no distribution, or the iteration does not settle.

    Source: Cuturi 2013, NeurIPS; Peyre and Cuturi 2019, Computational Optimal Transport, chapter 4.
    """
    for name, weights in (("p", p), ("q", q)):
        off = float((require_finite(weights, name).detach().sum(-1) - 1).abs().max())
        if float(weights.detach().min()) < 0 or off > 1e-6:
            raise GeometryError(f"{name} misses the sum 1 by {off:.3g}, or is negative", hint="normalise it")
    if tuple(cost.shape) != (p.shape[-1], q.shape[-1]) or not epsilon > 0:
        raise GeometryError(
            f"costs {tuple(cost.shape)} with epsilon {epsilon}", hint=f"{(p.shape[-1], q.shape[-1])} and epsilon > 0"
        )
    size = float(require_finite(cost, "the cost").detach().abs().max())
    if size == 0:
        return (p.sum(-1) + q.sum(-1)) * 0
    scaled = -cost / (epsilon * size)
    log_p, log_q = p.log(), q.log()
    f, g = torch.zeros_like(p), torch.zeros_like(q)
    for _ in range(iterations):
        f = log_p - (scaled + g.unsqueeze(-2)).logsumexp(-1)
        g = log_q - (scaled + f.unsqueeze(-1)).logsumexp(-2)
        plan = (scaled + f.unsqueeze(-1) + g.unsqueeze(-2)).exp()
        if float((plan.sum(-1) - p).detach().abs().max()) < 1e-9:
            return (plan * cost).sum((-2, -1))
    raise GeometryError(f"transport did not settle in {iterations} iterations", hint="take a larger epsilon")


def bootstrap_interval(
    sample: Tensor, *, generator: torch.Generator, level: float = 0.95, resamples: int = 2000
) -> Interval:
    """The mean of `sample` [n] with a percentile bootstrap interval.

    Raises:
        GeometryError: fewer than two values, values that are not finite, or a level outside (0, 1).

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """
    if sample.ndim != 1 or len(sample) < 2 or not 0 < level < 1 or resamples < 1:
        raise GeometryError(
            f"{resamples} resamples of {tuple(sample.shape)} at level {level}", hint="[n >= 2], level in (0, 1)"
        )
    values = require_finite(sample, "the sample").double()
    drawn = torch.randint(len(values), (resamples, len(values)), generator=generator)
    means = values[drawn].mean(1)
    low, high = torch.quantile(means, torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)).tolist()
    return Interval(float(values.mean()), low, high)


def _matrix(matrix: Tensor) -> Tensor:
    if matrix.ndim < 2:
        raise GeometryError(f"a matrix of shape {tuple(matrix.shape)}", hint="give [*B, m, n]")
    return require_finite(matrix, "the matrix")
