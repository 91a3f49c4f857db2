"""Effective ranks of matrices too large to square or to factor, from products with a few random vectors.

Two parts. A subspace Q of k dimensions, found by iterating random vectors, takes the large singular values, which
would make estimates scatter; where k or fewer are not zero, it leaves nothing to estimate. In the rest, of n − k
dimensions, a random unit vector v gives (n − k) vᵀ f(WᵀW) v, whose mean is Σ f(σ²). Golub–Kahan bidiagonalization
W V = U B from v turns that into (n − k) Σ τ² f(θ), with θ the squared singular values of the small B and τ the first
elements of its right singular vectors: Gauss's quadrature, exact for polynomials of a degree below twice the number of
steps. B keeps small singular values to rounding of the largest, where Lanczos' method on WᵀW would square the rounding.

The stable rank needs σ₁ alone, which the bidiagonalization finds best when nothing was taken off.

Sources: Meyer, Musco, Musco, Woodruff 2021, arXiv:2010.09649, for taking a subspace off first; Ubaru, Chen, Saad 2017,
"Fast estimation of tr(f(A)) via stochastic Lanczos quadrature".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.effective_rank.gram import scale_of

__all__ = ["Estimate", "estimate"]

_ITERATIONS = 3
_ROUNDINGS = 16
"""A vector that is shorter than so many roundings is nothing but rounding."""


class Estimate(NamedTuple):
    """A rank and how far off it may be, both (...) float64.

    `error` is absolute: three standard errors over the probes, and what the second half of the steps changed.
    """

    value: Tensor
    error: Tensor


class _Spectrum(NamedTuple):
    """What is known of the eigenvalues of G = WᵀW, all float64."""

    total: Tensor  # (...) their sum
    top: Tensor  # (..., k) of QᵀGQ
    coupled: Tensor  # (...) ‖PGQ‖², with P = I − QQᵀ
    nodes: Tensor  # (..., probes, steps) of PGP
    weights: Tensor  # (..., probes, steps), each probe's times n − k


def estimate(w: Tensor, kind: str, probes: int, steps: int, generator: torch.Generator | None) -> Estimate:
    w = w / scale_of(w)
    w = w if w.shape[-1] <= w.shape[-2] else w.mT
    n = w.shape[-1]
    known = w.isfinite().all(-1).all(-1)
    w = torch.where(known[..., None, None], w, 0.0)
    shape = (2, *w.shape[:-2], n, min(probes, n))
    first, second = torch.randn(shape, dtype=w.dtype, device=w.device, generator=generator)
    q = torch.zeros_like(first[..., :1]) if kind == "stable" else _large_directions(w, first)
    image = (w @ q).double()
    inner, coupled = image.mT @ image, _without(w.mT @ (w @ q), q).double().square().sum((-2, -1))
    total, top = w.double().square().sum((-2, -1)), torch.linalg.eigvalsh(inner).clamp(min=0)
    diagonal, beside = _bidiagonalized(w, q, second, min(steps, n))
    by_steps = []
    for taken in (-(-len(diagonal) // 2), len(diagonal)):
        nodes, weights = _quadrature(diagonal[:taken], beside[: taken - 1])
        by_steps.append(_rank(_Spectrum(total, top, coupled, nodes, weights * (n - q.shape[-1])), kind))
    (half, _), (value, spread) = by_steps
    unknown = torch.where(known, 0.0, torch.nan)
    return Estimate(value + unknown, 3 * spread + (value - half).abs() + unknown)


def _large_directions(w: Tensor, start: Tensor) -> Tensor:
    """(..., n, k) orthonormal, near the right singular vectors of the largest singular values."""
    q = start
    for _ in range(_ITERATIONS):
        q, _ = torch.linalg.qr(w.mT @ (w @ q))
    return q


def _bidiagonalized(w: Tensor, q: Tensor, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Both (steps, ..., probes): B's diagonal and what stands right of it; each new vector orthogonal to all before."""
    floor = _ROUNDINGS * torch.finfo(w.dtype).eps * torch.linalg.matrix_norm(w)[..., None] / w.shape[-1] ** 0.5
    v, _ = _unit(_without(start, q), _ROUNDINGS * torch.finfo(w.dtype).eps * w.shape[-1] ** 0.5)
    left = w.new_empty(steps, *w.shape[:-1], start.shape[-1])
    right = w.new_empty(steps + 1, *v.shape)
    right[0] = v
    diagonal, beside = [], []
    for k in range(steps):
        left[k], alpha = _unit(_without_own(w @ right[k], left[:k]), floor)
        right[k + 1], beta = _unit(_without_own(_without(w.mT @ left[k], q), right[: k + 1]), floor)
        diagonal.append(alpha)
        beside.append(beta)
    return torch.stack(diagonal).double(), torch.stack(beside).double()


