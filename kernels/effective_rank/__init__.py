"""Effective ranks: how many directions of a matrix matter, by three measures that are continuous in it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from kernels.effective_rank import operators
from kernels.effective_rank.estimated import Estimate, estimate
from kernels.effective_rank.products import effective_rank as by_products
from kernels.exporting import exporting

__all__ = ["KINDS", "Estimate", "Kind", "effective_rank", "effective_rank_workspace_bytes", "estimate_effective_rank"]

Kind = Literal["participation", "entropy", "stable"]
KINDS: tuple[Kind, ...] = ("participation", "entropy", "stable")


def effective_rank(w: Tensor, *, kind: Kind = "participation") -> Tensor:
    """Effective rank of matrices with singular values σ, each between 1 and min(m, n), differentiable once.

    participation   (Σσ²)² / Σσ⁴
    entropy         exp(−Σ p ln p), p = σ / Σσ
    stable          Σσ² / σ₁²

    On a GPU, in other than float64, entropy is right to 0.1 % and stable to 0.4 %, as README.md derives; all else is
    right to rounding. Gradients are those of the value as it is computed; where σ = 0 the entropy has none and that
    part is left out, and where σ₁ is not single the stable rank has many, of which this gives a mean.

    Args:
        w: (..., m, n) floating point, of any scale: ranks do not depend on it.
        kind: Which measure.

    Returns:
        (...) in float64 for float64, else in float32; 0 for a matrix of zeros or without elements, NaN for one that
        holds NaN or infinity.

    Raises:
        ValueError: `w` has fewer than two dimensions, or there is no such kind.
        TypeError: the elements are no floating point numbers.
        MemoryError: `effective_rank_workspace_bytes` are not to be had; raised before anything is computed.
        KernelUnavailable: KERNELS_FORM names a form that does not run here.

    Source: entropy: Roy, Vetterli 2007, "The effective rank: a measure of effective dimensionality"; stable: Rudelson,
    Vershynin 2007, arXiv:math/0503442.
    """
    wide = _checked(w, kind)
    if not w.numel():
        return wide.sum((-2, -1))
    return by_products(wide, kind) if exporting() else operators.effective_rank(wide, kind)


def effective_rank_workspace_bytes(w: Tensor, *, kind: Kind = "participation") -> int:
    """The memory that `effective_rank(w, kind=kind)` takes at most, beside w."""
    return operators.workspace_bytes(w, kind)


def estimate_effective_rank(
    w: Tensor,
    *,
    kind: Kind = "participation",
    probes: int = 32,
    steps: int = 40,
    generator: torch.Generator | None = None,
) -> Estimate:
    """`effective_rank` of matrices too large for it: (6 + 2 steps) products with `probes` vectors, never a Gram matrix.

    Exact to rounding where at most `probes` singular values are not zero. Else the error is that of `probes` samples of
    the rest of the spectrum; it is estimated from their scatter, and falls with the root of their number. README.md has
    figures. Not differentiable.

    Args:
        w: (..., m, n) floating point, of any scale; read 6 + 2 steps times.
        kind: Which measure.
        probes: Random vectors, and dimensions that are taken exactly; at least 2.
        steps: Of bidiagonalization; at least 2.
        generator: Of random numbers, on w's device; torch's own where there is none.

    Returns:
        `value` and `error`, each (...) float64: the true rank lies within `error` of `value` in about 19 of 20 cases.

    Raises:
        ValueError: `w` has fewer than two dimensions, there is no such kind, or fewer than 2 probes or steps.
        TypeError: the elements are no floating point numbers.
    """
    wide = _checked(w.detach(), kind)
    if min(probes, steps) < 2:
        raise ValueError(f"an estimate needs at least 2 probes and 2 steps, got {probes} and {steps}")
    if not w.numel():
        return Estimate(wide.double().sum((-2, -1)), wide.double().sum((-2, -1)))
    return estimate(wide, kind, probes, steps, generator)


def _checked(w: Tensor, kind: str) -> Tensor:
    """`w` in float64 if it is that, else in float32."""
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; known: {', '.join(KINDS)}")
    if w.ndim < 2:
        raise ValueError(f"w must be (..., m, n), got {tuple(w.shape)}")
    if not w.is_floating_point():
        raise TypeError(f"effective ranks are of floating point numbers, got {w.dtype}")
    return w if w.dtype == torch.float64 else w.float()
