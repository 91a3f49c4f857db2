"""Reactions of the textbooks. Each maps concentrations [*B, C, *S] to their rates; for a vector [C] it takes S = ()."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["Reaction", "brusselator", "fisher_kpp", "gray_scott", "schnakenberg"]

Reaction: TypeAlias = Callable[[Tensor], Tensor]
"""Concentrations, species on axis `-3` of an image [*B, C, H, W] or alone [C], to their rates of the same shape."""


def fisher_kpp(rate: float) -> Reaction:
    """One species, r u (1 - u): fronts run at 2 sqrt(r D). Source: Fisher 1937; Kolmogorov et al. 1937."""
    return lambda u: rate * u * (1 - u)


def schnakenberg(a: float, b: float) -> Reaction:
    """a - u + u^2 v and b - u^2 v, at rest at (a + b, b / (a + b)^2). Source: Schnakenberg 1979; Murray 2003."""

    def rates(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        met = u * u * v
        return a - u + met, b - met

    return _two(rates)


def brusselator(a: float, b: float) -> Reaction:
    """a - (b + 1) u + u^2 v and b u - u^2 v, at rest at (a, b / a). Source: Prigogine and Lefever 1968."""

    def rates(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        met = u * u * v
        return a - (b + 1) * u + met, b * u - met

    return _two(rates)


def gray_scott(feed: float, kill: float) -> Reaction:
    """-u v^2 + F (1 - u) and u v^2 - (F + k) v. Source: Pearson 1993, Science 261, 189."""

    def rates(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        met = u * v * v
        return feed * (1 - u) - met, met - (feed + kill) * v

    return _two(rates)


def _two(rates: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Reaction:
    def reaction(state: Tensor) -> Tensor:
        axis = -3 if state.ndim >= 3 else -1
        return torch.stack(rates(*state.unbind(axis)), dim=axis)

    return reaction