def _without(x: Tensor, q: Tensor) -> Tensor:
    """x less its part in the span of q; done twice, which is enough."""
    x = x - q @ (q.mT @ x)
    return x - q @ (q.mT @ x)


def _without_own(x: Tensor, basis: Tensor) -> Tensor:
    """Each column of x (..., n, probes) less its parts along the same column of each of `basis` (k, ..., n, probes)."""
    for _ in range(2):
        x = x - (basis * (basis * x).sum(-2, keepdim=True)).sum(0)
    return x


def _unit(x: Tensor, floor: Tensor | float) -> tuple[Tensor, Tensor]:
    """Columns over their lengths, and the lengths; zero where only rounding is left of a column."""
    length = torch.linalg.vector_norm(x, dim=-2)
    length = torch.where(length <= floor, 0.0, length)
    return x * torch.where(length == 0, 0.0, 1 / _nonzero(length))[..., None, :], length


def _quadrature(diagonal: Tensor, beside: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights, both (..., probes, steps), of the tridiagonal BᵀB."""
    b = torch.diag_embed(diagonal.movedim(0, -1))
    if len(beside):
        b = b + torch.diag_embed(beside.movedim(0, -1), offset=1)
    theta, vectors = torch.linalg.eigh(b.mT @ b)
    return theta.clamp(min=0), vectors[..., 0, :].square()


def _rank(known: _Spectrum, kind: str) -> tuple[Tensor, Tensor]:
    """The rank, and its standard error over the probes."""
    if kind == "stable":
        largest = torch.maximum(known.top.amax(-1), known.nodes.amax((-2, -1)))
        return known.total / _nonzero(largest), torch.zeros_like(largest)
    if kind == "participation":
        by_probe = (known.top.square().sum(-1) + 2 * known.coupled)[..., None] + _sums(known, torch.square)
        squares = _nonzero(by_probe.mean(-1))
        value = known.total.square() / squares
        return value, value * _standard_error(by_probe / squares[..., None])
    sums = known.top.sqrt().sum(-1, keepdim=True) + _sums(known, torch.sqrt)
    logs = _root_log(known.top).sum(-1, keepdim=True) + _sums(known, _root_log)
    total, mean_log = _nonzero(sums.mean(-1)), logs.mean(-1) / _nonzero(sums.mean(-1))
    value = sums.mean(-1) * (-mean_log).exp()
    change = (1 + mean_log)[..., None] * sums - logs  # of total · d ln(rank), by each probe
    return value, value * _standard_error(change / total[..., None])


def _sums(known: _Spectrum, f: Callable[[Tensor], Tensor]) -> Tensor:
    """(..., probes) what each probe says of Σ f(λ) outside the subspace."""
    return (known.weights * f(known.nodes)).sum(-1)


def _root_log(squared: Tensor) -> Tensor:
    """σ ln σ of σ²."""
    return squared.sqrt() * _nonzero(squared).log() / 2


def _standard_error(by_probe: Tensor) -> Tensor:
    return (
        by_probe.std(-1) / by_probe.shape[-1] ** 0.5 if by_probe.shape[-1] > 1 else torch.zeros_like(by_probe[..., 0])
    )


def _nonzero(x: Tensor) -> Tensor:
    return torch.where(x == 0, 1.0, x)
